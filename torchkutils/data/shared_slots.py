"""Pieces of shared memory that carry large batches from workers to the loader, used again for batch after batch.

The loader owns the slots: each task that it sends names a free one, in which the worker may put that batch; once the
batch was taken out, the slot is free again. A slot is a file in memory without a name (`memfd_create`), so that nothing
is left behind however a process ends, and the limit of /dev/shm does not concern it. It grows to the largest batch.
Where the system has no such files there are no slots, and batches travel in torch's shared memory.
"""

from __future__ import annotations

import mmap
import multiprocessing.reduction
import os
from typing import Any

LARGEST = 2**28
"""What is larger travels in torch's shared memory."""


class Slots:
    """The slots of a worker pool, in this process; pickled, while a process is started, they reach it too."""

    def __init__(self, count: int) -> None:
        self._files = _files(count)
        self._memory: list[mmap.mmap | None] = [None] * len(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def __getstate__(self) -> list[Any]:
        return [multiprocessing.reduction.DupFd(file) for file in self._files]

    def __setstate__(self, files: list[Any]) -> None:
        self._files = [file.detach() for file in files]
        self._memory = [None] * len(files)

    def memory(self, slot: int, size: int) -> mmap.mmap:
        """A slot's memory, of at least `size` bytes.

        Raises:
            OSError: There is no more memory.
        """
        mapped = self._memory[slot]
        if mapped is None or len(mapped) < size:
            mapped = self._memory[slot] = _mapped(self._files[slot], size)
        return mapped

    def close(self) -> None:
        """Give the memory back, as soon as no batch that was handed out as it lies there uses it any more."""
        files, self._files, self._memory = self._files, [], []
        for file in files:
            os.close(file)


def _files(count: int) -> list[int]:
    files: list[int] = []
    try:
        for _ in range(count):
            files.append(os.memfd_create("torchkutils-batch"))
    except (AttributeError, OSError):
        # Another system than Linux, or no more descriptors.
        for file in files:
            os.close(file)
        return []
    return files


def _mapped(file: int, size: int) -> mmap.mmap:
    if os.fstat(file).st_size < size:
        # Grown by a quarter more, since batches of nearly one size come in any order. Writing to memory that is not
        # there kills the process; asking for it first gives an error.
        os.posix_fallocate(file, 0, -(-size * 5 // 4 // mmap.PAGESIZE) * mmap.PAGESIZE)
    return mmap.mmap(file, os.fstat(file).st_size)
