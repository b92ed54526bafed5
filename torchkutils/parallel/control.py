"""What ranks tell each other beside gradients: one message of one size, whatever it is about.

Whoever speaks names the point of the program where it stands. So ranks that are at different points (one called
another method, or changed its layers) read that of each other and all raise, instead of taking one thing for another
or waiting for what never comes. The messages have a process group of their own, on the CPU: they wait for no
gradients, and a GPU is not waited for.

Every rank waits for the messages of all others, but only where it would wait for them anyway: before a collective
operation, or while the last gradients of a backward pass travel. So a rank that is elsewhere is an error on every rank,
and nobody waits in a collective operation for one that never comes to it.
"""

from __future__ import annotations

import atexit
import datetime
import functools
import hashlib
import struct
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed

from torchkutils._torch_versions import gathering, group_timeout

_FORMAT = struct.Struct("<8s24s?qq2d")
_NOTHING = bytes(24)
T = TypeVar("T")


@dataclass(frozen=True)
class Message:
    """What one rank says.

    Attributes:
        point: A digest of the point of the program.
        content: A digest of what must be the same on all ranks.
        failed: Whether the rank has an exception.
        number: A number for the others.
        changes: What changed since the last such message, as a number; see `ParameterChecks`.
        pair: Two more, for which rounding is allowed.
    """

    point: bytes
    content: bytes
    failed: bool
    number: int
    changes: int
    pair: tuple[float, float]

    def packed(self) -> bytes:
        """The message as bytes, always equally many."""
        return _FORMAT.pack(self.point, self.content, self.failed, self.number, self.changes, *self.pair)

    @classmethod
    def of(cls, packed: bytes) -> Message:
        """A message out of its bytes."""
        point, content, failed, number, changes, one, two = _FORMAT.unpack(packed)
        return cls(point, content, failed, number, changes, (one, two))


class Control:
    """Lets the ranks of the default process group agree. Made by all of them at once; see `control_of_group`."""

    def __init__(self) -> None:
        self.world: int = distributed.get_world_size()
        self.rank: int = distributed.get_rank()
        self._group: Any = None
        # The memory of all messages: each is read before the next one is sent.
        self._packed = bytearray(_FORMAT.size)
        self._own = torch.frombuffer(self._packed, dtype=torch.uint8)
        self._everyone = torch.empty((self.world, _FORMAT.size), dtype=torch.uint8)
        self._rows = list(self._everyone)
        if self.world > 1:
            timeout: datetime.timedelta | None = group_timeout()
            self._group = distributed.new_group(backend="gloo", timeout=timeout)

    def agree(
        self,
        point: str,
        *,
        problem: Exception | None = None,
        content: bytes = b"",
        unequal: str = "ranks must run the same, got something else than rank 0's on rank {ranks}",
        number: int = 0,
        changes: int = 0,
        pair: tuple[float, float] = (0.0, 0.0),
        meanwhile: Callable[[], None] | None = None,
    ) -> list[Message]:
        """Go on only if every rank does, stands at the same point and has the same content.

        Args:
            point: Where the program stands, as messages of errors say it: 'the forward'.
            problem: This rank's exception.
            content: What must be the same on all ranks.
            unequal: The message where it is not, with the ranks that differ from rank 0 in place of `{ranks}`.
            number: Sent to the others.
            changes: Sent to the others.
            pair: Sent to the others.
            meanwhile: What this rank does while the messages travel.

        Returns:
            Every rank's message, in the order of the ranks.

        Raises:
            Exception: This rank's `problem`.
            RuntimeError: Another rank has one, or stands at another point.
            ValueError: Contents differ.
        """
        own = Message(_digest(point), _digest_of(content), problem is not None, number, changes, pair)
        try:
            everyone = self._exchanged(own, meanwhile)
        except RuntimeError as error:
            error.add_note(
                f"rank {self.rank} was at {point}, and another rank did not come to it: it ended, or runs another "
                "number of steps (torch.distributed.algorithms.join.Join allows that)"
            )
            raise
        if problem is not None:
            raise problem
        self._check(point, everyone)
        others = _differing([one.content for one in everyone])
        if others:
            raise ValueError(unequal.format(ranks=others))
        return everyone

    def _exchanged(self, own: Message, meanwhile: Callable[[], None] | None) -> list[Message]:
        if self.world == 1:
            if meanwhile is not None:
                meanwhile()
            return [own]
        self._packed[:] = own.packed()
        work = gathering(self._group, self._rows, self._own)
        if meanwhile is not None:
            meanwhile()
        work.wait()
        packed = self._everyone.numpy().tobytes()
        size = _FORMAT.size
        return [Message.of(packed[start : start + size]) for start in range(0, len(packed), size)]

    def _check(self, point: str, everyone: Sequence[Message]) -> None:
        elsewhere = _differing([one.point for one in everyone])
        if elsewhere:
            raise RuntimeError(
                f"ranks must do the same things in the same order; rank {self.rank} is at {point}, and "
                f"rank {elsewhere} at another point than rank 0"
            )
        failed = [str(rank) for rank, one in enumerate(everyone) if one.failed]
        if failed:
            raise RuntimeError(f"{point} must succeed on every rank, got an exception on rank {', '.join(failed)}")

    def of_first(self, own: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor, on the CPU; all ranks have one of the same shape and dtype."""
        first = own.detach().cpu().contiguous().clone()
        if self.world > 1:
            distributed.broadcast(first.view(-1).view(torch.uint8), src=0, group=self._group)
        return first

    def objects(self, own: Any) -> list[Any]:
        """Every rank's object, pickled between them; for what is rare."""
        everyone: list[Any] = [None] * self.world
        if self.world == 1:
            return [own]
        distributed.all_gather_object(everyone, own, group=self._group)
        return everyone


# The control of the living default process group: a group costs threads and connections, and all ranks must make it at
# once, so it does not go with the models that use it.
_current: list[tuple[weakref.ref[Any], Control]] = []
# Before the interpreter takes modules apart: a group's threads would outlive what they call.
atexit.register(_current.clear)


def control_of_group() -> Control:
    """The one of the default process group; called by every rank at the same point."""
    world = distributed.group.WORLD
    if not _current or _current[0][0]() is not world:
        _current[:] = [(weakref.ref(world), Control())]
    return _current[0][1]


def attempt(work: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """What `work` gives, or its exception: to be told to the others before it is raised."""
    try:
        return work(), None
    except Exception as error:
        return None, error


def _differing(values: Sequence[Any]) -> str:
    return ", ".join(str(rank) for rank, value in enumerate(values) if value != values[0])


@functools.cache
def _digest(point: str) -> bytes:
    return hashlib.sha256(point.encode()).digest()[:8]


def _digest_of(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()[:24] if content else _NOTHING
