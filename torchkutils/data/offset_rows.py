"""Rows of uncompressed data, read from where they lie in the file."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torchkutils import _lazy
from torchkutils.data.chunk_index import ChunkIndex
from torchkutils.data.file_bytes import FileBytes, read_rows, read_run
from torchkutils.data.selected_rows import SelectedRows
from torchkutils.data.stored_rows import base_and_axes

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

Locate: TypeAlias = "Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]"
"""Where rows begin in the file, by their numbers; -1 for those that were never written."""

_BLOCK_ROWS = 2**18
"""For how many rows offsets are computed at a time."""

_GAP_BYTES = 16 * 2**10
"""Rows with a step are read together with what lies between them, if a step is no longer."""


class OffsetRows:
    """Rows that lie in the file as an array does in memory.

    Args:
        dataset: The data set; it is kept only where rows may be missing.
        source: The file's bytes.
        locate: Where rows begin.
        complete: Every row was written, so that HDF5 is not needed any more.
    """

    def __init__(self, dataset: h5py.Dataset, source: FileBytes, locate: Locate, *, complete: bool) -> None:
        base, inner = base_and_axes(dataset.dtype)
        self._row_shape: tuple[int, ...] = (*dataset.shape[1:], *inner)
        self._dtype = base
        self._row_bytes = base.itemsize * math.prod(self._row_shape)
        self._source = source
        self._locate = locate
        self._missing = None if complete else SelectedRows(dataset)

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        out = np.empty((max(0, stop - first), *self._row_shape), self._dtype)
        if isinstance(self._locate, ContiguousOffsets):
            read_run(self._source, self._locate.of_row(first), out)
            return out
        for begin in range(first, stop, _BLOCK_ROWS):
            rows = np.arange(begin, min(begin + _BLOCK_ROWS, stop))
            self._fill(rows, out[begin - first : begin - first + len(rows)])
        return out

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …; those between them are read too where that is quicker."""
        if rows.step * self._row_bytes > _GAP_BYTES:
            return self.take(np.arange(rows.start, rows.stop, rows.step))
        out = np.empty((len(rows), *self._row_shape), self._dtype)
        block = max(1, 2**20 // (self._row_bytes * rows.step))
        for begin in range(0, len(rows), block):
            part = rows[begin : begin + block]
            out[begin : begin + block] = self.span(part[0], part[-1] + 1)[:: rows.step]
        return out

    def take(self, rows: Array) -> Array:
        """Rows by number."""
        out = np.empty((len(rows), *self._row_shape), self._dtype)
        if len(rows):
            self._fill(rows, out)
        return out

    def start_reading(self, rows: Array) -> None:
        """Fetch what lies behind a network."""
        offsets = self._locate(rows)
        self._source.fetch((offset, self._row_bytes) for offset in offsets.tolist() if offset >= 0)

    def _fill(self, rows: Array, out: Array) -> None:
        offsets = self._locate(rows)
        if self._missing is None or offsets.min() >= 0:
            read_rows(self._source, offsets, self._row_bytes, out)
            return
        written = offsets >= 0
        # HDF5 knows the fill value, and when it is written.
        out[~written] = self._missing.take(rows[~written])
        if written.any():
            read = np.empty((int(written.sum()), *self._row_shape), self._dtype)
            read_rows(self._source, offsets[written], self._row_bytes, read)
            out[written] = read


def contiguous_offset(dataset: h5py.Dataset, file_size: int) -> int | None:
    """Where a data set lies in its file in one piece; None when it does not."""
    h5d = _lazy.h5py.h5d
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5d.CONTIGUOUS or creation.get_external_count():
        return None
    size = dataset.size * dataset.dtype.itemsize
    # An offset means nothing before something was stored: with a user block HDF5 gives a number even then.
    if size == 0 or dataset.id.get_storage_size() != size:
        return None
    offset = dataset.id.get_offset()
    return None if offset is None or offset + size > file_size else int(offset)


class ContiguousOffsets:
    """Where the rows of a contiguous data set begin."""

    def __init__(self, offset: int, row_bytes: int) -> None:
        self._offset = offset
        self._row_bytes = row_bytes

    def of_row(self, row: int) -> int:
        """Give the offset of one row."""
        return self._offset + row * self._row_bytes

    def __call__(self, rows: Array) -> Array:
        """Give an offset for each row."""
        return self._offset + rows * self._row_bytes


class ChunkOffsets:
    """Where the rows of unfiltered chunks begin."""

    def __init__(self, dataset: h5py.Dataset, row_bytes: int) -> None:
        self._index = ChunkIndex(dataset)
        self._row_bytes = row_bytes
        self._chunk_rows = dataset.chunks[0]

    def __call__(self, rows: Array) -> Array:
        """Give an offset for each row, -1 where its chunk was never written."""
        chunks, inside = np.divmod(rows, self._chunk_rows)
        found = self._index.offsets(chunks)
        return np.where(found < 0, -1, found + inside * self._row_bytes)
