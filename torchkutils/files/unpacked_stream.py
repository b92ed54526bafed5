"""The unpacked bytes of a file: gzip, bzip2, xz, lzma and Zstandard in one loop that counts what it makes.

A compressed file may consist of several streams, of empty ones too; zeros behind the last one are padding, and other
bytes there are ignored, as gzip, bzip2 and tar do. A stream that breaks off is an error.
"""

from __future__ import annotations

import bz2
import importlib
import lzma
import os
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol

from torchkutils.files.archive_faults import PIECE, BrokenArchive

MAGIC = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00", "zst": b"\x28\xb5\x2f\xfd", "lzma": b"\x5d\x00\x00"}
MEMORY_LIMIT = 1 << 30
"""Most memory that one decoder may ask for, in bytes."""
_FIRST_STEP = 1 << 10


class Decoder(Protocol):
    """What bz2, lzma and compression.zstd call a decompressor."""

    @property
    def eof(self) -> bool: ...  # noqa: D102
    @property
    def needs_input(self) -> bool: ...  # noqa: D102
    @property
    def unused_data(self) -> bytes: ...  # noqa: D102
    def decompress(self, data: Any, max_length: int = -1) -> bytes: ...  # noqa: D102


class InflateDecoder:
    """zlib's decompressor with the interface of the others; `window` is 31 for gzip and -15 for raw deflate."""

    def __init__(self, window: int = 31) -> None:
        self._inner = zlib.decompressobj(window)
        self._has_more = False

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        """Whether everything given so far has been used; a full answer may have left some of it inside zlib."""
        return not self._inner.unconsumed_tail and not self._has_more

    @property
    def unused_data(self) -> bytes:
        """What follows the end of the stream."""
        return self._inner.unused_data

    def decompress(self, data: Any, max_length: int = -1) -> bytes:
        """At most that many bytes."""
        piece = self._inner.decompress(data or self._inner.unconsumed_tail, max_length)
        self._has_more = len(piece) == max_length
        return piece


def zstandard() -> Any:
    """The module of Python 3.14, or its twin for older ones.

    Raises:
        ImportError: There is neither.
    """
    try:
        return importlib.import_module("compression.zstd")
    except ImportError:
        return importlib.import_module("backports.zstd")


def can_read_zstandard() -> bool:
    """Whether one of the two modules is there."""
    try:
        zstandard()
    except ImportError:
        return False
    return True


def new_zstandard_decoder() -> Decoder:
    """A decoder for Zstandard.

    Raises:
        BrokenArchive: No module can read it.
    """
    try:
        decoder: Decoder = zstandard().ZstdDecompressor()
    except ImportError as error:
        raise BrokenArchive("Zstandard needs Python 3.14 or newer, or: pip install backports.zstd") from error
    return decoder


def new_xz_decoder() -> Decoder:
    """A decoder for xz that refuses to take more than MEMORY_LIMIT."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)


def new_lzma_decoder() -> Decoder:
    """A decoder for the older lzma format that refuses to take more than MEMORY_LIMIT."""
    return lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MEMORY_LIMIT)


DECODERS: dict[str, Callable[[], Decoder]] = {
    "gz": InflateDecoder,
    "bz2": bz2.BZ2Decompressor,
    "xz": new_xz_decoder,
    "lzma": new_lzma_decoder,
    "zst": new_zstandard_decoder,
}


class UnpackedStream:
    """Bytes of a file from front to back, unpacked where `packing` names a compression.

    Args:
        file: Open for reading in binary mode, at its beginning.
        packing: 'gz', 'bz2', 'xz', 'lzma', 'zst', or None for bytes as they are.
        count: Told how many bytes were unpacked; raises when they are too many. Readers tell it of further work.
    """

    spend: Callable[[int], None]
    has_trailing_bytes: bool

    def __init__(self, file: BinaryIO, packing: str | None, count: Callable[[int], None]) -> None:
        self._file, self._packing, self.spend = file, packing, count
        self._decoder = DECODERS[packing]() if packing else None
        self._input, self._used, self._step = memoryview(b""), 0, _FIRST_STEP
        self._ready, self._at = b"", 0
        self._ended = False
        self.has_trailing_bytes = False

    def read(self, count: int) -> bytes:
        """That many bytes, fewer only at the end."""
        end = self._at + count
        if end <= len(self._ready):
            piece = self._ready[self._at : end]
            self._at = end
            return piece
        pieces, missing = [self._ready[self._at :]], end - len(self._ready)
        while missing:
            more = self._more()
            self._ready, self._at = more, min(missing, len(more))
            if not more:
                break
            pieces.append(more[: self._at] if self._at < len(more) else more)
            missing -= self._at
        return b"".join(pieces)

    def skip(self, count: int) -> int:
        """Go forward; returns how many bytes were missing at the end."""
        ahead = min(count, len(self._ready) - self._at)
        self._at += ahead
        count -= ahead
        if count and self._decoder is None:
            left = os.fstat(self._file.fileno()).st_size - self._file.tell()
            ahead = min(count, max(left, 0))
            self._file.seek(ahead, os.SEEK_CUR)
            count -= ahead
        while count:
            piece = self.read(min(count, PIECE))
            if not piece:
                break
            count -= len(piece)
        return count

    def read_rest(self) -> None:
        """Go to the end, where the checksum of a compressed stream is; bytes that are not compressed have none."""
        while self._decoder is not None and self.read(PIECE):
            pass

    def _more(self) -> bytes:
        if self._decoder is None:
            return self._file.read(PIECE)
        while not self._ended:
            if self._decoder.eof:
                self._begin_next_stream()
                continue
            data = self._take() if self._decoder.needs_input else b""
            piece = self._decoder.decompress(data, PIECE)
            if piece:
                self.spend(len(piece))
                return piece
        return b""

    def _take(self) -> memoryview:
        """Some input, little at the beginning of a stream: what is behind the end of a short stream is copied."""
        if self._used == len(self._input):
            self._fill()
            if not self._input:
                raise BrokenArchive("it is damaged or cut: its compressed data break off")
        piece = self._input[self._used : self._used + self._step]
        self._used += len(piece)
        self._step = min(self._step * 2, PIECE)
        return piece

    def _fill(self) -> None:
        kept = bytes(self._input[self._used :])
        self._input, self._used = memoryview(kept + self._file.read(PIECE)), 0

    def _begin_next_stream(self) -> None:
        assert self._decoder is not None
        assert self._packing is not None
        self._used -= len(self._decoder.unused_data)
        magic = MAGIC[self._packing]
        while True:
            if len(self._input) - self._used < len(magic):
                self._fill()
            begins = bytes(self._input[self._used : self._used + len(magic)])
            if begins[:1] != b"\0":
                break
            self._skip_zeros()
        if begins == magic and self._packing != "lzma":
            self._decoder, self._step = DECODERS[self._packing](), _FIRST_STEP
        else:
            self._ended = True
            self.has_trailing_bytes = bool(begins)

    def _skip_zeros(self) -> None:
        window = bytes(self._input[self._used : self._used + PIECE])
        self._used += len(window) - len(window.lstrip(b"\0"))
