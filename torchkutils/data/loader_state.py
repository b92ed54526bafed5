"""Where a loader stands: its epochs' places, which of them counts, and what it can be told to go on from.

**Places.** Each iterator over a loader runs an epoch of its own; a `Place` says how far it has come. Several may be
under way at once: a look at one batch inside a loop, `zip(loader, loader)`. The one that *counts*, that is, gives the
loader's `epoch` and state, is the newest that has handed out more than one batch, else the one before: a look at one
batch does not lose the place. (An iterator that is still held after its first batch counts at once where the one
before is finished: that is how each epoch begins.)

The next epoch has the number after the newest's. Only a look at one batch *aside*, while another epoch was under way,
uses up no number.

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
        aside: Another epoch was under way when this one began.
        ended: Its hook has run.
        owner: The iterator.
    """

    __slots__ = ("aside", "begun", "consumed", "ended", "epoch", "first", "handed_out", "owner", "total")
    aside: bool
    begun: bool
    ended: bool

    def __init__(self, epoch: int, first: int = 0, consumed: int = 0) -> None:
        self.epoch: int = epoch
        self.first: int = first
        self.consumed: int = consumed
        self.handed_out: int = 0
        self.total: int = 0
        self.begun = self.aside = self.ended = False
        self.owner: weakref.ref[Any] | None = None

    def take(self, owner: Any) -> Place:
        """Make it the place of an iterator."""
        self.begun = True
        self.owner = weakref.ref(owner)
        return self

    @property
    def held(self) -> bool:
        """Whether its iterator still exists."""
        return self.owner is not None and self.owner() is not None

    @property
    def complete(self) -> bool:
        """Whether every batch was handed out."""
        return self.begun and self.handed_out >= self.total

    @property
    def under_way(self) -> bool:
        """Whether its iterator may still be asked for batches."""
        return self.held and not self.ended and not self.complete

    @property
    def a_look(self) -> bool:
        """Whether at most one batch was taken."""
        return self.begun and self.handed_out <= 1


class Places:
    """The places of a loader, by the rules above.

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
        before, newest = self._before, self._newest
        if before is None or not newest.a_look:
            return newest
        look_at_nothing_else = before.complete and not newest.held
        return before if before.under_way or look_at_nothing_else else newest

    def make_ready(self) -> None:
        """Before an iterator is made: where no epoch is under way, the next one is what counts."""
        if not self.counting().under_way:
            self._begin_after(self._last_numbered())

    def take(self, owner: Any) -> Place:
        """Give an iterator that begins its place."""
        place = self.counting()
        if not place.begun:
            return place.take(owner)
        aside = place.under_way
        self._begin_after(place if aside else self._last_numbered())
        if not aside:
            return self._newest.take(owner)
        self._newest.aside, self._before = True, place
        return self._newest.take(owner)

    def end(self, place: Place) -> None:
        """Note that an epoch's hook runs now."""
        last = place is self._last_numbered()
        place.ended = True
        if place in self.due:
            self.due.remove(place)
        if not last:
            return
        if self._newest is not place and self._newest.under_way:
            # A look that is still held goes on as the epoch that counts.
            self._newest.aside = False
        else:
            self._begin_after(place)

    def set_epoch(self, number: int) -> None:
        """Give the next epoch this number; one that was to be resumed keeps its place if it has it already."""
        place = self.counting()
        if place.under_way:
            self._number = number
        elif place.begun or place.epoch != number:
            self._newest, self._before = Place(number), None

    def _last_numbered(self) -> Place:
        """The newest epoch that has used up its number, or will."""
        newest, before = self._newest, self._before
        return before if before is not None and newest.aside and newest.a_look else newest

    def _begin_after(self, place: Place) -> None:
        if place.begun:
            number, self._number = self._number, None
            self._newest, self._before = Place(place.epoch + 1 if number is None else number), place


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
