"""Where the stored chunks of a data set lie in its file.

HDF5 walks over the chunks until it finds the one that it is asked for: among 200,000 that takes about 10 ms, a thousand
times as long as reading it. So after a few single questions all chunks are looked up at once, in about a microsecond
for each.
"""

from __future__ import annotations

import array
import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

_SINGLE_QUESTIONS = 16
"""So many chunks are looked up one by one: whoever reads a few rows need not wait for an index of all."""


class StoredChunk(NamedTuple):
    """A chunk in the file.

    Attributes:
        offset: Its first byte.
        size: Its stored bytes.
        filter_mask: The filters that it did not pass, bit by bit.
    """

    offset: int
    size: int
    filter_mask: int


class ChunkIndex:
    """The stored chunks of one data set by number, which counts in the order of its axes (C order).

    Args:
        dataset: The data set, open; nobody writes to it.
        at_once: Look all chunks up at the first question: behind a network each single one may be a round trip.
    """

    def __init__(self, dataset: h5py.Dataset, *, at_once: bool = False) -> None:
        self._low_level = dataset.id
        self._chunks: tuple[int, ...] = dataset.chunks
        self._grid = tuple([-(-length // size) for length, size in zip(dataset.shape, self._chunks, strict=True)])
        self._asked = _SINGLE_QUESTIONS if at_once else 0
        self._table: Array | None = None

    def corner(self, number: int) -> tuple[int, ...]:
        """The index of a chunk's first value."""
        place = np.unravel_index(number, self._grid)
        return tuple([int(at) * size for at, size in zip(place, self._chunks, strict=True)])

    def find(self, number: int) -> StoredChunk | None:
        """One chunk; None where it was never written."""
        if self._table is None and self._asked < _SINGLE_QUESTIONS:
            self._asked += 1
            info = self._low_level.get_chunk_info_by_coord(self.corner(number))
            return None if info.byte_offset is None else StoredChunk(info.byte_offset, info.size, info.filter_mask)
        table = self._all()
        at = self._row_in(table, number)
        row = table[at].tolist() if at < len(table) else None
        return StoredChunk(*row[1:]) if row is not None and row[0] == number else None

    def offsets(self, numbers: Array) -> Array:
        """The first byte of each chunk, int64; -1 for those never written."""
        if self._table is None:
            different, places = np.unique(numbers, return_inverse=True)
            if self._asked + len(different) <= _SINGLE_QUESTIONS:
                found = [self.find(number) for number in different.tolist()]
                return np.array([-1 if chunk is None else chunk.offset for chunk in found], np.int64)[places]
        table = self._all()
        if len(table) == math.prod(self._grid):
            return np.asarray(table[numbers, 1])
        if len(table) == 0:
            return np.full(len(numbers), -1, np.int64)
        at = np.minimum(np.searchsorted(table[:, 0], numbers), len(table) - 1)
        return np.where(table[at, 0] == numbers, table[at, 1], -1)

    def _row_in(self, table: Array, number: int) -> int:
        if len(table) == math.prod(self._grid):
            return number
        return int(np.searchsorted(table[:, 0], number))

    def _all(self) -> Array:
        """All stored chunks: number, offset, size and mask, sorted by number."""
        if self._table is not None:
            return self._table
        found = array.array("q")

        def note(info: Any) -> None:
            found.extend(info.chunk_offset)
            found.extend((info.byte_offset, info.size, info.filter_mask))

        if self._low_level.get_num_chunks():
            self._low_level.chunk_iter(note)
        axes = len(self._chunks)
        rows = np.array(found, dtype=np.int64).reshape(-1, axes + 3)
        table = np.empty((len(rows), 4), np.int64)
        table[:, 0] = np.ravel_multi_index((rows[:, :axes] // self._chunks).T, self._grid) if len(rows) else 0
        table[:, 1:] = rows[:, axes:]
        self._table = table[np.argsort(table[:, 0], kind="stable")]
        return self._table
