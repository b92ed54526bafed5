"""Rows that a sampler has announced, in its order: each chunk's rows go to their places when the chunk is decoded.

A chunk that was just decoded lies in the processor's cache, and threads can copy its rows; gathering the same rows
batch by batch from many chunks costs the reader more than anything else that it does.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, TypeAlias

import numpy as np

from torchkutils.data.chunk_cache import ChunkCache

Array: TypeAlias = "np.ndarray[Any, Any]"

Fill: TypeAlias = Callable[[], bool]
"""Copies the rows of one chunk to their places; False where HDF5 must read that chunk."""

_POOLS = 3
"""That many are known at once: the one that is read, the next one, and at their border the one after it."""

_MISSES = 4
"""After so many reads in a row of other rows, whoever reads does not read what is announced."""


class AnnouncedPool:
    """Rows that are announced together.

    Args:
        rows: Their numbers, in the order in which they will be read.
        row_bytes: The memory of one.
        fills: Makes memory for them, in that order, and what fills it: one call for each chunk.
    """

    def __init__(self, rows: Array, row_bytes: int, fills: Callable[[Array], tuple[Array, list[Fill]]]) -> None:
        self.rows = rows
        self.size: int = len(rows) * row_bytes
        self.begun: bool = False
        self.next: int = 0
        self._make = fills
        self._out: Array | None = None
        self._results: list[Future[bool]] | list[Fill] = []

    def begin(self, cache: ChunkCache) -> None:
        """Make memory, and let threads fill it where there are any."""
        self._out, fills = self._make(self.rows)
        self._results = [cache.submit(fill) for fill in fills] if cache.threads > 1 else fills
        self.begun = True

    def matches(self, rows: Array) -> bool:
        """Whether the rows come next here, perhaps after some that were left out; those are given up."""
        if self._stands_at(self.next, rows):
            return True
        places = np.flatnonzero(self.rows[self.next :] == rows[0]) + self.next
        found = next((place for place in places.tolist() if self._stands_at(place, rows)), None)
        self.next = self.next if found is None else found
        return found is not None

    def _stands_at(self, place: int, rows: Array) -> bool:
        rest = self.rows[place : place + len(rows)]
        return len(rest) > 0 and bool((rest == rows[: len(rest)]).all())

    def take(self, count: int) -> Array | None:
        """The next rows, at most so many, as the caller's own; None where a chunk cannot be read like this."""
        assert self._out is not None
        while self._results:
            result = self._results[-1]
            try:
                filled = result.result() if isinstance(result, Future) else result()
            except Exception:
                # Whoever reads the chunk by itself gets the error, with its place.
                return None
            if not filled:
                return None
            self._results.pop()
        part = self._out[self.next : self.next + count].copy()
        self.next += len(part)
        return part

    def stop(self) -> None:
        """Wait for the threads that fill it."""
        wait([one for one in self._results if isinstance(one, Future) and not one.cancel()])


class AnnouncedRows:
    """What was announced for one data set, in this process, and not read yet; threads may share it.

    Args:
        cache: Its threads fill the pools, and its limit holds for their memory.
    """

    def __init__(self, cache: ChunkCache) -> None:
        self._cache = cache
        self._pools: deque[AnnouncedPool] = deque()
        self._misses = 0
        # Never waited for: who comes while another thread reads here, or a finalizer in between, reads chunks.
        self._lock = threading.Lock()

    def __bool__(self) -> bool:
        return bool(self._pools)

    def announce(self, pool: AnnouncedPool) -> bool:
        """Take a pool; False where it is too large for the cache, or where what is announced is not what is read."""
        if self._misses >= _MISSES or pool.size > self._cache.limit or not self._lock.acquire(blocking=False):
            return False
        try:
            if len(self._pools) == _POOLS:
                # Of an epoch that was left early.
                self._drop()
            self._pools.append(pool)
            self._begin_all()
        finally:
            self._lock.release()
        return True

    def take(self, rows: Array) -> Array | None:
        """Rows by number, as an array of the caller's own; None where they are not those that were announced."""
        if not self._pools or len(rows) == 0 or not self._lock.acquire(blocking=False):
            return None
        try:
            found = self._taken(rows)
            self._misses = 0 if found is not None else self._misses + 1
            while self._pools and self._misses >= _MISSES:
                self._drop()
            return found
        finally:
            self._lock.release()

    def stop(self) -> None:
        """Forget all, before the file is closed: nobody reads here any more."""
        while self._pools:
            self._drop()

    def _taken(self, rows: Array) -> Array | None:
        parts: list[Array] = []
        left = rows
        while len(left):
            number = next((number for number, pool in enumerate(self._pools) if pool.matches(left)), None)
            if number is None:
                return None
            for _ in range(number):
                self._drop()
            part = self._next_part(len(left))
            if part is None:
                self._drop()
                return None
            parts.append(part)
            left = left[len(part) :]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _next_part(self, count: int) -> Array | None:
        pool = self._pools[0]
        if not self._begun(pool):
            return None
        part = pool.take(count)
        if pool.next == len(pool.rows):
            self._drop()
            self._begin_all()
        return part

    def _begin_all(self) -> None:
        """Let threads fill the pools that there is memory for; without threads each waits until it is read."""
        if self._cache.threads > 1:
            all(self._begun(pool) for pool in self._pools)

    def _begun(self, pool: AnnouncedPool) -> bool:
        if not pool.begun and self._cache.lend(pool.size):
            pool.begin(self._cache)
        return pool.begun

    def _drop(self) -> None:
        pool = self._pools.popleft()
        pool.stop()
        if pool.begun:
            self._cache.take_back(pool.size)
