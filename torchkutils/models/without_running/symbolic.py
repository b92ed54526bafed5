"""The data flow of a model that is not run: torch.fx follows its forward with symbols."""

from __future__ import annotations

import collections
import dataclasses
import threading
from typing import Any

import torch

from torchkutils.models.records import Call, Edge, ModuleRecord, Node
from torchkutils.models.tree.module_tree import only_calls_children

# torch.fx patches nn.Module for as long as it follows a forward: one model at a time.
_ONE_AT_A_TIME = threading.Lock()

Flow = tuple[tuple[Call, ...], tuple[Node, ...], tuple[Edge, ...]]


def sequential_flow(modules: tuple[ModuleRecord, ...], held: list[torch.nn.Module]) -> Flow | None:
    """What `symbolic_flow` would give, where it can be read off: the model is `nn.Sequential` down to its leaves.

    Args:
        modules: The records of the tree.
        held: The modules themselves, in the same order.
    """
    if not modules[0].children or not _only_sequential(modules, held):
        return None
    calls: list[Call] = []
    nodes = [Node(0, "input", "input", None, None)]
    numbers: dict[int, int] = {}
    stack: list[tuple[int, int | None]] = [(0, None)]
    while stack:
        entry, parent = stack.pop()
        record = modules[entry]
        first = _first_record(record)
        children = modules[first].children
        number = numbers.get(first, 0)
        numbers[first] = number + 1
        calls.append(Call(len(calls), first, number, parent, None, None, 0, False, not children))
        if children:
            stack.extend((child, calls[-1].index) for child in reversed(children))
        else:
            nodes.append(Node(len(nodes), "call", modules[first].path, calls[-1].index, None))
    nodes.append(Node(len(nodes), "output", "output", None, None))
    return tuple(calls), tuple(nodes), tuple([Edge(source, source + 1) for source in range(len(nodes) - 1)])


def _first_record(record: ModuleRecord) -> int:
    return record.index if record.same_as is None else record.same_as


def _only_sequential(modules: tuple[ModuleRecord, ...], held: list[torch.nn.Module]) -> bool:
    """Whether each module that has children does nothing but call them, and none lies within itself."""
    for module, record in zip(held, modules, strict=True):
        if record.children and not only_calls_children(module):
            return False
        if record.same_as is not None and _is_within(record, modules):
            return False
    return True


def _is_within(record: ModuleRecord, modules: tuple[ModuleRecord, ...]) -> bool:
    """Whether a module lies within itself: such a forward never ends."""
    above = record.parent
    while above is not None and above != record.same_as:
        above = modules[above].parent
    return above is not None


def symbolic_flow(model: torch.nn.Module, modules: tuple[ModuleRecord, ...]) -> Flow:
    """Calls, nodes and edges of one symbolic forward; every value is unknown.

    Raises:
        Exception: Whatever torch.fx raises for a forward that depends on data.
    """
    import torch.fx

    class Tracer(torch.fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
            """A module without children is one box, whoever wrote it."""
            return next(m.children(), None) is None or super().is_leaf_module(m, module_qualified_name)

    with _ONE_AT_A_TIME:
        graph = Tracer().trace(model)
    return _Flow(model, modules).read(graph)


class _Flow:
    """Turns the nodes of torch.fx into records."""

    def __init__(self, model: torch.nn.Module, modules: tuple[ModuleRecord, ...]) -> None:
        # A module that several paths lead to is the first of its records.
        self.module_at = {record.path: _first_record(record) for record in modules}
        self.buffers = {name for name, _ in model.named_buffers()}
        self.calls: list[Call] = []
        self.call_of: dict[Any, int] = {}
        self.numbers: dict[int, int] = {}
        self.nodes: list[Node] = []
        # How often a target takes a tensor: by (source, target, number of the tensor in the source's output).
        self.arrows: collections.defaultdict[tuple[int, int, int], int] = collections.defaultdict(int)
        self.origin: dict[Any, tuple[int, int]] = {}

    def read(self, graph: Any) -> Flow:
        """All records of one graph."""
        leaf = len(self.module_at) == 1
        root = self._call("", None, leaf=leaf)
        for node in graph.nodes:
            if node.op == "output":
                if leaf:
                    self._close(node, root)
                self._outputs(node)
            elif node.op == "placeholder" or not leaf:
                self._node(node, root)
        edges = sorted((target, source, tensor, count) for (source, target, tensor), count in self.arrows.items())
        arrows = tuple(Edge(source, target, tensor, count) for target, source, tensor, count in edges)
        return tuple(self.calls), tuple(self.nodes), arrows

    def _call(self, path: str, parent: int | None, *, leaf: bool) -> int:
        module = self.module_at[path]
        number = self.numbers.get(module, 0)
        self.numbers[module] = number + 1
        self.calls.append(Call(len(self.calls), module, number, parent, None, None, 0, False, leaf))
        return len(self.calls) - 1

    def _enclosing(self, node: Any, root: int) -> int:
        """The call of the innermost container around a node."""
        parent = root
        for key, entry in (node.meta.get("nn_module_stack") or {}).items():
            path = entry[0]
            if node.op == "call_module" and path == node.target:
                break
            if path and path in self.module_at:
                parent = self._container_call(key, path, parent)
        return parent

    def _container_call(self, key: Any, path: str, parent: int) -> int:
        """The call of a container; torch.fx gives its nodes the same key."""
        call = self.call_of.get((key, path))
        if call is None:
            call = self.call_of[key, path] = self._call(path, parent, leaf=False)
        return call

    def _node(self, node: Any, root: int) -> None:
        record = self._record_of(node, root)
        if record is None:
            return
        self.nodes.append(record)
        self.origin[node] = (record.index, 0)
        computed = self._join(node, record.index)
        if record.kind == "function" and computed > 1:
            self.nodes[record.index] = dataclasses.replace(record, joins=True)

    def _record_of(self, node: Any, root: int) -> Node | None:
        """The record of a node; None for one that computes nothing."""
        index = len(self.nodes)
        if node.op == "placeholder":
            return Node(index, "input", str(node.target), None, None)
        if node.op == "get_attr":
            return Node(index, "buffer" if node.target in self.buffers else "parameter", str(node.target), None, None)
        if node.op == "call_module":
            call = self._call(node.target, self._enclosing(node, root), leaf=True)
            return Node(index, "call", str(node.target), call, None)
        name = node.target
        if not isinstance(name, str):
            name = getattr(node.target, "__name__", str(node.target))
        if name in _NO_TENSOR or (name == "getitem" and self._is_part_of_output(node)):
            return None
        return Node(index, "function", name.strip("_"), self._enclosing(node, root), None)

    def _is_part_of_output(self, node: Any) -> bool:
        """Whether it takes an item of the tuple that a module gave: then it is that module's node, another tensor."""
        source = self.origin.get(node.args[0])
        if source is None or not isinstance(node.args[1], int) or self.nodes[source[0]].kind != "call":
            return False
        self.origin[node] = (source[0], node.args[1])
        return True

    def _join(self, node: Any, target: int) -> int:
        """Edges into a node; gives how many of them do not begin at a parameter or buffer."""
        computed = 0
        for source in _used((node.args, node.kwargs)):
            if source in self.origin:
                index, tensor = self.origin[source]
                self.arrows[index, target, tensor] += 1
                computed += self.nodes[index].kind not in ("parameter", "buffer")
        return computed

    def _close(self, output: Any, root: int) -> None:
        """A model without children is one box, as every module without them: it takes all inputs, gives all outputs."""
        index = len(self.nodes)
        self.nodes.append(Node(index, "call", "", root, None))
        for source in range(index):
            self.arrows[source, index, 0] = 1
        for tensor, returned in enumerate(dict.fromkeys(_used(output.args))):
            self.origin[returned] = (index, tensor)

    def _outputs(self, node: Any) -> None:
        used = _used(node.args)
        for position, source in enumerate(used):
            name = "output" if len(used) == 1 else f"output[{position}]"
            self.nodes.append(Node(len(self.nodes), "output", name, None, None))
            if source in self.origin:
                index, tensor = self.origin[source]
                self.arrows[index, len(self.nodes) - 1, tensor] = 1


def _used(arguments: Any) -> list[Any]:
    """The nodes of torch.fx among some arguments."""
    used: list[Any] = []
    torch.fx.node.map_arg(arguments, used.append)
    return used


_NO_TENSOR = frozenset(["size", "dim", "getattr", "numel", "ndimension"])
