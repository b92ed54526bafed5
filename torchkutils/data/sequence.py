"""Sequence: a Dataset whose items are whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal

from torchkutils._call_hints import hinting
from torchkutils.data.batch_source import BatchSource
from torchkutils.data.sequence_loader import SequenceLoader
from torchkutils.data.shards import whole_number


class Sequence(BatchSource):
    """Batches by number: the safe way to feed a training loop from several processes.

    Implement `__getitem__(index)`, which gives one whole batch, and `__len__`, the number of batches an epoch.
    `on_epoch_begin` and `on_epoch_end` are optional, and so are `state_dict`/`load_state_dict`, which let a training be
    resumed with what `on_epoch_end` did. Subclasses need not call `super().__init__()`.

    `for batch in sequence` gives one epoch in this process and runs no hook; `DataLoader(sequence, batch_size=None)`
    works as it stands (without `batch_size=None` it would stack whole batches, and says so); `sequence.loader(...)`
    adds workers, shuffling, the hook, shards and resuming.

    Differs from Keras 2.3.1: it is a `torch.utils.data.Dataset`, so torch's own tools take it.

    >>> import math, numpy
    >>> class Squares(Sequence):
    ...     def __init__(self, numbers, batch_size):
    ...         self.numbers, self.batch_size = numbers, batch_size
    ...     def __len__(self):
    ...         return math.ceil(len(self.numbers) / self.batch_size)
    ...     def __getitem__(self, index):
    ...         batch = self.numbers[index * self.batch_size : (index + 1) * self.batch_size]
    ...         return batch, batch**2
    >>> [y.tolist() for x, y in Squares(numpy.arange(5), 2).loader()]
    [[0, 1], [4, 9], [16]]
    """

    _workers_of_constructor: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, workers: int | None = None, use_multiprocessing: bool = False, max_queue_size: int = 10) -> None:
        """Keras 3's `PyDataset` takes here what a loader is to be made with; subclasses need not call it.

        Args:
            workers: How many threads, or processes, make batches; None leaves it to `loader`.
            use_multiprocessing: Processes instead of threads.
            max_queue_size: About how many batches are made ahead.

        Raises:
            TypeError: A number that is no int.
            ValueError: `workers` below 0, `max_queue_size` below 1.
        """
        whole_number("max_queue_size", max_queue_size, at_least=1)
        if workers is None:
            return
        count = whole_number("workers", workers, at_least=0)
        self._workers_of_constructor = {
            "num_workers": count,
            "workers": "processes" if use_multiprocessing else "threads",
            "prefetch_factor": math.ceil(max_queue_size / max(1, count)),
        }

    @hinting(
        batch_size="__getitem__ gives whole batches, which decides their size",
        drop_last="__len__ decides how many batches there are",
        sampler="shuffle=True, or the order inside __getitem__",
        persistent_workers="workers stay where that is safe",
        use_multiprocessing="workers",
        max_queue_size="prefetch_factor",
    )
    def loader(
        self,
        *,
        num_workers: int | None = None,
        shuffle: bool = False,
        seed: int | None = 0,
        pin_memory: bool = False,
        prefetch_factor: int | None = None,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        worker_init_fn: Callable[[int], None] | None = None,
        rank: int | None = None,
        world_size: int | Literal["auto"] | None = None,
        shard: Literal["pad", "drop", "uneven"] = "pad",
        collate_fn: Callable[[Any], Any] | None = None,
        workers: Literal["processes", "threads", "auto"] | None = None,
        reuse: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        steps_per_epoch: int | None = None,
    ) -> SequenceLoader:
        """Give an iterable over the batches, one epoch an iteration; see `SequenceLoader` for what it promises.

        Args:
            num_workers: Processes (or threads, see `workers`) that make batches; 0 makes them when they are asked for.
                None: as the constructor was told, else 0.
            shuffle: Batches in an order drawn from (seed, epoch) instead of by index.
            seed: Fixes the order, and what `__getitem__` draws in workers. The default is the same for each loader: one
                that is made anew for each epoch needs `set_epoch` to give another order, or None, which draws a new
                seed (on rank 0, sent to all ranks when the first epoch begins).
            pin_memory: As in `DataLoader`.
            prefetch_factor: Batches that each worker makes ahead; None is 2, or as the constructor was told.
            timeout: Seconds to wait for a batch of the workers before raising; 0 waits as long as they live.
            multiprocessing_context: A start method ('fork', 'spawn', 'forkserver') or context, as in `DataLoader`.
            worker_init_fn: Called with the worker's number in each worker, before its first batch and after each time
                the worker received a changed Sequence.
            rank: Which of `world_size` shards this process reads; None asks the process group.
            world_size: How many processes share the batches; None does not shard, 'auto' asks the process group when
                an epoch begins.
            shard: 'pad' gives equal lengths by repeating batches, 'drop' by leaving some out, 'uneven' gives each
                batch to exactly one rank (for evaluation: unequal lengths hang a plain DDP loop).
            collate_fn: Makes of a batch what the loader hands out, in the worker; None makes tensors of its arrays.
            workers: 'processes', 'threads' (for work that gives the interpreter's lock free: nothing is copied, and
                random numbers are fixed only where the Sequence holds their generators), or 'auto', which looks at the
                first batches; `loader.stats()` says what it chose. None: as the constructor was told, else processes.
            reuse: Hand out the shared memory itself, which the next batch may overwrite: for loops that keep no batch.
                Concerns batches of more than 32 KB from processes.
            on_error: 'skip' leaves out batches that raise; a warning and `loader.stats().skipped` count them. (Ranks
                that share batches may then get unequal numbers of them.)
            steps_per_epoch: The batches of an epoch, for a Sequence without end, whose `__len__` gives None; the next
                epoch goes on with the numbers after them.

        Raises:
            TypeError: `__len__` gives no int, `__getitem__` is a generator, or an argument is of a wrong type.
            ValueError: A negative length, `num_workers`, `seed` or `timeout`, an unknown `shard`, a rank outside the
                world, or an argument that needs workers where there are none.
        """
        asked = {"num_workers": num_workers, "workers": workers, "prefetch_factor": prefetch_factor}
        given = {name: value for name, value in asked.items() if value is not None}
        return SequenceLoader(
            self,
            **{**self._workers_of_constructor, **given},
            shuffle=shuffle,
            seed=seed,
            pin_memory=pin_memory,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context,
            worker_init_fn=worker_init_fn,
            rank=rank,
            world_size=world_size,
            shard=shard,
            collate_fn=collate_fn,
            reuse=reuse,
            on_error=on_error,
            steps_per_epoch=steps_per_epoch,
        )


PyDataset = Sequence
"""Keras 3's name for it."""
