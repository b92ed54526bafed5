"""The open files of one HDF5Matrix in one process, and rows read across them.

A handle never serves another process than the one that opened it, and is closed when nobody reads through it any more:
a thread that reads holds on to its `OpenPart`, so that another one that closes or replaces it does no harm.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import torch.utils.data

from torchkutils.data.chunk_cache import ChunkCache
from torchkutils.data.dataset_lookup import (
    check_sources,
    files_behind,
    filter_codes,
    filter_name,
    find_rows,
    load_filters,
)
from torchkutils.data.hdf5_file import FileStamp, Location, Opened, writer_in_this_process
from torchkutils.data.row_keys import RowKey
from torchkutils.data.row_reader import Rows, open_rows
from torchkutils.data.selected_rows import GroupRows, SelectedRows
from torchkutils.data.stored_rows import StoredRows, stored_dataset, stored_group

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

OPEN_FILES = 32
"""How many files of one HDF5Matrix are open at a time in one process."""

_MOST_THREADS = 8


@dataclass(frozen=True)
class Part:
    """Rows of one file.

    Attributes:
        location: The file.
        name: The data set in it, or the group or pattern of data sets that are a row each.
        field: The field of its records that is read.
        stored: What it held when it was looked at first.
    """

    location: Location
    name: str
    field: str | None
    stored: StoredRows

    @property
    def where(self) -> str:
        """The data set for messages."""
        return f"dataset {self.name!r} in {self.location.shown!r}"

    def read_error(self, rows: range | Array, filters: tuple[int, ...], error: Exception) -> OSError:
        """What a failed read says: file, data set, rows and filters, and then the cause."""
        which = f"rows {min(rows)} to {max(rows)}" if len(rows) else "no rows"
        stored = f" (filters: {', '.join(map(filter_name, filters))})" if filters else ""
        says = f"{self.where}: {which} cannot be read{stored}: {error}"
        code = getattr(error, "errno", None)
        return OSError(code, says) if code else OSError(says)


@dataclass(frozen=True, eq=False)
class OpenPart:
    """Rows that are open, the files behind them and their state when they were opened."""

    rows: Rows
    watched: tuple[str, ...]
    stamp: FileStamp
    written_here: bool
    filters: tuple[int, ...]
    process: int
    stack: contextlib.ExitStack

    def __post_init__(self) -> None:
        # HDF5 reads a URL through Python objects: left open until the interpreter is taken down, it crashes.
        weakref.finalize(self, _close_in, self.process, self.stack)


@contextlib.contextmanager
def looking_at(location: Location, name: str, field: str | None) -> Iterator[tuple[Part, Callable[[int], Array]]]:
    """Learn from a file's metadata what it holds; gives also a function that reads one row, as an array of one.

    Raises:
        OSError: The file cannot be read; DatasetNotFoundError where it lacks the data set.
        ValueError: The data set has no axis of rows or no such field, or rows of several dtypes.
    """
    with location.opened() as file:
        found = find_rows(file, name, location.shown)
        if isinstance(found, list):
            part = Part(location, name, field, stored_group(file, found, location.shown))
            yield part, lambda row: GroupRows(file, found, part.stored).span(row, row + 1)
        else:
            part = Part(location, name, field, stored_dataset(found, field))
            yield part, lambda row: _one_row(part, found, row)


def _one_row(part: Part, dataset: h5py.Dataset, row: int) -> Array:
    load_filters(dataset, part.location.shown)
    check_sources(dataset, row, row + 1, part.location.shown)
    try:
        return SelectedRows(dataset, part.field).span(row, row + 1)
    except (OSError, RuntimeError, ValueError) as error:
        raise part.read_error(range(row, row + 1), tuple(filter_codes(dataset)), error) from error


class OpenParts:
    """Reads rows of many files as if they were one; for one process.

    Args:
        parts: The files, in order.
        cache_bytes: What decoded chunks may take.
        sampler_bytes: What the chunks that a sampler mixes take: as much is kept at least, twice as much where threads
            decode the next ones meanwhile.
        threads: How many threads decode; None for as many as there are cores, one inside of DataLoader's workers.
        window: The rows that will be read: for a look at what virtual data sets need.
    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        cache_bytes: int,
        sampler_bytes: int,
        threads: int | None,
        window: tuple[int, int],
    ) -> None:
        self._parts = parts
        self._window = window
        # The number of the first row of each part, and of the row behind the last.
        self._edges = np.cumsum([0, *[part.stored.length for part in parts]])
        count = _thread_count(threads)
        self.cache: ChunkCache = ChunkCache(max(cache_bytes, sampler_bytes * (2 if count > 1 else 1)), count)
        self._open: OrderedDict[int, OpenPart] = OrderedDict()
        self._lock = threading.RLock()

    def read(self, rows: RowKey) -> Array:
        """Read rows by their numbers over all parts: an int64 array or a range, with any step."""
        if isinstance(rows, range) and rows and len(self._parts) > 1:
            return self._read_range(rows)
        if isinstance(rows, range):
            return self._read_part(0, rows)
        assert isinstance(rows, np.ndarray)
        if len(self._parts) == 1 or len(rows) == 0:
            return self._read_part(0, rows)
        return self._read_scattered(rows)

    def start_reading(self, rows: Array) -> None:
        """Say which rows will be read next, in their order: their chunks are decoded meanwhile, by threads."""
        if len(rows) == 0:
            return
        numbers = np.searchsorted(self._edges, rows, side="right") - 1
        for number in np.unique(numbers).tolist():
            opened = self.open_part(number)
            opened.rows.start_reading(rows[numbers == number] - self._edges[number])

    def open_part(self, number: int) -> OpenPart:
        """Open a file, or give the open one if neither it nor the files behind it changed."""
        with self._lock:
            opened = self._open.get(number)
            if opened is not None and self._is_current(number, opened):
                self._open.move_to_end(number)
                return opened
            self._open.pop(number, None)
            while len(self._open) >= OPEN_FILES:
                self._open.popitem(last=False)
            del opened
            try:
                fresh = self._opened(number)
            except OSError as error:
                if error.errno != errno.EMFILE or not self._open:
                    raise
                # Others in this process have files open too: these can be opened again.
                self._open.clear()
                fresh = self._opened(number)
            self._open[number] = fresh
            return fresh

    def close(self) -> None:
        """Close all files, as soon as no thread reads them any more."""
        with self._lock:
            self._open.clear()
        self.cache.close()

    def _is_current(self, number: int, opened: OpenPart) -> bool:
        location = self._parts[number].location
        if opened.stamp != location.stamp(opened.watched):
            return False
        return not location.local or opened.written_here == writer_in_this_process((location.address, *opened.watched))

    def _opened(self, number: int) -> OpenPart:
        part = self._parts[number]
        location = part.location
        with contextlib.ExitStack() as stack:
            # The stamp is taken first: what is replaced while it is opened is opened again at the next read.
            before = location.stamp()
            opened = location.open(stack)
            found = find_rows(opened.file, part.name, location.shown)
            now = stored_group(opened.file, found, location.shown) if isinstance(found, list) else None
            now = now or stored_dataset(found, part.field)
            self._check_unchanged(number, now)
            watched: tuple[str, ...] = ()
            if location.local and not isinstance(found, list):
                watched = tuple(path for path in files_behind(found) if path != location.address)
            written = location.local and writer_in_this_process((location.address, *watched))
            if isinstance(found, list):
                rows: Rows = GroupRows(opened.file, found, now)
                filters: list[int] = []
            else:
                filters = filter_codes(found)
                rows = self._rows(number, found, opened, stack, past_hdf5=not written)
            stamp = (*before, *location.stamp(watched)[len(before) :])
            return OpenPart(rows, watched, stamp, written, tuple(filters), os.getpid(), stack.pop_all())

    def _rows(
        self, number: int, dataset: h5py.Dataset, opened: Opened, stack: contextlib.ExitStack, *, past_hdf5: bool
    ) -> Rows:
        part = self._parts[number]
        load_filters(dataset, part.location.shown)
        first = int(self._edges[number])
        check_sources(dataset, self._window[0] - first, self._window[1] - first, part.location.shown)
        if part.location.options.swmr:
            return SelectedRows(dataset, part.field, before=dataset.refresh)
        return open_rows(dataset, opened, stack, cache=self.cache, number=number, field=part.field, past_hdf5=past_hdf5)

    def _check_unchanged(self, number: int, now: StoredRows) -> None:
        part = self._parts[number]
        then = part.stored
        needed = min(self._window[1] - int(self._edges[number]), then.length)
        enough = now.length >= needed if len(self._parts) == 1 else now.length == then.length
        if now.kind() != then.kind() or not enough:
            raise RuntimeError(
                f"{part.where} changed: it was {then.described()} and is {now.described()}; call refresh(), or make "
                "the HDF5Matrix anew"
            )

    def _read_range(self, rows: range) -> Array:
        """A run over several files: in order, then turned around for a negative step."""
        if rows.step != 1:
            return self._read_scattered(np.arange(rows.start, rows.stop, rows.step))
        first, last = np.searchsorted(self._edges, [rows[0], rows[-1]], side="right") - 1
        pieces = []
        for number in range(int(first), int(last) + 1):
            low, high = int(self._edges[number]), int(self._edges[number + 1])
            begin, end = max(rows.start, low), min(rows.stop, high)
            if begin < end:
                pieces.append(self._read_part(number, range(begin - low, end - low)))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _read_scattered(self, rows: Array) -> Array:
        numbers = np.searchsorted(self._edges, rows, side="right") - 1
        order = np.argsort(numbers, kind="stable")
        ordered = numbers[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        pieces = []
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            number = int(ordered[start])
            pieces.append(self._read_part(number, rows[order[start:stop]] - self._edges[number]))
        if len(pieces) == 1:
            return pieces[0]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return np.concatenate(pieces)[back]

    def _read_part(self, number: int, rows: range | Array) -> Array:
        opened = self.open_part(number)
        try:
            return _read(opened.rows, rows)
        except MemoryError:
            raise
        except Exception as error:
            raise self._parts[number].read_error(rows, opened.filters, error) from error


def _read(source: Rows, rows: range | Array) -> Array:
    if not isinstance(rows, range):
        return source.take(rows)
    if len(rows) == 0:
        return source.span(0, 0)
    if rows.step == 1:
        return source.span(rows.start, rows[-1] + 1)
    low, high = min(rows[0], rows[-1]), max(rows[0], rows[-1])
    read = source.strided(range(low, high + 1, abs(rows.step)))
    return read if rows.step > 0 else read[::-1].copy()


def _thread_count(threads: int | None) -> int:
    if threads is not None:
        return threads
    if torch.utils.data.get_worker_info() is not None:
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


def _close_in(process: int, stack: contextlib.ExitStack) -> None:
    if process == os.getpid():
        stack.close()
