"""Rows of chunked data, taken out of decoded chunks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torchkutils.data.announced_rows import AnnouncedPool, AnnouncedRows, Fill
from torchkutils.data.chunk_cache import ChunkCache
from torchkutils.data.chunk_filters import ChunkDecoder, DecodeError
from torchkutils.data.chunk_index import ChunkIndex
from torchkutils.data.file_bytes import FileBytes
from torchkutils.data.stored_rows import base_and_axes

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

_LONG_ROW = 1024
"""Rows of so many bytes are copied faster one by one."""

_SMALL_CHUNK = 16 * 2**10
"""Chunks of fewer bytes are read faster by HDF5, many at a time."""


class ChunkedRows:
    """Rows taken out of decoded chunks, of which the cache keeps those used last.

    HDF5 decodes whole chunks anyway; keeping them makes rows that come one by one as cheap as slices. Chunks that are
    needed next are decoded by the cache's threads meanwhile: within one read, and behind reads in order.

    Args:
        dataset: The data set.
        cache: Keeps and decodes chunks.
        number: The file's number in the cache.
        decoder: Decodes chunks without HDF5; None leaves it to HDF5.
        source: The file's bytes past HDF5; None reads stored chunks through it.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        cache: ChunkCache,
        number: int,
        decoder: ChunkDecoder | None,
        source: FileBytes | None,
    ) -> None:
        base, inner = base_and_axes(dataset.dtype)
        self._dataset = dataset
        self._cache = cache
        self._number = number
        self._decoder = decoder
        self._source = source
        self._dtype = base
        self._length = len(dataset)
        self._row_shape: tuple[int, ...] = (*dataset.shape[1:], *inner)
        self._chunk_rows: int = dataset.chunks[0]
        self._chunk_bytes = dataset.dtype.itemsize * math.prod(dataset.chunks)
        sizes = list(zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
        # One row may be cut up into many chunks. A tile is the part of the rows that one chunk holds.
        starts = [range(0, length, size) for length, size in sizes]
        self._tiles = [_columns(corner, sizes) for corner in itertools.product(*starts)]
        self._all_fit = dataset.size * dataset.dtype.itemsize < cache.limit
        self._index = ChunkIndex(dataset, at_once=source is not None and source.remote)
        self._next_row = -1
        self._announced = AnnouncedRows(cache)

    def stop(self) -> None:
        """End what threads do for these rows, before the file is closed."""
        self._announced.stop()
        self._cache.stop(lambda key: isinstance(key, tuple) and key[0] == self._number)

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        size = self._chunk_rows
        if stop <= first:
            return np.empty((0, *self._row_shape), self._dtype)
        whole = first % size == 0 and (stop % size == 0 or stop == self._length)
        bands = range(first // size, -(-stop // size))
        by_hdf5 = self._decoder is None or self._chunk_bytes < _SMALL_CHUNK
        if by_hdf5 and (whole or len(bands) > 2):
            return np.asarray(self._dataset[first:stop])
        if self._announced:
            announced = self._announced.take(np.arange(first, stop))
            if announced is not None:
                return announced
        return self._in_order(bands, first, stop)

    def _in_order(self, bands: range, first: int, stop: int) -> Array:
        """Rows first … stop - 1; behind reads in order the next chunks are decoded meanwhile."""
        size = self._chunk_rows
        in_order, self._next_row = first == self._next_row, stop
        alone = len(bands) == len(self._tiles) == 1 and stop - first == size and not self._all_fit
        out = self._own_chunk(bands[0]) if alone else None
        if out is None:
            out = self._joined(bands, first, stop, in_order)
        if in_order:
            ahead = range(bands.stop, min(bands.stop + 2 * self._cache.threads, -(-self._length // size)))
            for band in ahead:
                self._start(band)
        return out

    def _joined(self, bands: range, first: int, stop: int, in_order: bool) -> Array:
        """Rows first … stop - 1 out of the chunks of these bands."""
        size = self._chunk_rows
        out = np.empty((stop - first, *self._row_shape), self._dtype)
        for band in self._started(bands):
            low, high = max(first, band * size), min(stop, (band + 1) * size)
            inside = slice(low - band * size, high - band * size)
            # Reading in order is done with a chunk when its last row was read, unless all chunks can be kept.
            done = not self._all_fit and high == (band + 1) * size and (in_order or low == band * size)
            self._copy(band, inside, out[low - first : high - first], keep=not done)
        return out

    def _long_rows(self, bands: list[int], edges: list[int], order: Array, inside: Array) -> Array:
        """Rows that are copied one by one to their places: for long ones that is less than copying all twice."""
        out = np.empty((len(order), *self._row_shape), self._dtype)
        places, rows = order.tolist(), inside[order].tolist()
        for band, start, stop in zip(self._started(bands), edges[:-1], edges[1:], strict=True):
            chunk = self._chunk(band, 0, keep=True)
            for place, row in zip(places[start:stop], rows[start:stop], strict=True):
                out[place] = chunk[row]
        return out

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self.take(np.arange(rows.start, rows.stop, rows.step))

    def take(self, rows: Array) -> Array:
        """Rows by number; each chunk is decoded at most once."""
        if len(rows) == 0:
            return self.span(0, 0)
        announced = self._announced.take(rows)
        if announced is not None:
            return announced
        bands, inside = np.divmod(rows, self._chunk_rows)
        order = np.argsort(bands, kind="stable")
        ordered = bands[order]
        edges = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(rows)]
        needed = ordered[edges[:-1]].tolist()
        self._fetch(needed)
        if len(self._tiles) == 1 and self._chunk_bytes >= self._chunk_rows * _LONG_ROW:
            return self._long_rows(needed, edges, order, inside)
        by_band = np.empty((len(rows), *self._row_shape), self._dtype)
        for band, start, stop in zip(self._started(needed), edges[:-1], edges[1:], strict=True):
            self._copy(band, inside[order[start:stop]], by_band[start:stop], keep=True)
        if len(needed) == 1:
            return by_band
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return by_band.take(back, axis=0)

    def start_reading(self, rows: Array) -> None:
        """Let threads decode the chunks of these rows and put their rows in this order, as far as there is room."""
        if self._decoder is not None and (self._source is None or not self._source.remote):
            row_bytes = self._dtype.itemsize * math.prod(self._row_shape)
            if self._announced.announce(AnnouncedPool(rows, row_bytes, self._fills)):
                return
        for band in np.unique(rows // self._chunk_rows).tolist():
            if not self._start(band):
                return

    def _fills(self, rows: Array) -> tuple[Array, list[Fill]]:
        """Memory for rows, and what copies them to it, one call for each chunk."""
        out = np.empty((len(rows), *self._row_shape), self._dtype)
        order = np.argsort(rows, kind="stable")
        bands, inside = np.divmod(rows[order], self._chunk_rows)
        edges = [0, *(np.flatnonzero(bands[1:] != bands[:-1]) + 1).tolist(), len(rows)]
        if self._cache.threads <= 1:
            self._fetch(bands[edges[:-1]].tolist())
        fills: list[Fill] = []
        for start, stop in itertools.pairwise(edges):
            places, own = order[start:stop], inside[start:stop]
            for tile, columns in enumerate(self._tiles):
                task = self._task(int(bands[start]), tile)
                if task is None:
                    return out, [_cannot]
                fills.append(_filling(task, out, places, own, columns))
        return out, fills

    def _started(self, bands: Any) -> Iterator[int]:
        """The same bands; threads are given those that follow."""
        missing = [] if self._cache.threads <= 1 else [b for b in bands if (self._number, b, 0) not in self._cache]
        if len(missing) < 2:
            yield from bands
            return
        window = 2 * self._cache.threads
        for place, band in enumerate(bands):
            for later in bands[place : place + window]:
                self._start(later)
            yield band

    def _start(self, band: int) -> bool:
        """Let threads decode the chunks of a band; False where they have no room for more."""
        if self._decoder is None or self._cache.threads <= 1:
            return False
        for tile in range(len(self._tiles)):
            key = (self._number, band, tile)
            if key not in self._cache:
                task = self._task(band, tile)
                if task is not None and not self._cache.start(key, task, self._chunk_bytes):
                    return False
        return True

    def _fetch(self, bands: list[int]) -> None:
        """Ask for the stored bytes of many chunks at once: one round trip, or one queue of the disk."""
        if self._source is None or self._decoder is None or len(bands) * len(self._tiles) < 2:
            return
        tiles = range(len(self._tiles))
        missing = [(band, tile) for band in bands for tile in tiles if (self._number, band, tile) not in self._cache]
        wanted = [self._index.find(self._chunk_number(*place)) for place in missing]
        self._source.fetch((found.offset, found.size) for found in wanted if found is not None)

    def _copy(self, band: int, inside: Any, out: Array, *, keep: bool) -> None:
        """Copy some rows of a band, by a slice or by numbers, from its chunks."""
        if len(self._tiles) == 1:
            chunk = self._chunk(band, 0, keep=keep)
            if isinstance(inside, slice):
                out[...] = chunk[inside]
            else:
                # The rows are there, so clipping changes none: it spares NumPy a buffer of its own.
                chunk.take(inside, axis=0, out=out, mode="clip")
            return
        for tile, columns in enumerate(self._tiles):
            chunk = self._chunk(band, tile, keep=keep)
            valid = tuple([slice(0, part.stop - part.start) for part in columns])
            out[(slice(None), *columns)] = chunk[inside][(slice(None), *valid)]

    def _own_chunk(self, band: int) -> Array | None:
        """A chunk that is decoded for this read alone, so that it need not be copied; None where there is none."""
        key = (self._number, band, 0)
        chunk = self._cache.claim(key)
        if chunk is None and key not in self._cache:
            task = None if self._decoder is None else self._task(band, 0)
            chunk = None if task is None else task()
        return chunk if chunk is None or chunk.flags.writeable else chunk.copy()

    def _chunk(self, band: int, tile: int, *, keep: bool) -> Array:
        key = (self._number, band, tile)
        chunk = self._cache.get(key)
        if chunk is None:
            task = None if self._decoder is None else self._task(band, tile)
            chunk = None if task is None else task()
            if chunk is None:
                # HDF5 knows fill values and all filters, and says what is wrong with a damaged chunk.
                chunk = np.asarray(self._dataset[self._region(band, tile)])
            if keep:
                self._cache.put(key, chunk)
        if not keep:
            self._cache.drop(key)
        return chunk

    def _task(self, band: int, tile: int) -> Callable[[], Array | None] | None:
        """What reads and decodes a chunk and gives None where HDF5 must do it; None for a chunk never written.

        All that needs HDF5 happens here, in the thread that asks.
        """
        number = self._chunk_number(band, tile)
        found = self._index.find(number)
        decoder, source = self._decoder, self._source
        if found is None or decoder is None:
            return None
        offset, size, mask = found
        stored = b""
        if source is None:
            mask, stored = self._dataset.id.read_direct_chunk(self._index.corner(number))

        def decoded() -> Array | None:
            raw = stored if source is None else source.read(offset, size)
            try:
                return decoder.decode(raw, mask)
            except DecodeError:
                return None

        return decoded

    def _chunk_number(self, band: int, tile: int) -> int:
        return band * len(self._tiles) + tile

    def _region(self, band: int, tile: int) -> tuple[slice, ...]:
        """Where a chunk lies in the data set, cut at its edges; axes of the type are whole."""
        first = band * self._chunk_rows
        return slice(first, min(first + self._chunk_rows, self._length)), *self._tiles[tile]


def _columns(corner: tuple[int, ...], sizes: list[tuple[int, int]]) -> tuple[slice, ...]:
    """The part of a row that a chunk holds, for each axis its length and that of a chunk."""
    return tuple([slice(at, min(at + size, length)) for at, (length, size) in zip(corner, sizes, strict=True)])


def _filling(task: Callable[[], Array | None], out: Array, places: Array, inside: Array, columns: Any) -> Fill:
    """A call that decodes a chunk and copies rows of it to their places."""
    first, last = int(inside[0]), int(inside[-1])
    run = last - first + 1 == len(inside) and bool((inside[1:] > inside[:-1]).all())
    picked: Any = slice(first, last + 1) if run else inside

    def fill() -> bool:
        chunk = task()
        if chunk is None:
            return False
        valid = tuple([slice(0, part.stop - part.start) for part in columns])
        out[(places, *columns)] = chunk[picked][(slice(None), *valid)]
        return True

    return fill


def _cannot() -> bool:
    return False
