"""Where tensors come from during one forward: points of the data flow, and arrows by provenance."""

from __future__ import annotations

import weakref
from typing import Any

import torch

from torchkutils.models.records import Edge, Node, NodeKind, Value
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import Descriptions, named_tensors, storage_of, tensors_of

_HELD = ("parameter", "buffer", "constant")
_SWEPT_EVERY = 256


class DataFlow:
    """The points and arrows of one forward.

    A tensor is told by its identity (a weak reference guards against reuse of the number) and by the last function
    that wrote to its storage, so that arrows are right through in-place work, views and item assignment.

    Attributes:
        points: What makes or takes tensors, in order of execution.
        arrows: How often a tensor (target, source, position in the source's output) was taken.
        made: By identity, what made a tensor: a weak reference, the point, its position there, when.
        written: By storage, what wrote to it last: the point, the position, when.
        homes: Functions that belong to a leaf call, with the point of that call.
        box: The point of a call that was to be one box and calls another module: what it made is not known apart.
    """

    def __init__(self, tree: ModuleTree, describe: Descriptions) -> None:
        self.tree, self.describe = tree, describe
        self.points: list[Node] = []
        self.arrows: dict[tuple[int, int, int], int] = {}
        self.made: dict[int, tuple[weakref.ref[torch.Tensor], int, int, int]] = {}
        self.written: dict[int, tuple[int, int, int]] = {}
        self.homes: dict[int, int] = {}
        self.box: int | None = None
        self.clock = 0
        self._glanced = False
        self._swept_at = _SWEPT_EVERY

    def add(self, kind: NodeKind, name: str, call: int | None, output: Value | None, joins: bool = False) -> int:
        """A new point."""
        point = len(self.points)
        self.points.append(Node(point, kind, name, call, output, joins))
        return point

    def give(self, point: int, output: Value) -> None:
        """What a point gives is known now."""
        node = self.points[point]
        self.points[point] = Node(point, node.kind, node.name, node.call, output, node.joins)

    def add_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]) -> None:
        """The model's own inputs, a point each."""
        for position, value in enumerate(args):
            self._add_input(names[position] if position < len(names) else f"input[{position}]", value)
        for name, value in kwargs.items():
            self._add_input(name, value)

    def _add_input(self, name: str, value: Any) -> None:
        if tensors_of(value):
            self.made_by(value, self.add("input", name, None, self.describe.of(value)))

    def add_outputs(self, output: Any) -> None:
        """The model's own outputs, a point for each tensor."""
        self.box = None
        for name, tensor in list(named_tensors(output, "output")):
            source = self.source(tensor)
            self.reach(self.add("output", name, None, self.describe.of(tensor)), [source])

    def made_by(self, value: Any, point: int) -> None:
        """The tensors of a value came from here."""
        for position, tensor in enumerate(tensors_of(value)):
            self.note(tensor, point, position)

    def note(self, tensor: torch.Tensor, point: int, position: int) -> None:
        """This tensor came from here, as the point's tensor of this number."""
        self.clock += 1
        if len(self.made) >= self._swept_at:
            # Most tensors are gone soon: what is known of them need not pile up.
            self.made = {key: entry for key, entry in self.made.items() if entry[0]() is not None}
            self._swept_at = 2 * len(self.made) + _SWEPT_EVERY
        self.made[id(tensor)] = (weakref.ref(tensor), point, position, self.clock)

    def written_by(self, tensor: torch.Tensor, point: int) -> None:
        """What lies in a tensor came from here."""
        self.clock += 1
        self.written[storage_of(tensor)] = (point, 0, self.clock)

    def looked_at(self, tensor: torch.Tensor, base: torch.Tensor) -> None:
        """A property of a tensor gave this one: `x.mT`, `x.data`, `x.real` come from where x does."""
        if tensor is not base and storage_of(tensor) == storage_of(base):
            # Nothing may ever take it.
            self._glanced = True
            self.note(tensor, *self.source(base))

    def source(self, tensor: torch.Tensor) -> tuple[int, int]:
        """The point that made or last wrote this tensor; a new one for what came from nowhere."""
        entry = self.made.get(id(tensor))
        if entry is not None and entry[0]() is not tensor:
            entry = None
        wrote = self.written.get(storage_of(tensor)) if self.written else None
        if entry is not None and (wrote is None or wrote[2] <= entry[3]):
            return entry[1], entry[2]
        if wrote is not None:
            return wrote[0], wrote[1]
        name = self.tree.tensor_name(tensor)
        if name is None and self.box is not None:
            return self.box, 0
        kind: NodeKind = "constant"
        if name is not None:
            kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
        point = self.add(kind, name or "constant", None, self.describe.of(tensor))
        self.note(tensor, point, 0)
        return point, 0

    def reach(self, point: int, sources: list[tuple[int, int]]) -> None:
        """Tensors from these points, each with its position there, arrived here."""
        for source, position in sources:
            key = (point, source, position)
            self.arrows[key] = self.arrows.get(key, 0) + 1

    def computed(self, source: int) -> bool:
        """Whether a point is more than something that a module holds."""
        return self.points[source].kind not in _HELD

    def finished(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        """Nodes and edges; functions that ran inside a leaf are folded into the leaf's own node."""
        arrows = self._folded() if self.homes else self.arrows
        nodes = self.points
        if self.homes or self._glanced:
            used = {source for _, source, _ in arrows}
            kept = [n for n in nodes if n.index not in self.homes and (n.kind not in _HELD or n.index in used)]
            new = {node.index: position for position, node in enumerate(kept)}
            nodes = [Node(new[n.index], n.kind, n.name, n.call, n.output, n.joins) for n in kept]
            arrows = {(new[t], new[s], p): count for (t, s, p), count in arrows.items() if s in new and t in new}
        edges = [Edge(key[1], key[0], key[2], arrows[key]) for key in sorted(arrows)]
        return tuple(nodes), tuple(edges)

    def _folded(self) -> dict[tuple[int, int, int], int]:
        """The arrows once each function inside a leaf stands for the leaf."""
        leaves = set(self.homes.values())
        arrows: dict[tuple[int, int, int], int] = {}
        for (target, source, position), count in self.arrows.items():
            begin, end = self.homes.get(source, source), self.homes.get(target, target)
            own = end in leaves and target in self.homes and not self.computed(source)
            if begin != end and not own:
                arrows[end, begin, position] = max(arrows.get((end, begin, position), 0), count)
        return arrows
