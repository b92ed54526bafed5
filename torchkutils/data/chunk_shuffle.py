"""ChunkShuffleSampler: rows in random order that still lets each chunk be decoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler, StackDataset

from torchkutils.data.hdf5_matrix import HDF5Matrix
from torchkutils.data.shards import World, whole_number

_BLOCK_BYTES = 2**18
"""What contiguous data are cut into, for want of chunks."""


class ChunkShuffleSampler(Sampler[int]):
    """Row numbers in an order that is random and cheap to read: each row once.

    The chunks of the data set come in random order; `buffer_chunks` of them at a time are pooled and their rows
    shuffled. So a compressed chunk is decoded once an epoch instead of once a row, for `DataLoader(rows, batch_size=64,
    sampler=ChunkShuffleSampler(rows))`. The data set is told to keep that many decoded chunks in each process: memory
    grows by `buffer_chunks` chunks. (Each worker decodes the chunks that its own batches touch.)

    How well it mixes: chunks travel over the whole epoch, their rows only within a pool. With 64 rows a chunk and 16
    chunks a pool, two rows of one chunk end at most 1,023 places apart, 342 on average, where a full shuffle of n rows
    puts n / 3 between them; a batch of 64 draws on 16 chunks. Where neighbouring rows are alike (sorted by class,
    frames of one film), that is too little: raise `buffer_chunks`, store the rows shuffled once, or use
    `RandomSampler` — for contiguous data that costs nothing, for their rows are read one by one anyway.

    Args:
        data: An HDF5Matrix, or a StackDataset of which one is a part (the one with the largest rows decides).
        buffer_chunks: How many chunks are pooled.
        seed: With the epoch, fixes the order. The same on all ranks.
        rank: Which of `world_size` shards this process reads; None asks the process group.
        world_size: How many processes share the rows; None does not shard, 'auto' asks the process group.
        shard: 'pad' gives equal lengths by repeating rows, 'drop' by leaving some out, 'uneven' gives each row to
            exactly one rank. Ranks get whole chunks but for the cuts between them.

    Raises:
        TypeError: `data` is nothing of the kind, or a number is no int.
        ValueError: `buffer_chunks` below 1, a negative `seed`, an unknown `shard`, or a rank outside the world.

    The order is the same each time until `set_epoch` is called with another number, as with `DistributedSampler`.

    >>> import h5py, numpy, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with h5py.File(f"{folder}/a.h5", "w") as file:
    ...         file.create_dataset("x", data=numpy.arange(10), chunks=(3,), compression="gzip") and None
    ...     sampler = ChunkShuffleSampler(HDF5Matrix(f"{folder}/a.h5", "x"), buffer_chunks=2)
    >>> sorted(sampler)
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
    """

    def __init__(
        self,
        data: Any,
        *,
        buffer_chunks: int = 16,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | Literal["auto"] | None = None,
        shard: Literal["pad", "drop", "uneven"] = "pad",
    ) -> None:
        self._buffer_chunks = whole_number("buffer_chunks", buffer_chunks, at_least=1)
        self._seed = whole_number("seed", seed, at_least=0)
        self._world = World.of(rank, world_size, shard)
        self._epoch = 0
        matrices = _matrices(data)
        self._length = len(data)
        self._edges = _chunk_edges(max(matrices, key=lambda matrix: matrix.row_bytes))
        for matrix in matrices:
            if matrix.chunk_rows is not None:
                # One more than the pool: a batch may reach from one pool into the next.
                matrix.keep_chunks(self._chunks_in_pool(matrix.chunk_rows) + 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it before each epoch, with the same number on all ranks."""
        self._epoch = whole_number("epoch", epoch, at_least=0)

    def __len__(self) -> int:
        first, stop = self._world.block(self._length)
        return stop - first if self._length else 0

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        chunks = generator.permutation(len(self._edges) - 1)
        # Ranks draw the same chunks in the same order, and shuffle their own rows.
        shuffler = np.random.default_rng([self._seed, self._epoch, self._world.rank])
        pool: list[np.ndarray[Any, Any]] = []
        for rows in self._rows_of_rank(chunks):
            pool.append(rows)
            if len(pool) == self._buffer_chunks:
                yield from _shuffled(pool, shuffler)
                pool = []
        if pool:
            yield from _shuffled(pool, shuffler)

    def _rows_of_rank(self, chunks: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """This rank's stretch of all rows in the order of the chunks, chunk by chunk, wrapping around at the end."""
        first, stop = self._world.block(self._length)
        base = 0
        while base < stop and self._length:
            for chunk in chunks:
                low, high = int(self._edges[chunk]), int(self._edges[chunk + 1])
                begin, end = max(first - base, 0), min(stop - base, high - low)
                if begin < end:
                    yield np.arange(low + begin, low + end)
                base += high - low
                if base >= stop:
                    return

    def _chunks_in_pool(self, chunk_rows: int) -> int:
        pooled_rows = self._buffer_chunks * int(np.diff(self._edges).max(initial=1))
        chunks_in_data = math.ceil(self._length / chunk_rows) + 1
        return min(chunks_in_data, max(self._buffer_chunks, self._buffer_chunks * math.ceil(pooled_rows / chunk_rows)))


def _shuffled(pool: list[np.ndarray[Any, Any]], generator: np.random.Generator) -> Iterator[int]:
    rows = np.concatenate(pool)
    generator.shuffle(rows)
    yield from rows.tolist()


def _matrices(data: Any) -> list[HDF5Matrix]:
    parts: Any = [data]
    if isinstance(data, StackDataset):
        parts = data.datasets.values() if isinstance(data.datasets, dict) else data.datasets
    matrices = [part for part in parts if isinstance(part, HDF5Matrix)]
    if not matrices:
        raise TypeError(f"data must be an HDF5Matrix or a StackDataset that holds one, got {type(data).__name__}")
    return matrices


def _chunk_edges(matrix: HDF5Matrix) -> np.ndarray[Any, Any]:
    """Where chunks begin inside the window, and its end: chunks count from the start of the file's data set."""
    size = matrix.chunk_rows or max(1, _BLOCK_BYTES // max(1, matrix.row_bytes))
    first = -(matrix.start % size) % size
    inner = np.arange(first, len(matrix), size)
    return np.unique(np.concatenate([[0], inner, [len(matrix)]]).astype(np.int64))
