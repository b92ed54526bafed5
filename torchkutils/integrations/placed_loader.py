"""A SequenceLoader whose batches are moved to a trainer's device on their way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torchkutils import _nested
from torchkutils.data.sequence_loader import SequenceLoader


class PlacedLoader:
    """A loader that hands out another's batches after `move`; all its other attributes are the other's.

    Args:
        loader: The loader.
        move: Gives a batch on the device.
    """

    def __init__(self, loader: SequenceLoader, move: Callable[[Any], Any]) -> None:
        self.loader = loader
        self._move = move

    def __iter__(self) -> Iterator[Any]:
        return map(self._move, iter(self.loader))

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name in ("loader", "_move"):
            raise AttributeError(name)
        return getattr(self.loader, name)


def loaders_in(*values: Any) -> Iterable[SequenceLoader]:
    """Every SequenceLoader in what a trainer holds: alone, in lists and dicts, in a CombinedLoader, on a device."""
    for value in values:
        parts = getattr(value, "flattened", value)
        for leaf in _nested.leaves(parts):
            loader = leaf.loader if isinstance(leaf, PlacedLoader) else leaf
            if isinstance(loader, SequenceLoader):
                yield loader


def finish_epochs_in(*values: Any) -> None:
    """Call `finish_epoch` of each of them."""
    for loader in loaders_in(*values):
        loader.finish_epoch()
