"""What the processes behind GeneratorEnqueuer do."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from torchkutils.data.pickled_batch import Message, Receiver, Sender
from torchkutils.data.sequence_worker import Failure
from torchkutils.data.shared_slots import Slots


class Copies(IterableDataset[Any]):
    """An iterable that each worker runs for itself: its items as messages, its exception as the last one.

    Args:
        source: The iterable.
        seed: Worker number w seeds torch, NumPy and random with `seed + w`; None seeds nothing.
    """

    def __init__(self, source: Any, seed: int | None) -> None:
        self._source = source
        self._seed = seed

    def __iter__(self) -> Iterator[Message | Failure]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        if self._seed is not None:
            seed = self._seed + worker
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.default_generator.manual_seed(seed)
        sender, count = Sender(Slots(0)), 0
        try:
            for item in self._source:
                yield sender.pack(item, -1)
                count += 1
        except Exception as error:
            yield Failure.of(error, count, worker)


class Received:
    """The items of an iterable that processes run, in turn.

    Args:
        copies: The iterable.
        options: For the DataLoader underneath.
    """

    def __init__(self, copies: Copies, **options: Any) -> None:
        loader = DataLoader(copies, batch_size=None, collate_fn=_as_it_is, generator=torch.Generator(), **options)
        self._messages = iter(loader)
        self._receiver = Receiver(Slots(0), reuse=False, pin=False)

    def next(self) -> Any:
        """The next item; StopIteration after the last."""
        message = next(self._messages)
        if isinstance(message, Failure):
            raise message.to_exception()
        return self._receiver.unpack(message)


def _as_it_is(message: Any) -> Any:
    return message
