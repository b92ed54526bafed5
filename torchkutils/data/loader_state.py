"""Where a loader stands in an epoch, and what it can be told to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Place:
    """How far an epoch has come: a loader and the iterator over its epoch share it.

    Attributes:
        first: The number of batches before a resume.
        handed_out: Batches since, those that raised included.
    """

    __slots__ = ("first", "handed_out")

    def __init__(self, first: int) -> None:
        self.first = first
        self.handed_out = 0


def check_state(state: Mapping[str, Any], shuffle: bool, shard: str) -> None:
    """Refuse what no loader with this shuffling and sharding gave."""
    numbers = ("epoch", "position", "consumed", "length", "seed", "world_size")
    if not isinstance(state, Mapping) or state.get("version") != 1:
        raise ValueError(f"state must be what SequenceLoader.state_dict() gave, got {state!r:.80}")
    for name in numbers:
        value = state.get(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"state[{name!r}] must be an int of at least 0, got {value!r}")
    for name, mine in (("shuffle", shuffle), ("shard", shard)):
        if state.get(name) != mine:
            raise ValueError(
                f"the state was taken with {name}={state.get(name)!r}, this loader has {mine!r}: make it alike"
            )
