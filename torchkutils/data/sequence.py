"""Sequence: a Dataset whose items are whole batches."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from types import GeneratorType, NoneType
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Dataset

if TYPE_CHECKING:
    from torchkutils.data.sequence_loader import SequenceLoader


class Sequence(Dataset[Any]):
    """Batches by number: the safe way to feed a training loop from several processes.

    Implement `__getitem__(index)`, which gives one whole batch, and `__len__`, the number of batches an epoch.
    `on_epoch_end` is optional, and so are `state_dict`/`load_state_dict`, which let a training be resumed with what
    `on_epoch_end` did. Subclasses need not call `super().__init__()`.

    `for batch in sequence` gives one epoch in this process and runs no hook; `DataLoader(sequence, batch_size=None)`
    works as it stands; `sequence.loader(...)` adds workers, shuffling, the hook, shards and resuming.

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

    def __getitem__(self, index: int) -> Any:
        """Give batch `index`, any value but None."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement __getitem__(index), which gives one whole batch"
        )

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must implement __len__, the number of batches in an epoch")

    def on_epoch_end(self) -> None:
        """Called once after each finished epoch of a loader, in the process that iterates over it."""

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]

    def loader(
        self,
        *,
        num_workers: int = 0,
        shuffle: bool = False,
        seed: int = 0,
        pin_memory: bool = False,
        prefetch_factor: int = 2,
        timeout: float = 0,
        multiprocessing_context: Any = None,
        worker_init_fn: Callable[[int], None] | None = None,
        rank: int | None = None,
        world_size: int | Literal["auto"] | None = None,
        shard: Literal["pad", "drop", "uneven"] = "pad",
    ) -> SequenceLoader:
        """Give an iterable over the batches, one epoch an iteration; see `SequenceLoader` for what it promises.

        Args:
            num_workers: Processes that make batches; 0 makes them in this one.
            shuffle: Batches in an order drawn from (seed, epoch) instead of by index.
            seed: Fixes the order, and what `__getitem__` draws in workers. The same on all ranks.
            pin_memory: As in `DataLoader`.
            prefetch_factor: Batches that each worker makes ahead.
            timeout: Seconds to wait for a batch of the workers before raising; 0 waits as long as they live.
            multiprocessing_context: A start method ('fork', 'spawn', 'forkserver') or context, as in `DataLoader`.
            worker_init_fn: Called with the worker's number in each worker, before its first batch and after each time
                the worker received a changed Sequence.
            rank: Which of `world_size` shards this process reads; None asks the process group.
            world_size: How many processes share the batches; None does not shard, 'auto' asks the process group.
            shard: 'pad' gives equal lengths by repeating batches, 'drop' by leaving some out, 'uneven' gives each
                batch to exactly one rank (for evaluation: unequal lengths hang a plain DDP loop).

        Raises:
            TypeError: `__len__` gives no int, `__getitem__` is a generator, or an argument is of a wrong type.
            ValueError: A negative length, `num_workers`, `seed` or `timeout`, an unknown `shard`, a rank outside the
                world, or an argument that needs workers where there are none.
        """
        from torchkutils.data.sequence_loader import SequenceLoader

        return SequenceLoader(
            self,
            num_workers=num_workers,
            shuffle=shuffle,
            seed=seed,
            pin_memory=pin_memory,
            prefetch_factor=prefetch_factor,
            timeout=timeout,
            multiprocessing_context=multiprocessing_context,
            worker_init_fn=worker_init_fn,
            rank=rank,
            world_size=world_size,
            shard=shard,
        )


def batches_in(sequence: Sequence) -> int:
    """Ask a Sequence for its length, in words that help when it has none.

    Raises:
        TypeError: `__len__` gives something that is no int.
        ValueError: It gives a negative number.
    """
    length = sequence.__len__()
    kind = type(sequence).__name__
    if isinstance(length, bool) or not hasattr(type(length), "__index__"):
        raise TypeError(f"{kind}.__len__ must give an int, got {length!r}; wrap it in int()")
    if operator.index(length) < 0:
        raise ValueError(f"{kind}.__len__ must not be negative, got {length}")
    return operator.index(length)


def checked_batch(batch: Any, index: int) -> Any:
    """Give the batch back, unless it is none.

    Raises:
        TypeError: It is None or a generator.
    """
    if isinstance(batch, (NoneType, GeneratorType)):
        got = "None" if batch is None else "a generator"
        raise TypeError(f"__getitem__({index}) must return one whole batch, got {got}; return it, and do not yield")
    return batch


def has_hook(sequence: Sequence) -> bool:
    """Whether a Sequence does anything at the end of an epoch."""
    return type(sequence).on_epoch_end is not Sequence.on_epoch_end or "on_epoch_end" in vars(sequence)
