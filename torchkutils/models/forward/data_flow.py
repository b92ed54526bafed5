"""Where tensors come from during one forward: the nodes and edges of the data flow, by provenance."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch

from torchkutils._torch_versions import is_memory_of_others, untransformed
from torchkutils.models.forward.call_stack import RunningCall
from torchkutils.models.records import Edge, Node, NodeKind, Value
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import Descriptions, all_tensors_of, named_tensors, storage_of

Source: TypeAlias = tuple[int, int]
"""A node, and which of the tensors in its output is meant."""

_HELD = ("parameter", "buffer", "constant")
_THROUGH_NUMPY = "not traced through NumPy"
_SWEPT_EVERY = 256
# How far back the nodes are looked through for one that an unknown tensor may come from.
_LOOKED_BACK = 100


class DataFlow:
    """The nodes and edges of one forward.

    A tensor is known by its identity (a weak reference shows when the number is used again) and by the function that
    wrote to its storage last, so that edges are right through in-place functions, views and item assignment.
    """

    def __init__(self, tree: ModuleTree, describe: Descriptions) -> None:
        self._tree, self._describe = tree, describe
        self._nodes: list[Node] = []
        # How often a target took a tensor: by (target, source, number of the tensor in the source's output).
        self._counts: dict[tuple[int, int, int], int] = {}
        # By identity of a tensor: a weak reference to it, its source, and the time when that was noted.
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], int, int, int]] = {}
        # By storage: the source that wrote to it last, and when.
        self._written: dict[int, tuple[int, int, int]] = {}
        # Functions that are shown as part of a leaf call, with the node of that call.
        self._folded_into: dict[int, int] = {}
        # Nodes that something took.
        self._used: set[int] = set()
        # Tensors of unknown origin, by weak reference; the call and the node of each, and where it may come from.
        self._unknown: list[tuple[weakref.ref[torch.Tensor], int | None, int | None, list[Source], str]] = []
        # What was handed to NumPy or Python, and by which function.
        self._left: list[Source] = []
        self._guessed: set[tuple[int, int, int]] = set()
        self._clock = 0
        self._some_may_be_unused = False
        self._sweep_at = _SWEPT_EVERY

    # -- nodes -----------------------------------------------------------------------------------------------------

    def add(self, kind: NodeKind, name: str, call: int | None, output: Value | None, joins: bool = False) -> int:
        """Add a node and give its index."""
        node = len(self._nodes)
        self._nodes.append(Node(node, kind, name, call, output, joins))
        return node

    def set_output(self, node: int, output: Value) -> None:
        """Describe what a node gives, once that is known."""
        old = self._nodes[node]
        self._nodes[node] = Node(node, old.kind, old.name, old.call, output, old.joins)

    def add_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]) -> None:
        """Add a node for each argument of the model that holds tensors."""
        for position, value in enumerate(args):
            self._add_input(names[position] if position < len(names) else f"input[{position}]", value)
        for name, value in kwargs.items():
            self._add_input(name, value)

    def _add_input(self, name: str, value: Any) -> None:
        if all_tensors_of(value):
            self.set_sources(value, self.add("input", name, None, self._describe.of(value)))

    def add_outputs(self, output: Any) -> None:
        """Add a node for each tensor that the model returned."""
        for name, tensor in named_tensors(output, "output"):
            source = self.source(tensor, call=0)
            self.add_edges(self.add("output", name, None, self._describe.of(tensor)), [source])

    def fold(self, functions: Iterable[int], node: int) -> None:
        """Show these functions as part of the leaf call that this node stands for."""
        self._folded_into.update(dict.fromkeys(functions, node))

    # -- where tensors come from -----------------------------------------------------------------------------------

    def set_sources(self, value: Any, node: int) -> None:
        """The tensors of a value come from this node, numbered from left to right."""
        for position, tensor in enumerate(all_tensors_of(value)):
            self.set_source(tensor, node, position)

    def set_source(self, tensor: torch.Tensor, node: int, position: int) -> None:
        """A tensor comes from this node, as the tensor of this number in its output."""
        self._clock += 1
        if len(self._made) >= self._sweep_at:
            # Most tensors live for a short time: forget those that are gone.
            self._made = {key: entry for key, entry in self._made.items() if entry[0]() is not None}
            self._sweep_at = 2 * len(self._made) + _SWEPT_EVERY
        self._made[id(tensor)] = (weakref.ref(tensor), node, position, self._clock)
        if self._describe.transformed and (inner := untransformed(tensor)) is not tensor:
            # What leaves a transform is the tensor inside, or a view of it.
            self._made[id(inner)] = (weakref.ref(inner), node, position, self._clock)
            self._written[storage_of(inner)] = (node, position, self._clock)

    def set_writer(self, tensor: torch.Tensor, node: int) -> None:
        """What the storage of a tensor holds was written by this node."""
        self._clock += 1
        self._written[storage_of(tensor)] = (node, 0, self._clock)

    def move_writes(self, tensors: Sequence[torch.Tensor], call: int, node: int) -> None:
        """What functions of a leaf call wrote into these tensors was written by the node of the call."""
        for tensor in tensors if self._written else ():
            storage = storage_of(tensor)
            entry = self._written.get(storage)
            if entry is not None and self._nodes[entry[0]].call == call:
                self._written[storage] = (node, 0, self._clock)

    def add_view(self, tensor: torch.Tensor, base: torch.Tensor) -> None:
        """A property of a tensor gave this one: `x.mT`, `x.data` and `x.real` come from where x comes from."""
        if tensor is not base and storage_of(tensor) == storage_of(base):
            self._some_may_be_unused = True
            self.set_source(tensor, *self.source(base))

    def leaves(self, source: Source) -> None:
        """A tensor is about to be handed to NumPy or Python: what comes back cannot be known again."""
        self._left.append(source)

    def enters(self, node: int) -> None:
        """A function made a tensor of values in NumPy or in Python: perhaps of those that were handed there."""
        if self._left:
            self._guess(node, self._left)
            self._nodes[node] = dataclasses.replace(self._nodes[node], untraced=True)
            self._left = []

    def _guess(self, node: int, sources: Iterable[Source]) -> None:
        """A node may have taken what these sources gave."""
        guessed = {(node, source, position) for source, position in sources if source < node}
        self._counts.update(dict.fromkeys(guessed - self._counts.keys(), 1))
        self._guessed |= guessed

    def source(self, tensor: torch.Tensor, otherwise: int | None = None, call: int | None = None) -> Source:
        """Where a tensor comes from: the node that made it, or that wrote to its storage since.

        Args:
            tensor: Any tensor.
            otherwise: The node that is taken to have made an unknown tensor; None adds a node for it.
            call: The call that takes it.
        """
        known = self._known_source(tensor)
        if known is not None:
            return known
        name = self._tree.tensor_name(tensor)
        if name is None:
            known = self._source_of_memory(tensor)
            if known is not None:
                return known
            if otherwise is not None:
                return otherwise, 0
        return self._add_held(tensor, name, call), 0

    def _known_source(self, tensor: torch.Tensor) -> Source | None:
        entry = self._made.get(id(tensor))
        if entry is None and self._describe.transformed:
            tensor = untransformed(tensor)
            entry = self._made.get(id(tensor))
        if entry is not None and entry[0]() is not tensor:
            entry = None
        wrote = self._written.get(storage_of(tensor)) if self._written else None
        if entry is not None and (wrote is None or wrote[2] <= entry[3]):
            return entry[1], entry[2]
        return None if wrote is None else (wrote[0], wrote[1])

    def _source_of_memory(self, tensor: torch.Tensor) -> Source | None:
        """The source of another tensor in the same memory: torch shows no function mode what `as_subclass` does."""
        storage = storage_of(tensor)
        found: tuple[int, Source] | None = None
        for reference, node, position, time in self._made.values():
            other = reference()
            if other is not None and (found is None or time > found[0]) and storage_of(other) == storage:
                found = time, (node, position)
        return None if found is None else found[1]

    def look_inside(self, tensor: torch.Tensor, call: RunningCall) -> None:
        """A call that is one box gave a function a tensor, or returns one: work that nobody saw may have made it."""
        if call.has_made(tensor) or self._tree.tensor_name(tensor) is not None:
            return
        known = self._known_source(tensor)
        if known is None and not call.has_made_memory(storage_of(tensor)):
            known = self._source_of_memory(tensor)
            if known is None:
                self._note_unknown(tensor, call.node, call.index)
        if known is not None and call.node is not None and known[0] < call.node and self.is_computed(known[0]):
            # It came from outside, another way than by the arguments.
            self._counts.setdefault((call.node, *known), 1)
            self._used.add(known[0])

    def _note_unknown(self, tensor: torch.Tensor, node: int | None, call: int | None) -> None:
        """It may be a constant that the model keeps somewhere; whether it lives on afterwards will tell."""
        if self._left:
            self._unknown.append((weakref.ref(tensor), node, call, self._left, _THROUGH_NUMPY))
            self._left = []
        elif not is_memory_of_others(tensor):
            self._unknown.append((weakref.ref(tensor), node, call, self._unused(), "not traced"))

    def _unused(self) -> list[Source]:
        """The newest nodes that nothing took so far; the newest of all where there are none."""
        computed = [node for node in self._nodes[-_LOOKED_BACK:] if node.kind not in _HELD]
        unused = [node for node in computed if node.index not in self._used and node.kind != "output"]
        return [(node.index, 0) for node in unused or computed[-1:]]

    def _add_held(self, tensor: torch.Tensor, name: str | None, call: int | None) -> int:
        """Add a node for a parameter, a buffer, or a tensor that came from nowhere."""
        kind: NodeKind = "constant"
        if name is not None:
            kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
        node = self.add(kind, name or "constant", None, self._describe.of(tensor))
        if name is None:
            self._note_unknown(tensor, node, call)
        self.set_source(tensor, node, 0)
        return node

    def is_computed(self, node: int) -> bool:
        """Whether a node is more than a tensor that a module holds."""
        return self._nodes[node].kind not in _HELD

    # -- edges -----------------------------------------------------------------------------------------------------

    def add_edges(self, target: int, sources: Iterable[Source]) -> None:
        """A node took tensors from these sources."""
        for source, position in sources:
            key = (target, source, position)
            self._counts[key] = self._counts.get(key, 0) + 1
            self._used.add(source)

    def untraced_calls(self) -> set[int]:
        """The calls in which forward made tensors that nobody saw being made. Called when its tensors are gone.

        What lives on is a constant that the model or its program keeps. What is gone was made by forward: its node
        becomes that of a function, with guessed edges to where its data may come from.
        """
        calls = set()
        for reference, node, call, sources, name in self._unknown:
            if reference() is not None:
                continue
            calls.add(call or 0)
            if node is None:
                continue
            old = self._nodes[node]
            if old.kind == "constant":
                self._nodes[node] = Node(node, "function", name, call, old.output, untraced=True)
                self._guess(node, sources)
            elif name == _THROUGH_NUMPY:
                self._guess(node, sources)
        self._unknown = []
        return calls

    def finished(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        """All nodes and edges; functions that ran inside a leaf call are part of that call's node."""
        if self._folded_into:
            self._counts = self._counts_after_folding()
        if self._folded_into or self._some_may_be_unused:
            self._drop_unneeded()
        edges = [Edge(key[1], key[0], key[2], self._counts[key], key in self._guessed) for key in sorted(self._counts)]
        return tuple(self._nodes), tuple(edges)

    def _drop_unneeded(self) -> None:
        """Leave out functions that are part of a leaf call and held tensors that nothing took; renumber the rest."""
        used = {source for _, source, _ in self._counts}
        kept = [node for node in self._nodes if self._is_needed(node, used)]
        new = {node.index: position for position, node in enumerate(kept)}
        self._nodes = [Node(new[n.index], n.kind, n.name, n.call, n.output, n.joins, n.untraced) for n in kept]
        counts, guessed = self._counts, self._guessed
        self._counts, self._guessed = {}, set()
        for (target, source, position), count in counts.items():
            if source in new and target in new:
                key = (new[target], new[source], position)
                self._counts[key] = count
                if (target, source, position) in guessed:
                    self._guessed.add(key)

    def _is_needed(self, node: Node, used: set[int]) -> bool:
        return node.index not in self._folded_into and (node.kind not in _HELD or node.index in used)

    def _counts_after_folding(self) -> dict[tuple[int, int, int], int]:
        """The edges once each function inside a leaf call is that call."""
        leaves = set(self._folded_into.values())
        counts: dict[tuple[int, int, int], int] = {}
        for (target, source, position), count in self._counts.items():
            begin, end = self._folded_into.get(source, source), self._folded_into.get(target, target)
            held_by_leaf = end in leaves and target in self._folded_into and not self.is_computed(source)
            if begin != end and not held_by_leaf:
                counts[end, begin, position] = max(counts.get((end, begin, position), 0), count)
        return counts
