"""The order of an epoch's batches, computed as it is asked for: no list of it exists, whatever the length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from torchkutils.data.shards import World

LISTED = 2**16
"""Up to this length a shuffled order is drawn at once."""

_BLOCK = 1024
_ROUNDS = 8


class Shuffled:
    """A permutation of range(length), fixed by (seed, epoch).

    Long ones are computed by position: a Feistel network permutes the numbers of an even number of bits, and what falls
    outside the range is permuted again until it falls inside.

    Args:
        length: How many numbers.
        seed: With the epoch, fixes the order.
        epoch: The number of the epoch.
    """

    def __init__(self, length: int, seed: int, epoch: int) -> None:
        generator = np.random.default_rng([seed, epoch])
        self._length = length
        self._listed = generator.permutation(length) if length <= LISTED else None
        self._half = np.uint64(max(1, -(-(length - 1).bit_length() // 2)))
        self._mask = (np.uint64(1) << self._half) - np.uint64(1)
        self._keys = generator.integers(0, 2**63, _ROUNDS, dtype=np.uint64)

    def at(self, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """What stands at these positions."""
        if self._listed is not None:
            found: np.ndarray[Any, Any] = self._listed[positions]
            return found
        numbers = self._permuted(positions.astype(np.uint64))
        while (outside := numbers >= self._length).any():
            numbers[outside] = self._permuted(numbers[outside])
        return numbers.astype(np.int64)

    def _permuted(self, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        left, right = numbers >> self._half, numbers & self._mask
        for key in self._keys:
            # The last steps of splitmix64 mix the bits of half a number and the key.
            mixed = (right + key) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            left, right = right, left ^ ((mixed ^ (mixed >> np.uint64(31))) & self._mask)
        return (left << self._half) | right


@dataclass(frozen=True)
class EpochOrder:
    """This rank's batches of one epoch, by position.

    Attributes:
        length: How many batches all ranks have together; None for batches without end.
        shuffled: Their order; None is by number.
        world: This process among the ranks.
        consumed: Batches that another number of ranks has taken before.
        offset: The number of the first batch: an endless Sequence goes on where the last epoch ended.
    """

    length: int
    shuffled: Shuffled | None
    world: World
    consumed: int = 0
    offset: int = 0

    def __len__(self) -> int:
        left, size = self.length - self.consumed, self.world.size
        if self.world.shard == "pad":
            return -(-left // size)
        if self.world.shard == "drop":
            return left // size
        return max(0, -(-(left - self.world.rank) // size))

    def __getitem__(self, position: int) -> int:
        return int(self._at(np.array([position]))[0])

    def after(self, first: int) -> Iterator[int]:
        """The numbers of the batches from position `first` on."""
        end = len(self)
        block = 16
        while first < end:
            yield from self._at(np.arange(first, min(end, first + block))).tolist()
            first, block = first + block, _BLOCK

    def _at(self, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # Every size-th position from the rank on, so that one step of all ranks takes neighbours; 'pad' starts over.
        shared = (positions * self.world.size + self.world.rank) % max(1, self.length - self.consumed)
        numbers = shared + self.consumed
        if self.shuffled is not None:
            numbers = self.shuffled.at(numbers)
        return numbers + self.offset
