"""Where a loader stands: its epochs' places, which of them counts, and what it can be told to go on from.

**Places.** Each iterator over a loader runs an epoch of its own; a `Place` says how far it has come. Several may be
under way at once: a look at one batch inside a loop, `zip(loader, loader)`. The one that *counts* is the newest that
has handed out more than one batch, else the one before, if that is still under way: a look at one batch does not lose
the place of the loop around it. The epoch that counts gives the loader's `epoch` and state, and the next one has the
next number.

An iterator takes its place at its first batch, not when it is made: trainers make iterators only to see that they can.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any


class Place:
    """How far an epoch has come: a loader and the iterator over its epoch share it.

    Attributes:
        epoch: The epoch's number.
        first: The number of batches before a resume.
        consumed: The batches that another number of ranks had taken before.
        handed_out: Batches since, those that raised included.
        total: How many batches are to be handed out since; known when the epoch has begun.
        begun: An iterator has taken this place.
        ended: Its hook has run.
    """

    __slots__ = ("begun", "consumed", "ended", "epoch", "first", "handed_out", "owner", "total")

    def __init__(self, epoch: int, first: int = 0, consumed: int = 0) -> None:
        self.epoch = epoch
        self.first = first
        self.consumed = consumed
        self.handed_out = 0
        self.total = 0
        self.begun = False
        self.ended = False
        self.owner: weakref.ref[Any] | None = None

    def take(self, owner: Any) -> Place:
        """Make it the place of an iterator."""
        self.begun = True
        self.owner = weakref.ref(owner)
        return self

    @property
    def under_way(self) -> bool:
        """Whether its iterator may still be asked for batches."""
        alive = self.owner is not None and self.owner() is not None
        return alive and not self.ended and self.handed_out < self.total


class Places:
    """The places of a loader, by the rule above.

    Attributes:
        due: Epochs whose last batch was handed out and whose hook has not run.
    """

    def __init__(self, place: Place) -> None:
        self._newest = place
        self._before: Place | None = None
        self._number: int | None = None
        self.due: list[Place] = []

    def counting(self) -> Place:
        """The place that counts."""
        if self._before is not None and self._newest.handed_out <= 1 and self._before.under_way:
            return self._before
        self._before = None
        return self._newest

    def make_ready(self) -> None:
        """Before an iterator is made: where no epoch is under way, the next one is what counts."""
        place = self.counting()
        if place.begun and not place.under_way:
            self._newest, self._before = self._next_after(place), None

    def take(self, owner: Any) -> Place:
        """Give an iterator that begins its place."""
        place = self.counting()
        if not place.begun:
            return place.take(owner)
        self._newest, self._before = self._next_after(place), place
        return self._newest.take(owner)

    def end(self, place: Place) -> None:
        """Note that an epoch's hook runs now."""
        place.ended = True
        if place in self.due:
            self.due.remove(place)
        if place is self.counting():
            self._newest, self._before = self._next_after(place), None

    def set_epoch(self, number: int) -> None:
        """Give the next epoch this number; one that was to be resumed keeps its place if it has it already."""
        place = self.counting()
        if place.under_way:
            self._number = number
        elif place.begun or place.epoch != number:
            self._newest, self._before = Place(number), None

    def _next_after(self, place: Place) -> Place:
        number, self._number = self._number, None
        return Place(place.epoch + 1 if number is None else number)


def check_state(state: Mapping[str, Any], shuffle: bool, shard: str) -> None:
    """Refuse what no loader with this shuffling and sharding gave.

    Raises:
        ValueError: A malformed state, or one taken with other settings.
    """
    numbers = ("epoch", "position", "consumed", "length", "world_size")
    if not isinstance(state, Mapping) or state.get("version") != 1:
        raise ValueError(f"state must be what SequenceLoader.state_dict() gave, got {state!r:.80}")
    optional = {"hooks_due": state.get("hooks_due", 0), "seed": 0 if state.get("seed") is None else state["seed"]}
    for name, value in {**{name: state.get(name) for name in numbers}, **optional}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"state[{name!r}] must be an int of at least 0, got {value!r}")
    for name, mine in (("shuffle", shuffle), ("shard", shard)):
        if state.get(name) != mine:
            raise ValueError(
                f"the state was taken with {name}={state.get(name)!r}, this loader has {mine!r}: make it alike"
            )
