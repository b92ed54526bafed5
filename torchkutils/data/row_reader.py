"""How rows are read from an HDF5 data set: at their offsets in the file, in whole chunks, or by h5py's selections.

`open_rows` picks the plan that suits how the data set is stored; all give the same rows, as arrays that own their
memory, in the dtype that the file has.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from torchkutils import _lazy
from torchkutils.data.chunk_cache import ChunkCache
from torchkutils.data.chunk_filters import decoder_of
from torchkutils.data.chunk_rows import ChunkedRows
from torchkutils.data.dataset_lookup import filter_codes
from torchkutils.data.file_bytes import FileBytes, LocalBytes
from torchkutils.data.hdf5_file import Opened
from torchkutils.data.offset_rows import ChunkOffsets, ContiguousOffsets, OffsetRows, contiguous_offset
from torchkutils.data.selected_rows import FieldRows, SelectedRows
from torchkutils.data.stored_rows import lies_as_in_memory

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"


class Rows(Protocol):
    """Rows of one data set by their numbers in the file, which the caller has checked."""

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        ...

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …; the step is positive."""
        ...

    def take(self, rows: Array) -> Array:
        """Rows by number, in that order, repeats included."""
        ...

    def start_reading(self, rows: Array) -> None:
        """Begin to read what a `take` of these rows will need, where threads or a network can do so meanwhile."""
        ...


def open_rows(
    dataset: h5py.Dataset,
    opened: Opened,
    stack: contextlib.ExitStack,
    *,
    cache: ChunkCache,
    number: int,
    field: str | None,
    past_hdf5: bool,
) -> Rows:
    """Read a data set by the plan that suits its storage.

    Args:
        dataset: The data set, open.
        opened: Its file, which `stack` closes; it is closed at once where HDF5 is not needed any more.
        stack: Closes what the plan holds.
        cache: Keeps decoded chunks.
        number: The file's number in the cache.
        field: The field of the records that is read; None for all.
        past_hdf5: The file's bytes may be read without HDF5: no writer's rows lie in memory.
    """
    plan = None
    if past_hdf5 and dataset.size and not dataset.dtype.hasobject and not dataset.is_virtual:
        if dataset.chunks is None:
            plan = _contiguous(dataset, opened, stack)
        else:
            plan = _chunked(dataset, opened, stack, cache, number)
    if plan is None:
        return SelectedRows(dataset, field)
    return plan if field is None else FieldRows(plan, field)


def _contiguous(dataset: h5py.Dataset, opened: Opened, stack: contextlib.ExitStack) -> Rows | None:
    if not lies_as_in_memory(dataset):
        return None
    with contextlib.ExitStack() as own:
        source: FileBytes | None = _remote(dataset, opened) if opened.remote else LocalBytes.own(dataset, own)
        offset = None if source is None else contiguous_offset(dataset, source.size)
        if source is None or offset is None:
            return None
        rows = OffsetRows(dataset, source, ContiguousOffsets(offset, _row_bytes(dataset)), complete=True)
        if not source.remote:
            # HDF5's handle, and its lock on the file, are not needed any more.
            stack.close()
        stack.push(own.pop_all())
        return rows


def _chunked(
    dataset: h5py.Dataset, opened: Opened, stack: contextlib.ExitStack, cache: ChunkCache, number: int
) -> Rows:
    source: FileBytes | None = _remote(dataset, opened) if opened.remote else LocalBytes.shared_with(dataset)
    plain = source is not None and not filter_codes(dataset) and lies_as_in_memory(dataset)
    if plain and source is not None and dataset.chunks[1:] == dataset.shape[1:]:
        return OffsetRows(dataset, source, ChunkOffsets(dataset, _row_bytes(dataset)), complete=False)
    rows = ChunkedRows(dataset, cache, number, decoder_of(dataset), source)
    stack.callback(rows.stop)
    return rows


def _remote(dataset: h5py.Dataset, opened: Opened) -> FileBytes | None:
    """The bytes behind a URL; None where a link led out of it."""
    info = _lazy.h5py.h5o.get_info
    inside = info(dataset.id).fileno == info(opened.file.id).fileno
    return opened.remote if inside else None


def _row_bytes(dataset: h5py.Dataset) -> int:
    return int(dataset.dtype.itemsize * math.prod(dataset.shape[1:]))
