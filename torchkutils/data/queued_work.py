"""What the threads and processes behind Keras's queues do."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from torchkutils.data.sequence import Sequence, checked_batch


class End:
    """Stands for the end of a generator in a queue; compared by type, for it may come from another process."""


END = End()


class Call:
    """Make one batch of a Sequence."""

    def __init__(self, sequence: Sequence, index: int) -> None:
        self._sequence = sequence
        self._index = index

    def __call__(self) -> Any:
        """The batch."""
        return checked_batch(self._sequence[self._index], self._index)


class Turns:
    """Take the next item of an iterator, one thread at a time."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._items = items
        self._turn = threading.Lock()

    def __call__(self) -> Any:
        """The item, or END."""
        with self._turn:
            return next(self._items, END)


class Copies(IterableDataset[Any]):
    """An iterable that each worker runs for itself."""

    def __init__(self, source: Any, seed: int | None) -> None:
        self._source = source
        self._seed = seed

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        if self._seed is not None and info is not None:
            seed = self._seed + info.id
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
        return iter(self._source)


def unchanged(batch: Any) -> Any:
    """What takes batches as they come."""
    return batch
