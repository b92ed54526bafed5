"""Which part of an epoch belongs to which rank."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

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
        check_world(rank, world_size, shard)
        if world_size is None:
            return cls(0, 1, shard)  # type: ignore[arg-type]
        group = process_group()
        if world_size == "auto":
            if group is None and int(os.environ.get("WORLD_SIZE", "1")) > 1:
                raise RuntimeError("world_size='auto' needs the process group: call init_process_group first")
            world_size = group[1] if group else 1
        if rank is None:
            if group is None and world_size > 1:
                raise ValueError(f"world_size={world_size} needs rank, for there is no process group to ask")
            rank = group[0] if group else 0
        if rank >= world_size:
            raise ValueError(f"rank must lie in [0, {world_size}), the world's size, got {rank}")
        return cls(rank, world_size, shard)  # type: ignore[arg-type]

    def block(self, total: int) -> tuple[int, int]:
        """Give this rank's piece [first, stop) of `total` positions; with 'pad' it runs past the end: wrap around."""
        if self.shard == "uneven":
            return total * self.rank // self.size, total * (self.rank + 1) // self.size
        length = total // self.size if self.shard == "drop" else -(-total // self.size)
        return self.rank * length, (self.rank + 1) * length


def check_world(rank: int | None, world_size: int | Literal["auto"] | None, shard: str) -> None:
    """Check what can be checked before there is a process group.

    Raises:
        ValueError: An unknown `shard`, a rank outside the world or without one, a world size below 1.
        TypeError: A rank or world size that is no int.
    """
    if shard not in get_args(Shard):
        raise ValueError(f"shard must be one of {list(get_args(Shard))}, got {shard!r}")
    if world_size is None and rank is not None:
        raise ValueError(f"rank={rank} needs world_size, an int or 'auto'")
    if rank is not None:
        whole_number("rank", rank, at_least=0)
    if world_size is None or world_size == "auto":
        return
    size = whole_number("world_size", world_size, at_least=1)
    if rank is not None and rank >= size:
        raise ValueError(f"rank must lie in [0, {size}), the world's size, got {rank}")


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


def process_group() -> tuple[int, int] | None:
    """This process's rank and how many there are; None without a group."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return None
    return distributed.get_rank(), distributed.get_world_size()


def shared_seed(world: World) -> int:
    """A new seed, the same on all ranks that share batches: drawn on rank 0 and sent to the others.

    The process's own generators are not touched.

    Raises:
        ValueError: There are other ranks, and no process group to reach them by.
    """
    drawn = [int.from_bytes(os.urandom(4), "little")]
    if world.size > 1:
        if process_group() is None:
            raise ValueError(
                f"seed=None with world_size={world.size} needs a process group, to agree on a seed; give one"
            )
        torch.distributed.broadcast_object_list(drawn, src=0)
    return drawn[0]
