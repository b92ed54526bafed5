"""What ranks tell each other beside gradients: one message of one size, whatever it is about.

Whoever speaks names the point of the program where it stands. So ranks that are at different points (one called
another method, or changed its layers) read that of each other and all raise, instead of taking one thing for another
or waiting for what never comes. The messages have a process group of their own, on the CPU: they wait for no
gradients, and a GPU is not waited for.
"""

from __future__ import annotations

import atexit
import datetime
import hashlib
import struct
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed

from torchkutils._torch_versions import group_timeout

_FORMAT = "<8s24s?q2d"


@dataclass(frozen=True)
class Message:
    """What one rank says.

    Attributes:
        point: A digest of the point of the program.
        content: A digest of what must be the same on all ranks.
        failed: Whether the rank has an exception.
        number: A number for the others.
        pair: Two more, for which rounding is allowed.
    """

    point: bytes
    content: bytes
    failed: bool
    number: int
    pair: tuple[float, float]


class Control:
    """Lets the ranks of the default process group agree. Made by all of them at once; see `control_of_group`."""

    def __init__(self) -> None:
        self.world: int = distributed.get_world_size()
        self.rank: int = distributed.get_rank()
        self._group: Any = None
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
        digests = [hashlib.sha256(data).digest() for data in (point.encode(), content)]
        everyone = self._all(Message(digests[0][:8], digests[1][:24], problem is not None, number, pair))
        if problem is not None:
            raise problem
        elsewhere = _differing([one.point for one in everyone])
        if elsewhere:
            raise RuntimeError(
                f"ranks must do the same things in the same order; rank {self.rank} is at {point}, and rank "
                f"{elsewhere} at another point than rank 0"
            )
        failed = [str(rank) for rank, one in enumerate(everyone) if one.failed]
        if failed:
            raise RuntimeError(f"{point} must succeed on every rank, got an exception on rank {', '.join(failed)}")
        others = _differing([one.content for one in everyone])
        if others:
            raise ValueError(unequal.format(ranks=others))
        return everyone

    def _all(self, message: Message) -> list[Message]:
        if self.world == 1:
            return [message]
        packed = struct.pack(_FORMAT, message.point, message.content, message.failed, message.number, *message.pair)
        own = torch.frombuffer(bytearray(packed), dtype=torch.uint8)
        parts = [torch.empty_like(own) for _ in range(self.world)]
        distributed.all_gather(parts, own, group=self._group)
        found = [struct.unpack(_FORMAT, part.numpy().tobytes()) for part in parts]
        return [
            Message(point, content, failed, number, (one, two)) for point, content, failed, number, one, two in found
        ]

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


def _differing(values: Sequence[Any]) -> str:
    return ", ".join(str(rank) for rank, value in enumerate(values) if value != values[0])
