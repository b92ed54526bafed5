"""What ranks tell each other beside gradients: one message of one size, whatever it is about.

Whoever speaks names the point of the program where it stands. So ranks that are at different points (one called
another method, or changed its layers) read that of each other and all raise, instead of taking one thing for another
or waiting for what never comes. The messages have a process group of their own, on the CPU: they wait for no
gradients, and a GPU is not waited for.

A message may be *settled later*: its sender goes on, and looks at the answers before it says anything else, or when it
is asked to (`Control.settle`). So nobody waits for it, and still every rank looks at the same point.
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
from typing import Any

import torch
from torch import distributed

from torchkutils._torch_versions import group_timeout

_FORMAT = struct.Struct("<8s24s?qq2d")


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


@dataclass
class Sent:
    """A message that is under way to the other ranks, and what they say at the same point.

    Attributes:
        control: Whose it is.
        point: Where the program stands.
        own: This rank's message.
        problem: This rank's exception.
        unequal: The error's text where contents differ.
        parts: The memory that the messages come into.
        work: The collective operation; None in a group of one, and when it has ended.
    """

    control: Control
    point: str
    own: Message
    problem: Exception | None
    unequal: str
    parts: list[torch.Tensor]
    work: Any

    def answers(self) -> list[Message]:
        """Wait for every rank's message; see `Control.agree`."""
        if self.work is not None:
            self.work.wait()
            self.work = None
        everyone = [Message.of(part.numpy().tobytes()) for part in self.parts] or [self.own]
        if self.problem is not None:
            raise self.problem
        self._check(everyone)
        return everyone

    def _check(self, everyone: list[Message]) -> None:
        elsewhere = _differing([one.point for one in everyone])
        if elsewhere:
            raise RuntimeError(
                f"ranks must do the same things in the same order; rank {self.control.rank} is at {self.point}, and "
                f"rank {elsewhere} at another point than rank 0"
            )
        failed = [str(rank) for rank, one in enumerate(everyone) if one.failed]
        if failed:
            raise RuntimeError(f"{self.point} must succeed on every rank, got an exception on rank {', '.join(failed)}")
        others = _differing([one.content for one in everyone])
        if others:
            raise ValueError(self.unequal.format(ranks=others))


class Control:
    """Lets the ranks of the default process group agree. Made by all of them at once; see `control_of_group`."""

    def __init__(self) -> None:
        self.world: int = distributed.get_world_size()
        self.rank: int = distributed.get_rank()
        self._group: Any = None
        self._unsettled: tuple[Sent, Callable[[list[Message]], None]] | None = None
        if self.world > 1:
            timeout: datetime.timedelta | None = group_timeout()
            self._group = distributed.new_group(backend="gloo", timeout=timeout)

    def agree(
        self,
        point: str,
        *,
        problem: Exception | None = None,
        content: bytes = b"",
        unequal: str = "",
        number: int = 0,
        pair: tuple[float, float] = (0.0, 0.0),
    ) -> list[Message]:
        """Go on only if every rank does, stands at the same point and has the same content.

        Args:
            point: Where the program stands, as messages of errors say it: 'the forward'.
            problem: This rank's exception.
            content: What must be the same on all ranks.
            unequal: The message where it is not, with the ranks that differ from rank 0 in place of `{ranks}`.
            number: Sent to the others.
            pair: Sent to the others.

        Returns:
            Every rank's message, in the order of the ranks.

        Raises:
            Exception: This rank's `problem`.
            RuntimeError: Another rank has one, or stands at another point.
            ValueError: Contents differ.
        """
        return self.send(point, problem=problem, content=content, unequal=unequal, number=number, pair=pair).answers()

    def send(
        self,
        point: str,
        *,
        problem: Exception | None = None,
        content: bytes = b"",
        unequal: str = "",
        number: int = 0,
        changes: int = 0,
        pair: tuple[float, float] = (0.0, 0.0),
    ) -> Sent:
        """As `agree`, without waiting: the caller asks for the answers when it has done its own work."""
        self.settle()
        digest = hashlib.sha256(content).digest()[:24]
        own = Message(_digest_of_point(point), digest, problem is not None, number, changes, pair)
        parts: list[torch.Tensor] = []
        work: Any = None
        if self.world > 1:
            packed = torch.frombuffer(bytearray(own.packed()), dtype=torch.uint8)
            parts = [torch.empty_like(packed) for _ in range(self.world)]
            work = distributed.all_gather(parts, packed, group=self._group, async_op=True)
        return Sent(self, point, own, problem, unequal, parts, work)

    def settle_later(self, sent: Sent, check: Callable[[list[Message]], None]) -> None:
        """Go on; `check` gets the answers before the next message of this rank, or at `settle`."""
        self._unsettled = (sent, check)

    def settle(self) -> None:
        """Wait for the answers that were left for later, and check them.

        Raises:
            Exception: As `agree`, and what the check raises.
        """
        unsettled, self._unsettled = self._unsettled, None
        if unsettled is not None:
            sent, check = unsettled
            check(sent.answers())

    def of_first(self, own: torch.Tensor) -> torch.Tensor:
        """Rank 0's tensor, on the CPU; all ranks have one of the same shape and dtype."""
        first = own.detach().cpu().contiguous().clone()
        if self.world > 1:
            distributed.broadcast(first.view(-1).view(torch.uint8), src=0, group=self._group)
        return first

    def objects(self, own: Any) -> list[Any]:
        """Every rank's object, pickled between them; for what is rare."""
        self.settle()
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


def _differing(values: Sequence[Any]) -> str:
    return ", ".join(str(rank) for rank, value in enumerate(values) if value != values[0])


@functools.cache
def _digest_of_point(point: str) -> bytes:
    return hashlib.sha256(point.encode()).digest()[:8]
