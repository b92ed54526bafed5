"""What hooks and a function mode see during one forward, turned into calls, nodes and edges."""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from torchkutils.models.flops import function_flops, module_flops
from torchkutils.models.records import Call, Collection, Edge, Failure, Node, NodeKind, Value
from torchkutils.models.stock_leaves import is_stock, stock_flops, writes_elsewhere
from torchkutils.models.undisturbed import Writes
from torchkutils.models.values import Descriptions, map_tensors, named_tensors, storage_of, tensors_of


@dataclasses.dataclass(slots=True)
class _Running:
    """A call that has begun: what is known of it so far."""

    index: int
    module: int
    number: int
    parent: int | None
    inputs: Collection
    sources: list[tuple[int, int]]
    tensors: list[torch.Tensor]
    leaf: bool = True
    output: Value | None = None
    flops: int = 0
    flops_known: bool = True
    node: int | None = None


@dataclasses.dataclass(slots=True)
class _Point:
    """A node in the making."""

    kind: NodeKind
    name: str
    call: int | None
    output: Value | None
    joins: bool


class Recorder(TorchFunctionMode):
    """Watches one forward of a model, in this thread alone.

    Use it as a context around the call. A tensor is told by its identity (a weak reference guards against reuse of
    the number) and by the last function that wrote to its storage, so that edges are right through in-place work,
    views and item assignment. A leaf that hands its own input on unchanged gives an alias, so that the two differ.
    """

    def __init__(self, index_of: Mapping[int, int], modules: list[torch.nn.Module], names: dict[int, str]) -> None:
        super().__init__()
        self.index_of, self.modules, self.tensor_names = index_of, modules, names
        self.calls: list[_Running] = []
        self.stack: list[_Running] = []
        self.nodes: list[_Point] = []
        self.describe = Descriptions()
        self.arrows: dict[tuple[int, int, int], int] = {}
        self.made: dict[int, tuple[weakref.ref[torch.Tensor], int, int, int]] = {}
        self.written: dict[int, tuple[int, int, int]] = {}
        self.known: dict[int, int] = {}
        self.clock = 0
        self.writes = Writes(modules[0])
        self.counts: dict[int, int] = {}
        self.watched: list[tuple[torch.nn.Module, dict[str, Any]]] = []
        self.thread = 0
        self.failed: tuple[_Running, int] | None = None

    def __enter__(self) -> Recorder:
        self.thread = threading.get_ident()
        for module in self.modules:
            self._watch(module)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *details: Any) -> None:
        if not self._is_active():
            # Interrupted just where it had stepped aside.
            torch._C._push_on_torch_function_stack(self)
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        for module, before in self.watched:
            for name in _ENTRIES:
                module.__dict__.pop(name, None)
            module.__dict__.update(before)
        self.watched.clear()
        self.writes.restore()

    def _is_active(self) -> bool:
        depth = torch._C._len_torch_function_stack()
        return any(torch._C._get_function_stack_at(level) is self for level in range(depth))

    def _watch(self, module: torch.nn.Module) -> None:
        """Put ourselves before both ways into a module: a call of it, and a direct call of its forward.

        `nn.Module.__call__` asks for `_compiled_call_impl` first, so a module compiled in place runs as what it is.
        """
        before = {name: module.__dict__[name] for name in _ENTRIES if name in module.__dict__}
        compiled = module._compiled_call_impl
        whole: Callable[..., Any] = module._call_impl
        forward: Callable[..., Any] = module.forward
        if hasattr(module, "_orig_mod") and isinstance(module._orig_mod, torch.nn.Module):
            forward = module._orig_mod
        inside = [0]
        stock = "forward" not in before and is_stock(module)

        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self.thread:
                return (compiled or whole)(*args, **kwargs)
            if stock and self._may_step_aside(module):
                return self._run_stock(module, forward, args, kwargs)
            with torch._C.DisableTorchFunction():
                self._begin(module, args, kwargs, leaf=False)
            hooked = _hooked(module)
            inside[0] = int(hooked)
            try:
                output = whole(*args, **kwargs) if hooked else forward(*args, **kwargs)
            except BaseException as error:
                self._abandon(error)
                raise
            finally:
                inside[0] = 0
            with torch._C.DisableTorchFunction():
                return self._finish(module, output)

        def direct(*args: Any, **kwargs: Any) -> Any:
            if inside[0] or threading.get_ident() != self.thread:
                inside[0] = 0
                return forward(*args, **kwargs)
            if stock and self._may_step_aside(module):
                return self._run_stock(module, forward, args, kwargs)
            with torch._C.DisableTorchFunction():
                self._begin(module, args, kwargs, leaf=False)
            try:
                output = forward(*args, **kwargs)
            except BaseException as error:
                self._abandon(error)
                raise
            with torch._C.DisableTorchFunction():
                return self._finish(module, output)

        self.watched.append((module, before))
        module.__dict__["_compiled_call_impl"] = call
        if not isinstance(module, torch.jit.ScriptModule):
            module.__dict__["forward"] = direct

    # -- nodes and edges -------------------------------------------------------------------------------------------

    def add_node(self, kind: NodeKind, name: str, call: int | None, output: Value | None, joins: bool = False) -> int:
        """A new point of the data flow."""
        self.nodes.append(_Point(kind, name, call, output, joins))
        return len(self.nodes) - 1

    def add_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]) -> None:
        """The model's own inputs, a node each."""
        for position, value in enumerate(args):
            self._add_input(names[position] if position < len(names) else f"input[{position}]", value)
        for name, value in kwargs.items():
            self._add_input(name, value)

    def _add_input(self, name: str, value: Any) -> None:
        if tensors_of(value):
            self._made_by(value, self.add_node("input", name, None, self.describe.of(value)))

    def add_outputs(self, output: Any) -> None:
        """The model's own outputs, a node for each tensor."""
        tensors = list(named_tensors(output, "output"))
        for name, tensor in tensors:
            node = self.add_node("output", name, None, self.describe.of(tensor))
            self._connect(tensor, node)

    def _made_by(self, value: Any, node: int) -> None:
        self.clock += 1
        for position, tensor in enumerate(tensors_of(value)):
            self.made[id(tensor)] = (weakref.ref(tensor), node, position, self.clock)

    def _source(self, tensor: torch.Tensor) -> tuple[int, int]:
        """The node that made or last wrote this tensor; a new one for what came from nowhere."""
        entry = self.made.get(id(tensor))
        if entry is not None and entry[0]() is not tensor:
            entry = None
        wrote = self.written.get(storage_of(tensor)) if self.written else None
        if entry is not None and (wrote is None or wrote[2] <= entry[3]):
            return entry[1], entry[2]
        if wrote is not None:
            return wrote[0], wrote[1]
        name = self.tensor_names.get(id(tensor))
        kind: NodeKind = "constant"
        if name is not None:
            kind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
        node = self.add_node(kind, name or "constant", None, self.describe.of(tensor))
        self.made[id(tensor)] = (weakref.ref(tensor), node, 0, self.clock)
        return node, 0

    def _connect(self, value: Any, node: int) -> int:
        """Edges from what made the tensors of a value; gives how many did not begin at a parameter or buffer."""
        computed = 0
        for tensor in tensors_of(value):
            source, position = self._source(tensor)
            self.arrow(source, node, position)
            computed += self.nodes[source].kind not in ("parameter", "buffer", "constant")
        return computed

    def arrow(self, source: int, target: int, position: int) -> None:
        """One more tensor on its way."""
        key = (source, target, position)
        self.arrows[key] = self.arrows.get(key, 0) + 1

    # -- modules ---------------------------------------------------------------------------------------------------

    def _begin(self, module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, leaf: bool) -> _Running:
        index = self.index_of[id(module)]
        parent = self.stack[-1] if self.stack else None
        if parent is not None:
            parent.leaf = False
        tensors = [args[0]] if len(args) == 1 and type(args[0]) is torch.Tensor else tensors_of(args)
        if kwargs:
            tensors += tensors_of(kwargs)
        number = self.counts.get(index, 0)
        running = _Running(
            len(self.calls),
            index,
            number,
            None if parent is None else parent.index,
            self.describe.arguments(args, kwargs),
            [],
            tensors,
        )
        if leaf or next(module.children(), None) is None or isinstance(module, torch.jit.ScriptModule):
            running.node = self.add_node("call", self.names(index), running.index, None)
            self._connect(tensors, running.node)
        else:
            running.sources = [self._source(tensor) for tensor in tensors]
        self.counts[index] = number + 1
        self.calls.append(running)
        self.stack.append(running)
        return running

    def names(self, index: int) -> str:
        """A module's path; filled in by the trace."""
        return str(index)

    def _abandon(self, error: BaseException) -> None:
        """A call raised; the innermost one is kept, in case that no one outside catches the exception."""
        running = self.stack.pop()
        running.tensors = []
        if self.failed is None or self.failed[1] != id(error):
            self.failed = (running, id(error))

    def _finish(self, module: torch.nn.Module, output: Any) -> Any:
        running = self.stack.pop()
        changed = output
        running.output = self.describe.of(output)
        if running.leaf:
            given = {id(tensor) for tensor in running.tensors}
            changed = map_tensors(output, lambda t: t.view_as(t) if id(t) in given and not _is_leaf(t) else t)
            if running.node is None:
                running.node = self.add_node("call", self.names(running.module), running.index, None)
                for source, position in running.sources:
                    self.arrow(source, running.node, position)
            own = module_flops(module, running.inputs, running.output)
            if own is not None:
                running.flops, running.flops_known = own, True
            self.nodes[running.node].output = running.output
            self._made_by(changed, running.node)
            for tensor in running.tensors if self.written else ():
                entry = self.written.get(storage_of(tensor))
                if entry is not None and self.nodes[entry[0]].call == running.index:
                    self.written[storage_of(tensor)] = (running.node, 0, self.clock)
        running.tensors = []
        return changed

    def _run_stock(self, module: torch.nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer that is known to the letter: the mode steps aside for all of it."""
        torch._C._pop_torch_function_stack()
        try:
            running = self._begin(module, args, kwargs, leaf=True)
            try:
                output = forward(*args, **kwargs)
            except BaseException as error:
                self._abandon(error)
                raise
            flops = stock_flops(module, args, kwargs, output)
            running.flops, running.flops_known = flops or 0, flops is not None
            return self._finish(module, output)
        finally:
            torch._C._push_on_torch_function_stack(self)

    def _may_step_aside(self, module: torch.nn.Module) -> bool:
        depth = torch._C._len_torch_function_stack()
        on_top = depth > 0 and torch._C._get_function_stack_at(depth - 1) is self
        return on_top and not writes_elsewhere(module) and not _hooked(module)

    # -- functions -------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", str(function))
        if name in _QUIET or not self.stack:
            return function(*args, **kwargs)
        target = _written_tensor(name, args, kwargs)
        if target is not None:
            self.writes.before(target)
        running = self.stack[-1]
        sources = [self._source(t) for t in tensors_of((args, kwargs))] if running.node is None else []
        result = function(*args, **kwargs)
        self._count(running, function, args, kwargs, result)
        if running.node is not None:
            if target is not None:
                self.clock += 1
                self.written[storage_of(target)] = (running.node, 0, self.clock)
            return result
        produced = result if target is None else target
        if not tensors_of(produced):
            return result
        computed = sum(self.nodes[source].kind not in ("parameter", "buffer", "constant") for source, _ in sources)
        shown = name.strip("_") if name.startswith("__") or name.endswith("_") else name
        node = self.add_node("function", shown, running.index, self.describe.of(produced), joins=computed > 1)
        for source, position in sources:
            self.arrow(source, node, position)
        self._made_by(produced, node)
        if target is not None:
            self.written[storage_of(target)] = (node, 0, self.clock)
        return result

    def _count(self, running: _Running, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        flops = function_flops(function, args, kwargs, result)
        if flops is None:
            running.flops_known = False
        else:
            running.flops += flops

    # -- the result ------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException) -> Failure | None:
        """Where forward raised: the innermost call that had begun and did not end."""
        if self.failed is None or self.failed[1] != id(error):
            return None
        running = self.failed[0]
        return Failure(running.index, running.inputs, f"{type(error).__name__}: {error}")

    def finished_calls(self) -> tuple[Call, ...]:
        """The calls as plain records."""
        return tuple(
            Call(r.index, r.module, r.number, r.parent, r.inputs, r.output, r.flops, r.flops_known, r.leaf)
            for r in self.calls
        )

    def finished_flow(self) -> tuple[tuple[Node, ...], tuple[Edge, ...]]:
        """Nodes and edges; functions that ran inside a leaf are folded into the leaf's own node."""
        home: dict[int, int] = {}
        for index, point in enumerate(self.nodes):
            leaf = self.calls[point.call] if point.kind == "function" and point.call is not None else None
            if leaf is not None and leaf.leaf and leaf.node is not None:
                home[index] = leaf.node
        arrows = self._folded(home) if home else self.arrows
        used = {index for source, target, _ in arrows for index in (source, target)}
        kept = [(i, p) for i, p in enumerate(self.nodes) if i not in home and (p.kind not in _HELD or i in used)]
        rank = {"input": 0, "output": 2}
        kept.sort(key=lambda entry: rank.get(entry[1].kind, 1))
        new = {index: position for position, (index, _) in enumerate(kept)}
        nodes = tuple(Node(i, p.kind, p.name, p.call, p.output, p.joins) for i, (_, p) in enumerate(kept))
        edges = sorted(
            (new[target], new[source], position, count)
            for (source, target, position), count in arrows.items()
            if source in new and target in new
        )
        return nodes, tuple(Edge(source, target, position, count) for target, source, position, count in edges)

    def _folded(self, home: dict[int, int]) -> dict[tuple[int, int, int], int]:
        """The arrows once each function inside a leaf stands for the leaf."""
        leaves = set(home.values())
        arrows: dict[tuple[int, int, int], int] = {}
        for (source, target, position), count in self.arrows.items():
            begin, end = home.get(source, source), home.get(target, target)
            if begin != end and not (end in leaves and self.nodes[source].kind in _HELD and target in home):
                arrows[begin, end, position] = max(arrows.get((begin, end, position), 0), count)
        return arrows


_HELD = ("parameter", "buffer", "constant")

# Functions that look at a tensor without computing from it.
_QUIET = frozenset(
    [
        "__get__",
        "__set__",
        "size",
        "dim",
        "stride",
        "numel",
        "storage_offset",
        "is_floating_point",
        "is_complex",
        "data_ptr",
        "__len__",
        "__hash__",
        "requires_grad_",
        "element_size",
        "untyped_storage",
        "is_contiguous",
        "get_device",
        "has_names",
        "__repr__",
        "__format__",
        "ndimension",
        "is_cuda",
        "is_nested",
    ]
)


_ENTRIES = ("_compiled_call_impl", "forward")


def _hooked(module: torch.nn.Module) -> bool:
    """Whether a plain call of forward would leave something out that `nn.Module.__call__` does."""
    hooks = module.__dict__
    return bool(
        hooks.get("_forward_hooks")
        or hooks.get("_forward_pre_hooks")
        or hooks.get("_backward_hooks")
        or hooks.get("_backward_pre_hooks")
        or torch.nn.modules.module._has_any_global_hook()  # type: ignore[no-untyped-call]
        or isinstance(module, torch.jit.ScriptModule)
    )


def _is_leaf(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _written_tensor(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """The tensor that a function writes to; None for one that writes to nothing."""
    in_place = (
        name == "__setitem__"
        or (name.endswith("_") and not name.endswith("__"))
        or (name.startswith("__i") and name.endswith("__") and name[3:4] in "amsdfpolx" and name not in ("__invert__",))
        or kwargs.get("inplace") is True
    )
    if in_place and args and isinstance(args[0], torch.Tensor):
        return args[0]
    out = kwargs.get("out")
    return out if isinstance(out, torch.Tensor) else None
