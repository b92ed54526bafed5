"""The worker's side of a SequenceLoader: it makes batches with the Sequence as it was when the epoch began.

Workers that stay alive hold a copy of the Sequence. What the caller's process changed since is sent to them as a
pickle, together with the first batch number of the epoch. What does not fit into a pickle of moderate size cannot be
sent; the loader then starts new workers.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info

from torchkutils.data.parcel import LimitedBytes, NotSendableError
from torchkutils.data.sequence import Sequence, checked_batch


@dataclass(frozen=True)
class Task:
    """One batch to make.

    Attributes:
        epoch: The epoch's number.
        index: The batch's number.
        version: Which state of the Sequence it belongs to.
        state: That state, when the worker has not had it yet.
    """

    epoch: int
    index: int
    version: int
    state: bytes | None


@dataclass(frozen=True)
class Failure:
    """What a worker sends instead of a batch: the exception, and where it came from.

    Attributes:
        error: The exception itself, pickled; None when it cannot be.
        kind: The name of its type.
        trace: Its traceback as text.
        index: The batch that was being made.
        worker: The worker's number.
        lost: True when the worker has no usable Sequence any more.
    """

    error: bytes | None
    kind: str
    trace: str
    index: int
    worker: int
    lost: bool

    def to_exception(self) -> BaseException:
        """Give the exception with a note that says which batch and worker it came from."""
        where = f"while worker {self.worker} made batch {self.index}"
        if self.error is None:
            return RuntimeError(f"{self.kind} {where}, which cannot be sent between processes:\n{self.trace}")
        error: BaseException = pickle.loads(self.error)
        if isinstance(error, StopIteration):
            # Passed on by an iterator it would look like the end of the epoch.
            error = RuntimeError(f"__getitem__({self.index}) raised StopIteration")
        error.add_note(f"raised {where}:\n{self.trace}")
        return error


def sendable_state(sequence: Sequence, limit: int) -> bytes | None:
    """Pickle a Sequence and the data on its classes, if that takes at most `limit` bytes and nothing is shared memory.

    Nothing of the caller's changes: unlike `multiprocessing`'s pickles, these move no tensor into shared memory.
    """
    sink = LimitedBytes(limit)
    try:
        _StatePickler(sink, limit).dump((sequence, _class_data(type(sequence))))
    except Exception:
        # Whatever a class of the user's raises when it is pickled, new workers are the way to go.
        return None
    return sink.getvalue()


def _class_data(kind: type) -> list[tuple[type, str, Any]]:
    """Lists, dicts and the like that lie on the class and can be edited through an instance all the same."""
    classes = kind.__mro__[: kind.__mro__.index(Sequence)]
    mutable = (list, dict, set, bytearray, np.ndarray, torch.Tensor)
    return [
        (owner, name, value)
        for owner in classes
        for name, value in vars(owner).items()
        if not name.startswith("__") and isinstance(value, mutable)
    ]


class _StatePickler(pickle.Pickler):
    """Pickles values; refuses early what is large, and what lives in memory that others can write to."""

    def __init__(self, sink: io.BytesIO, limit: int) -> None:
        super().__init__(sink, protocol=pickle.HIGHEST_PROTOCOL)
        self._limit = limit

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            shared: bool = value.is_shared()  # type: ignore[no-untyped-call]
            if value.device.type != "cpu" or shared or value.numel() * value.element_size() > self._limit:
                raise NotSendableError("a large or shared tensor")
        elif isinstance(value, np.ndarray):
            base = value
            while isinstance(base, np.ndarray) and base.base is not None:
                base = base.base
            if not isinstance(base, (np.ndarray, bytes, torch.Tensor)) or value.nbytes > self._limit:
                raise NotSendableError("a large or shared array")
        return NotImplemented


class WorkerView(Dataset[Any]):
    """What the DataLoader takes for its dataset: a Sequence that is asked by tasks.

    Args:
        sequence: The Sequence.
        state: Its pickle, where it has one; a worker that is spawned is sent this.
        version: The number of that state.
        seed: With the epoch and the batch's number, fixes what a batch draws.
        init: The user's `worker_init_fn`.
    """

    def __init__(
        self, sequence: Sequence, state: bytes | None, version: int, seed: int, init: Callable[[int], None] | None
    ) -> None:
        self._sequence = sequence
        self._state = state
        self._version = version
        self._seed = seed
        self._init = init

    def forget(self) -> None:
        """Let go of the Sequence in the caller's process: the workers have their own."""
        del self._sequence

    def __getstate__(self) -> dict[str, Any]:
        sequence = self._sequence if self._state is None else None
        return {**self.__dict__, "_sequence": sequence}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._state is not None:
            self._sequence = _restored(self._state)

    def __getitem__(self, task: Task) -> Any:
        lost = True
        try:
            if task.state is not None:
                self._sequence, self._version = _restored(task.state), task.version
                self.enter()
            if task.version != self._version:
                raise RuntimeError(f"a worker holds state {self._version} of the Sequence and not {task.version}")
            lost = False
            seed_generators(self._seed, task.epoch, task.index)
            return checked_batch(self._sequence[task.index], task.index)
        except Exception as error:
            return _failure(error, task.index, lost)

    def enter(self) -> None:
        """Show the worker's Sequence to `get_worker_info()` and call the user's `worker_init_fn`."""
        info = get_worker_info()
        if info is None:
            return
        # worker_init_fn is promised the user's own dataset, and torch knows only this view of it.
        object.__setattr__(info, "dataset", self._sequence)
        if self._init is not None:
            self._init(info.id)


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


def _restored(state: bytes) -> Sequence:
    sequence, class_data = pickle.loads(state)
    for owner, name, value in class_data:
        setattr(owner, name, value)
    result: Sequence = sequence
    return result


def _failure(error: Exception, index: int, lost: bool) -> Failure:
    info = get_worker_info()
    trace = "".join(traceback.format_exception(error))
    try:
        pickled: bytes | None = pickle.dumps(error)
        pickle.loads(pickled or b"")
    except Exception:
        # Exceptions with arguments of their own often come back from a pickle broken, or not at all.
        pickled = None
    return Failure(pickled, type(error).__name__, trace, index, info.id if info else 0, lost)
