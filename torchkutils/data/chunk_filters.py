"""Decoding the chunks of a data set without HDF5, so that threads can do it at the same time.

HDF5 runs its filters under one lock for the whole process. Here a chunk's bytes pass the inverse of each filter in
libraries that release Python's lock: deflate through libdeflate (package deflate) or isal where they are installed and
zlib otherwise, shuffle and fletcher32 through NumPy, zstd, blosc and lz4 through numcodecs and lzf through imagecodecs
where these are installed. A pipeline with any other filter is left to HDF5. So is a chunk that does not decode to
exactly its size, so that HDF5 says what is wrong with it.

The formats are those of the HDF5 library (H5Zdeflate.c, H5Zshuffle.c, H5Zfletcher32.c) and of the registered filters.
"""

from __future__ import annotations

import functools
import math
import struct
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torchkutils.data.stored_rows import base_and_axes, lies_as_in_memory

if TYPE_CHECKING:
    import h5py

Undo: TypeAlias = "Callable[[Any, int], Any]"
"""Undoes one filter: takes the bytes and the size that they must have in the end, gives the bytes before the filter."""

_DEFLATE, _SHUFFLE, _FLETCHER32, _LZF, _BLOSC, _LZ4, _ZSTD = 1, 2, 3, 32000, 32001, 32004, 32015

_COMPRESSIONS = {_DEFLATE, _LZF, _BLOSC, _LZ4, _ZSTD}

_CHECKSUM_BYTES = 4

_SCRATCH_BYTES = 4 * 2**20
"""What each thread keeps for steps in between, at most."""

_own = threading.local()


class DecodeError(ValueError):
    """A chunk's bytes do not decode to the chunk."""


class ChunkDecoder:
    """Turns the stored bytes of one chunk into its values.

    Args:
        dataset: The data set whose chunks are decoded; `decoder_of` says whether they can be.
        steps: The number of each filter in the pipeline, and what undoes it, in the order of writing.
    """

    def __init__(self, dataset: h5py.Dataset, steps: list[Undo]) -> None:
        base, inner = base_and_axes(dataset.dtype)
        self.shape: tuple[int, ...] = (*dataset.chunks, *inner)
        self._dtype = base
        self.chunk_bytes: int = base.itemsize * math.prod(self.shape)
        self._steps = steps

    def decode(self, stored: bytes, filter_mask: int) -> np.ndarray[Any, Any]:
        """Decode one whole chunk, edges that reach beyond the data included.

        Args:
            stored: The bytes in the file.
            filter_mask: The filters that this chunk did not pass, bit by bit.

        Raises:
            DecodeError: The bytes are damaged, or of another form than expected.
        """
        data: Any = stored
        for number in reversed(range(len(self._steps))):
            if not filter_mask >> number & 1:
                try:
                    data = self._steps[number](data, self.chunk_bytes)
                except MemoryError:
                    raise
                except Exception as error:
                    raise DecodeError(str(error)) from error
        if memoryview(data).nbytes != self.chunk_bytes:
            raise DecodeError(f"{memoryview(data).nbytes} bytes, not {self.chunk_bytes}")
        return np.frombuffer(data, self._dtype).reshape(self.shape)


def decoder_of(dataset: h5py.Dataset) -> ChunkDecoder | None:
    """A decoder of this data set's chunks; None where HDF5 must do it."""
    if not lies_as_in_memory(dataset):
        return None
    creation = dataset.id.get_create_plist()
    filters = [creation.get_filter(i) for i in range(creation.get_nfilters())]
    codes = [code for code, _, _, _ in filters]
    # Edge chunks may be stored unfiltered, on request of the writer. Compressed bytes tell, shuffled ones do not.
    if codes and _COMPRESSIONS.isdisjoint(codes):
        return None
    steps = []
    for code, _, values, _ in filters:
        undo = _undo(code, tuple(values))
        if undo is None:
            return None
        steps.append(undo)
    return ChunkDecoder(dataset, steps)


def _undo(code: int, values: tuple[int, ...]) -> Undo | None:
    if code == _DEFLATE:
        return _inflater()
    if code == _SHUFFLE:
        return functools.partial(_unshuffle, values[0]) if values else None
    if code == _FLETCHER32:
        return _without_checksum
    if code in (_ZSTD, _BLOSC, _LZ4):
        return _by_numcodecs(code)
    return _by_imagecodecs() if code == _LZF else None


def _inflater() -> Undo:
    """The fastest library for deflate that is there: libdeflate takes 0.3 to 0.6 of zlib's time, isal 0.4 to 0.7."""
    try:
        import deflate
    except ImportError:
        pass
    else:
        return lambda data, size: deflate.zlib_decompress(data, size + _CHECKSUM_BYTES)
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return functools.partial(_inflate, zlib.decompressobj)
    return functools.partial(_inflate, isal_zlib.decompressobj)


def _inflate(decompressor: Callable[[], Any], data: Any, size: int) -> Any:
    stream = decompressor()
    # A checksum may lie inside, where fletcher32 came before deflate. Whatever is longer is damaged.
    inflated = stream.decompress(data, size + _CHECKSUM_BYTES + 1)
    if not stream.eof:
        raise DecodeError("the compressed bytes end early, or hold more than the chunk")
    return inflated


def _unshuffle(size: int, data: Any, _: int) -> Any:
    """Put the bytes of each value side by side again: they were stored as all first bytes, all second bytes, …."""
    stored = np.frombuffer(data, np.uint8)
    count = len(stored) // size
    if size == 1 or count == 0:
        return data
    planes = stored[: count * size].reshape(size, count)
    values = _interleaved(planes)
    rest = stored[count * size :]
    # What is left of a value at the end was not shuffled.
    return np.concatenate([values, rest]) if len(rest) else values


def _interleaved(planes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bytes that lie in planes, value by value; by shifts of whole integers, which NumPy does many at a time."""
    size, count = planes.shape
    if size not in (2, 4, 8):
        values = np.empty((count, size), np.uint8)
        for byte in range(size):
            values[:, byte] = planes[byte]
        return values.reshape(-1)
    values = np.empty(size * count, np.uint8)
    scratch = _scratch(2 * size * count)
    # On each level neighbours are joined to integers of twice the width: the later plane is the higher half.
    joined: list[Any] = list(planes)
    width, used = 1, 0
    while len(joined) > 1:
        wider = np.dtype(f"<u{2 * width}")
        last = len(joined) == 2
        pairs = list(zip(joined[::2], joined[1::2], strict=True))
        joined = []
        for low, high in pairs:
            both = (values if last else scratch[used : used + wider.itemsize * count]).view(wider)
            used += wider.itemsize * count
            both[...] = high
            both <<= wider.type(8 * width)
            both |= low
            joined.append(both)
        width *= 2
    _own.scratch = scratch if len(scratch) <= _SCRATCH_BYTES else None
    return values


def _scratch(size: int) -> np.ndarray[Any, Any]:
    """Memory for what is not kept, from the last chunk of this thread: fresh memory costs more than what is done in it.

    While it is used nobody else gets it: a finalizer may decode another chunk in between.
    """
    kept: np.ndarray[Any, Any] | None = getattr(_own, "scratch", None)
    _own.scratch = None
    return kept if kept is not None and len(kept) >= size else np.empty(size, np.uint8)


def _without_checksum(data: Any, _: int) -> Any:
    view = memoryview(data).cast("B")
    content, stored = view[:-_CHECKSUM_BYTES], struct.unpack("<I", view[-_CHECKSUM_BYTES:])[0]
    computed = fletcher32(content)
    # Files of HDF5 before 1.6.3 hold the bytes of each half in the other order; the library takes both.
    swapped = (computed & 0x00FF00FF) << 8 | (computed >> 8) & 0x00FF00FF
    if stored not in (computed, swapped):
        raise DecodeError("the checksum is wrong")
    return content


def fletcher32(data: Any) -> int:
    """HDF5's checksum: two sums modulo 65,535 over big-endian 16-bit words, an odd byte being the high one."""
    count = len(data) // 2
    words = np.frombuffer(data, ">u2", count)
    first, second = 0, 0
    # As long as a block has fewer than 2 ** 20 words, its weighted sum fits 64 bits.
    for begin in range(0, count, 2**20):
        block = words[begin : begin + 2**20].astype(np.uint64)
        weights = np.arange(len(block), 0, -1, dtype=np.uint64)
        second += first * len(block) + int(block @ weights)
        first += int(block.sum())
    if len(data) % 2:
        first += data[-1] << 8
        second += first
    return _folded(second) << 16 | _folded(first)


def _folded(total: int) -> int:
    """The library folds sums so that only a sum of zero gives 0; other multiples of 65,535 give 65,535."""
    return (total - 1) % 65535 + 1 if total else 0


def _by_numcodecs(code: int) -> Undo | None:
    try:
        from numcodecs import blosc, lz4, zstd
    except ImportError:
        return None
    if code == _LZ4:
        return functools.partial(_lz4_blocks, lz4.decompress)
    decompress = zstd.decompress if code == _ZSTD else blosc.decompress
    return lambda data, _: decompress(data)


def _by_imagecodecs() -> Undo | None:
    try:
        from imagecodecs import lzf_decode
    except ImportError:
        return None
    # A checksum may lie inside, as with deflate.
    return lambda data, size: lzf_decode(data, out=size + _CHECKSUM_BYTES)


def _lz4_blocks(decompress: Callable[[bytes], bytes], data: Any, _: int) -> bytes:
    """The HDF5 filter's own frame: sizes of all and of a block, then each block behind its stored size; big-endian."""
    view = memoryview(data).cast("B")
    total, block = struct.unpack(">QI", view[:12])
    parts, at, left = [], 12, total
    while left > 0:
        (stored,) = struct.unpack(">I", view[at : at + 4])
        size = min(block, left)
        content = bytes(view[at + 4 : at + 4 + stored])
        # A block that does not get smaller is stored as it is. numcodecs wants the size in front, little-endian.
        parts.append(content if stored == size else decompress(struct.pack("<I", size) + content))
        at += 4 + stored
        left -= size
    return b"".join(parts)
