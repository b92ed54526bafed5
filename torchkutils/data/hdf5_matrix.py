"""HDF5Matrix: a window of HDF5 data that is used like an array and read like a Dataset."""

from __future__ import annotations

import contextlib
import math
import operator
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

from torchkutils.data.chunk_cache import CACHE_BYTES
from torchkutils.data.hdf5_file import Location, OpenOptions, locations_of
from torchkutils.data.open_parts import OpenParts, Part, looking_at
from torchkutils.data.packed_values import UnpackedValues
from torchkutils.data.row_keys import rows_of, run_or_rows
from torchkutils.data.shards import whole_number
from torchkutils.data.stored_rows import StoredRows
from torchkutils.data.tensor_rows import described, fits_a_tensor, in_native_order, to_rows

_ITERATION_BYTES = 2**20
"""How much iterating over single rows reads at a time."""


class HDF5Matrix(Dataset[Any]):
    """Rows start … end of HDF5 data, read when they are asked for.

    It looks like `array[start:end]`: `len`, `shape`, `dtype`, `ndim`, `size`, `np.asarray`, `torch.as_tensor`,
    iteration, and indexing along the first axis by ints, slices, lists, arrays, tensors, ranges, pandas' indices and
    boolean masks, as NumPy does it. What a read returns is the caller's own, writable. A DataLoader reads whole batches
    at once through it, in any number of worker processes, however they are started; threads may share it;
    `torch.utils.data.StackDataset(x, y)` zips several.

    Making one opens the file, checks it and closes it. A handle is opened at the first read of each process and never
    serves another; at most 32 files are open at a time. Uncompressed local data are read at their offsets in the file;
    chunks compressed by gzip (and by zstd, blosc and lz4 with the extra `filters`) are decoded without HDF5, by several
    threads; everything else is read through h5py. A file that is replaced by one whose data have the same shape and
    dtype is read anew from the next read on, behind links too; otherwise the next read raises, and so does a read of a
    file that was cut. What this process itself writes to the file through h5py is seen.

    Args:
        datapath: A local path; any URL that fsspec opens (`file://`, `memory://`, `s3://`, `https://`,
            `zip://a.h5::b.zip`, …); a list of these, read as one in the order given; a glob such as `part_*.h5`, in the
            order of names with numbers as numbers; a file-like object; or an open `h5py.File`. `memory://` lives in one
            process: not for workers that are spawned. All files must have rows of one shape and dtype.
        dataset: The data set's name in each file. A group, or a pattern such as `data/demo_*/actions`: each data set in
            it is one row, in the order of names with numbers as numbers.
        start: The first row of the window.
        end: The row after the last one; None means up to the end of the data.
        normalizer: Called with each piece that is read, as a NumPy array of the caller's own that always has the
            leading axis of rows; for an int it gets one row, and the first row of its result is returned. Its result,
            one row for each row, is what the read returns. 'netcdf' decodes packed values by the data set's own
            attributes scale_factor, add_offset, _FillValue and missing_value.
        as_tensor: True gives tensors (big-endian data are converted), False NumPy arrays in the file's own dtype.
        field: The field of compound data (a table of pandas, PyTables or h5py) whose values are the rows.
        threads: How many threads decode compressed chunks, and read ahead for slices in order and for
            `ChunkShuffleSampler`. None: one for each core, at most 8, and a single one inside of DataLoader's workers.
        cache_bytes: How many bytes of decoded chunks each process keeps, objects included. A `ChunkShuffleSampler` may
            raise it to what its buffer needs.
        storage_options: Keyword arguments for fsspec's file system: credentials, headers.
        swmr: True reads what a single writer in SWMR mode appends meanwhile; `refresh` moves an open end.
        locking: Whether HDF5 locks the file, as `h5py.File` takes it: True, False, 'best-effort', or None for HDF5's
            own default.

    Rows of varying length (vlen types, groups of unequal data sets) are ragged: `m[i]` is a tensor, `m[a:b]` a list of
    tensors, and `shape` is `(n,)`.

    Behind http, s3, gcs and abfs the bytes that a batch needs are fetched together; 32 MiB of fetched blocks are kept
    for each open file. A server that knows no ranges sends the file once, into a temporary file.

    Attributes:
        start: The first row, as an int.
        end: The row after the last one, as an int.
        normalizer: As given.

    Raises:
        FileNotFoundError: There is no such file, or (DatasetNotFoundError, also a KeyError) no such data set in it;
            broken links are named. A source of a virtual data set is missing.
        OSError: The file cannot be read as HDF5, or a filter is missing; the message says which, and what brings it.
        ValueError: A negative `start` or `end`, `end` beyond the data, `start > end`, a data set without axes, an
            unknown field, or files whose rows differ.
        TypeError: What a read would return is of a dtype that torch cannot hold (text, compound), with
            `as_tensor=True`.

    Differs from Keras 2.3.1: indices count from the window and never leave it; steps, unsorted, repeated and empty
    indices work; the normalizer gets the leading axis for a single row too, and is probed on `start:start + 1`; files
    are closed.

    >>> import h5py, numpy, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file["x"] = numpy.arange(20.0, dtype="f4").reshape(10, 2)
    ...     rows = HDF5Matrix(f"{folder}/a.h5", "x", start=2, end=8, normalizer=lambda piece: piece / 2)
    ...     rows.shape, rows.dtype, rows[-1].tolist(), rows[[3, 0, 3]][:, 0].tolist()
    ((6, 2), torch.float32, [7.0, 7.5], [5.0, 2.0, 5.0])
    """

    start: int
    end: int

    def __init__(
        self,
        datapath: Any,
        dataset: str,
        start: int = 0,
        end: int | None = None,
        normalizer: Callable[[Any], Any] | Literal["netcdf"] | None = None,
        *,
        as_tensor: bool = True,
        field: str | None = None,
        threads: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        storage_options: Mapping[str, Any] | None = None,
        swmr: bool = False,
        locking: bool | Literal["best-effort"] | None = None,
    ) -> None:
        # By process: a handle of the parent, which a fork copies, is neither used nor closed here.
        self._readings: dict[int, OpenParts] = {}
        _check_names(datapath, dataset, field)
        if not (normalizer is None or callable(normalizer) or normalizer == "netcdf"):
            raise TypeError(f"normalizer must be a function of an array, 'netcdf' or None; got {normalizer!r}")
        if not isinstance(as_tensor, bool | np.bool_):
            raise TypeError(f"as_tensor must be True or False, got {as_tensor!r}; a read's dtype is that of the data")
        self._name = dataset
        self.normalizer = normalizer
        self._as_tensor = as_tensor
        self._threads = None if threads is None else whole_number("threads", threads, at_least=1)
        self._cache_bytes = whole_number("cache_bytes", cache_bytes, at_least=0)
        self._sampler_bytes = 0
        self._announced: deque[np.ndarray[Any, Any]] = deque(maxlen=3)
        self._open_end = end is None
        options = OpenOptions(dict(storage_options or {}), swmr, locking)
        self._look(locations_of(datapath, options), field, start, end)

    def _look(self, locations: list[Location], field: str | None, start: int, end: int | None) -> None:
        """Read the metadata of all files, and the first row of the window."""
        if len(locations) == 1:
            with looking_at(locations[0], self._name, field) as (part, read_row):
                self._parts: tuple[Part, ...] = (part,)
                self.start, self.end = _window(start, end, part.stored.length)
                self._probe(read_row(self.start) if self.start < self.end else _no_rows(part.stored))
            return
        parts = []
        for location in locations:
            with looking_at(location, self._name, field) as (part, _):
                parts.append(part)
            if part.stored.kind() != parts[0].stored.kind():
                raise ValueError(
                    f"all files must have rows of one shape and dtype: {parts[0].where} holds "
                    f"{parts[0].stored.described()}, {part.where} {part.stored.described()}"
                )
        self._parts = tuple(parts)
        self.start, self.end = _window(start, end, sum(part.stored.length for part in parts))
        row = range(self.start, self.start + 1)
        self._probe(self._reading().read(row) if self.start < self.end else _no_rows(parts[0].stored))
        self.close()

    def _probe(self, rows: np.ndarray[Any, Any]) -> None:
        """Learn what the normalizer makes of one row, or of no rows where the window is empty."""
        stored = self._parts[0].stored
        values = stored.ragged or stored.dtype
        self._normalize: Callable[[Any], Any] | None = (
            UnpackedValues(self.attrs) if isinstance(self.normalizer, str) else self.normalizer
        )
        if self.normalizer is None and self._as_tensor and not fits_a_tensor(values):
            raise TypeError(
                f"{self._parts[0].where} holds {described(values)}, which no tensor can hold; pass as_tensor=False, or "
                "a normalizer that makes numbers of it"
            )
        result = self._finish(in_native_order(rows) if self._as_tensor else rows)
        if isinstance(result, list):
            self._row_shape: tuple[int, ...] = ()
            empty = np.empty(0, in_native_order(np.empty(0, values)).dtype)
            self._dtype: torch.dtype | np.dtype[Any] = result[0].dtype if result else torch.from_numpy(empty).dtype
        else:
            self._row_shape = tuple(result.shape)[1:]
            self._dtype = result.dtype

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def shape(self) -> tuple[int, ...]:
        """The window's shape, after the normalizer."""
        return (len(self), *self._row_shape)

    @property
    def dtype(self) -> torch.dtype | np.dtype[Any]:
        """The dtype of what a read returns: a `torch.dtype`, or a `numpy.dtype` with `as_tensor=False`."""
        return self._dtype

    @property
    def ndim(self) -> int:
        """How many axes the window has, after the normalizer."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many values the window holds, after the normalizer."""
        return math.prod(self.shape)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes of the data set (of the first file's), read now; references to objects are left out."""
        part = self._parts[0]
        with part.location.opened() as file:
            found = file.get(part.name, file)
            return {name: value for name, value in found.attrs.items() if not _holds_references(value)}

    @property
    def chunk_rows(self) -> int | None:
        """How many neighbouring rows are stored, and decoded, together; None for contiguous data."""
        return self._parts[0].stored.chunk_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is stored, decoded."""
        return self._parts[0].stored.row_bytes

    def block_edges(self, block_bytes: int) -> np.ndarray[Any, Any]:
        """Where chunks begin inside the window, and its end; contiguous data are cut into blocks of so many bytes.

        Chunks count from the beginning of each file's data set, not from that of the window.
        """
        edges = [np.array([0, len(self)])]
        first = 0
        for part in self._parts:
            stored = part.stored
            size = stored.chunk_rows or max(1, block_bytes // max(1, stored.row_bytes))
            low, high = max(self.start, first), min(self.end, first + stored.length)
            if low < high:
                begin = first + -(-(low - first) // size) * size
                edges += [np.array([low]), np.arange(begin, high, size)]
            first += stored.length
        inside = [part - self.start for part in edges[1:]]
        return np.unique(np.concatenate([edges[0], *inside]).astype(np.int64))

    def keep_chunks(self, count: int) -> None:
        """Let each process keep `count` decoded chunks, if that is more than `cache_bytes`: a sampler mixes so many.

        Where threads read ahead it is twice as many: those of the next buffer are decoded meanwhile.
        """
        largest = max((part.stored.chunk_rows or 0) * part.stored.row_bytes for part in self._parts)
        self._sampler_bytes = max(self._sampler_bytes, count * (largest + 2**10))
        self.close()

    def start_reading(self, rows: np.ndarray[Any, Any]) -> None:
        """Say which rows will be read soon, by their numbers in the window.

        If this process reads at all, these rows' chunks are decoded from its next read on, by threads where it has any.
        """
        self._announced.append(rows)

    def refresh(self) -> None:
        """Look at the files anew: with `end=None` the window ends where the data end now.

        Raises:
            RuntimeError: Shape or dtype of the rows changed, or rows of the window are gone.
        """
        self.close()
        parts = []
        for part in self._parts:
            with looking_at(part.location, part.name, part.field) as (now, _):
                parts.append(now)
            if now.stored.kind() != part.stored.kind():
                raise RuntimeError(
                    f"{part.where} changed: it was {part.stored.described()} and is {now.stored.described()}; make the "
                    "HDF5Matrix anew"
                )
        length = sum(part.stored.length for part in parts)
        if length < (self.start if self._open_end else self.end):
            raise RuntimeError(f"{self._parts[0].where} changed: only {length} rows are left; make the HDF5Matrix anew")
        self._parts = tuple(parts)
        self.end = length if self._open_end else self.end

    def __getitem__(self, key: Any) -> Any:
        """Read rows as `array[start:end][key]` would.

        Raises:
            IndexError: A row outside the window, or a mask of another length.
            TypeError: A key that is no int, slice, list, array, tensor, range or mask: None, text, floats, tuples.
            OSError: The rows cannot be read: the message names file, data set, rows and filters.
        """
        rows = rows_of(key, len(self))
        if isinstance(rows, int):
            return self._finish(self._read(range(rows, rows + 1)))[0]
        if isinstance(rows, np.ndarray) and rows.ndim > 1:
            result = self._finish(self._read(rows.reshape(-1)))
            if isinstance(result, list):
                raise TypeError(f"ragged rows are chosen along one axis, not by indices of shape {rows.shape}")
            return result.reshape(*rows.shape, *result.shape[1:])
        return self._finish(self._read(rows))

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read a whole batch of rows at once: order and repeats are kept. `torch.utils.data` calls this."""
        rows = run_or_rows(list(indices), len(self))
        batch = self._finish(self._read(rows if not isinstance(rows, int) else range(rows, rows + 1)))
        return list(batch.unbind(0)) if isinstance(batch, torch.Tensor) else list(batch)

    def __iter__(self) -> Iterator[Any]:
        step = max(1, _ITERATION_BYTES // max(1, self.row_bytes))
        for first in range(0, len(self), step):
            for row in self._finish(self._read(range(first, min(first + step, len(self))))):
                # A row that is kept must not keep the others.
                yield row.clone() if isinstance(row, torch.Tensor) else np.array(row)[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("copy=False cannot be kept: an HDF5Matrix must be read from its file")
        whole = self._finish(self._read(range(len(self))))
        if isinstance(whole, list):
            rows = np.empty(len(whole), object)
            rows[:] = [row.detach().cpu().numpy() for row in whole]
            return rows
        array = whole.detach().cpu().numpy() if isinstance(whole, torch.Tensor) else whole
        return np.asarray(array, dtype=dtype)

    def __dlpack__(self, **arguments: Any) -> Any:
        """The whole window for `torch.as_tensor` and `from_dlpack`."""
        return torch.as_tensor(np.asarray(self)).__dlpack__(**arguments)

    def __dlpack_device__(self) -> tuple[int, int]:
        """The CPU, in DLPack's numbers."""
        return 1, 0

    def __repr__(self) -> str:
        address = repr(self._parts[0].location.shown)
        more = f" and {len(self._parts) - 1} more" if len(self._parts) > 1 else ""
        return f"HDF5Matrix({address}{more}, {self._name!r}, shape={self.shape}, dtype={self.dtype})"

    def close(self) -> None:
        """Close the handles of this process; reading again opens them again."""
        reading = self._readings.pop(os.getpid(), None)
        if reading is not None:
            reading.close()

    def __enter__(self) -> HDF5Matrix:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_readings": {}, "_announced": deque(maxlen=3)}

    def _reading(self) -> OpenParts:
        process = os.getpid()
        reading = self._readings.get(process)
        if reading is None:
            fresh = OpenParts(
                self._parts, self._cache_bytes, self._sampler_bytes, self._threads, (self.start, self.end)
            )
            # Of threads that come here at the same time, one wins.
            reading = self._readings.setdefault(process, fresh)
        return reading

    def _read(self, rows: range | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Read rows of the window as they are stored, with the leading axis."""
        reading, first = self._reading(), self.start
        while self._announced:
            # Another thread may take the last.
            with contextlib.suppress(IndexError):
                reading.start_reading(self._announced.popleft() + first)
        if isinstance(rows, range):
            piece = reading.read(range(rows.start + first, rows.stop + first, rows.step))
        else:
            piece = reading.read(rows + first)
        return in_native_order(piece) if self._as_tensor else piece

    def _finish(self, piece: np.ndarray[Any, Any]) -> Any:
        """What a read returns: the piece after the normalizer, as tensors or arrays."""
        result = piece if self._normalize is None else self._normalize(piece)
        try:
            return to_rows(result, len(piece), as_tensor=self._as_tensor)
        except (TypeError, ValueError) as error:
            kind = TypeError if isinstance(error, TypeError) else ValueError
            raise kind(f"normalizer on {self._parts[0].where}: {error}") from error


def _check_names(datapath: Any, dataset: Any, field: Any) -> None:
    if not isinstance(dataset, str):
        raise TypeError(f"dataset must be the name of a data set, a str; got {dataset!r}")
    if isinstance(datapath, str) and os.path.isfile(dataset) and not os.path.lexists(datapath):  # noqa: PTH113
        raise FileNotFoundError(
            f"datapath: no file {datapath!r}; dataset {dataset!r} is one, so they are the other way round"
        )
    if field is not None and not isinstance(field, str):
        raise TypeError(f"field must be the name of a field, a str, or None; got {field!r}")


def _no_rows(stored: StoredRows) -> np.ndarray[Any, Any]:
    return np.empty((0, *stored.row_shape), stored.dtype)


def _holds_references(value: Any) -> bool:
    """Whether an attribute points at objects of the file, as netCDF's lists of dimensions do: useless once closed."""
    array = np.asarray(value)
    return array.dtype.hasobject and not all(isinstance(part, str) for part in np.ravel(array))


def _window(start: int, end: int | None, length: int) -> tuple[int, int]:
    for name, value in (("start", start), ("end", length if end is None else end)):
        if isinstance(value, bool) or not hasattr(type(value), "__index__"):
            raise TypeError(f"{name} must be an int, got {value!r}")
    first, stop = operator.index(start), length if end is None else operator.index(end)
    if first < 0 or stop < 0:
        raise ValueError(f"start and end must not be negative, got start={first}, end={stop}")
    if stop > length:
        raise ValueError(f"end must lie within the data set's {length} rows, got {stop}")
    if first > stop:
        raise ValueError(f"start must not lie behind end, got start={first}, end={stop}")
    return first, stop
