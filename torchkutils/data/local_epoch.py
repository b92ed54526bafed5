"""The batches of an epoch that are made in this process: one after the other, or by threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

from torchkutils.data.batch_source import BatchSource, checked_batch
from torchkutils.data.conversion import pinned
from torchkutils.data.held_generators import seed_held, with_own_generators
from torchkutils.data.loader_stats import LoaderStats
from torchkutils.data.ordered_threads import Call, OrderedThreads
from torchkutils.data.sequence_worker import passed_on
from torchkutils.data.worker_pool import PoolOptions, WorkersLostError


class DirectEpoch:
    """Batches that are made when they are asked for, without workers."""

    def __init__(
        self,
        sequence: BatchSource,
        numbers: Iterator[int],
        collate: Callable[[Any], Any],
        pin: bool,
        stats: LoaderStats,
    ) -> None:
        self._sequence = sequence
        self._numbers = numbers
        self._collate = collate
        self._pin = pin
        self._stats = stats
        self._index: int | None = None

    def next(self) -> Any:
        """The next batch."""
        # After Ctrl-C the same batch is made again.
        index = self._index = next(self._numbers) if self._index is None else self._index
        start = time.perf_counter()
        try:
            batch = self._collate(checked_batch(self._sequence[index], index))
            if self._pin:
                batch = pinned(batch)
        except Exception as error:
            self._index = None
            raise _with_note(passed_on(error, index, ""), index, "") from error.__cause__
        self._index = None
        self._stats.note(0, time.perf_counter() - start, 0.0)
        return batch

    def release(self, *, broken: bool = False) -> None:
        """Nothing is held."""


class ThreadEpoch:
    """Batches that threads make ahead."""

    def __init__(
        self, sequence: BatchSource, epoch: int, numbers: Iterator[int], options: PoolOptions, stats: LoaderStats
    ) -> None:
        self._timeout = options.timeout or None
        self._stats = stats
        made = [_Own(sequence, epoch, options) for _ in range(options.num_workers)]

        def call(index: int) -> Call:
            return lambda worker: (worker, *made[worker].batch(index))

        self._threads = OrderedThreads(
            (call(index) for index in numbers),
            threads=options.num_workers,
            ahead=options.num_workers * options.prefetch_factor,
            begin=options.init,
            name="torchkutils-loader",
        )

    def next(self) -> Any:
        """The next batch.

        Raises:
            WorkersLostError: None came in time.
        """
        try:
            worker, batch, made = self._threads.next(self._timeout)
        except TimeoutError as error:
            raise WorkersLostError(f"no thread gave a batch: timed out after {self._timeout} seconds") from error
        self._stats.note(worker, made, 0.0)
        return batch

    def release(self, *, broken: bool = False) -> None:
        """Let the threads end."""
        self._threads.stop()


class _Own:
    """What one thread makes batches with: the Sequence, with generators of random numbers of its own."""

    def __init__(self, sequence: BatchSource, epoch: int, options: PoolOptions) -> None:
        self._sequence, self._held = with_own_generators(sequence)
        self._epoch = epoch
        self._options = options

    def batch(self, index: int) -> tuple[Any, float]:
        start = time.perf_counter()
        seed_held(self._held, self._options.seed, self._epoch, index)
        try:
            batch = self._options.collate(checked_batch(self._sequence[index], index))
            if self._options.pin:
                batch = pinned(batch)
        except BaseException as error:
            raise _with_note(passed_on(error, index, "a thread"), index, " in a thread") from error.__cause__
        return batch, time.perf_counter() - start


def _with_note(error: BaseException, index: int, where: str) -> BaseException:
    error.add_note(f"raised while batch {index} was made{where}")
    return error
