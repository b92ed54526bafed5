"""Bytes of a file behind a URL: many ranges in one round trip, and the last used blocks kept.

A range is fetched in blocks of 16 KiB. Blocks that are missing for a whole batch of ranges are asked for together, by
fsspec's `cat_ranges`: file systems that work asynchronously (http, s3, gcs, abfs) send these requests at once.
"""

from __future__ import annotations

import contextlib
import gc
import io
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

BLOCK_BYTES = 16 * 2**10
"""The unit in which bytes are fetched and kept."""

KEPT_BYTES = 32 * 2**20
"""How many bytes of blocks are kept for one open file."""

_METADATA_BYTES = 256 * 2**10
"""How much is fetched at least where HDF5 itself reads: its metadata lie close together."""

_REQUEST_BYTES = 4 * 2**20
"""The longest range of one request; longer ones are fetched in parallel pieces."""

_GAP_BLOCKS = 2
"""Missing blocks that lie no further apart are fetched in one request."""

ByteRange: TypeAlias = tuple[int, int]
"""Where it begins in the file, and how many bytes it has."""


class RemoteBytes:
    """Ranges of one file that an asynchronous fsspec file system reads; threads may share it.

    Args:
        system: The file system.
        path: The file's path in it.

    Raises:
        FileNotFoundError: There is no such file, or the file system says so for another reason: see `cause_of`.
        ValueError: Its length is unknown.
    """

    remote = True

    def __init__(self, system: Any, path: str) -> None:
        self._system = system
        self._path = path
        size = system.info(path).get("size")
        if size is None:
            raise ValueError("cannot seek in it, its length is unknown")
        self.size: int = int(size)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._whole: Any = None
        self._lock = threading.Lock()
        self._expected = -1
        self._ahead = 0

    def read(self, offset: int, size: int, *, at_least: int = 0) -> bytes:
        """Give one range; what is missing is fetched with the bytes behind it, `at_least` so many together.

        Ranges that follow each other are fetched further and further ahead, up to 4 MiB.
        """
        with self._lock:
            self._ahead = min(max(2 * self._ahead, 4 * BLOCK_BYTES), _REQUEST_BYTES) if offset == self._expected else 0
            self._expected = offset + size
            more = max(size, at_least, self._ahead)
            return self._ranges([(offset, size)], more)[0]

    def read_many(self, ranges: Iterable[ByteRange]) -> list[bytes]:
        """Give many ranges in their order; all that is missing is fetched at once."""
        with self._lock:
            return self._ranges(list(ranges), 0)

    def fetch(self, ranges: Iterable[ByteRange]) -> None:
        """Fetch what is missing of these ranges, for reads to come; no more than the blocks that are kept."""
        wanted: list[ByteRange] = []
        room = KEPT_BYTES // 2
        for offset, size in ranges:
            room -= size + 2 * BLOCK_BYTES
            if room < 0:
                break
            wanted.append((offset, size))
        with self._lock:
            if self._whole is None:
                self._fetched(sorted(self._wanted(wanted, 0).difference(self._blocks)))

    def _ranges(self, ranges: list[ByteRange], more: int) -> list[bytes]:
        blocks: dict[int, bytes] = {}
        if self._whole is None:
            wanted = self._wanted(ranges, more)
            # Taken out first: what is fetched now may push them out of those that are kept.
            blocks = {block: self._blocks[block] for block in wanted if block in self._blocks}
            for block in blocks:
                self._blocks.move_to_end(block)
            blocks.update(self._fetched(sorted(wanted.difference(blocks))))
        if self._whole is not None:
            return [self._from_whole(offset, size) for offset, size in ranges]
        return [_joined(offset, size, blocks) for offset, size in ranges]

    def _wanted(self, ranges: list[ByteRange], more: int) -> set[int]:
        wanted: set[int] = set()
        for offset, size in ranges:
            wanted.update(_blocks_of(offset, size))
        if more and not wanted.issubset(self._blocks):
            offset = ranges[0][0]
            wanted.update(_blocks_of(offset, min(more, self.size - offset)))
        return wanted

    def _fetched(self, missing: list[int]) -> dict[int, bytes]:
        """Fetch blocks in as few requests as make sense, all at once, and keep them."""
        found: dict[int, bytes] = {}
        if not missing:
            return found
        runs: list[list[int]] = [[missing[0], missing[0] + 1]]
        for block in missing[1:]:
            near = block - runs[-1][1] <= _GAP_BLOCKS
            if near and (block + 1 - runs[-1][0]) * BLOCK_BYTES <= _REQUEST_BYTES:
                runs[-1][1] = block + 1
            else:
                runs.append([block, block + 1])
        starts = [first * BLOCK_BYTES for first, _ in runs]
        ends = [min(stop * BLOCK_BYTES, self.size) for _, stop in runs]
        parts = self._system.cat_ranges([self._path] * len(runs), starts, ends, on_error="raise")
        for start, end, part in zip(starts, ends, parts, strict=True):
            if len(part) != end - start:
                self._take_whole(part, end - start)
                return {}
            view = memoryview(part)
            for at in range(0, len(part), BLOCK_BYTES):
                found[(start + at) // BLOCK_BYTES] = bytes(view[at : at + BLOCK_BYTES])
        self._keep(found)
        return found

    def _keep(self, found: dict[int, bytes]) -> None:
        self._blocks.update(found)
        while len(self._blocks) * BLOCK_BYTES > KEPT_BYTES:
            self._blocks.popitem(last=False)

    def _take_whole(self, answer: bytes, expected: int) -> None:
        """A server that knows no ranges sends the whole file each time: keep it in a temporary file."""
        if len(answer) != self.size:
            raise OSError(f"the server sent {len(answer)} bytes where {expected} were asked for")
        self._whole = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        self._whole.write(answer)

    def _from_whole(self, offset: int, size: int) -> bytes:
        self._whole.seek(offset)
        return bytes(self._whole.read(size))


class RemoteFile(io.RawIOBase):
    """The same bytes as a file that h5py reads."""

    def __init__(self, remote: RemoteBytes) -> None:
        self._remote = remote
        self._position = 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """It can be read from anywhere."""
        return True

    def tell(self) -> int:
        """Where the next read begins."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the beginning, from here or from the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._remote.size}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the file reaches."""
        view = memoryview(buffer).cast("B")
        size = max(0, min(len(view), self._remote.size - self._position))
        if size:
            with _no_garbage_collection():
                view[:size] = self._remote.read(self._position, size, at_least=_METADATA_BYTES)
        self._position += size
        return size


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from collecting garbage while HDF5, which reads here, holds its lock and fsspec's thread works.

    If that thread found an object of h5py among the garbage, it would wait for the lock, and the reader for it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def cause_of(error: BaseException) -> str | None:
    """Why a URL could not be read, in words; None where the file is simply not there.

    fsspec's http calls every failure FileNotFoundError and hides the reason in the chain of causes.
    """
    cause = error
    while isinstance(cause, FileNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__
    status = getattr(cause, "status", None)
    if isinstance(cause, FileNotFoundError) or status == 404:
        return None
    if status is not None:
        return f"the server answers {status} {getattr(cause, 'message', '')}".rstrip()
    return f"{type(cause).__name__}: {cause}"


def _blocks_of(offset: int, size: int) -> range:
    return range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES))


def _joined(offset: int, size: int, blocks: dict[int, bytes]) -> bytes:
    needed = _blocks_of(offset, size)
    begin = offset - needed.start * BLOCK_BYTES
    return b"".join([blocks[block] for block in needed])[begin : begin + size]
