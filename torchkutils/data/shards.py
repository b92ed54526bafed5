"""Which part of an epoch belongs to which rank."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch

Shard = Literal["pad", "drop", "uneven"]


@dataclass(frozen=True)
class World:
    """This process's place among those that share the data.

    Attributes:
        rank: From 0.
        size: How many processes; 1 means that nothing is shared.
        shard: What happens where the data cannot be cut evenly.
    """

    rank: int
    size: int
    shard: Shard

    @classmethod
    def of(cls, rank: int | None, world_size: int | Literal["auto"] | None, shard: str) -> World:
        """Check the three arguments and ask the process group for what they leave open.

        Raises:
            ValueError: An unknown `shard`, a rank outside the world, a rank without a world, or none to be found.
            TypeError: A rank or world size that is no int.
            RuntimeError: 'auto' under torchrun before the process group was made.
        """
        if shard not in get_args(Shard):
            raise ValueError(f"shard must be one of {list(get_args(Shard))}, got {shard!r}")
        if world_size is None:
            if rank is not None:
                raise ValueError(f"rank={rank} needs world_size, an int or 'auto'")
            return cls(0, 1, shard)  # type: ignore[arg-type]
        group = _process_group()
        if world_size == "auto":
            if group is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise RuntimeError("world_size='auto' needs the process group: call init_process_group first")
            world_size = group[1] if group else 1
        size = whole_number("world_size", world_size, at_least=1)
        if rank is None:
            if group is None and size > 1:
                raise ValueError(f"world_size={size} needs rank, for there is no process group to ask")
            rank = group[0] if group else 0
        if whole_number("rank", rank, at_least=0) >= size:
            raise ValueError(f"rank must lie in [0, {size}), the world's size, got {rank}")
        return cls(rank, size, shard)  # type: ignore[arg-type]

    def share(self, order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Give every size-th element from the rank on, so that one step of all ranks takes neighbours."""
        return self._even(order)[self.rank :: self.size]

    def block(self, total: int) -> tuple[int, int]:
        """Give this rank's piece [first, stop) of `total` positions; with 'pad' it runs past the end: wrap around."""
        if self.shard == "uneven":
            return total * self.rank // self.size, total * (self.rank + 1) // self.size
        length = total // self.size if self.shard == "drop" else -(-total // self.size)
        return self.rank * length, (self.rank + 1) * length

    def _even(self, order: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        over = len(order) % self.size
        if over == 0 or self.shard == "uneven":
            return order
        if self.shard == "drop":
            return order[: len(order) - over]
        return np.concatenate([order, np.resize(order, self.size - over)])


def whole_number(name: str, value: object, *, at_least: int) -> int:
    """Check that an argument is an int of at least `at_least`.

    Raises:
        TypeError: It is no int.
        ValueError: It is too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < at_least:
        raise ValueError(f"{name} must be at least {at_least}, got {value}")
    return int(value)


def _process_group() -> tuple[int, int] | None:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()
