"""Which calls of a trace a picture shows as closed boxes, and the frames of the open modules around them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from torchkutils.models.picture.look import LISTS_OF_MODULES
from torchkutils.models.records import Call, Trace


@dataclass(frozen=True)
class Frame:
    """An open module.

    Attributes:
        key: Its name in the graph.
        module: Index of the module.
        around: The frame that it lies in.
        of_one_call: It, or a frame around it, holds one of several calls of its module.
    """

    key: str
    module: int
    around: Frame | None
    of_one_call: bool

    @property
    def key_prefix(self) -> str:
        """What keys of the boxes inside begin with, where the same module has boxes in other frames too."""
        return f"{self.key}_" if self.of_one_call else ""


@dataclass(frozen=True)
class Place:
    """Where a call is drawn.

    Attributes:
        closed: The outermost closed call around it, or itself; None where all are open.
        frame: The innermost open module around that; None at the top.
        level: How many open modules a module of this call would be below.
    """

    closed: Call | None
    frame: Frame | None
    level: int


class Frames:
    """The places of all calls at one depth.

    Args:
        trace: What ran.
        depth: How many levels are open. `ModuleList` and `ModuleDict` are no level: they are never called.
        rolled: Whether the calls of one module share a box. None: they do where the module holds parameters; the calls
            of a module without any have a box each, where its parent makes several of them in one call.
        closed: Indexes of modules that stay closed at any depth.
    """

    def __init__(self, trace: Trace, depth: int, rolled: bool | None, closed: Container[int]) -> None:
        self._trace, self._depth, self._rolled, self._closed = trace, depth, rolled, closed
        self._numbers = _numbers_within_parents(trace)
        self._holding = _holding_parameters(trace)
        self._places: dict[int | None, Place] = {None: Place(None, None, 0)}
        self.by_key: dict[str, Frame] = {}

    def place_of(self, call: int | None) -> Place:
        """The place of a call; it is found from the model's own call down, since models nest deeper than Python."""
        unknown = []
        while call not in self._places:
            assert call is not None
            unknown.append(call)
            call = self._trace.calls[call].parent
        place = self._places[call]
        for index in reversed(unknown):
            place = self._places[index] = self._inside(place, self._trace.calls[index])
        return place

    def _inside(self, around: Place, call: Call) -> Place:
        """The place of a call that is made at a place."""
        if around.closed is not None:
            return around
        module = self._trace.modules[call.module]
        if module.class_name in LISTS_OF_MODULES and not call.leaf:
            return around
        if call.leaf or around.level >= self._depth or call.module in self._closed:
            return Place(call, around.frame, around.level)
        if call.module == 0:
            return Place(None, None, around.level + 1)
        return Place(None, self._frame(call, around.frame), around.level + 1)

    def _frame(self, call: Call, around: Frame | None) -> Frame:
        suffix = self.suffix_of(call)
        prefix = around.key_prefix if around is not None else ""
        key = f"{prefix}{call.module}{suffix}"
        if key not in self.by_key:
            self.by_key[key] = Frame(key, call.module, around, bool(prefix or suffix))
        return self.by_key[key]

    def number_of(self, call: Call) -> int:
        """Which of its module's boxes a call has: 0 where they share one."""
        if self._rolled or call.module == 0:
            return 0
        if self._rolled is None and call.module in self._holding:
            return 0
        return call.number if self._rolled is False else self._numbers[call.index]

    def suffix_of(self, call: Call) -> str:
        """What tells a call's key from that of another call of the module; empty where they share one."""
        number = self.number_of(call)
        return f"c{number}" if number else ""


def _numbers_within_parents(trace: Trace) -> list[int]:
    """For each call, how many calls of its module the same call of the parent made before it."""
    seen: dict[tuple[int, int | None], int] = {}
    numbers = []
    for call in trace.calls:
        key = call.module, call.parent
        numbers.append(seen.get(key, 0))
        seen[key] = numbers[-1] + 1
    return numbers


def _holding_parameters(trace: Trace) -> set[int]:
    """The modules that hold parameters, or a module that does."""
    holding: set[int] = set()
    for module in reversed(trace.modules):
        if module.parameters or any(child in holding for child in module.children):
            holding.add(module.index)
            if module.same_as is not None:
                holding.add(module.same_as)
        if module.same_as is not None and module.same_as in holding:
            holding.add(module.index)
    return holding
