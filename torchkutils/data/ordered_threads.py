"""Results of calls, made by threads a few ahead and given in the order of the calls."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Call: TypeAlias = Callable[[int], Any]
"""What a thread does: it gets the thread's number."""


@dataclass
class _Job:
    """One call.

    Attributes:
        call: What to do.
        result: What came of it.
        error: The exception that came instead.
        done: Set when either is there.
    """

    call: Call
    result: Any = None
    error: BaseException | None = None
    done: threading.Event = field(default_factory=threading.Event)


class OrderedThreads:
    """Threads that work on calls ahead of who asks for the results.

    The threads are daemons: they do not keep a program alive that ends while they work. They end when the calls do, at
    `stop`, and when this object is dropped.

    Args:
        calls: The calls, taken one after the other by whoever asks for results.
        threads: How many threads.
        ahead: How many calls are in work or waiting at once.
        begin: Called with its number in each thread, first of all; what it raises is the next result's error.
        name: What the threads are called.
    """

    def __init__(
        self,
        calls: Iterator[Call],
        *,
        threads: int,
        ahead: int,
        begin: Callable[[int], None] | None = None,
        name: str = "torchkutils",
    ) -> None:
        self._calls = calls
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._pending: deque[_Job] = deque()
        self._threads = threads
        self._stopped = False
        for number in range(threads):
            # They know the queue and not this object, so that it can be dropped.
            worker = threading.Thread(
                target=_work, args=(self._jobs, number, begin), name=f"{name}-{number}", daemon=True
            )
            worker.start()
        for _ in range(ahead):
            self._put()

    def _put(self) -> None:
        call = next(self._calls, None)
        if call is not None and not self._stopped:
            job = _Job(call)
            self._pending.append(job)
            self._jobs.put(job)

    def next(self, timeout: float | None = None) -> Any:
        """The result of the next call.

        Raises:
            StopIteration: There are no calls any more, or `stop` was called.
            TimeoutError: There is no result in time.
            BaseException: Whatever the call raised.
        """
        if not self._pending or self._stopped:
            raise StopIteration
        job = self._pending[0]
        if not job.done.wait(timeout):
            raise TimeoutError
        if self._stopped:
            raise StopIteration
        self._pending.popleft()
        self._put()
        if job.error is not None:
            raise job.error
        return job.result

    def stop(self) -> None:
        """Let each thread end with the call that it is at, and whoever waits for a result."""
        if self._stopped:
            return
        self._stopped = True
        while not self._jobs.empty():
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        for _ in range(self._threads):
            self._jobs.put(None)
        for job in list(self._pending):
            job.done.set()

    def __del__(self) -> None:
        # Where the constructor failed there is nothing to stop.
        if hasattr(self, "_stopped"):
            self.stop()


def _work(jobs: queue.SimpleQueue[_Job | None], number: int, begin: Callable[[int], None] | None) -> None:
    error: BaseException | None = None
    if begin is not None:
        try:
            begin(number)
        except BaseException as failure:
            error = failure
    while (job := jobs.get()) is not None:
        try:
            if error is not None:
                raise error
            job.result = job.call(number)
        except BaseException as failure:
            job.error = failure
        job.done.set()
        # A thread that waits must not keep the last result alive.
        del job
