"""What workers and their loader share: memory that carries large batches, and notes of what each worker is at.

The loader owns the slots: each task that it sends names a free one, in which the worker may put that batch; once the
batch was taken out, the slot is free again. A slot is a file in memory without a name (`memfd_create`), so that nothing
is left behind however a process ends, and the limit of /dev/shm does not concern it. It grows to the largest batch.
Where the system has no such files there are no slots, and batches travel in torch's shared memory.

A worker notes the number of the batch that it makes: once it was killed, nobody else could say which one that was.
"""

from __future__ import annotations

import mmap
import multiprocessing.reduction
import os
import struct
from typing import Any

_NOTE = struct.Struct("q")

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


class WorkNotes:
    """The number of the batch that each worker is making; pickled, while a process is started, they reach it too."""

    def __init__(self, workers: int) -> None:
        self._slots = Slots(1)
        self._bytes = workers * _NOTE.size

    @property
    def kept(self) -> bool:
        """Whether there are notes: not on every system."""
        return len(self._slots) > 0

    def begin(self, worker: int, index: int) -> None:
        """Note that a worker begins a batch."""
        if self.kept:
            # A file in memory is full of zeros at first, so that 0 says that nothing is being made.
            _NOTE.pack_into(self._slots.memory(0, self._bytes), worker * _NOTE.size, index + 1)

    def end(self, worker: int) -> None:
        """Note that it is done with it."""
        self.begin(worker, -1)

    def making(self, worker: int) -> int | None:
        """Which batch a worker is making, or was when it died; None where it makes none."""
        if not self.kept:
            return None
        (noted,) = _NOTE.unpack_from(self._slots.memory(0, self._bytes), worker * _NOTE.size)
        return noted - 1 if noted else None

    def close(self) -> None:
        """Give the memory back."""
        self._slots.close()


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
