"""Decoded chunks: those used last are kept, those needed next are decoded by threads meanwhile.

Tasks in the threads only read and decode: they take no lock and call nothing of HDF5. So waiting for them is safe
anywhere, also while Python collects garbage inside of an HDF5 call.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

CACHE_BYTES = 32 * 2**20
"""Decoded chunks that one process keeps for one HDF5Matrix, unless the caller says otherwise."""

_OBJECT_BYTES = 450
"""What a kept chunk costs beside its values: the array, the bytes object, the key and its place in the dict."""

ChunkKey: TypeAlias = Hashable
"""The number of the file, and the chunk's place in the grid of chunks."""


class ChunkCache:
    """Chunks by key, for all files of one HDF5Matrix in one process; threads may share it.

    Args:
        limit: Bytes of decoded chunks that are kept, Python's objects included. Chunks that are being decoded ahead
            count too.
        threads: How many threads decode; with 1 everything is decoded by the caller, when it is asked for.
    """

    def __init__(self, limit: int, threads: int) -> None:
        self.limit = limit
        self.threads = threads
        self._kept: OrderedDict[ChunkKey, Array] = OrderedDict()
        self._kept_bytes = 0
        self._pending: dict[ChunkKey, tuple[Future[Array | None], int]] = {}
        self._pending_bytes = 0
        self._lent_bytes = 0
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.RLock()

    def get(self, key: ChunkKey) -> Array | None:
        """Give a chunk that is kept or being decoded; None where it is neither, or could not be decoded here."""
        chunk = self._kept.get(key)
        if chunk is not None:
            # Another thread may have pushed it out meanwhile.
            with contextlib.suppress(KeyError):
                self._kept.move_to_end(key)
            return chunk
        with self._lock:
            pending, size = self._pending.pop(key, (None, 0))
            self._pending_bytes -= size
        if pending is None:
            return None
        try:
            chunk = pending.result()
        except CancelledError:
            # Another thread closed the cache meanwhile: this one decodes for itself.
            return None
        if chunk is not None:
            self.put(key, chunk)
        return chunk

    def claim(self, key: ChunkKey) -> Array | None:
        """Give a chunk that is being decoded, for the caller alone; None where it is kept already, or not under way."""
        with self._lock:
            if key in self._kept:
                return None
            pending, size = self._pending.pop(key, (None, 0))
            self._pending_bytes -= size
        try:
            return None if pending is None else pending.result()
        except CancelledError:
            return None

    def put(self, key: ChunkKey, chunk: Array) -> None:
        """Keep a chunk; those that were not used for longest go."""
        cost = chunk.nbytes + _OBJECT_BYTES
        with self._lock:
            self._forget(key)
            if cost > self.limit:
                return
            self._kept[key] = chunk
            self._kept_bytes += cost
            self._make_room()

    def drop(self, key: ChunkKey) -> None:
        """Forget a chunk all of whose rows were read in order."""
        with self._lock:
            self._forget(key)

    def __contains__(self, key: ChunkKey) -> bool:
        return key in self._kept or key in self._pending

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the chunks that are kept, Python's objects included."""
        return self._kept_bytes

    @property
    def lent_bytes(self) -> int:
        """Bytes of the rows that are kept elsewhere."""
        return self._lent_bytes

    def start(self, key: ChunkKey, decode: Callable[[], Array | None], size: int) -> bool:
        """Let a thread decode a chunk for a `get` to come.

        Args:
            key: The chunk; nothing happens where it is there or under way.
            decode: Reads and decodes it; None where HDF5 must do it.
            size: Its bytes, decoded.

        Returns:
            False where there is no thread for it, or no room under the limit.
        """
        if self.threads <= 1:
            return False
        with self._lock:
            if key in self:
                return True
            cost = size + _OBJECT_BYTES
            if self._pending_bytes + cost > max(self.limit // 2, self.threads * cost):
                return False
            self._pending[key] = (self.submit(decode), cost)
            self._pending_bytes += cost
            self._make_room()
            return True

    def submit(self, work: Callable[[], Any]) -> Future[Any]:
        """Let a thread do something that takes no lock and calls nothing of HDF5."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="torchkutils-chunks")
            return self._pool.submit(work)

    def lend(self, size: int) -> bool:
        """Give memory for rows that are kept elsewhere; False where that is more than the limit."""
        with self._lock:
            if self._lent_bytes + size > self.limit:
                return False
            self._lent_bytes += size
            self._make_room()
            return True

    def take_back(self, size: int) -> None:
        """What was lent is free again."""
        with self._lock:
            self._lent_bytes -= size

    def stop(self, belongs: Callable[[ChunkKey], bool]) -> None:
        """Forget the chunks of a file that is closed, and wait for the threads that read it."""
        with self._lock:
            for key in [key for key in self._kept if belongs(key)]:
                self._forget(key)
            pending = [key for key in self._pending if belongs(key)]
            stopped = [self._pending.pop(key) for key in pending]
            self._pending_bytes -= sum(size for _, size in stopped)
        wait([future for future, _ in stopped if not future.cancel()])

    def close(self) -> None:
        """Forget all and end the threads."""
        self.stop(lambda key: True)
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            with contextlib.suppress(RuntimeError):
                pool.shutdown(wait=False, cancel_futures=True)

    def _make_room(self) -> None:
        while self._kept and self._kept_bytes + self._pending_bytes + self._lent_bytes > self.limit:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: ChunkKey) -> None:
        chunk = self._kept.pop(key, None)
        if chunk is not None:
            self._kept_bytes -= chunk.nbytes + _OBJECT_BYTES
