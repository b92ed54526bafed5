"""The nodes and edges of the data flow of one forward, while it runs."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable
from typing import TypeAlias

from torchkutils.models.records import Edge, Node, NodeKind, Value

Source: TypeAlias = tuple[int, int]
"""A node, and which of the tensors in its output is meant."""

_HELD = frozenset(["parameter", "buffer", "constant"])
# How many of the newest nodes are looked at for one that a tensor of unknown origin may come from.
_LOOKED_BACK = 100


class DataFlow:
    """The nodes and edges of one forward.

    Attributes:
        some_may_be_unused: A node may have been added that nothing takes: such nodes are looked for at the end.
    """

    def __init__(self) -> None:
        self.some_may_be_unused = False
        self._nodes: list[Node] = []
        # How often a target took a tensor: by (target, source, number of the tensor in the source's output).
        self._counts: collections.defaultdict[tuple[int, int, int], int] = collections.defaultdict(int)
        # The edges that nobody observed.
        self._guessed: set[tuple[int, int, int]] = set()
        # Functions that are shown as part of a leaf call, with the node of that call.
        self._folded_into: dict[int, int] = {}
        # Nodes that something took.
        self._used: set[int] = set()

    def add(self, kind: NodeKind, name: str, call: int | None, output: Value | None, joins: bool = False) -> int:
        """Add a node and give its index."""
        node = len(self._nodes)
        self._nodes.append(Node(node, kind, name, call, output, joins))
        return node

    def add_edges(self, target: int, sources: Iterable[Source]) -> None:
        """A node took tensors from these sources."""
        for source, position in sources:
            self._counts[target, source, position] += 1
            self._used.add(source)

    def add_edge_once(self, target: int, source: Source) -> None:
        """A node took a tensor from this source, perhaps as one that is known already."""
        self._counts.setdefault((target, *source), 1)
        self._used.add(source[0])

    def guess_edges(self, target: int, sources: Iterable[Source]) -> None:
        """A node may have taken tensors from these sources."""
        for source, position in sources:
            if source < target:
                key = (target, source, position)
                self._counts.setdefault(key, 1)
                self._guessed.add(key)

    def set_output(self, node: int, output: Value) -> None:
        """Describe the output of a node, once it is known."""
        old = self._nodes[node]
        self._nodes[node] = Node(node, old.kind, old.name, old.call, output, old.joins)

    def set_untraced(self, node: int, name: str, call: int | None, sources: Iterable[Source]) -> None:
        """A constant turns out to be the result of work that nobody saw, on data that may come from these sources."""
        self._nodes[node] = Node(node, "function", name, call, self._nodes[node].output, untraced=True)
        self.guess_edges(node, sources)

    def mark_untraced(self, node: int, sources: Iterable[Source]) -> None:
        """A function may have taken data from these sources in a way that nobody saw."""
        self._nodes[node] = dataclasses.replace(self._nodes[node], untraced=True)
        self.guess_edges(node, sources)

    def is_constant(self, node: int) -> bool:
        """Whether a node stands for a tensor that nothing made, and that no module holds."""
        return self._nodes[node].kind == "constant"

    def fold(self, functions: Iterable[int], node: int) -> None:
        """Show these functions as part of the leaf call that this node stands for."""
        self._folded_into.update(dict.fromkeys(functions, node))

    def is_computed(self, node: int) -> bool:
        """Whether a node is more than a tensor that a module holds."""
        return self._nodes[node].kind not in _HELD

    def call_of(self, node: int) -> int | None:
        """The call that a node is, or lies in."""
        return self._nodes[node].call

    def newest_unused(self) -> list[Source]:
        """The newest nodes that nothing took so far; the newest of all where there are none."""
        computed = [node for node in self._nodes[-_LOOKED_BACK:] if node.kind not in _HELD]
        unused = [node for node in computed if node.index not in self._used and node.kind != "output"]
        return [(node.index, 0) for node in unused or computed[-1:]]

    def finished(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        """All nodes and edges; functions that ran inside a leaf call are part of that call's node."""
        if self._folded_into:
            self._fold_edges()
        if self._folded_into or self.some_may_be_unused:
            self._drop_unneeded()
        edges = [Edge(key[1], key[0], key[2], self._counts[key], key in self._guessed) for key in sorted(self._counts)]
        return tuple(self._nodes), tuple(edges)

    def _fold_edges(self) -> None:
        """Edges of functions inside a leaf call become those of the call; edges between such functions go."""
        folded = self._folded_into
        counts: collections.defaultdict[tuple[int, int, int], int] = collections.defaultdict(int)
        for (target, source, position), count in self._counts.items():
            begin, end = folded.get(source, source), folded.get(target, target)
            takes_held_tensor = target in folded and not self.is_computed(source)
            if begin != end and not takes_held_tensor:
                counts[end, begin, position] = max(counts[end, begin, position], count)
        self._counts = counts

    def _drop_unneeded(self) -> None:
        """Leave out functions that are part of a leaf call and held tensors that nothing took; renumber the rest."""
        used = {source for _, source, _ in self._counts}
        kept = [node for node in self._nodes if self._is_needed(node, used)]
        new = {node.index: position for position, node in enumerate(kept)}
        self._nodes = [Node(new[n.index], n.kind, n.name, n.call, n.output, n.joins, n.untraced) for n in kept]
        before, guessed = self._counts, self._guessed
        self._counts, self._guessed = collections.defaultdict(int), set()
        for (target, source, position), count in before.items():
            if source not in new or target not in new:
                continue
            key = (new[target], new[source], position)
            self._counts[key] = count
            if (target, source, position) in guessed:
                self._guessed.add(key)

    def _is_needed(self, node: Node, used: set[int]) -> bool:
        return node.index not in self._folded_into and (node.kind not in _HELD or node.index in used)
