"""Threads or processes: what `workers='auto'` finds out from the first batches."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch

from torchkutils import _nested
from torchkutils.data.batch_source import BatchSource
from torchkutils.data.loader_stats import LoaderStats
from torchkutils.data.local_epoch import ThreadEpoch
from torchkutils.data.worker_pool import PoolOptions

_MOST = 8
_SECONDS = 0.2
_TICK = 0.001
_LATE = 0.004
_HELD = 0.3
_BYTES_A_SECOND = 1e9
_A_BATCH = 0.0002


class Measured:
    """The first batches of an epoch, made by one thread while this one looks how often it is kept from running.

    Pure Python code holds the interpreter's lock: another thread that wants to run waits for 5 ms. Code that gives the
    lock free (decompression, decoding, most of NumPy and torch, waiting for a disk) lets it run at once.

    Attributes:
        count: How many batches were made.
        choice: 'threads' or 'processes'.
    """

    def __init__(
        self,
        sequence: BatchSource,
        epoch: int,
        numbers: Iterator[int],
        options: PoolOptions,
        stats: LoaderStats,
    ) -> None:
        self._results: deque[tuple[Any, BaseException | None]] = deque()
        source = ThreadEpoch(sequence, epoch, numbers, options.alone(), stats)
        done = threading.Event()
        maker = threading.Thread(target=self._make, args=(source, done), daemon=True)
        start = time.perf_counter()
        maker.start()
        late = ticks = 0
        while not done.is_set():
            before = time.perf_counter()
            time.sleep(_TICK)
            ticks += 1
            late += time.perf_counter() - before > _TICK + _LATE
        seconds = time.perf_counter() - start
        source.release()
        self.count: int = len(self._results)
        self.choice, why = self._chosen(late / max(1, ticks), seconds / max(1, self.count))
        stats.workers, stats.chosen_because = self.choice, why

    def next(self) -> Any:
        """One of the batches, or None once there are none any more."""
        batch, error = self._results.popleft()
        if error is not None:
            raise error
        return batch

    def __bool__(self) -> bool:
        return bool(self._results)

    def _make(self, source: ThreadEpoch, done: threading.Event) -> None:
        start = time.perf_counter()
        try:
            while len(self._results) < _MOST and time.perf_counter() - start < _SECONDS:
                try:
                    self._results.append((source.next(), None))
                except StopIteration:
                    break
                except BaseException as error:
                    self._results.append((None, error))
        finally:
            done.set()

    def _chosen(self, held: float, seconds: float) -> tuple[Literal["processes", "threads"], str]:
        size = max((_bytes_in(batch) for batch, _ in self._results), default=0)
        handed_over = _A_BATCH + size / _BYTES_A_SECOND
        found = f"batches of {size / 2**10:.0f} KB take {seconds * 1e3:.1f} ms each"
        if held < _HELD:
            return "threads", f"{found} and hardly hold the interpreter's lock"
        if seconds < handed_over:
            return "threads", f"{found}, less than it costs to hand them over between processes"
        return "processes", f"{found} and hold the interpreter's lock"


class Joined:
    """Measured batches, then those of what was chosen."""

    def __init__(self, measured: Measured, rest: Callable[[], Any]) -> None:
        self._measured = measured
        self._make_rest = rest
        self._rest: Any = None

    def next(self) -> Any:
        """The next batch."""
        if self._measured:
            return self._measured.next()
        if self._rest is None:
            self._rest = self._make_rest()
        return self._rest.next()

    def release(self, *, broken: bool = False) -> None:
        """Let go of what was chosen."""
        if self._rest is not None:
            self._rest.release(broken=broken)


def _bytes_in(batch: Any) -> int:
    return sum(
        leaf.nbytes if not isinstance(leaf, torch.Tensor) else leaf.numel() * leaf.element_size()
        for leaf in _nested.leaves(batch)
        if hasattr(leaf, "nbytes")
    )
