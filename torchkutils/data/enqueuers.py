"""OrderedEnqueuer and GeneratorEnqueuer: Keras's queues, as thin adapters over the loader, DataLoader and threads."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import random
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import torch
from torch.utils.data import DataLoader

from torchkutils.data.queued_work import END, Call, Copies, End, Turns, unchanged
from torchkutils.data.sequence import Sequence, batches_in, checked_batch
from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.data.shards import whole_number

_END_OF_EPOCH_SECONDS = 30.0
"""How long Keras waits in `join_end_of_epoch`."""


class _Enqueuer:
    """What both queues share: starting, asking, stopping."""

    def __init__(self, use_multiprocessing: bool) -> None:
        self._use_multiprocessing = use_multiprocessing
        self._running = False
        self._workers = 1
        self._ahead = 10
        self._pool: ThreadPoolExecutor | None = None

    def start(self, workers: int = 1, max_queue_size: int = 10) -> None:
        """Begin to make batches.

        Args:
            workers: How many threads or processes.
            max_queue_size: About how many batches are made ahead.

        Raises:
            ValueError: Either is below 1.
            RuntimeError: It runs already.
        """
        if self._running:
            raise RuntimeError("start was called twice: call stop first")
        self._workers = whole_number("workers", workers, at_least=1)
        self._ahead = whole_number("max_queue_size", max_queue_size, at_least=1)
        self._running = True

    def is_running(self) -> bool:
        """Whether it was started and not stopped."""
        return self._running

    def stop(self, timeout: float | None = None) -> None:
        """Stop, also while another thread waits in `get()`: that ends with the batch it waits for.

        Args:
            timeout: Accepted as in Keras; threads end with the batch they are making, processes within seconds.
        """
        self._running = False
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _in_threads(self, calls: Iterator[Callable[[], Any]]) -> Iterator[Any]:
        """Results of the calls in their order, made by threads a few ahead."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="torchkutils-enqueuer")
        pool = self._pool
        pending = deque(pool.submit(call) for call in itertools.islice(calls, self._ahead))
        return self._results(pool, calls, pending)

    def _results(
        self, pool: ThreadPoolExecutor, calls: Iterator[Callable[[], Any]], pending: deque[Future[Any]]
    ) -> Iterator[Any]:
        while pending:
            try:
                result = pending.popleft().result()
                pending.extend(pool.submit(call) for call in itertools.islice(calls, 1))
            except (CancelledError, RuntimeError):
                if self._running:
                    raise
                # Another thread has called stop.
                return
            yield result


class OrderedEnqueuer(_Enqueuer):
    """A Sequence's batches in order, epoch after epoch, made ahead by threads or processes.

    Batches are what `__getitem__` returned, unconverted. `on_epoch_end` runs in the thread that calls `get`, when it
    asks past an epoch's last batch, or in `join_end_of_epoch`. `sequence.loader(...)` is the better way; this is for
    code that was written for Keras.

    Args:
        sequence: The Sequence.
        use_multiprocessing: Processes instead of threads.
        shuffle: Batches in another order each epoch.

    Differs from Keras 2.3.1: no thread of its own polls for the end of an epoch.

    >>> class Numbers(Sequence):
    ...     def __len__(self):
    ...         return 2
    ...     def __getitem__(self, index):
    ...         return index * 10
    >>> queue = OrderedEnqueuer(Numbers())
    >>> queue.start(workers=2)
    >>> batches = queue.get()
    >>> [next(batches) for _ in range(5)]
    [0, 10, 0, 10, 0]
    >>> queue.stop()
    """

    def __init__(self, sequence: Sequence, use_multiprocessing: bool = False, shuffle: bool = False) -> None:
        super().__init__(use_multiprocessing)
        if not isinstance(sequence, Sequence):
            raise TypeError(f"sequence must be a torchkutils.Sequence, got {type(sequence).__name__}")
        batches_in(sequence)
        self.sequence = sequence
        self.shuffle = shuffle
        self._loader: SequenceLoader | None = None
        self._epoch: Iterator[Any] = iter(())
        self._left = 0
        self._asked = threading.Lock()
        self._epoch_ended = threading.Event()

    def start(self, workers: int = 1, max_queue_size: int = 10) -> None:
        """Begin to make batches; see `stop`."""
        super().start(workers, max_queue_size)
        if self._use_multiprocessing:
            # Numbers for the order come from the process's own generator, as Keras's do.
            self._loader = SequenceLoader(
                self.sequence,
                num_workers=self._workers,
                shuffle=self.shuffle,
                seed=random.getrandbits(32) if self.shuffle else 0,
                prefetch_factor=math.ceil(self._ahead / self._workers),
                collate_fn=unchanged,
            )
        self._begin_epoch()

    def get(self) -> Iterator[Any]:
        """Give batches until `stop` is called; an exception of `__getitem__` stops and is raised."""
        while self._running:
            with self._asked:
                try:
                    if self._left == 0:
                        self._end_epoch()
                    if self._left == 0:
                        raise ValueError("the Sequence has no batches left: its length is 0")
                    batch = next(self._epoch)
                except StopIteration:
                    return
                except BaseException:
                    if not self.is_running():
                        return
                    self.stop()
                    raise
                self._left -= 1
            yield batch

    def join_end_of_epoch(self) -> None:
        """Return when `on_epoch_end` has run for the epoch; after 30 s at most, where another thread asks."""
        with self._asked:
            if self._left == 0 and self._running:
                self._end_epoch()
        self._epoch_ended.wait(_END_OF_EPOCH_SECONDS)
        self._epoch_ended.clear()

    def stop(self, timeout: float | None = None) -> None:
        """Stop making batches and end the processes."""
        super().stop(timeout)
        if self._loader is not None:
            self._loader.close()
            self._loader = None

    def _begin_epoch(self) -> None:
        self._left = batches_in(self.sequence)
        if self._loader is not None:
            self._epoch = iter(self._loader)
            return
        order = list(range(self._left))
        if self.shuffle:
            random.shuffle(order)
        self._epoch = self._in_threads(iter([Call(self.sequence, index) for index in order]))

    def _end_epoch(self) -> None:
        if self._loader is not None:
            next(self._epoch, None)
        else:
            self.sequence.on_epoch_end()
        self._begin_epoch()
        self._epoch_ended.set()


class GeneratorEnqueuer(_Enqueuer):
    """What a generator yields, made ahead by threads or processes.

    Threads take turns at the one generator: each item comes once, in order. With processes each worker runs a copy of
    its own, as in Keras: the items of a finite generator come once a worker. Where processes cannot be forked, the
    generator must be an iterable that can be pickled.

    Args:
        sequence: The generator, or any iterable.
        use_multiprocessing: Processes instead of threads.
        wait_time: Not used any more; gives a DeprecationWarning.
        random_seed: With processes, worker number w seeds torch, NumPy and random with `random_seed + w`.

    Differs from Keras 2.3.1: generators need not be thread-safe, and `get` ends when a finite one does.

    >>> queue = GeneratorEnqueuer(number**2 for number in range(4))
    >>> queue.start(workers=2)
    >>> list(queue.get())
    [0, 1, 4, 9]
    >>> queue.stop()
    """

    def __init__(
        self,
        sequence: Any,
        use_multiprocessing: bool = False,
        wait_time: float | None = None,
        random_seed: int | None = None,
    ) -> None:
        super().__init__(use_multiprocessing)
        if not hasattr(sequence, "__next__") and not hasattr(sequence, "__iter__"):
            raise TypeError(f"sequence must be a generator or an iterable, got {type(sequence).__name__}")
        if wait_time is not None:
            warnings.warn("wait_time is not used any more; leave it out", DeprecationWarning, stacklevel=2)
        self.random_seed = None if random_seed is None else whole_number("random_seed", random_seed, at_least=0)
        self._source = sequence
        self._items: Iterator[Any] = iter(())

    def start(self, workers: int = 1, max_queue_size: int = 10) -> None:
        """Begin to run the generator."""
        super().start(workers, max_queue_size)
        if not self._use_multiprocessing:
            self._items = self._in_threads(itertools.repeat(Turns(iter(self._source))))
            return
        forked = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        loader: DataLoader[Any] = DataLoader(
            Copies(self._source, self.random_seed),
            batch_size=None,
            num_workers=self._workers,
            prefetch_factor=math.ceil(self._ahead / self._workers),
            collate_fn=unchanged,
            multiprocessing_context=forked if hasattr(self._source, "__next__") else None,
            generator=torch.Generator(),
        )
        self._items = iter(loader)

    def get(self) -> Iterator[Any]:
        """Give items until the generator ends or `stop` is called; its exception stops and is raised."""
        while self._running:
            try:
                item = next(self._items, END)
            except BaseException:
                self.stop()
                raise
            if isinstance(item, End):
                return
            yield checked_batch(item, 0) if item is None else item

    def stop(self, timeout: float | None = None) -> None:
        """Stop, and end the processes."""
        super().stop(timeout)
        self._items = iter(())
