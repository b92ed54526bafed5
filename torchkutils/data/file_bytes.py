"""The bytes of a file past HDF5: many ranges in as few calls as possible."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from torchkutils.data.remote_bytes import ByteRange

if TYPE_CHECKING:
    import h5py

_CALL_BYTES = 4096
"""Reading so many bytes more takes about as long as another call to the system."""

_DISK_SECONDS = 2e-4
"""What takes longer came from a disk or a network file system, not from memory: the rest is asked for at once."""

_SHORT_RUN = 16 * 2**10
"""So many bytes are read faster by pread, and copied, than by preadv to their place."""

_PIECE_BYTES = 2**30
"""Linux reads at most 2 GiB at once."""


class FileBytes(Protocol):
    """A file whose bytes can be read from anywhere, by several threads.

    Attributes:
        size: The file's length in bytes.
        remote: Each read may cost a round trip, so that many ranges are better fetched together.
    """

    size: int
    remote: bool

    def read(self, offset: int, size: int) -> bytes:
        """Give one range."""
        ...

    def read_many(self, ranges: Iterable[ByteRange]) -> list[bytes]:
        """Give many ranges in their order."""
        ...

    def fetch(self, ranges: Iterable[ByteRange]) -> None:
        """Have the ranges at hand for reads to come, where that takes a network."""
        ...


class LocalBytes:
    """A local file, read by pread: a file that is cut meanwhile is an error, where a memory map would crash.

    Args:
        descriptor: Of the open file; whoever opened it closes it.
        keeps_open: What must live as long as the descriptor is used.
    """

    remote = False

    def __init__(self, descriptor: int, keeps_open: Any = None) -> None:
        self._descriptor = descriptor
        self._keeps_open = keeps_open
        self.size: int = os.fstat(descriptor).st_size

    @classmethod
    def shared_with(cls, dataset: h5py.Dataset) -> LocalBytes | None:
        """Read through the descriptor that HDF5 has open; None where it has none of its own."""
        file = dataset.file
        # Older HDF5 counts offsets of chunks from behind a user block.
        if file.driver != "sec2" or file.userblock_size or not hasattr(os, "pread"):
            return None
        return cls(file.id.get_vfd_handle(), file)

    @classmethod
    def own(cls, dataset: h5py.Dataset, stack: contextlib.ExitStack) -> LocalBytes | None:
        """Open the data set's file once more, for reading without HDF5; `stack` closes it."""
        if dataset.file.driver != "sec2" or not hasattr(os, "pread"):
            return None
        descriptor = os.open(dataset.file.filename, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        status, of_hdf5 = os.fstat(descriptor), os.fstat(dataset.file.id.get_vfd_handle())
        if (status.st_dev, status.st_ino) != (of_hdf5.st_dev, of_hdf5.st_ino):
            # Another file lies at this path by now.
            os.close(descriptor)
            return None
        stack.callback(os.close, descriptor)
        return cls(descriptor)

    def read(self, offset: int, size: int) -> bytes:
        """Give one range.

        Raises:
            OSError: The file ends before it.
        """
        data = os.pread(self._descriptor, size, offset)
        if len(data) == size:
            return data
        whole = bytearray(size)
        self.read_into(memoryview(whole), offset)
        return bytes(whole)

    def read_many(self, ranges: Iterable[ByteRange]) -> list[bytes]:
        """Give many ranges in their order."""
        return [self.read(offset, size) for offset, size in ranges]

    def fetch(self, ranges: Iterable[ByteRange]) -> None:
        """Let the system bring ranges from the disk, many at the same time, while others are read."""
        if hasattr(os, "posix_fadvise"):
            for offset, size in ranges:
                os.posix_fadvise(self._descriptor, offset, size, os.POSIX_FADV_WILLNEED)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill a buffer of bytes from an offset on.

        Raises:
            OSError: The file ends before the buffer is full.
        """
        at = 0
        while at < len(view):
            piece = view[at : at + _PIECE_BYTES]
            if hasattr(os, "preadv"):
                count = os.preadv(self._descriptor, (piece,), offset + at)
            else:
                data = os.pread(self._descriptor, len(piece), offset + at)
                count = len(data)
                piece[:count] = data
            if count == 0:
                raise OSError(f"the file ends at byte {offset + at}: it was cut short")
            at += count

    def read_pieces(self, view: memoryview, offsets: list[int], edges: list[int]) -> None:
        """Fill the pieces of a buffer between the edges, each from its own offset on.

        For scattered rows the calls to the system are most of the time, so that nothing else is done here for each.
        """
        pread, descriptor = os.pread, self._descriptor
        for offset, begin, end in zip(offsets, edges[:-1], edges[1:], strict=True):
            size = end - begin
            if size > _SHORT_RUN or len(data := pread(descriptor, size, offset)) != size:
                self.read_into(view[begin:end], offset)
            else:
                view[begin:end] = data


def read_rows(source: FileBytes, offsets: np.ndarray[Any, Any], row_bytes: int, out: np.ndarray[Any, Any]) -> None:
    """Read equally long rows into an array; rows that follow each other in the file are read together.

    Args:
        source: The file.
        offsets: Where each row begins, int64.
        row_bytes: The length of a row.
        out: An array of as many rows, contiguous.
    """
    apart = offsets[1:] - offsets[:-1] != row_bytes
    starts = np.concatenate([[0], np.flatnonzero(apart) + 1])
    if isinstance(source, LocalBytes) and len(starts) > 2 and row_bytes < _CALL_BYTES:
        low = int(offsets.min())
        extent = int(offsets.max()) + row_bytes - low
        if extent <= len(starts) * _CALL_BYTES and not ((offsets - low) % row_bytes).any():
            near = np.frombuffer(source.read(low, extent), np.uint8).reshape(-1, row_bytes)
            near.take((offsets - low) // row_bytes, axis=0, out=_as_bytes(out).reshape(len(out), row_bytes))
            return
    _read_runs(source, offsets[starts].tolist(), [*starts.tolist(), len(offsets)], row_bytes, out)


def read_run(source: FileBytes, offset: int, out: np.ndarray[Any, Any]) -> None:
    """Fill an array with the bytes that follow an offset."""
    if out.nbytes == 0:
        return
    view = memoryview(_as_bytes(out))  # type: ignore[arg-type]
    if isinstance(source, LocalBytes):
        source.read_into(view, offset)
    else:
        view[:] = source.read(offset, len(view))


def _read_runs(
    source: FileBytes, offsets: list[int], places: list[int], row_bytes: int, out: np.ndarray[Any, Any]
) -> None:
    view = memoryview(_as_bytes(out))  # type: ignore[arg-type]
    edges = [place * row_bytes for place in places]
    if isinstance(source, LocalBytes):
        start = time.perf_counter()
        source.read_into(view[edges[0] : edges[1]], offsets[0])
        if len(offsets) > 1 and time.perf_counter() - start > _DISK_SECONDS:
            source.fetch((at, end - begin) for at, begin, end in zip(offsets, edges[:-1], edges[1:], strict=True))
        source.read_pieces(view, offsets[1:], edges[1:])
        return
    ranges = [(at, end - begin) for at, begin, end in zip(offsets, edges[:-1], edges[1:], strict=True)]
    parts = [source.read(*ranges[0])] if len(ranges) == 1 else source.read_many(ranges)
    for begin, end, part in zip(edges[:-1], edges[1:], parts, strict=True):
        view[begin:end] = part


def _as_bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)
