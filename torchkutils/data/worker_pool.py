"""The worker processes of a SequenceLoader over its epochs: kept, brought up to date, or started anew."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from torchkutils import _torch_versions
from torchkutils.data.batch_source import BatchSource
from torchkutils.data.conversion import pinned
from torchkutils.data.epoch_order import EpochOrder
from torchkutils.data.loader_stats import LoaderStats
from torchkutils.data.pickled_batch import Message, Receiver
from torchkutils.data.sequence_state import Parts, State, state_of, why_not_sendable
from torchkutils.data.sequence_worker import Failure, Outcome, OwnMethod, Task, WorkerView, start_worker
from torchkutils.data.shared_slots import Slots, WorkNotes

SENT_STATE_BYTES = {"fork": 4 * 2**20, "spawn": 64 * 2**20, "forkserver": 64 * 2**20}
"""Up to which size a changed Sequence is sent to living workers, by start method: beyond it, starting anew is
cheaper."""

_LOOK_SECONDS = 0.2
"""How long a loader waits for a message before it looks whether its workers are alive."""

_of_other_processes: list[Any] = []
"""Iterators that a fork copied: dropping one here would tell the workers of the other process to end."""


class WorkersLostError(RuntimeError):
    """The workers of an epoch are gone; the epoch cannot go on."""


@dataclass(frozen=True)
class PoolOptions:
    """How batches are made in workers.

    Attributes:
        num_workers: How many processes.
        prefetch_factor: Batches that each makes ahead.
        timeout: Seconds to wait for a batch; 0 is without end.
        context: A start method or multiprocessing context; None is the process's own.
        init: The user's `worker_init_fn`.
        collate: What makes tensors of a batch.
        seed: With the epoch and the batch's number, fixes what a batch draws.
        reuse: Hand out the memory of the slots.
        pin: Hand out pinned memory.
    """

    num_workers: int
    prefetch_factor: int
    timeout: float
    context: Any
    init: Callable[[int], None] | None
    collate: Callable[[Any], Any]
    seed: int
    reuse: bool
    pin: bool

    def alone(self) -> PoolOptions:
        """The same with one worker, one batch ahead and no `worker_init_fn`."""
        return replace(self, num_workers=1, prefetch_factor=1, init=None)

    @property
    def start_method(self) -> str:
        """'fork', 'spawn' or 'forkserver'."""
        if isinstance(self.context, str):
            return self.context
        method: str = (self.context or torch.multiprocessing).get_start_method()
        return method


@dataclass
class _Tasks:
    """The sampler of the DataLoader underneath: the tasks of the epoch that begins.

    Attributes:
        held: Which version of the Sequence each worker has, or will have by its tasks so far.
        free: The slots that no task uses.
        numbers: The batches of the epoch.
        epoch: Its number.
        version: The version of the Sequence that belongs to it.
        parts: What a worker needs that has the version before.
    """

    held: list[int]
    free: list[int] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=lambda: iter(()))
    epoch: int = 0
    version: int = 0
    parts: Parts | None = None

    def __iter__(self) -> Iterator[Task]:
        for place, index in enumerate(self.numbers):
            # A DataLoader deals its tasks out in turn, from worker 0 on; a worker that got another's would refuse it.
            worker = place % len(self.held)
            parts = None if self.held[worker] == self.version else self.parts
            self.held[worker] = self.version
            yield Task(self.epoch, index, self.version, parts, self.free.pop() if self.free else -1)


class WorkerPool:
    """Workers that make batches with the Sequence as it is when an epoch begins.

    It holds nothing of the caller's between epochs: a loader that is dropped can dismiss it.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._limit = SENT_STATE_BYTES.get(options.start_method, 2**20)
        self._loader: DataLoader[Any] | None = None
        self._iterator: Any = None
        self._tasks = _Tasks([])
        self._state: State | None = None
        self._slots = Slots(0)
        self._notes = WorkNotes(0)
        self._trusted = False
        self._process = os.getpid()

    def begin(self, sequence: BatchSource, epoch: int, order: EpochOrder, first: int, stats: LoaderStats) -> PoolEpoch:
        """Start an epoch from position `first` of its order on."""
        if self.is_a_copy():
            self.dismiss()
        state = state_of((sequence, _class_data(type(sequence))), self._limit)
        parts = self._update(state) if self._trusted and state is not None and self.all_alive() else None
        if parts is not None:
            try:
                self._go_on(state, parts, epoch, order.after(first))
            except RuntimeError:
                # A worker died after it was looked at; nothing of the epoch was handed out yet.
                parts = None
        if parts is None:
            self.restart(sequence, epoch, order.after(first), state)
        return PoolEpoch(self, sequence, epoch, order, first, stats)

    def dismiss(self) -> None:
        """End the workers; they are given a few seconds, then killed."""
        iterator, self._iterator, self._loader, self._trusted = self._iterator, None, None, False
        self._state = None
        if iterator is not None and self.is_a_copy():
            _of_other_processes.append(iterator)
        elif iterator is not None:
            # Others may hold the iterator still, so that dropping it is not enough.
            _torch_versions.end_loader_workers(iterator)
        self._slots.close()
        self._notes.close()
        self._process = os.getpid()

    def is_a_copy(self) -> bool:
        """Whether this is the copy that a fork made: the workers are another process's."""
        return self._process != os.getpid()

    def distrust(self) -> None:
        """Start new workers for the next epoch."""
        self._trusted = False

    def all_alive(self) -> bool:
        """Whether there are workers, and none has ended."""
        return self._iterator is not None and not self.dead()

    def dead(self) -> list[tuple[int, int | None]]:
        """The numbers of the workers that have ended, each with its exit code."""
        workers = [] if self._iterator is None else _torch_versions.loader_workers(self._iterator)
        return [(number, worker.exitcode) for number, worker in enumerate(workers) if not worker.is_alive()]

    def making(self, worker: int) -> int | None:
        """The batch that a worker was making when it ended; None where it made none, or where that is not known."""
        return self._notes.making(worker)

    def receive(self) -> Outcome:
        """The next outcome, in the order of the tasks.

        Raises:
            RuntimeError: A worker has ended, none has answered in time, or the loader was closed.
        """
        start = time.perf_counter()
        while self._iterator is not None:
            try:
                outcome: Outcome = _torch_versions.next_of_loader(self._iterator)
            except TimeoutError:
                timeout = self._options.timeout
                if self.dead():
                    raise RuntimeError("a worker ended") from None
                if timeout and time.perf_counter() - start >= timeout:
                    raise RuntimeError(f"timed out after {timeout} seconds") from None
            else:
                return outcome
        raise RuntimeError("the loader was closed")

    def free(self, slot: int) -> None:
        """Use a slot again."""
        if slot >= 0:
            self._tasks.free.append(slot)

    def restart(self, sequence: BatchSource, epoch: int, numbers: Iterator[int], state: State | None) -> None:
        """Begin an epoch with new workers."""
        self.dismiss()
        options, method = self._options, self._options.start_method
        if method != "fork":
            self._check_sendable(sequence, method)
        version, count = self._tasks.version + 1, options.num_workers * options.prefetch_factor + 1
        self._slots, self._notes = Slots(count), WorkNotes(options.num_workers)
        self._tasks = _Tasks([version] * options.num_workers, _all(self._slots), numbers, epoch, version)
        view = WorkerView(
            *(sequence, state, method != "fork", version, options.seed, options.init, options.collate),
            slots=self._slots,
            notes=self._notes,
        )
        generator = torch.Generator()
        self._loader = DataLoader(
            view,
            batch_size=None,
            sampler=self._tasks,
            collate_fn=_as_it_is,
            worker_init_fn=start_worker,
            persistent_workers=state is not None,
            num_workers=options.num_workers,
            prefetch_factor=options.prefetch_factor,
            multiprocessing_context=options.context,
            # One of its own: torch would draw from the process's generator at each start.
            generator=generator.manual_seed(options.seed % 2**63),
        )
        self._iterator = iter(self._loader)
        _torch_versions.give_loader_patience(self._iterator, _LOOK_SECONDS)
        view.forget()
        self._state = _without_contents(state)
        self._trusted = state is not None

    def receiver(self) -> Receiver:
        """What takes batches out of the slots."""
        return Receiver(self._slots, self._options.reuse, self._options.pin)

    @property
    def options(self) -> PoolOptions:
        """What the pool was made with."""
        return self._options

    def _update(self, state: State) -> Parts | None:
        """What the living workers must be sent, if that is little enough to be sent."""
        assert self._state is not None
        if state.equals(self._state):
            return Parts(b"", {}, {})
        return state.since(set(self._state.leaves), self._limit)

    def _go_on(self, state: State | None, parts: Parts, epoch: int, numbers: Iterator[int]) -> None:
        tasks = self._tasks
        if parts.content:
            tasks.version, tasks.parts, self._state = tasks.version + 1, parts, _without_contents(state)
        tasks.numbers, tasks.epoch, tasks.free = numbers, epoch, _all(self._slots)
        assert self._loader is not None
        # To begin again, each worker must be done with what it is at: that may take long.
        _torch_versions.give_loader_patience(self._iterator, 0)
        self._iterator = iter(self._loader)
        _torch_versions.give_loader_patience(self._iterator, _LOOK_SECONDS)

    def _check_sendable(self, sequence: BatchSource, method: str) -> None:
        init = OwnMethod.of(self._options.init, sequence)
        named = {type(sequence).__name__: sequence, "worker_init_fn": init, "collate_fn": self._options.collate}
        for name, value in named.items():
            if (reason := why_not_sendable(name, value, method)) is not None:
                raise TypeError(
                    f"{reason}; workers that are started by {method!r} are sent it: make it in worker_init_fn or at "
                    "the first batch, leave it out in __getstate__, or use multiprocessing_context='fork'"
                )


class PoolEpoch:
    """The batches of one epoch, made by a pool.

    Attributes:
        pool: The pool.
        give_back: Called with it once the epoch needs it no more.
    """

    def __init__(
        self, pool: WorkerPool, sequence: BatchSource, epoch: int, order: EpochOrder, first: int, stats: LoaderStats
    ) -> None:
        self.pool = pool
        self._sequence = sequence
        self._epoch = epoch
        self._order = order
        self._first = self._position = first
        self._stats = stats
        self._lent = -1
        self._received: Outcome | None = None
        self._receiver: Receiver | None = None
        self.give_back: Callable[[WorkerPool], None] = _forget

    def next(self) -> Any:
        """The next batch, or a `Failure` in its place.

        Raises:
            WorkersLostError: A worker was killed, does not answer, or has no Sequence any more.
        """
        self.pool.free(self._lent)
        self._lent = -1
        # After Ctrl-C the same batch is handed out.
        outcome = self._received = self._received or self._awaited()
        if isinstance(outcome.result, Failure) and outcome.result.stale:
            self._received = None
            self._start_over()
            return self.next()
        try:
            batch = outcome.result if isinstance(outcome.result, Failure) else self._unpacked(outcome)
        except Exception as error:
            error.add_note(f"raised while batch {self._order[self._position]} was taken over from its worker")
            self._done_with(outcome)
            raise
        self._done_with(outcome)
        return batch

    def _unpacked(self, outcome: Outcome) -> Any:
        started = time.perf_counter()
        message, options = outcome.result, self.pool.options
        assert isinstance(message, Message)
        if self._receiver is None:
            self._receiver = self.pool.receiver()
        batch = self._receiver.unpack(message)
        if options.pin:
            # What came through a slot was copied into pinned memory right away.
            batch = pinned(batch, tensors=not message.sizes)
        if options.reuse and message.slot >= 0:
            self._lent = outcome.slot
        self._stats.note(outcome.worker, outcome.made, outcome.packed + time.perf_counter() - started)
        if outcome.fell_back:
            self._stats.warn_of_fallback()
        return batch

    def _done_with(self, outcome: Outcome) -> None:
        self._received = None
        self._position += 1
        if outcome.slot != self._lent:
            self.pool.free(outcome.slot)

    def release(self, *, broken: bool = False) -> None:
        """Let go of the pool: another epoch may use it."""
        if broken:
            self.pool.dismiss()
        self.give_back(self.pool)

    def _awaited(self) -> Outcome:
        if self.pool.is_a_copy():
            raise WorkersLostError("this epoch's workers belong to the process that this one was forked from")
        try:
            return self.pool.receive()
        except Exception as error:
            raise WorkersLostError(self._explained(error)) from error
        except BaseException:
            # Ctrl-C reaches the workers too, some moment later.
            self.pool.distrust()
            raise

    def _explained(self, error: Exception) -> str:
        awaited = self._order[self._position]
        making = {worker: self.pool.making(worker) for worker, _ in self.pool.dead()}
        dead = sorted(self.pool.dead(), key=lambda one: making[one[0]] is None)
        if not dead:
            return f"{error}, while batch {awaited} was awaited"
        worker, code = dead[0]
        killed = code is not None and code < 0
        how = f"was killed by signal {-code}" if killed and code is not None else f"exited unexpectedly (status {code})"
        memory = "; a system that runs out of memory kills so" if code == -9 else ""
        batch = making[worker]
        at = f"batch {awaited} was awaited" if batch is None else f"it made batch {batch}"
        return f"worker {worker} {how} while {at}{memory} ({error})"

    def _start_over(self) -> None:
        """Go on with new workers from here."""
        self._receiver = None
        self._first = self._position
        state = state_of((self._sequence, _class_data(type(self._sequence))), SENT_STATE_BYTES["spawn"])
        self.pool.restart(self._sequence, self._epoch, self._order.after(self._position), state)


def _class_data(kind: type) -> list[tuple[type, str, Any]]:
    """Lists, dicts and the like that lie on the class and can be edited through an instance all the same."""
    classes = [owner for owner in kind.__mro__ if not owner.__module__.startswith(("torchkutils.data.", "torch."))]
    mutable = (list, dict, set, bytearray, np.ndarray, torch.Tensor)
    return [
        (owner, name, value)
        for owner in classes
        for name, value in vars(owner).items()
        if not name.startswith("__") and isinstance(value, mutable)
    ]


def _without_contents(state: State | None) -> State | None:
    """A state to compare with, which keeps no array of the caller's alive."""
    return None if state is None else State(state.content, dict.fromkeys(state.leaves))


def _all(slots: Slots) -> list[int]:
    return list(range(len(slots)))


def _forget(pool: WorkerPool) -> None:
    pass


def _as_it_is(outcome: Any) -> Any:
    return outcome
