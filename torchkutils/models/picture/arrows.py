"""Arrows between boxes: where the tensors that a box takes come from, through what the picture does not show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torchkutils.models.picture.boxes import Arrow, Box
from torchkutils.models.records import Edge, Node, Trace

# A box, and the number of the call that it gave a tensor in; -1 for what is no call.
_Origin: TypeAlias = tuple[str, int]


class Arrows:
    """For each node of a trace the boxes that its tensors come from.

    Args:
        trace: What ran.
        incoming: The edges that lead to each node.
    """

    def __init__(self, trace: Trace, incoming: Mapping[int, list[Edge]]) -> None:
        self._trace, self._incoming = trace, incoming
        self._origins: dict[int, tuple[_Origin, ...]] = {}
        # The box of each node that has one.
        self._own: dict[int, _Origin] = {}

    def starts_at(self, node: Node, key: str, call: int) -> None:
        """A node has a box."""
        self._own[node.index] = (key, call)
        self._origins[node.index] = ((key, call),)

    def leads_back_to(self, node: Node, origins: tuple[_Origin, ...]) -> None:
        """A node is looked through to the boxes before it."""
        self._origins[node.index] = origins

    def is_hidden(self, node: Node) -> None:
        """No arrow comes from a node."""
        self._origins[node.index] = ()

    def knows(self, node: Node) -> bool:
        """Whether one of these has been said of a node."""
        return node.index in self._origins

    def origins_of(self, node: Node) -> tuple[_Origin, ...]:
        """The boxes that a node's tensors come from, each once."""
        edges = self._incoming.get(node.index, [])
        return tuple(dict.fromkeys(origin for edge in edges for origin in self._origins.get(edge.source, ())))

    def boxes_of_outputs(self) -> set[str]:
        """The boxes that the model's outputs come from."""
        outputs = [node for node in self._trace.nodes if node.kind == "output"]
        return {key for node in outputs for key, _ in self.origins_of(node)}

    def between(self, boxes: Mapping[str, Box]) -> list[Arrow]:
        """The arrows; what two boxes exchange in each of several calls counts once, as the boxes do."""
        counts: dict[tuple[str, str, bool], dict[tuple[int, int], int]] = {}
        entered: set[tuple[_Origin, int, int]] = set()
        for node in self._trace.nodes:
            if node.index not in self._own:
                continue
            key, call = own = self._own[node.index]
            inside_closed = (
                call >= 0 and boxes[key].kind == "module" and not (node.kind == "call" and node.call == call)
            )
            for edge in self._incoming.get(node.index, []):
                taken = edge.count
                if inside_closed:
                    # A closed module is given a tensor once, however many inside it take it.
                    taken = int((own, edge.source, edge.tensor) not in entered)
                    entered.add((own, edge.source, edge.tensor))
                if taken:
                    self._count(edge, own, taken, counts)
        return [
            Arrow(source, target, _merged(boxes[source], boxes[target], calls), guessed)
            for (source, target, guessed), calls in counts.items()
        ]

    def _count(
        self, edge: Edge, own: _Origin, taken: int, counts: dict[tuple[str, str, bool], dict[tuple[int, int], int]]
    ) -> None:
        for origin in self._origins.get(edge.source, ()):
            if origin != own:
                calls = counts.setdefault((origin[0], own[0], edge.guessed), {})
                calls[origin[1], own[1]] = calls.get((origin[1], own[1]), 0) + taken


def _merged(source: Box, target: Box, calls: Mapping[tuple[int, int], int]) -> int:
    repeated = len(source.calls) > 1 and len(target.calls) > 1
    return max(calls.values()) if repeated else sum(calls.values())
