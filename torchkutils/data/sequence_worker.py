"""The worker's side of a SequenceLoader: it makes batches with the Sequence as it was when the epoch began.

Workers that live on hold a copy of the Sequence. What the caller's process changed since is sent to them together with
the first batch number of the epoch (`sequence_state`). What cannot be sent makes the loader start new workers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import pickle
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from torchkutils.data.batch_source import BatchSource, checked_batch
from torchkutils.data.held_generators import Held, held_generators, new_generators, seed_held
from torchkutils.data.pickled_batch import Message, Sender
from torchkutils.data.sequence_state import Parts, StaleLeafError, State
from torchkutils.data.shared_slots import Slots, WorkNotes

_ENDINGS = (SystemExit, KeyboardInterrupt)
"""What ends a process. Raised again in the caller's it would end that, or look like its user's Ctrl-C."""


@dataclass(frozen=True)
class Task:
    """One batch to make.

    Attributes:
        epoch: The epoch's number.
        index: The batch's number.
        version: Which state of the Sequence it belongs to.
        state: That state, when the worker has not had it yet.
        slot: The piece of shared memory that it may use; -1 for none.
    """

    epoch: int
    index: int
    version: int
    state: Parts | None
    slot: int

    def __reduce__(self) -> Any:
        # Much shorter than the pickle of a dataclass.
        return Task, (self.epoch, self.index, self.version, self.state, self.slot)


@dataclass(frozen=True)
class Outcome:
    """What a worker sends for a task.

    Attributes:
        result: The batch, or why there is none.
        slot: The task's slot.
        worker: The worker's number.
        made: Seconds that making the batch took.
        packed: Seconds that packing it took.
        fell_back: It found no room in shared memory.
    """

    result: Message | Failure
    slot: int
    worker: int
    made: float
    packed: float
    fell_back: bool

    def __reduce__(self) -> Any:
        return Outcome, (self.result, self.slot, self.worker, self.made, self.packed, self.fell_back)


@dataclass(frozen=True)
class Failure:
    """What there is instead of a batch: the exception, and where it came from.

    Attributes:
        error: The exception itself, pickled; None when it cannot be.
        kind: The name of its type.
        trace: Its traceback as text.
        index: The batch that was being made.
        worker: The worker's number.
        lost: The worker has no usable Sequence any more.
        stale: The worker needs the whole Sequence again.
    """

    error: bytes | None
    kind: str
    trace: str
    index: int
    worker: int
    lost: bool = False
    stale: bool = False

    @classmethod
    def of(cls, error: BaseException, index: int, worker: int, lost: bool = False) -> Failure:
        """Record an exception. After one that ends a process the worker counts as lost."""
        trace = "".join(traceback.format_exception(error))
        lost = lost or isinstance(error, _ENDINGS)
        stale = isinstance(error, StaleLeafError)
        return cls(_pickled_error(error), type(error).__name__, trace, index, worker, lost, stale)

    def to_exception(self) -> BaseException:
        """Give the exception with a note that says which batch and worker it came from."""
        where = f"while worker {self.worker} made batch {self.index}"
        error: BaseException | None = None
        if self.error is not None:
            # What the worker could read need not be known here.
            with contextlib.suppress(Exception):
                error = pickle.loads(self.error)
        if error is None:
            return RuntimeError(f"{self.kind} {where}, which cannot be sent between processes:\n{self.trace}")
        error = passed_on(error, self.index, f"worker {self.worker}")
        error.add_note(f"raised {where}:\n{self.trace}")
        return error


def passed_on(error: BaseException, index: int, worker: str) -> BaseException:
    """What the caller gets for what `__getitem__` raised in a worker: nearly always the same."""
    if isinstance(error, (StopIteration, GeneratorExit)):
        # Passed on by an iterator it would look like the end of the epoch.
        return RuntimeError(f"__getitem__({index}) raised {type(error).__name__}")
    if isinstance(error, _ENDINGS):
        said = f"{type(error).__name__}: {error}" if error.args else type(error).__name__
        return RuntimeError(f"{worker} was ended by {said}, while it made batch {index}")
    return error


def _pickled_error(error: BaseException) -> bytes | None:
    try:
        pickled = pickle.dumps(error)
        again = pickle.loads(pickled)
        if type(again) is type(error) and str(again) == str(error):
            return pickled
    except Exception:
        # Exceptions with arguments of their own often come back from a pickle broken, or not at all.
        pass
    attributes = {name: value for name, value in vars(error).items() if _can_be_pickled(value)}
    arguments = tuple(value if _can_be_pickled(value) else repr(value) for value in error.args)
    try:
        pickled = pickle.dumps(_Rebuilt(type(error), arguments, attributes))
        pickle.loads(pickled)
    except Exception:
        return None
    return pickled


def _can_be_pickled(value: Any) -> bool:
    try:
        pickle.loads(pickle.dumps(value))
    except Exception:
        return False
    return True


class _Rebuilt:
    """An exception that is made again without its constructor, whose arguments nobody knows."""

    def __init__(self, kind: type[BaseException], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> None:
        self._parts = kind, arguments, attributes

    def __reduce__(self) -> Any:
        return _rebuilt_error, self._parts


def _rebuilt_error(kind: type[BaseException], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *arguments)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


class WorkerView(Dataset[Any]):
    """What the DataLoader takes for its dataset: a Sequence that is asked by tasks.

    Args:
        sequence: The Sequence.
        state: Its state, where it has one.
        new_interpreter: Workers are not forked: they are sent the state.
        version: The number of that state.
        seed: With the epoch and the batch's number, fixes what a batch draws.
        init: The user's `worker_init_fn`.
        collate: What makes tensors of a batch.
        slots: Shared memory for large batches.
        notes: Where each worker notes what it makes.
    """

    def __init__(
        self,
        sequence: BatchSource,
        state: State | None,
        new_interpreter: bool,
        version: int,
        seed: int,
        init: Callable[[int], None] | None,
        collate: Callable[[Any], Any],
        slots: Slots,
        notes: WorkNotes,
    ) -> None:
        self._sequence: Any = sequence
        self._leaves: dict[str, Any] = {} if state is None else state.leaves
        self._parts = state.whole() if state is not None and new_interpreter else None
        self._version = version
        self._seed = seed
        self._init = OwnMethod.of(init, sequence)
        self._collate = collate
        self._slots = slots
        self._notes = notes
        self._sender: Sender | None = None
        self._held: list[Held] = []
        self._worker = 0

    def forget(self) -> None:
        """Let go of the Sequence in the caller's process: the workers have their own."""
        self._sequence, self._leaves, self._parts = None, {}, None

    def __getstate__(self) -> dict[str, Any]:
        kept: dict[str, Any] = {} if self._parts is None else {"_sequence": None, "_leaves": {}}
        return {**self.__dict__, **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._parts is not None:
            self._restore(self._parts)
            self._parts = None

    def __getitem__(self, task: Task) -> Outcome:
        self._notes.begin(self._worker, task.index)
        sender = self._sender = self._sender or Sender(self._slots)
        start = made = time.perf_counter()
        before, lost = sender.fallbacks, True
        try:
            if task.state is not None:
                self._restore(task.state)
                self._version = task.version
                self.enter()
            if task.version != self._version:
                raise RuntimeError(f"a worker holds state {self._version} of the Sequence and not {task.version}")
            lost = False
            batch = self._collate(self._made(task.epoch, task.index))
            made = time.perf_counter()
            result: Message | Failure = sender.pack(batch, task.slot)
        except BaseException as error:
            result = Failure.of(error, task.index, self._worker, lost)
        self._notes.end(self._worker)
        end = time.perf_counter()
        return Outcome(result, task.slot, self._worker, made - start, end - made, sender.fallbacks > before)

    def _made(self, epoch: int, index: int) -> Any:
        """The batch, whose random numbers are fixed."""
        seed_generators(self._seed, epoch, index)
        seed_held(self._held, self._seed, epoch, index)
        batch = checked_batch(self._sequence[index], index)
        if not (new := new_generators(self._sequence, self._held)):
            return batch
        # The first batch of each worker has made a generator and drawn from it, in all workers the same numbers.
        self._held += new
        return self._made(epoch, index)

    def enter(self) -> None:
        """Begin with another Sequence: show it to `get_worker_info()`, call `worker_init_fn`, find its generators."""
        info = get_worker_info()
        first = held_generators(self._sequence)
        if info is not None:
            self._worker = info.id
            # worker_init_fn is promised the user's own dataset, and torch knows only this view of it.
            object.__setattr__(info, "dataset", self._sequence)
            if isinstance(self._init, OwnMethod):
                self._init.call(self._sequence, info.id)
            elif self._init is not None:
                self._init(info.id)
        self._held = held_generators(self._sequence, first)

    def _restore(self, parts: Parts) -> None:
        (self._sequence, class_data), self._leaves = parts.restore(self._leaves)
        for owner, name, value in class_data:
            setattr(owner, name, value)


@dataclass(frozen=True)
class OwnMethod:
    """A method of the Sequence as a `worker_init_fn`: each worker calls it on its own copy.

    Attributes:
        function: The method's function.
        arguments: What a `functools.partial` put before the worker's number.
        keywords: Its keyword arguments.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]

    @classmethod
    def of(cls, function: Any, sequence: Any) -> Any:
        """Give a `worker_init_fn` without its reference to the Sequence; any other function comes back as it is."""
        partial = function if isinstance(function, functools.partial) else functools.partial(function or _nothing)
        method = partial.func
        if getattr(method, "__self__", None) is sequence and hasattr(method, "__func__"):
            return cls(method.__func__, partial.args, partial.keywords)
        return function

    def call(self, sequence: Any, worker: int) -> None:
        """Call it on a worker's own Sequence."""
        self.function(sequence, *self.arguments, worker, **self.keywords)


def _nothing(worker: int) -> None:
    pass


def start_worker(worker: int) -> None:
    """Begin a worker: the `worker_init_fn` of the DataLoader underneath."""
    info = get_worker_info()
    if info is not None and isinstance(info.dataset, WorkerView):
        info.dataset.enter()


def seed_generators(seed: int, epoch: int, index: int) -> None:
    """Fix what torch, NumPy and random draw from now on by (seed, epoch, index)."""
    # This runs once a batch: NumPy's SeedSequence, or more than 32 bits of seed for NumPy, take ten times as long.
    digest = hashlib.blake2b(b"%d,%d,%d" % (seed, epoch, index), digest_size=32).digest()
    # torch.manual_seed would queue work for accelerators that a worker must not touch.
    torch.default_generator.manual_seed(int.from_bytes(digest[:8], "little"))
    random.seed(int.from_bytes(digest[8:16], "little"))
    np.random.seed(int.from_bytes(digest[16:20], "little"))
