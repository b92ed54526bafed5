"""BatchSource: what a loader and the queues need of a Sequence, below both."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator
from types import GeneratorType, NoneType
from typing import Any

from torch.utils.data import Dataset


class OneBatch(list[int]):
    """The number of a batch, where a DataLoader expects the numbers of a batch's samples."""


class BatchSource(Dataset[Any]):
    """Whole batches by number, with the hooks around an epoch; `Sequence` is this and a `loader` method."""

    def __getitem__(self, index: int) -> Any:
        """Give batch `index`, any value but None."""
        raise NotImplementedError(
            f"{type(self).__name__} must implement __getitem__(index), which gives one whole batch"
        )

    def __getitems__(self, indices: list[int]) -> Any:
        """A list of batches; one batch by itself, for a DataLoader over a loader's `batch_sampler`."""
        if type(indices) is OneBatch:
            return self[indices[0]]
        # Attributed to torch's line, whoever made the DataLoader is no longer on the stack: said once.
        warnings.warn(
            f"DataLoader({type(self).__name__}) makes batches of whole batches; "
            "give batch_size=None, or use the Sequence's loader()",
            stacklevel=2,
        )
        return [self[index] for index in indices]

    def __len__(self) -> int:
        raise NotImplementedError(f"{type(self).__name__} must implement __len__, the number of batches in an epoch")

    def __iter__(self) -> Iterator[Any]:
        length = batches_in(self, endless=True)
        index = 0
        while length is None or index < length:
            yield self[index]
            index += 1

    def on_epoch_begin(self) -> None:
        """Called before the first batch of each epoch of a loader, in the process that iterates over it."""

    def on_epoch_end(self) -> None:
        """Called once after each finished epoch of a loader, in the process that iterates over it."""


class Adopted(BatchSource):
    """Anything with `__len__` and `__getitem__`, as a BatchSource.

    Args:
        batches: The object; its own hooks are called where it has them.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]

    def __len__(self) -> int:
        length: int = type(self.batches).__len__(self.batches)
        return length

    def on_epoch_begin(self) -> None:
        """Call the object's own."""
        getattr(self.batches, "on_epoch_begin", _nothing)()

    def on_epoch_end(self) -> None:
        """Call the object's own."""
        getattr(self.batches, "on_epoch_end", _nothing)()


def _nothing() -> None:
    pass


def batches_in(source: BatchSource, *, endless: bool = False) -> int | None:
    """Ask for the number of batches, in words that help when there is none.

    Args:
        source: The Sequence.
        endless: None, for batches without end, is a right answer.

    Raises:
        TypeError: `__len__` gives something that is no int.
        ValueError: It gives a negative number.
    """
    # Not len(): that refuses None, and what is not an int, in words of its own.
    length: Any = source.__len__()
    if length is None and endless:
        return None
    kind = type(getattr(source, "batches", source)).__name__
    if isinstance(length, bool) or not hasattr(type(length), "__index__"):
        end = "give steps_per_epoch for batches without end" if length is None else "wrap it in int()"
        raise TypeError(f"{kind}.__len__ must give an int, got {length!r}; {end}")
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


def has_hook(source: BatchSource) -> bool:
    """Whether a Sequence does anything at the end of an epoch."""
    return type(source).on_epoch_end is not BatchSource.on_epoch_end or "on_epoch_end" in vars(source)
