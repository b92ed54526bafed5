"""ChunkShuffleSampler: rows in random order that still lets each chunk be decoded once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from torch.utils.data import Sampler

from torchkutils.data.row_blocks import blocks_of, matrices_of, start_reading
from torchkutils.data.shards import World, whole_number


class ChunkShuffleSampler(Sampler[int]):
    """Row numbers in an order that is random and cheap to read: each row once.

    The chunks of the data set come in random order; `buffer_chunks` of them at a time are pooled and their rows
    shuffled. So a compressed chunk is decoded once an epoch instead of once a row, for `DataLoader(rows, batch_size=64,
    sampler=ChunkShuffleSampler(rows))`. The data set is told to keep that many decoded chunks in each process: memory
    grows by `buffer_chunks` chunks; in a process without workers by twice as many, because threads decode the next pool
    while this one is handed out. (Each worker decodes the chunks that its own batches touch.)

    How well it mixes: chunks travel over the whole epoch, their rows only within a pool. With 64 rows a chunk and 16
    chunks a pool, two rows of one chunk end at most 1,023 places apart, 342 on average, where a full shuffle of n rows
    puts n / 3 between them; a batch of 64 draws on 16 chunks. Where neighbouring rows are alike (sorted by class,
    frames of one film), that is too little: raise `buffer_chunks`, store the rows shuffled once, or use
    `RandomSampler` — for contiguous data that costs nothing, for their rows are read one by one anyway.

    Args:
        data: An HDF5Matrix of one or many files, or a StackDataset, ConcatDataset or Subset (`random_split`) of
            such, nested as you like. Of stacked parts the one with the largest rows decides about the chunks; a Subset
            visits the chunks that its rows lie in.
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
    >>> from torchkutils import HDF5Matrix
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
        self._data = data
        self._blocks = blocks_of(data)
        self._length = len(data)
        largest = int(np.diff(self._blocks.edges).max(initial=1))
        for matrix in matrices_of(data):
            if matrix.chunk_rows is not None:
                # One more than the pool: a batch may reach from one pool into the next.
                matrix.keep_chunks(self._chunks_in_pool(matrix.chunk_rows, largest, len(matrix)) + 1)

    def set_epoch(self, epoch: int) -> None:
        """Choose the order: call it before each epoch, with the same number on all ranks."""
        self._epoch = whole_number("epoch", epoch, at_least=0)

    def __len__(self) -> int:
        first, stop = self._world.block(self._length)
        return stop - first if self._length else 0

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self._seed, self._epoch])
        order = generator.permutation(len(self._blocks.edges) - 1)
        # Ranks draw the same chunks in the same order, and shuffle their own rows.
        shuffler = np.random.default_rng([self._seed, self._epoch, self._world.rank])
        # The next pool is known one pool ahead, so that its chunks can be decoded meanwhile.
        waiting: np.ndarray[Any, Any] | None = None
        for pool in self._pools(order, shuffler):
            start_reading(self._data, pool)
            if waiting is not None:
                yield from waiting.tolist()
            waiting = pool
        if waiting is not None:
            yield from waiting.tolist()

    def _pools(self, order: np.ndarray[Any, Any], shuffler: np.random.Generator) -> Iterator[np.ndarray[Any, Any]]:
        """This rank's rows, pool by pool, each shuffled."""
        pool: list[np.ndarray[Any, Any]] = []
        for rows in self._rows_of_rank(order):
            pool.append(rows)
            if len(pool) == self._buffer_chunks:
                yield _shuffled(pool, shuffler)
                pool = []
        if pool:
            yield _shuffled(pool, shuffler)

    def _rows_of_rank(self, order: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
        """This rank's stretch of all rows in the order of the chunks, chunk by chunk, wrapping around at the end."""
        first, stop = self._world.block(self._length)
        base = 0
        while base < stop and self._length:
            for block in order:
                low, high = int(self._blocks.edges[block]), int(self._blocks.edges[block + 1])
                begin, end = max(first - base, 0), min(stop - base, high - low)
                if begin < end:
                    yield self._blocks.positions(low + begin, low + end)
                base += high - low
                if base >= stop:
                    return

    def _chunks_in_pool(self, chunk_rows: int, largest_block: int, length: int) -> int:
        """How many chunks of a part the rows of one pool may lie in."""
        # A block that is no multiple of this part's chunks begins and ends inside of one.
        in_a_block = math.ceil(largest_block / chunk_rows) + (largest_block % chunk_rows != 0)
        return min(math.ceil(length / chunk_rows) + 1, self._buffer_chunks * in_a_block)


def _shuffled(pool: list[np.ndarray[Any, Any]], generator: np.random.Generator) -> np.ndarray[Any, Any]:
    rows = np.concatenate(pool)
    generator.shuffle(rows)
    return rows
