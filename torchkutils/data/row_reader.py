"""How rows are read from an HDF5 data set: from a memory map, in whole chunks, or by h5py's own selections.

`open_rows` picks the plan that suits how the data set is stored; all give the same rows, as arrays that own their
memory.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from torchkutils import _lazy
from torchkutils.data.hdf5_file import Location, find_dataset

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

CACHE_BYTES = 32 * 2**20
"""Decoded chunks that one process keeps for one data set, unless a sampler asked for more."""

_MAPPED_BYTES = 32 * 2**20
"""About how much of a memory map stays in this process's page tables; the system's page cache keeps the rest."""

_RUN_WORTH_A_SLICE = 8
"""From this mean length on, reading runs of rows as slices beats h5py's selection of single rows."""


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


def open_rows(
    location: Location, name: str, dtype: np.dtype[Any], cached_chunks: int, stack: contextlib.ExitStack
) -> tuple[Rows, tuple[int, ...], np.dtype[Any]]:
    """Open a data set by the plan that suits its storage.

    Args:
        location: The file.
        name: The data set in it.
        dtype: What rows are converted to: the data set's own dtype, or that in the machine's byte order.
        cached_chunks: How many chunks along axis 0 must be kept decoded, if that is more than `CACHE_BYTES` hold.
        stack: Closes whatever stays open.

    Returns:
        The rows, and the data set's shape and dtype as they are now.
    """
    with contextlib.ExitStack() as opening:
        dataset = find_dataset(location.open(opening), name, location.address)
        shape, stored = dataset.shape, dataset.dtype
        mapped = map_rows(dataset, dtype) if location.local else None
        if mapped is not None:
            return mapped, shape, stored
        stack.push(opening.pop_all())
    view = dataset if stored == dtype else dataset.astype(dtype)
    chunks = dataset.chunks
    if chunks is None or stored.hasobject:
        return SelectedRows(view), shape, stored
    chunk_bytes = max(1, chunks[0] * dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64)))
    kept = max(CACHE_BYTES // chunk_bytes, cached_chunks)
    rows: Rows = ChunkedRows(view, shape, dtype, chunks[0], kept) if kept else SelectedRows(view)
    return rows, shape, stored


def map_rows(dataset: h5py.Dataset, dtype: np.dtype[Any]) -> MappedRows | None:
    """Map a data set that lies in its file as an array does in memory; None when it does not."""
    h5py = _lazy.h5py
    creation = dataset.id.get_create_plist()
    plain = (
        creation.get_layout() == h5py.h5d.CONTIGUOUS
        and creation.get_external_count() == 0
        and dataset.dtype == dtype
        and dtype.kind in "biufc"
        # The type in the file may have padding or another order of real and imaginary parts: then HDF5 must convert.
        and h5py.h5t.py_create(dtype, logical=True) == dataset.id.get_type()
    )
    # An offset means nothing before something was stored: with a user block HDF5 gives a number even then.
    if not plain or dataset.size == 0 or dataset.id.get_storage_size() != dataset.size * dtype.itemsize:
        return None
    offset = dataset.id.get_offset()
    # A link may lead to another file than the one that was opened.
    path = dataset.file.filename
    if offset is None or offset + dataset.size * dtype.itemsize > os.stat(path).st_size:  # noqa: PTH116
        return None
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return MappedRows(mapped, np.frombuffer(mapped, dtype, dataset.size, offset).reshape(dataset.shape))


class MappedRows:
    """Rows copied out of a read-only memory map; the file itself is closed."""

    def __init__(self, mapped: mmap.mmap, array: Array) -> None:
        self._mapped = mapped
        self._array = array
        self._row_bytes = array.nbytes // max(1, len(array))
        self._touched = 0

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        return self._copied(self._array[first:stop].copy(), 1)

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self._copied(self._array[rows.start : rows.stop : rows.step].copy(), abs(rows.step))

    def take(self, rows: Array) -> Array:
        """Rows by number."""
        if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1 and bool((np.diff(rows) == 1).all()):
            return self.span(int(rows[0]), int(rows[-1]) + 1)
        # Pages read at random stay mapped: mapping them again takes longer than copying the rows.
        return self._array.take(rows, axis=0)

    def _copied(self, read: Array, spacing: int) -> Array:
        """Hand pages back behind a read in order: they would count as this process's memory until others need it."""
        self._touched += read.nbytes * spacing
        if self._touched > _MAPPED_BYTES:
            self._touched = 0
            if hasattr(self._mapped, "madvise"):
                self._mapped.madvise(mmap.MADV_DONTNEED)
        return read


class SelectedRows:
    """Rows read by h5py: runs as slices where they are long enough, single rows otherwise, each only once."""

    def __init__(self, view: Any) -> None:
        self._view = view

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        return np.asarray(self._view[first:stop])

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return np.asarray(self._view[rows.start : rows.stop : rows.step])

    def take(self, rows: Array) -> Array:
        """Rows by number."""
        if len(rows) == 0:
            return self.span(0, 0)
        wanted, places = np.unique(rows, return_inverse=True)
        starts = np.flatnonzero(np.diff(wanted, prepend=wanted[0] - 2) != 1)
        if len(wanted) < _RUN_WORTH_A_SLICE * len(starts):
            read = np.asarray(self._view[wanted])
        else:
            stops = np.append(starts[1:], len(wanted))
            read = np.concatenate([self.span(wanted[a], wanted[b - 1] + 1) for a, b in zip(starts, stops, strict=True)])
        in_order = len(wanted) == len(rows) and bool((places[1:] > places[:-1]).all())
        return read if in_order else read[places]


class ChunkedRows:
    """Rows taken out of decoded chunks, of which the last used are kept.

    A chunk here is all that is stored for `chunk_rows` neighbouring rows, also where the other axes are cut up as well.
    HDF5 decodes whole chunks anyway; keeping them makes rows that come one by one as cheap as slices.
    """

    def __init__(self, view: Any, shape: tuple[int, ...], dtype: np.dtype[Any], chunk_rows: int, kept: int) -> None:
        self._view = view
        self._shape = shape
        self._dtype = dtype
        self._chunk_rows = chunk_rows
        self._kept = kept
        self._cache: OrderedDict[int, Array] = OrderedDict()

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1: whole chunks past the cache, the ends that cut one through it."""
        size = self._chunk_rows
        if stop <= first:
            return np.empty((0, *self._shape[1:]), self._dtype)
        whole_from, whole_to = -(-first // size) * size, stop // size * size
        if stop == self._shape[0]:
            whole_to = stop
        if whole_from == first and whole_to == stop:
            return np.asarray(self._view[first:stop])
        if whole_to <= whole_from:
            return self.take(np.arange(first, stop))
        out = np.empty((stop - first, *self._shape[1:]), self._dtype)
        for start, end in ((first, whole_from), (whole_to, stop)):
            if start < end:
                inside = start // size * size
                out[start - first : end - first] = self._chunk(start // size)[start - inside : end - inside]
        out[whole_from - first : whole_to - first] = self._view[whole_from:whole_to]
        return out

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self.take(np.arange(rows.start, rows.stop, rows.step))

    def take(self, rows: Array) -> Array:
        """Rows by number; each chunk is decoded at most once."""
        if len(rows) == 0:
            return self.span(0, 0)
        by_chunk = np.empty((len(rows), *self._shape[1:]), self._dtype)
        chunks, inside = np.divmod(rows, self._chunk_rows)
        order = np.argsort(chunks, kind="stable")
        ordered = chunks[order]
        starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(rows)], strict=True):
            chunk = self._chunk(int(ordered[start]))
            # The rows are there, so clipping changes none: it spares NumPy a buffer of its own.
            chunk.take(inside[order[start:stop]], axis=0, out=by_chunk[start:stop], mode="clip")
        if len(starts) == 1:
            return by_chunk
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return by_chunk.take(back, axis=0)

    def _chunk(self, number: int) -> Array:
        chunk = self._cache.pop(number, None)
        if chunk is None:
            first = number * self._chunk_rows
            chunk = np.asarray(self._view[first : min(first + self._chunk_rows, self._shape[0])])
            while len(self._cache) >= self._kept:
                self._cache.popitem(last=False)
        self._cache[number] = chunk
        return chunk
