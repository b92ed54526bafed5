"""What training code reads from a DataLoader, for loaders that are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch.utils.data import Sampler, SequentialSampler

from torchkutils.data.batch_source import OneBatch


class OrderedLoader(Protocol):
    """A loader that knows the order of its epochs."""

    def __len__(self) -> int: ...

    def set_epoch(self, epoch: int) -> None:
        """Give the next epoch a number."""

    def numbers(self) -> Iterator[int]:
        """The batches of the epoch that is under way or comes next, from where it stands."""

    def handed_out_elsewhere(self) -> None:
        """Count an epoch that a DataLoader made of `batch_sampler` has handed out."""


class EpochSampler(Sampler[Any]):
    """The `sampler` of a loader: the numbers of the batches of the epoch that comes next."""

    def __init__(self, loader: OrderedLoader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return self._loader.numbers()

    def __len__(self) -> int:
        return len(self._loader)

    def set_epoch(self, epoch: int) -> None:
        """Give the loader's next epoch a number."""
        self._loader.set_epoch(epoch)


class InOrder(EpochSampler, SequentialSampler):
    """The same where nothing is shuffled: trainers ask by this class whether anything is."""


class EpochBatches(EpochSampler):
    """The `batch_sampler` of a loader, from which others make DataLoaders (`accelerate.skip_first_batches`).

    Iterating it to its last number counts as an epoch: its hook is due when the loader's next epoch begins.
    """

    batch_size = None
    drop_last = False

    def __iter__(self) -> Iterator[Any]:
        numbers = self._loader.numbers()
        number = next(numbers, None)
        while number is not None:
            following = next(numbers, None)
            if following is None:
                # Trainers never ask past the last batch.
                self._loader.handed_out_elsewhere()
            yield OneBatch([number])
            number = following
