"""The worker processes of a SequenceLoader over its epochs: kept, brought up to date, or started anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import DataLoader

from torchkutils.data.parcel import Packing
from torchkutils.data.sequence import Sequence
from torchkutils.data.sequence_worker import Task, WorkerView, sendable_state, start_worker
from torchkutils.data.shards import whole_number

SENT_STATE_BYTES = {"fork": 4 * 2**20, "spawn": 64 * 2**20, "forkserver": 64 * 2**20}
"""Up to which size a changed Sequence is sent to living workers, by start method: beyond it, starting anew is
cheaper."""


@dataclass
class _Tasks:
    """The sampler of the DataLoader underneath: the tasks of the epoch that begins.

    Attributes:
        held: Which version of the Sequence each worker has, or will have by its tasks so far.
        order: The batches of the epoch.
        epoch: Its number.
        version: The version of the Sequence that belongs to it.
        state: That version, pickled.
    """

    held: list[int]
    order: list[int] = field(default_factory=list)
    epoch: int = 0
    version: int = 0
    state: bytes | None = None

    def __len__(self) -> int:
        return len(self.order)

    def __iter__(self) -> Iterator[Task]:
        for place, index in enumerate(self.order):
            # A DataLoader deals its tasks out in turn, from worker 0 on; a worker that got another's would refuse it.
            worker = place % len(self.held)
            state = None if self.held[worker] == self.version else self.state
            self.held[worker] = self.version
            yield Task(self.epoch, index, self.version, state)


class WorkerCrew:
    """Workers that make batches with the Sequence as it is when an epoch begins.

    It holds nothing of the caller's: a loader that is dropped can dismiss it.

    Args:
        num_workers: How many processes.
        init: The user's `worker_init_fn`.
        options: What else the DataLoader underneath is given.
    """

    def __init__(self, num_workers: int, init: Callable[[int], None] | None, options: Mapping[str, Any]) -> None:
        self._num_workers = num_workers
        self._init = init
        self._options = options
        self._limit = SENT_STATE_BYTES.get(_start_method(options["multiprocessing_context"]), 2**20)
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None
        self._tasks = _Tasks([])
        self._trusted = False

    def begin(self, sequence: Sequence, seed: int, epoch: int, order: list[int]) -> Iterator[Any]:
        """Start an epoch: its batches, or `Failure`s in their place, in order."""
        state = sendable_state(sequence, self._limit)
        keep = self._trusted and state is not None and self._all_alive()
        if keep:
            try:
                return self._go_on(state, epoch, order)
            except RuntimeError:
                # A worker died after it was looked at; nothing of the epoch was handed out yet.
                pass
        self.dismiss()
        return self._start(sequence, state, seed, epoch, order)

    def dismiss(self) -> None:
        """End the workers; they are given a few seconds, then killed."""
        iterator, self._iterator, self._loader, self._trusted = self._iterator, None, None, False
        if iterator is not None:
            # Others may hold the iterator still, so that dropping it is not enough.
            iterator._shutdown_workers()

    def distrust(self) -> None:
        """Start new workers for the next epoch."""
        self._trusted = False

    def _go_on(self, state: bytes | None, epoch: int, order: list[int]) -> Iterator[Any]:
        tasks = self._tasks
        if state != tasks.state:
            tasks.version, tasks.state = tasks.version + 1, state
        tasks.order, tasks.epoch = order, epoch
        assert self._loader is not None
        return iter(self._loader)

    def _start(self, sequence: Sequence, state: bytes | None, seed: int, epoch: int, order: list[int]) -> Iterator[Any]:
        version = self._tasks.version + 1
        self._tasks = _Tasks([version] * self._num_workers, order, epoch, version, state)
        generator = torch.Generator()
        generator.manual_seed(seed % 2**63)
        options = {**self._options, "collate_fn": Packing(self._options["collate_fn"])}
        view = WorkerView(sequence, state, version, seed, self._init)
        self._loader = DataLoader(
            view,
            batch_size=None,
            sampler=self._tasks,
            worker_init_fn=start_worker,
            persistent_workers=state is not None,
            # One of its own: torch would draw from the process's generator at each start.
            generator=generator,
            **options,
        )
        self._iterator = iter(self._loader)
        view.forget()
        self._trusted = state is not None
        result: Iterator[Any] = self._iterator
        return result

    def _all_alive(self) -> bool:
        return self._iterator is not None and all(worker.is_alive() for worker in self._iterator._workers)


def _start_method(context: Any) -> str:
    if isinstance(context, str):
        return context
    method: str = (context or torch.multiprocessing).get_start_method()
    return method


def worker_options(num_workers: int, prefetch_factor: int, timeout: float, context: Any) -> dict[str, Any]:
    """Check the arguments that concern workers; there are none to be passed on where there are no workers."""
    whole_number("prefetch_factor", prefetch_factor, at_least=1)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds of at least 0, got {timeout!r}")
    known = torch.multiprocessing.get_all_start_methods()
    if isinstance(context, str) and context not in known:
        raise ValueError(f"multiprocessing_context must be one of {known}, or a context; got {context!r}")
    if num_workers:
        return {
            "num_workers": num_workers,
            "prefetch_factor": prefetch_factor,
            "timeout": timeout,
            "multiprocessing_context": context,
        }
    for name, value in (("timeout", timeout), ("multiprocessing_context", context)):
        if value:
            raise ValueError(f"{name}={value!r} needs workers, and num_workers is 0")
    return {}
