"""Where an epoch's time goes: waiting for data, making them, handing them over."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field

_ENOUGH = 0.1
_BUSY = 0.7


@dataclass
class WorkerStats:
    """What one worker did.

    Attributes:
        batches: How many it made.
        made: Seconds that `__getitem__` and the conversion took.
        handed_over: Seconds for packing its batches in the worker and taking them out in the loop's process.
    """

    batches: int = 0
    made: float = 0.0
    handed_over: float = 0.0


@dataclass
class LoaderStats:
    """Where the time of a loader's epochs went, all so far together; `print(loader.stats())` says it in one line.

    Attributes:
        workers: What makes batches: 'processes', 'threads', or 'none', for this process.
        num_workers: How many do.
        batches: How many were handed out.
        skipped: How many were left out, with `on_error='skip'`.
        elapsed: Seconds from an epoch's first request to its last, with what the loop did in between.
        waited: Seconds of these that the loop waited for batches.
        by_worker: `batches`, `made` and `handed_over` of each worker, by its number.
        chosen_because: Why `workers='auto'` chose as it did; empty otherwise.
    """

    workers: str
    num_workers: int
    batches: int = 0
    skipped: int = 0
    elapsed: float = 0.0
    waited: float = 0.0
    by_worker: dict[int, WorkerStats] = field(default_factory=dict)
    chosen_because: str = ""
    _fell_back: bool = field(default=False, repr=False, compare=False)

    def note(self, worker: int, made: float, handed_over: float) -> None:
        """Count a batch."""
        stats = self.by_worker.get(worker)
        if stats is None:
            stats = self.by_worker[worker] = WorkerStats()
        stats.batches += 1
        stats.made += made
        stats.handed_over += handed_over

    def warn_of_fallback(self) -> None:
        """Say once that shared memory is too small."""
        if not self._fell_back:
            self._fell_back = True
            warnings.warn(
                "shared memory (/dev/shm) has no room for a batch: it went through a pipe, which is slower; give the "
                "container more (docker run --shm-size=1g)",
                stacklevel=5,
            )

    def __str__(self) -> str:
        if not self.batches or self.elapsed <= 0:
            return "no batch was handed out yet"
        share = self.waited / self.elapsed
        return f"your loop waited {share:.0%} for data: {self._advice(share)}"

    def _advice(self, share: float) -> str:
        if share < _ENOUGH:
            return "they keep up with it"
        if self.num_workers == 0:
            return "make batches in workers (num_workers=2 or more)"
        spent = sum(worker.made for worker in self.by_worker.values())
        handed = sum(worker.handed_over for worker in self.by_worker.values())
        if handed > spent and self.workers == "processes":
            return "handing batches over costs more than making them: try workers='threads', reuse=True or no workers"
        if spent > _BUSY * self.elapsed * self.num_workers:
            return f"its {self.num_workers} workers are busy all the time: more workers would help"
        return "its workers wait for each other or for a processor: a larger prefetch_factor may help"


class Stopwatch:
    """Adds up what a loop waits, from its first request for a batch on."""

    def __init__(self, stats: LoaderStats) -> None:
        self._stats = stats
        self._last: float | None = None

    def waited(self, start: float) -> None:
        """Count a request that began at `start` and ends now."""
        now = time.perf_counter()
        stats = self._stats
        stats.waited += now - start
        stats.elapsed += now - (start if self._last is None else self._last)
        self._last = now
