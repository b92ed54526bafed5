"""OrderedEnqueuer and GeneratorEnqueuer: Keras's queues, as thin adapters over the loader, DataLoader and threads."""

from __future__ import annotations

import itertools
import math
import multiprocessing
import random
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from torchkutils.data.batch_source import Adopted, BatchSource, batches_in
from torchkutils.data.conversion import AsTheyAre
from torchkutils.data.ordered_threads import OrderedThreads
from torchkutils.data.queued_work import Copies, Received
from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.data.shards import whole_number

_END_OF_EPOCH_SECONDS = 30.0
"""How long Keras waits in `join_end_of_epoch`."""

_END = object()


class _Enqueuer:
    """What both queues share: starting, asking, stopping."""

    def __init__(self, use_multiprocessing: bool) -> None:
        self._use_multiprocessing = use_multiprocessing
        self._running = False
        self._workers = 1
        self._ahead = 10

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
        """Stop, also while another thread waits in `get()`: that ends.

        Args:
            timeout: Accepted as in Keras; threads end with the batch they are making, processes within seconds.
        """
        self._running = False


class OrderedEnqueuer(_Enqueuer):
    """A Sequence's batches in order, epoch after epoch, made ahead by threads or processes.

    Anything with `__len__` and `__getitem__` will do for a Sequence.

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

    def __init__(self, sequence: Any, use_multiprocessing: bool = False, shuffle: bool = False) -> None:
        super().__init__(use_multiprocessing)
        if not isinstance(sequence, BatchSource) and not all(
            hasattr(type(sequence), name) for name in ("__len__", "__getitem__")
        ):
            kind = type(sequence).__name__
            raise TypeError(f"sequence must be a torchkutils.Sequence, or have __len__ and __getitem__; got {kind}")
        self._source = sequence if isinstance(sequence, BatchSource) else Adopted(sequence)
        batches_in(self._source)
        self.sequence = sequence
        self.shuffle = shuffle
        self._loader: SequenceLoader | None = None
        self._epoch: Iterator[Any] | None = None
        self._asked = threading.Lock()
        self._epoch_ended = threading.Event()

    def start(self, workers: int = 1, max_queue_size: int = 10) -> None:
        """Begin to make batches; see `stop`."""
        super().start(workers, max_queue_size)
        self._loader = SequenceLoader(
            self._source,
            num_workers=self._workers,
            workers="processes" if self._use_multiprocessing else "threads",
            shuffle=self.shuffle,
            # Numbers for the order come from the process's own generator, as Keras's do.
            seed=random.getrandbits(32) if self.shuffle else 0,
            prefetch_factor=math.ceil(self._ahead / self._workers),
            collate_fn=AsTheyAre(),
        )
        self._epoch = iter(self._loader)

    def get(self) -> Iterator[Any]:
        """Give batches until `stop` is called; an exception of `__getitem__` stops and is raised."""
        while self._running:
            with self._asked:
                try:
                    batch = self._next()
                except BaseException:
                    if not self.is_running():
                        return
                    self.stop()
                    raise
            yield batch

    def join_end_of_epoch(self) -> None:
        """Return when `on_epoch_end` has run for the epoch; after 30 s at most, where another thread asks."""
        with self._asked:
            if self._loader is not None and self._epoch is not None and not self._left():
                self._begin_epoch()
        self._epoch_ended.wait(_END_OF_EPOCH_SECONDS)
        self._epoch_ended.clear()

    def stop(self, timeout: float | None = None) -> None:
        """Stop making batches and end the processes."""
        super().stop(timeout)
        if self._loader is not None:
            self._loader.close()
            self._loader = self._epoch = None

    def _left(self) -> int:
        """How many batches of the epoch are still to come."""
        return getattr(self._epoch, "__length_hint__", int)()

    def _next(self) -> Any:
        for _ in range(2):
            if self._epoch is None:
                raise RuntimeError("the queue was stopped")
            for batch in self._epoch:
                return batch
            self._begin_epoch()
        raise ValueError("the Sequence has no batches left: its length is 0")

    def _begin_epoch(self) -> None:
        """Let the hook run, and begin the next epoch."""
        assert self._loader is not None
        self._epoch = iter(self._loader)
        self._epoch_ended.set()


class GeneratorEnqueuer(_Enqueuer):
    """What a generator yields, made ahead by a thread or processes.

    Each item comes once, in order, however many workers there are: a generator cannot be shared out, so one thread or
    process runs it. With processes and `random_seed` each worker runs a copy of its own, as in Keras, and draws other
    random numbers. Items that are None are skipped. Where processes cannot be forked, the generator must be an iterable
    that can be pickled.

    Args:
        sequence: The generator, or any iterable.
        use_multiprocessing: Processes instead of threads.
        wait_time: Not used any more; gives a DeprecationWarning.
        random_seed: With processes, each worker runs a copy; number w seeds torch, NumPy and random with
            `random_seed + w`.

    Differs from Keras 2.3.1: generators need not be thread-safe, `get` ends when a finite one does, and processes
    without `random_seed` do not give each item as often as there are workers.

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
        self.random_seed: int | None = (
            None if random_seed is None else whole_number("random_seed", random_seed, at_least=0)
        )
        self._source = sequence
        self._items: OrderedThreads | Received | None = None

    def start(self, workers: int = 1, max_queue_size: int = 10) -> None:
        """Begin to run the generator."""
        super().start(workers, max_queue_size)
        if not self._use_multiprocessing:
            items = iter(self._source)
            calls = itertools.repeat(lambda worker: next(items, _END))
            self._items = OrderedThreads(calls, threads=1, ahead=self._ahead, name="torchkutils-enqueuer")
            return
        copies = 1 if self.random_seed is None else self._workers
        forked = "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        self._items = Received(
            Copies(self._source, self.random_seed),
            num_workers=copies,
            prefetch_factor=math.ceil(self._ahead / copies),
            multiprocessing_context=forked if hasattr(self._source, "__next__") else None,
        )

    def get(self) -> Iterator[Any]:
        """Give items until the generator ends or `stop` is called; its exception stops and is raised."""
        while (items := self._items) is not None and self._running:
            try:
                item = items.next()
            except StopIteration:
                return
            except BaseException:
                self.stop()
                raise
            if item is _END:
                return
            if item is not None:
                yield item

    def stop(self, timeout: float | None = None) -> None:
        """Stop, and end the processes."""
        super().stop(timeout)
        items, self._items = self._items, None
        if isinstance(items, OrderedThreads):
            items.stop()
