"""Models on which torchinfo 1.8.0 and torchview 0.2.7 go wrong, with the right answers."""

from __future__ import annotations

import collections
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.traced import traced
from tests.models.whole_state import whole_state
from torchkutils import model_to_dot, summarize


class Made(nn.Module):
    """A module from its parts and a forward function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.function = forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def arrows(model: nn.Module, **inputs: Any) -> set[tuple[str, str]]:
    """The edges of a trace by the names of their ends."""
    trace = traced(model, **inputs)
    return {(trace.nodes[edge.source].name, trace.nodes[edge.target].name) for edge in trace.edges}


def written(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = self.a(x)
    y[:, 0] = self.b(x)[:, 0]
    return self.c(y)


def through_a_view(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
    y = self.a(x)
    y[:, :2].add_(self.b(x)[:, :2])
    return self.c(y)


def tied() -> nn.Module:
    embedding, head = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
    head.weight = embedding.weight
    return nn.Sequential(embedding, head)


def shared_block() -> nn.Module:
    block = nn.Linear(5, 5)
    return nn.Sequential(nn.ModuleList([block]), nn.ModuleList([block, nn.Linear(9, 9)]))


def parts(*names: str) -> dict[str, nn.Module]:
    return {name: nn.Linear(4, 4) for name in names}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            Made(lambda self, x: x + self.a(self.drop(x)), a=nn.Linear(4, 4), drop=nn.Dropout()),
            {("input[0]", "drop"), ("drop", "a"), ("a", "add"), ("input[0]", "add"), ("add", "output")},
        ),
        (
            Made(lambda self, x: x + self.same(x), same=nn.Identity()),
            {("input[0]", "same"), ("same", "add"), ("input[0]", "add"), ("add", "output")},
        ),
    ],
    ids=["dropout in eval", "identity"],
)
def test_edges_are_right_where_a_leaf_hands_its_input_on(model: nn.Module, expected: set[tuple[str, str]]) -> None:
    found = {(a.replace("args", "input[0]"), b) for a, b in arrows(model, input_size=(2, 4))}
    assert found == expected


@dataclasses.dataclass(frozen=True)
class Carried:
    x: torch.Tensor


class Parcel:
    """A class of one's own, as detection models and graph libraries have them."""

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Slotted:
    __slots__ = ("x",)

    def __init__(self, x: torch.Tensor) -> None:
        self.x = x


class Marked(torch.Tensor):
    """A class of tensors as people write them."""


def holding(x: torch.Tensor) -> nn.Module:
    """A module made in forward."""
    module = nn.Module()
    module.register_buffer("buffer", x)
    return module


HANDED_ON: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "tuple": (lambda x: (x,), lambda y: y[0]),
    "list in a dict": (lambda x: {"a": [x]}, lambda y: y["a"][0]),
    "OrderedDict": (lambda x: collections.OrderedDict(x=x), lambda y: y["x"]),
    "defaultdict": (lambda x: collections.defaultdict(list, x=x), lambda y: y["x"]),
    "frozen dataclass": (Carried, lambda y: y.x),
    "user's class": (Parcel, lambda y: y.x),
    "user's class with slots": (Slotted, lambda y: y.x),
}


@pytest.mark.parametrize("kind", HANDED_ON)
@pytest.mark.parametrize("changed", [False, True], ids=["the same tensor", "another tensor"])
def test_edges_go_through_what_a_leaf_hands_its_tensor_on_in(kind: str, changed: bool) -> None:
    wrap, take = HANDED_ON[kind]
    leaf = Made(lambda self, x: wrap(x * 2 if changed else x))
    model = Made(lambda self, x: x + take(self.leaf(x)), leaf=leaf)
    trace = traced(model, input_size=(2, 4))
    found = {(trace.nodes[e.source].name, trace.nodes[e.target].name): e.count for e in trace.edges}
    assert found == {("args", "leaf"): 1, ("leaf", "add"): 1, ("args", "add"): 1, ("add", "output"): 1} or found == {
        ("input[0]", "leaf"): 1,
        ("leaf", "add"): 1,
        ("input[0]", "add"): 1,
        ("add", "output"): 1,
    }


@pytest.mark.parametrize("hook", ["call", "forward"])
def test_a_pre_hook_may_call_its_own_module(hook: str) -> None:
    """Two calls of the module, as torch makes them."""
    layer, ran = nn.Linear(4, 4), []

    def again(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        if len(ran) < 1:
            ran.append(1)
            (module if hook == "call" else module.forward)(*args)

    layer.register_forward_pre_hook(again)
    trace = traced(nn.Sequential(layer), input_size=(2, 4))
    assert [(call.module, call.number) for call in trace.calls] == [(0, 0), (1, 0), (1, 1)]


@pytest.mark.parametrize(
    "steps",
    [
        ["own", "own"], ["other"], ["own", "other", "own"], ["own forward", "own"],
        ["other forward", "own", "own forward"],
        ["other", "other", "own", "own"],
    ],
    ids="+".join,
)  # fmt: skip
@pytest.mark.parametrize("hook", ["pre", "post"])
def test_a_hook_may_call_its_own_module_and_others(steps: list[str], hook: str) -> None:
    """As many calls of each module as torch makes."""
    one, other, busy = nn.Linear(4, 4), nn.Linear(4, 4), []

    def work(module: nn.Module, args: tuple[torch.Tensor, ...], *_: Any) -> None:
        if not busy:
            busy.append(1)
            calls = {"own": module, "other": other, "own forward": module.forward, "other forward": other.forward}
            for step in steps:
                calls[step](*args)

    if hook == "pre":
        one.register_forward_pre_hook(work)
    else:
        one.register_forward_hook(work)
    trace = traced(Made(lambda self, x: self.one(x), one=one, other=other), input_size=(2, 4))
    called = [trace.modules[call.module].path for call in trace.calls]
    own = sum(step.startswith("own") for step in steps)
    assert (called.count("one"), called.count("other")) == (own + 1, len(steps) - own)


@pytest.mark.parametrize("forward", [written, through_a_view], ids=["item assignment", "a view written in place"])
def test_writes_in_place_keep_their_edges(forward: Callable[..., Any]) -> None:
    trace = traced(Made(forward, **parts("a", "b", "c")), input_size=(2, 4))
    above: dict[str, set[str]] = {}
    for edge in trace.edges:
        above.setdefault(trace.nodes[edge.target].name, set()).add(trace.nodes[edge.source].name)
    reached, waiting = set(), ["c"]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += above.get(name, set())
    assert {"a", "b"} <= reached


@pytest.mark.parametrize(
    ("model", "size", "total"),
    [
        (tied(), (1, 3), 800),
        (nn.Linear(16, 32, bias=False), (2, 10, 16), 512),
        (nn.ConvTranspose2d(8, 16, 3, stride=2), (2, 8, 10, 10), 1168),
        (nn.LSTM(8, 16, 2, bidirectional=True), (5, 2, 8), 9728),
    ],
    ids=["tied", "linear on three axes", "transposed convolution", "lstm both ways"],
)
def test_parameters_are_counted_right(model: nn.Module, size: Any, total: int) -> None:
    summary = summarize(model, input_size=size)
    assert summary.total_params == total
    assert sum(row.params or 0 for row in summary.rows) == total


def test_a_shared_block_is_counted_once() -> None:
    summary = summarize(shared_block())
    assert summary.total_params == 30 + 90
    assert [row.shared_with for row in summary.rows if row.path == "1.0"] == ["0.0"]


def frozen_norm() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    model[1].eval()
    return model


def remembering() -> nn.Module:
    def remember(self: Any, x: torch.Tensor) -> torch.Tensor:
        self.last = x
        self.count = getattr(self, "count", 0) + 1
        return self.a(x)

    model = Made(remember, a=nn.Linear(4, 4))
    model.a.kernel_size = None
    model(torch.ones(1, 4)).sum().backward()
    return model


def writing() -> nn.Module:
    def write(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            self.a.weight.mul_(2)
        return self.a(x)

    return Made(write, a=nn.Linear(4, 4))


@pytest.mark.parametrize("mode", ["eval", "train", "same"])
@pytest.mark.parametrize(
    "make",
    [frozen_norm, remembering, writing, lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Dropout())],
    ids=["a frozen batch norm", "attributes and gradients", "a parameter that is written", "in place, and random"],
)
def test_model_input_and_random_state_stay(make: Callable[[], nn.Module], mode: str) -> None:
    model, data = make(), torch.randn(3, 4)
    before = whole_state(model, data)
    summarize(model, input_data=data, mode=mode)
    assert whole_state(model, data) == before


def test_a_class_name_cannot_break_the_picture() -> None:
    kind = type('Blk<2,3>{a}|"b"\\', (nn.Linear,), {})
    graph = model_to_dot(nn.Sequential(kind(2, 2), nn.ReLU()), input_size=(1, 2), show_shapes=True)
    assert graph.pipe("svg").count(b"<svg") == 1


def test_nesting_of_any_depth_is_no_recursion() -> None:
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(150):
        model = nn.Sequential(model)
    assert summarize(model, input_size=(1, 1)).total_params == 2


def test_a_failing_forward_shows_what_ran() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(5, 2))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        summarize(model, input_size=(2, 4))
    rows = caught.value.summary.rows
    assert rows[0].output_shapes == "(2, 3)"
    assert [row.failed for row in rows] == [False, True]


def test_open_dimensions_stay_open() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    shapes = [row.output_shapes for row in summarize(model, input_size=(None, 2, 9)).rows]
    assert shapes == ["(None, 4, 7)", "(None, 4, 1)", "(None, 4)"]


def test_a_closed_module_is_not_connected_to_itself() -> None:
    block = Made(lambda self, x: torch.relu(x + self.b(self.a(x))), **parts("a", "b"))
    model = nn.Sequential(nn.Linear(4, 4), block, nn.Linear(4, 4))
    rows = summarize(model, input_size=(2, 4), depth=1).rows
    assert [row.inbound for row in rows] == [(), ("0[0][0]",), ("1[0][0]",)]
    opened = {row.path: row.inbound for row in summarize(model, input_size=(2, 4)).rows}
    assert opened["2"] == ("0[0][0]", "1.b[0][0]")


def test_a_long_way_between_modules_is_no_recursion() -> None:
    def many(self: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        for _ in range(1500):
            x = x + 1
        return self.b(x)

    rows = summarize(Made(many, **parts("a", "b")), input_size=(2, 4)).rows
    assert rows[1].inbound == ("a[0][0]",)


def test_nothing_keeps_the_model_alive() -> None:
    import gc
    import weakref

    model = nn.Linear(2, 2)
    reference = weakref.ref(model)
    summary = summarize(model, input_size=(1, 2))
    graph = model_to_dot(model, input_size=(1, 2))
    del model
    gc.collect()
    assert reference() is None
    assert summary.total_params == 6
    assert graph.source


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * 2


with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)

    @torch.jit.script
    def scripted(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) @ torch.ones(4, 4)


def test_an_autograd_function_is_seen_by_what_it_runs() -> None:
    model = Made(lambda self, x: self.b(Twice.apply(self.a(x))), **parts("a", "b"))
    for grad in (False, True):
        assert arrows(model, input_size=(2, 4), grad=grad) >= {("a", "mul"), ("mul", "b")}


KEPT = torch.eye(4)
KEPT_ARRAY = np.eye(4, dtype=np.float32)
UNSEEN: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NumPy": (lambda x: torch.from_numpy(x.numpy() + 1), "not traced through NumPy"),
    "numpy.asarray": (lambda x: torch.from_numpy(np.asarray(x) + 1), "not traced through NumPy"),
    "a script": (scripted, "not traced"),
    "a list": (lambda x: torch.tensor(x.tolist()), "tensor"),
    "an array that is copied": (lambda x: torch.tensor(np.asarray(x) + 1), "tensor"),
    "a parameter": (lambda x: nn.Parameter(x), "not traced"),
}


@pytest.mark.parametrize("name", UNSEEN)
@pytest.mark.parametrize("inside", ["between layers", "at the end", "in a leaf"])
def test_where_provenance_ends_the_trace_says_so(name: str, inside: str) -> None:
    function, said = UNSEEN[name]

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        if inside == "in a leaf":
            return self.b(self.leaf(self.a(x)))
        y = function(self.a(x))
        return y if inside == "at the end" else self.b(y)

    leaf = Made(lambda self, x: function(x) + 1)
    trace = traced(Made(forward, leaf=leaf, **parts("a", "b")), input_size=(2, 4))
    found = {(trace.nodes[e.source].name, trace.nodes[e.target].name, e.guessed) for e in trace.edges}
    if inside == "in a leaf":
        assert {("a", "leaf", False), ("leaf", "b", False)} <= found
    else:
        assert {("a", said, True), (said, "output" if inside == "at the end" else "b", False)} <= found
        assert [node.name for node in trace.nodes if node.untraced] == [said]
    assert name in ("a list", "a parameter") or not all(call.flops_known for call in trace.calls)


@pytest.mark.parametrize(
    "function",
    [
        lambda self, x: x @ KEPT,
        lambda self, x: x @ torch.from_numpy(KEPT_ARRAY),
        lambda self, x: x @ self.table,
        lambda self, x: x + torch.arange(4),
        lambda self, x: x + torch.tensor([1.0]) * x.mean().item(),
        lambda self, x: x @ torch.view_as_real(torch.view_as_complex(x.view(2, 2, 2))).view(2, 4).mT.real @ x,
    ],
    ids=["a global", "an array", "an attribute", "a range", "a number", "properties"],
)
def test_constants_are_no_gaps_of_provenance(function: Callable[..., Any]) -> None:
    for leaf in (False, True):
        made = Made(function)
        made.table = torch.eye(4)
        model = (
            nn.Sequential(made) if leaf else Made(lambda self, x, made=made: self.a(function(made, x)), **parts("a"))
        )
        trace = traced(model, input_size=(2, 4))
        assert [node.name for node in trace.nodes if node.untraced] == []
        assert all(call.flops_known for call in trace.calls)


@pytest.mark.parametrize("beside", [True, False], ids=["beside a tensor", "alone"])
def test_objects_are_outputs_only_where_nothing_else_is(beside: bool) -> None:
    model = Made(lambda self, x: (self.a(x), Parcel(x * 2)) if beside else Parcel(self.a(x)), **parts("a"))
    outputs = [node.name for node in traced(model, input_size=(2, 4)).nodes if node.kind == "output"]
    assert outputs == (["output[0]"] if beside else ["output"])


CARRIED: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]] = {
    "a closure": (lambda x: lambda: x, lambda y: y()),
    "a generator": (lambda x: (part for part in [x]), next),
    "an iterator": (lambda x: iter([x]), next),
    "a partial": (lambda x: functools.partial(torch.add, x), lambda y: y(1)),
    "a buffer": (holding, lambda y: y.buffer),
    "a subclass": (lambda x: x.as_subclass(Marked), lambda y: y.as_subclass(torch.Tensor)),
}


@pytest.mark.parametrize("name", CARRIED)
@pytest.mark.parametrize("gives", ["a layer and a function", "a leaf"])
@pytest.mark.parametrize("takes", ["a function and a layer", "a leaf"])
def test_edges_go_through_what_nobody_can_look_into(name: str, gives: str, takes: str) -> None:
    wrap, take = CARRIED[name]
    first = (
        Made(lambda self, x: wrap(x * 2)) if gives == "a leaf" else Made(lambda self, x: wrap(self.a(x)), **parts("a"))
    )
    last = (
        Made(lambda self, y: take(y) * 2) if takes == "a leaf" else Made(lambda self, y: self.b(take(y)), **parts("b"))
    )
    trace = traced(Made(lambda self, x: self.last(self.first(x)), first=first, last=last), input_size=(2, 4))
    assert not any(node.untraced for node in trace.nodes)
    into: dict[int, set[int]] = {}
    for edge in trace.edges:
        into.setdefault(edge.target, set()).add(edge.source)
    reached, waiting = set(), [node.index for node in trace.nodes if node.kind == "output"]
    while waiting:
        node = waiting.pop()
        reached.add(trace.nodes[node].name)
        waiting += into.get(node, set())
    assert reached >= {"first" if gives == "a leaf" else "first.a", "last" if takes == "a leaf" else "last.b"}


def test_what_numpy_carries_between_leaves_is_guessed() -> None:
    """No box for it: the second leaf took it from there."""
    first = Made(lambda self, x: (x * 2).numpy())
    last = Made(lambda self, y: torch.from_numpy(y) + 1)
    trace = traced(Made(lambda self, x: self.last(self.first(x)), first=first, last=last), input_size=(2, 4))
    found = {(trace.nodes[e.source].name, trace.nodes[e.target].name, e.guessed) for e in trace.edges}
    assert ("first", "last", True) in found


FUNCTIONAL: dict[str, Callable[[Any, torch.Tensor], torch.Tensor]] = {
    "vmap": lambda self, x: self.b(torch.vmap(self.a)(x)),
    "vmap over columns": lambda self, x: self.b(torch.vmap(self.a, in_dims=1)(x)),
    "vmap into columns": lambda self, x: self.b(torch.vmap(self.a, out_dims=1)(x)),
    "vmap in vmap": lambda self, x: self.b(torch.vmap(torch.vmap(self.a))(x[None])[0]),
    "jacrev": lambda self, x: self.b(torch.func.jacrev(self.a)(x[0])),
    "jacfwd": lambda self, x: self.b(torch.func.jacfwd(self.a)(x[0])),
    "grad": lambda self, x: self.b(torch.func.grad(lambda t: self.a(t).sum())(x)),
    "hessian": lambda self, x: self.b(torch.func.hessian(lambda t: self.a(t).square().sum())(x[0])),
    "vjp": lambda self, x: self.b(torch.func.vjp(self.a, x)[1](x)[0]),
    "jvp": lambda self, x: self.b(torch.func.jvp(self.a, (x,), (x,))[1]),
    "grad in vmap": lambda self, x: self.b(torch.vmap(torch.func.grad(lambda t: self.a(t).sum()))(x)),
    "functional_call": lambda self, x: self.b(
        torch.func.functional_call(self.a, dict(self.a.named_parameters()), (x,))
    ),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_edges_go_through_functional_transforms(name: str) -> None:
    found = arrows(Made(FUNCTIONAL[name], **parts("a", "b")), input_size=(4, 4))
    above: dict[str, set[str]] = {}
    for source, target in found:
        above.setdefault(target, set()).add(source)
    reached: set[str] = set()
    waiting = ["b"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += above.get(node, ())
    assert "a" in reached
    assert reached & {"args", "input[0]"}


def test_shapes_in_vmap_are_those_of_all_examples() -> None:
    summary = summarize(Made(FUNCTIONAL["vmap"], **parts("a", "b")), input_size=(7, 4))
    assert [(row.output_shapes, row.flops) for row in summary.rows] == [("(7, 4)", 2 * 7 * 16)] * 2
    assert summary.flops_known
