"""The iterator over one epoch of a loader."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torchkutils.data.epoch_order import EpochOrder
from torchkutils.data.loader_state import Place
from torchkutils.data.loader_stats import LoaderStats, Stopwatch
from torchkutils.data.sequence_worker import Failure
from torchkutils.data.worker_pool import WorkersLostError


class Source(Protocol):
    """What makes the batches of an epoch."""

    def next(self) -> Any:
        """The next batch, or a `Failure` in its place; raises what making it raised, or a WorkersLostError."""

    def release(self, *, broken: bool = False) -> None:
        """Let go of workers; they are ended where they are broken."""


@dataclass(frozen=True)
class Owner:
    """What an epoch asks of its loader.

    Attributes:
        begin: Gives an epoch that is asked for its first batch its place, order and source.
        due: Notes that the last batch was handed out.
        end: Runs the hook, unless it has run.
        skip: Batches that raise are left out.
        stats: Where the loader counts.
    """

    begin: Callable[[Epoch], tuple[Place, EpochOrder, Source]]
    due: Callable[[Place], None]
    end: Callable[[Place], None]
    skip: bool
    stats: LoaderStats


class Epoch(Iterator[Any]):
    """The batches of one epoch; asked past the last one it runs the hook."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._place: Place | None = None
        self._order: EpochOrder | None = None
        self._source: Source | None = None
        self._clock = Stopwatch(owner.stats)
        self._over: str | None = None
        self._skipped: list[str] = []

    def __length_hint__(self) -> int:
        return 0 if self._place is None else self._place.total - self._place.handed_out

    def __next__(self) -> Any:
        # Every batch passes here: what is rare is left to methods.
        place = self._place
        if place is None or self._over is not None:
            place = self._begun()
        while place.handed_out < place.total:
            assert self._source is not None
            start = time.perf_counter()
            try:
                batch = self._source.next()
            except BaseException as error:
                self._clock.waited(start)
                self._raised(error, place)
                continue
            self._clock.waited(start)
            self._count(place)
            if type(batch) is not Failure:
                self._owner.stats.batches += 1
                return batch
            self._failed(batch)
        self._owner.end(place)
        raise StopIteration

    def stop(self, why: str) -> None:
        """Refuse to go on."""
        self._over = why
        self._let_go(broken=False)

    def __del__(self) -> None:
        # Left early: the workers may serve another epoch. A constructor that failed has no source.
        if getattr(self, "_source", None) is not None:
            self._let_go(broken=False)

    def _begun(self) -> Place:
        if self._over is not None:
            raise RuntimeError(f"this epoch's iterator cannot go on: {self._over}; start another with iter(loader)")
        self._place, self._order, self._source = self._owner.begin(self)
        return self._place

    def _count(self, place: Place) -> None:
        place.handed_out += 1
        if place.handed_out == place.total:
            self._owner.due(place)
            self._let_go(broken=False)
            self._report()

    def _raised(self, error: BaseException, place: Place) -> None:
        """Say what broke, and leave loader and workers such that another epoch can begin."""
        if self._over is not None:
            self._begun()
        if isinstance(error, WorkersLostError):
            self._give_up()
        elif isinstance(error, Exception):
            index = self._index()
            self._count(place)
            self._refuse(error, index)
            return
        raise error

    def _failed(self, failure: Failure) -> None:
        if failure.lost:
            self._give_up()
            raise failure.to_exception()
        self._refuse(failure.to_exception(), failure.index)

    def _refuse(self, error: BaseException, index: int) -> None:
        if not self._owner.skip or not isinstance(error, Exception):
            raise error
        self._owner.stats.skipped += 1
        self._skipped.append(f"batch {index} ({type(error).__name__}: {error})")
        if self._place is not None and self._place.handed_out == self._place.total:
            self._report()

    def _report(self) -> None:
        skipped, self._skipped = self._skipped, []
        if skipped:
            shown = ", ".join(skipped[:3]) + (", …" if len(skipped) > 3 else "")
            warnings.warn(f"{len(skipped)} batches of an epoch were skipped: {shown}", stacklevel=4)

    def _index(self) -> int:
        assert self._order is not None
        assert self._place is not None
        return self._order[self._place.first + self._place.handed_out]

    def _give_up(self) -> None:
        self._over = "its workers were lost"
        self._let_go(broken=True)

    def _let_go(self, *, broken: bool) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.release(broken=broken)
