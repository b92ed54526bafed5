"""HDF5Matrix: a window of an HDF5 data set that is used like an array and read like a Dataset."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset

from torchkutils.data.hdf5_file import FileStamp, Location, find_dataset
from torchkutils.data.row_keys import RowKey, rows_of, run_or_rows
from torchkutils.data.row_reader import Rows, open_rows
from torchkutils.data.tensor_rows import described, fits_a_tensor, to_tensor

if TYPE_CHECKING:
    from torchkutils._typing import PathLike

_ITERATION_BYTES = 2**20
"""How much iterating over single rows reads at a time."""


@dataclass(frozen=True)
class _Handle:
    """Open rows, the process that opened them and the file as it was then."""

    rows: Rows
    process: int
    stamp: FileStamp | None
    stack: contextlib.ExitStack

    def __post_init__(self) -> None:
        # HDF5 reads a URL through Python objects: left open until the interpreter is taken down, it crashes.
        weakref.finalize(self, _close_in, self.process, self.stack)


class HDF5Matrix(Dataset[Any]):
    """Rows start … end of an HDF5 data set, read when they are asked for.

    It looks like `array[start:end]`: `len`, `shape`, `dtype`, `ndim`, `size`, `np.asarray`, iteration, and indexing
    along the first axis by ints, slices, lists, arrays, tensors, ranges and boolean masks, as NumPy does it. What a
    read returns is the caller's own. A DataLoader reads whole batches at once through it, in any number of worker
    processes, however they are started; `torch.utils.data.StackDataset(x, y)` zips several.

    Making one opens the file, checks it and closes it. A handle is opened at the first read of each process and never
    serves another. Contiguous, unfiltered, local data are read through a memory map (pages read at random count as
    this process's until the system wants them back); chunked data keep up to 32 MiB of
    decoded chunks a process. A file that is replaced by one whose data set has the same shape and dtype is read anew
    from the next read on; otherwise the next read raises.

    Args:
        datapath: A local path, or any URL that fsspec opens (`file://`, `memory://`, `s3://`, `https://`, …).
            `memory://` lives in one process: not for workers that are spawned.
        dataset: The data set's name in the file.
        start: The first row of the window.
        end: The row after the last one; None means up to the end of the data.
        normalizer: Called with each piece that is read, as a NumPy array of the caller's own: `(n, …)` for several
            rows, the row without a leading axis for an int. Its result is what the read returns.
        as_tensor: True gives tensors (big-endian data are converted), False NumPy arrays in the file's own dtype.

    Attributes:
        start: The first row, as an int.
        end: The row after the last one, as an int.
        normalizer: As given.

    Raises:
        FileNotFoundError: There is no such file, or (DatasetNotFoundError, also a KeyError) no such data set in it.
        OSError: The file cannot be read as HDF5.
        ValueError: A negative `start` or `end`, `end` beyond the data, `start > end`, or a data set without axes.
        TypeError: What a read would return is of a dtype that torch cannot hold (text, compound), with
            `as_tensor=True`.

    Differs from Keras 2.3.1: indices count from the window and never leave it; steps, unsorted, repeated and empty
    indices work; the normalizer is probed on row `start`; files are closed.

    >>> import h5py, numpy, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file["x"] = numpy.arange(20.0, dtype="f4").reshape(10, 2)
    ...     rows = HDF5Matrix(f"{folder}/a.h5", "x", start=2, end=8, normalizer=lambda piece: piece / 2)
    ...     rows.shape, rows.dtype, rows[-1].tolist(), rows[[3, 0, 3]][:, 0].tolist()
    ((6, 2), torch.float32, [7.0, 7.5], [5.0, 2.0, 5.0])
    """

    def __init__(
        self,
        datapath: PathLike,
        dataset: str,
        start: int = 0,
        end: int | None = None,
        normalizer: Callable[[Any], Any] | None = None,
        *,
        as_tensor: bool = True,
    ) -> None:
        self._handle: _Handle | None = None
        self._location = Location.of(datapath)
        if not isinstance(dataset, str):
            raise TypeError(f"dataset must be the name of a data set, a str; got {dataset!r}")
        if normalizer is not None and not callable(normalizer):
            raise TypeError(f"normalizer must be a function of an array, or None; got {normalizer!r}")
        self._name = dataset
        self.normalizer = normalizer
        self._as_tensor = as_tensor
        self._kept_chunks = 0
        with self._location.opened() as file:
            found = find_dataset(file, dataset, self._location.address)
            self._stored_shape: tuple[int, ...] = tuple(found.shape)
            self._stored_dtype: np.dtype[Any] = found.dtype
            self._chunk_rows: int | None = found.chunks[0] if found.chunks else None
            self.start, self.end = _window(start, end, len(found))
            row = found[self.start] if self.start < self.end else np.empty((0, *found.shape[1:]), found.dtype)
        self._read_dtype = self._stored_dtype.newbyteorder("=") if as_tensor else self._stored_dtype
        self._probe(np.asarray(row).astype(self._read_dtype))

    def _probe(self, row: np.ndarray[Any, Any]) -> None:
        """Learn what the normalizer makes of a row, or of no rows where the window is empty."""
        if self.normalizer is None and self._as_tensor and not fits_a_tensor(self._read_dtype):
            raise TypeError(
                f"dataset {self._name!r} in {self._location.address!r} holds {described(self._read_dtype)}, which no "
                "tensor can hold; pass as_tensor=False, or a normalizer that makes numbers of it"
            )
        try:
            result = self._normalized(row)
        except TypeError as err:
            raise TypeError(f"normalizer on dataset {self._name!r}: {err}") from err
        shape = tuple(result.shape) if self.start < self.end else tuple(result.shape)[1:]
        self._row_shape: tuple[int, ...] = shape
        self._dtype: torch.dtype | np.dtype[Any] = result.dtype

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
    def chunk_rows(self) -> int | None:
        """How many neighbouring rows are stored, and decoded, together; None for contiguous data."""
        return self._chunk_rows

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as it is stored, decoded."""
        return self._stored_dtype.itemsize * math.prod(self._stored_shape[1:])

    def keep_chunks(self, count: int) -> None:
        """Keep at least `count` decoded chunks in each process; what a sampler that mixes so many chunks needs."""
        self._kept_chunks = max(self._kept_chunks, count)
        self.close()

    def __getitem__(self, key: Any) -> Any:
        """Read rows as `array[start:end][key]` would.

        Raises:
            IndexError: A row outside the window, or a mask of another length.
            TypeError: A key that is no int, slice, list, array, tensor, range or mask: None, text, floats, tuples.
        """
        rows = rows_of(key, len(self))
        piece = self._read(rows)
        if isinstance(rows, np.ndarray) and rows.ndim > 1:
            result = self._finish(piece)
            return result.reshape(*rows.shape, *result.shape[1:])
        return self._finish(piece)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Read a whole batch of rows at once: order and repeats are kept. `torch.utils.data` calls this."""
        batch = self._finish(self._read(run_or_rows(list(indices), len(self))))
        if len(batch) != len(indices):
            raise ValueError(f"normalizer must keep the rows apart: it made {len(batch)} rows of {len(indices)}")
        return list(batch.unbind(0)) if isinstance(batch, torch.Tensor) else list(batch)

    def __iter__(self) -> Iterator[Any]:
        step = max(1, _ITERATION_BYTES // max(1, self.row_bytes))
        for first in range(0, len(self), step):
            for row in self._read(range(first, min(first + step, len(self)))):
                yield self._finish(np.asarray(row).copy())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        if copy is False:
            raise ValueError("copy=False cannot be kept: an HDF5Matrix has to be read from its file")
        whole = self._finish(self._read(range(len(self))))
        array = whole.detach().cpu().numpy() if isinstance(whole, torch.Tensor) else whole
        return np.asarray(array, dtype=dtype)

    def __repr__(self) -> str:
        return f"HDF5Matrix({self._location.address!r}, {self._name!r}, shape={self.shape}, dtype={self.dtype})"

    def close(self) -> None:
        """Close the handle of this process; reading again opens it again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _close_in(handle.process, handle.stack)

    def __enter__(self) -> HDF5Matrix:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def _read(self, rows: RowKey) -> np.ndarray[Any, Any]:
        """Read rows of the window as they are stored: `(n, …)`, or the row itself for an int."""
        source, first = self._rows(), self.start
        if isinstance(rows, int):
            return source.span(first + rows, first + rows + 1).reshape(self._stored_shape[1:])
        if isinstance(rows, np.ndarray):
            return source.take(rows.reshape(-1) + first)
        if len(rows) == 0:
            return source.span(first, first)
        if rows.step == 1:
            return source.span(first + rows.start, first + rows[-1] + 1)
        low, high = min(rows[0], rows[-1]), max(rows[0], rows[-1])
        read = source.strided(range(first + low, first + high + 1, abs(rows.step)))
        return read if rows.step > 0 else read[::-1].copy()

    def _rows(self) -> Rows:
        handle = self._handle
        if handle is not None and handle.process == os.getpid() and handle.stamp == self._location.stamp():
            return handle.rows
        self.close()
        # The stamp is taken first: what is replaced while it is opened is opened again at the next read.
        stamp, stack = self._location.stamp(), contextlib.ExitStack()
        rows, shape, dtype = open_rows(self._location, self._name, self._read_dtype, self._kept_chunks, stack)
        if shape[1:] != self._stored_shape[1:] or shape[0] < self.end or dtype != self._stored_dtype:
            stack.close()
            raise RuntimeError(
                f"dataset {self._name!r} in {self._location.address!r} changed: it was {self._stored_dtype} of shape "
                f"{self._stored_shape} and is {dtype} of shape {shape}; make the HDF5Matrix anew"
            )
        self._handle = _Handle(rows, os.getpid(), stamp, stack)
        return rows

    def _normalized(self, piece: np.ndarray[Any, Any]) -> torch.Tensor | np.ndarray[Any, Any]:
        result = piece if self.normalizer is None else self.normalizer(piece)
        if self._as_tensor:
            return to_tensor(result)
        return result.detach().cpu().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)

    def _finish(self, piece: np.ndarray[Any, Any]) -> Any:
        result = self._normalized(piece)
        return result if isinstance(result, torch.Tensor) or result.ndim else result[()]


def _close_in(process: int, stack: contextlib.ExitStack) -> None:
    if process == os.getpid():
        stack.close()


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
