"""One forward of a model: the calls, the edges, and nothing left behind. Much of it is what peers get wrong."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import pickle
import random
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.models.traced import traced
from tests.models.whole_state import whole_state
from torchkutils import multi_gpu_model, summarize
from torchkutils.models.records import Collection, TensorValue


def edges(trace):
    return [(trace.nodes[e.source].name, trace.nodes[e.target].name, e.count) for e in trace.edges]


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.drop, self.a = nn.Dropout(), nn.Linear(3, 3)

    def forward(self, x):
        return x + self.a(self.drop(x))


class InPlaceParts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        y = torch.zeros(2, 2, 3)
        y[0] = self.a(x)
        y[1] = self.b(x)
        return self.c(y)


class PlainList(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks, self.head = [nn.Linear(3, 3), nn.Linear(3, 3)], nn.Linear(3, 3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head.forward(x)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(3, 3)

    def forward(self, x):
        return self.a(torch.relu_(self.a(x)))


RESIDUAL = [("x", "drop", 1), ("drop", "a", 1), ("x", "add", 1), ("a", "add", 1), ("add", "output", 1)]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Residual(), RESIDUAL),
        (
            InPlaceParts(),
            [
                ("x", "a", 1),
                ("zeros", "setitem", 1),
                ("a", "setitem", 1),
                ("x", "b", 1),
                ("setitem", "setitem", 1),
                ("b", "setitem", 1),
                ("setitem", "c", 1),
                ("c", "output", 1),
            ],
        ),
        (
            PlainList(),
            [("x", "blocks[0]", 1), ("blocks[0]", "blocks[1]", 1), ("blocks[1]", "head", 1), ("head", "output", 1)],
        ),
        (Twice(), [("x", "a", 1), ("a", "relu", 1), ("relu", "a", 1), ("a", "output", 1)]),
        (nn.Sequential(nn.ReLU(inplace=True), nn.Identity(), nn.Tanh()), None),
    ],
    ids=["eval dropout", "item assignment", "plain list and direct forward", "called twice", "hands its input on"],
)
def test_edges_follow_the_tensors(model, expected):
    found = edges(traced(model, input_size=(2, 3)))
    if expected is None:
        expected = [("input", "0", 1), ("0", "1", 1), ("1", "2", 1), ("2", "output", 1)]
    assert found == expected


@pytest.mark.parametrize("look", ["T", "mT", "data", "real"])
def test_what_a_property_of_a_tensor_gives_comes_from_where_the_tensor_does(look):
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.weight = nn.Linear(3, 3), nn.Parameter(torch.ones(3, 3))

        def forward(self, x):
            h = torch.complex(y := self.a(x), y) if look == "real" else self.a(x)
            return getattr(h, look) @ getattr(self.weight, look)

    found = edges(traced(Looks(), input_size=(3, 3)))
    source = "complex" if look == "real" else "a"
    assert found[-3:] == [(source, "matmul", 1), ("weight", "matmul", 1), ("matmul", "output", 1)]


def test_a_module_called_by_a_hook_takes_what_the_hooked_one_gave():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, output: model[1](output))
    found = edges(traced(model, input_size=(2, 3)))
    assert found == [("input", "0", 1), ("0", "1", 1), ("1", "1", 1), ("1", "output", 1)]


def test_a_module_called_twice_has_two_calls():
    calls = [call for call in traced(Twice(), input_size=(2, 3)).calls if call.leaf]
    assert [(call.module, call.number) for call in calls] == [(1, 0), (1, 1)]


def test_modules_in_plain_lists_are_marked_as_unregistered():
    trace = traced(PlainList(), input_size=(2, 3))
    assert {module.path: module.registered for module in trace.modules}["blocks[1]"] is False


def test_without_input_the_edges_come_from_symbols():
    trace = traced(Residual())
    assert (trace.engine.ran, trace.engine.edges) == ("structure", "symbolic")
    assert edges(trace) == RESIDUAL


def test_where_symbols_fail_the_order_of_definition_stands_in():
    class Branching(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    trace = traced(Branching(nn.Linear(2, 2), nn.ReLU()))
    assert trace.engine.edges == "definition"
    assert "torch.fx" in trace.engine.reason
    assert all(edge.guessed for edge in trace.edges)


def test_a_sequential_is_read_off_as_symbols_would_tell_it():
    class Mine(nn.Sequential):
        """Of no class that is known, so torch.fx follows it."""

    shared = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    parts = [nn.Linear(3, 3), nn.Sequential(shared, nn.Sequential(nn.Tanh()), shared), nn.Identity()]
    known, followed = traced(nn.Sequential(*parts)), traced(Mine(*parts))
    assert known.engine == followed.engine
    assert (known.calls, known.nodes, known.edges) == (followed.calls, followed.nodes, followed.edges)
    assert len(known.calls) == 12


def test_a_sequential_within_itself_is_no_endless_walk():
    model = nn.Sequential(nn.ReLU())
    model.append(model)
    assert traced(model).engine.edges == "definition"


def test_a_sequential_with_another_forward_is_not_read_off():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    model.forward = lambda x: model[0](x) + x
    trace = traced(model)
    assert trace.engine.edges == "definition"
    assert "forward" in trace.engine.reason
    inner = nn.Sequential(model, nn.Tanh())
    assert ("0.0", "add", 1) in edges(traced(inner))


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    steps: int


@pytest.mark.parametrize(
    ("wrap", "class_name", "items"),
    [
        (lambda t: Answer(t, 3), "Answer", ["logits", "steps"]),
        (lambda t: {"a": t, "b": {}}, "dict", ["a", "b"]),
        (lambda t: (t, None, 7), "tuple", [0, 1, 2]),
        (lambda t: nn.utils.rnn.pack_sequence([t]), "PackedSequence", None),
    ],
    ids=["dataclass", "dict", "tuple", "packed"],
)
def test_outputs_of_every_form_are_described(wrap, class_name, items):
    class Wraps(nn.Sequential):
        def forward(self, x):
            return wrap(super().forward(x))

    output = traced(Wraps(nn.Linear(3, 4)), input_size=(2, 3)).calls[0].output
    assert isinstance(output, Collection)
    assert output.class_name == class_name
    assert items is None or [key for key, _ in output.items] == items


class Messy(nn.Module):
    """Changes what a forward can change, then fails if told so."""

    def __init__(self, fails):
        super().__init__()
        self.layer, self.norm, self.drop = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout()
        self.log, self.deep, self.fails = [], {"a": [1]}, fails
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.cache = self.norm(self.layer(x))
        self.log.append(x)
        self.deep["a"].append(2)
        self.seen += 1
        self.layer.weight.data.add_(1)
        self.layer.bias.data = torch.ones(3)
        self.layer.weight.requires_grad_(False)
        self.drop.train()
        x.zero_()
        random.random(), np.random.rand(), torch.rand(1)
        self.extra = nn.Linear(1, 1)
        if self.fails:
            raise KeyboardInterrupt
        return self.drop(self.cache)


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "is interrupted"])
@pytest.mark.parametrize("mode", ["eval", "train", "same"])
def test_the_model_the_input_and_the_random_state_are_as_before(fails, mode):
    model, x = Messy(fails), torch.randn(4, 3)
    model.norm.eval()
    model.layer(x).sum().backward()
    before = whole_state(model, x)
    if fails:
        with pytest.raises(KeyboardInterrupt, match="forward failed in Messy") as caught:
            traced(model, input_data=x, mode=mode)
        assert caught.value.trace.failure.call == 0
    else:
        traced(model, input_data=x, mode=mode)
    assert whole_state(model, x) == before


def test_a_lazy_model_stays_lazy():
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    parameters = list(model.parameters())
    trace = traced(model, input_size=(2, 3))
    assert [type(module).__name__ for module in model] == ["LazyLinear", "LazyBatchNorm1d"]
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert trace.calls[0].output == TensorValue((2, 4), "float32")
    model(torch.ones(2, 3))
    assert model[0].weight.shape == (4, 3)


class MakesItsOwn(nn.Module):
    """Lazy without torch's mixin, its tensor tied."""

    def __init__(self):
        super().__init__()
        self.weight = nn.UninitializedParameter()
        self.same = self.weight

    def forward(self, x):
        if isinstance(self.weight, nn.UninitializedParameter):
            self.weight.materialize((4, x.shape[-1]))
            nn.init.ones_(self.weight)
        return nn.functional.linear(x, self.same)


LAZY = [
    (nn.LazyLinear(4), (2, 3), (None, 4)),
    (nn.LazyConv2d(4, 1), (2, 3, 5, 5), (None, 4, 5, 5)),
    (nn.LazyConvTranspose1d(4, 1), (2, 3, 5), (None, 4, 5)),
    (nn.LazyBatchNorm1d(), (2, 3), (None, 3)),
    (nn.LazyInstanceNorm2d(affine=True, track_running_stats=True), (2, 3, 5, 5), (None, 3, 5, 5)),
    (MakesItsOwn(), (2, 3), (None, 4)),
]


@pytest.mark.parametrize("engine", ["real", "meta"])
@pytest.mark.parametrize(("layer", "size", "output"), LAZY, ids=lambda value: type(value).__name__)
def test_lazy_layers_of_every_kind_run_and_stay_lazy(layer, size, output, engine):
    model = nn.Sequential(layer)
    held = list(model.parameters())
    trace = traced(model, input_size=(None, *size[1:]), engine=engine)
    assert trace.calls[-1].output == TensorValue(output, "float32")
    assert all(a is b and nn.parameter.is_lazy(a) for a, b in zip(held, model.parameters(), strict=True))


def test_a_class_that_lets_no_one_set_attributes_has_its_mode():
    class Sealed(nn.Linear):
        def __setattr__(self, name, value):
            if self.__dict__.get("sealed"):
                raise TypeError("sealed")
            super().__setattr__(name, value)

        def forward(self, x):
            assert not self.training
            return x

    model = Sealed(3, 3)
    model.sealed = True
    traced(nn.Sequential(model), input_size=(2, 3))
    assert model.training


class Doubles(nn.Module):
    """Two stock leaves with a function between them, called under whatever `around` gives."""

    def __init__(self, around=contextlib.nullcontext):
        super().__init__()
        self.a, self.b, self.around = nn.Linear(3, 3), nn.Sequential(nn.ReLU(), nn.Linear(3, 3)), around

    def forward(self, x):
        with self.around():
            return self.b(self.a(x) * 2)


DOUBLES = [("x", "a", 1), ("a", "mul", 1), ("mul", "b.0", 1), ("b.0", "b.1", 1), ("b.1", "output", 1)]


class Counts(TorchFunctionMode):
    """Somebody else's mode: it sees every function that it would see without us."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(function.__name__)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("around", [lambda: torch.device("cpu"), Counts, torch.no_grad, torch.enable_grad])
def test_modes_that_forward_enters_do_not_hide_anything(around):
    trace = traced(Doubles(around), input_size=(2, 3))
    assert edges(trace) == DOUBLES
    assert [call.flops for call in trace.calls if call.leaf] == [36, 0, 36]


def test_a_mode_around_sees_what_it_would_see_without_us():
    model, x = Doubles().eval(), torch.ones(2, 3)
    with torch.no_grad(), Counts() as alone:
        model(x)
    with Counts() as around:
        trace = traced(model, input_data=x)
    assert edges(trace) == DOUBLES
    calls = [name for name in around.names if name in ("linear", "relu", "mul", "__mul__")]
    assert calls == [name for name in alone.names if name in ("linear", "relu", "mul", "__mul__")]


@pytest.mark.parametrize("where", ["leaf", "container", "all"])
def test_hooks_run_once_and_may_change_the_output(where):
    model, ran = Doubles(), []

    def hook(module, args, output):
        ran.append(type(module).__name__)
        return output[:1]

    if where == "all":
        handle = torch.nn.modules.module.register_module_forward_hook(hook)
    else:
        handle = (model.a if where == "leaf" else model.b).register_forward_hook(hook)
    try:
        trace = traced(model, input_size=(2, 3))
    finally:
        handle.remove()
    assert trace.calls[0].output == TensorValue((1, 3), "float32")
    assert ran == {"leaf": ["Linear"], "container": ["Sequential"]}.get(
        where, ["Linear", "ReLU", "Linear", "Sequential", "Doubles"]
    )


def test_a_direct_call_of_forward_runs_no_hooks_as_in_torch():
    class Direct(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.a.register_forward_hook(lambda *_: pytest.fail("a hook ran"))

        def forward(self, x):
            return self.a.forward(x)

    assert edges(traced(Direct(), input_size=(2, 3))) == [("x", "a", 1), ("a", "output", 1)]


@pytest.mark.parametrize("kind", ["pre", "post", "own call", "replaced"])
def test_a_sequential_is_looked_into_where_it_is_not_all_that_runs(kind):
    """Functions between its children have edges, and what they write is put back."""

    def work(module, args, output=None):
        layer[0].weight.detach().mul_(2)
        return (args[0] * 2,) if output is None else output * 2

    class Works(nn.Linear):
        def __call__(self, x):
            return work(self, (x,))[0]

    class Replaces(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = layer

        def forward(self, x):
            self.inner[1] = another[0]
            return self.inner(x)

    another = [Works(3, 3)]
    layer = nn.Sequential(nn.Linear(3, 3), another[0] if kind == "own call" else nn.ReLU())
    if kind == "pre":
        layer.register_forward_pre_hook(work)
    elif kind == "post":
        layer.register_forward_hook(work)
    before = layer[0].weight.tolist()
    found = edges(traced(Replaces() if kind == "replaced" else layer, input_size=(2, 3)))
    assert any(name == "mul" for _, name, _ in found)
    assert not any(name == "constant" for name, _, _ in found)
    assert layer[0].weight.tolist() == before


def test_a_forward_that_forward_gives_a_module_is_the_one_that_runs():
    class Swaps(nn.Module):
        def later(self, x):
            return x[:1]

        def forward(self, x):
            self.forward = self.later
            return x

    trace = traced(nn.Sequential(twice := Swaps(), twice), input_size=(2, 3))
    assert trace.calls[-1].output == TensorValue((1, 3), "float32")


def test_a_forward_that_was_kept_is_the_module_s_own_afterwards():
    kept = []

    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Identity()

        def forward(self, x):
            kept.append(self.layer.forward)
            return self.layer(x)

    traced(Keeps(), input_size=(2, 3))
    x = torch.ones(2, 3)
    assert kept[0](x) is x


@pytest.mark.parametrize("where", ["model", "child"])
def test_a_model_may_know_no_name_but_its_own(where):
    class Config(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.options = nn.Linear(3, 3), {}

        def __getattr__(self, name):
            return super().__getattr__(name) if name in ("layer", "options") else self.options[name]

        def forward(self, x):
            return self.layer(x)

    model = Config() if where == "model" else nn.Sequential(Config())
    assert len(traced(model, input_size=(2, 3)).calls) == len(list(model.modules()))


def test_a_call_of_its_own_is_run():
    class Doubled(nn.Module):
        def _call_impl(self, *args):
            return super()._call_impl(*args)[:1]

        def forward(self, x):
            return x

    trace = traced(nn.Sequential(Doubled()), input_size=(2, 3))
    assert trace.calls[0].output == TensorValue((1, 3), "float32")


@pytest.mark.parametrize("copy_of", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_that_forward_makes_is_a_module_of_its_own(copy_of):
    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = nn.Sequential(nn.Linear(3, 3), Residual())

        def forward(self, x):
            copied = copy_of(self.parts)
            with torch.no_grad():
                copied[0].weight.zero_(), copied[0].bias.fill_(2.0)
            assert copied[0](x).eq(2).all()
            assert copied[0].forward(x).eq(2).all()
            return self.parts(x), copied(x)

    model = Copies()
    trace = traced(model, input_size=(2, 3))
    assert [trace.modules[call.module].path for call in trace.calls] == [
        *("", "parts", "parts.0", "parts.1", "parts.1.drop", "parts.1.a")
    ]
    assert not model.parts[0].weight.eq(0).any()


def test_wrappers_are_looked_through():
    template = Doubles()
    parallel = multi_gpu_model(template, devices=["cpu", "cpu"])
    for wrapped in (parallel, torch.compile(template)):
        trace = traced(wrapped, input_size=(2, 3))
        assert trace.model_name == "Doubles"
        assert edges(trace) == DOUBLES


def test_a_list_that_holds_itself_is_no_recursion():
    class Takes(nn.Module):
        def forward(self, x, more):
            return {"x": x * 2, "more": more}

    endless = []
    endless.append(endless)
    trace = traced(Takes(), input_data=(torch.ones(2), endless))
    assert edges(trace) == [("x", "Takes", 1), ("Takes", "output.x", 1)]


@pytest.mark.parametrize("dtype", ["float64", ">f4", "int64"])
def test_arrays_become_tensors_as_the_model_wants_them(dtype):
    given = traced(nn.Identity(), input_data={"input": np.ones((2, 3), dtype)}).calls[0].output
    assert given == TensorValue((2, 3), "int64" if dtype == "int64" else "float32")


@pytest.mark.parametrize("wrap", [torch.jit.script, torch.compile], ids=["script", "compile"])
def test_script_and_compiled_modules_run_as_what_they_wrap(wrap):
    trace = traced(nn.Sequential(wrap(nn.Linear(3, 4)), nn.ReLU()), input_size=(2, 3))
    assert trace.calls[0].output == TensorValue((2, 4), "float32")


def test_a_module_compiled_in_place_is_traced_and_stays_compiled():
    model = nn.Sequential(nn.Linear(3, 4))
    model[0].compile()
    compiled = model[0]._compiled_call_impl
    assert len(traced(model, input_size=(2, 3)).calls) == 2
    assert model[0]._compiled_call_impl is compiled


@pytest.mark.parametrize("where", ["class", "instance"])
def test_a_compiled_forward_runs_as_what_it_wraps(where):
    class Compiled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(3, 3)

        def forward(self, x):
            return torch.relu(self.a(x))

    if where == "class":
        Compiled.forward = torch.compile(Compiled.forward, fullgraph=True)
    model = Compiled()
    if where == "instance":
        model.forward = torch.compile(model.forward, fullgraph=True)
    before = model.forward
    assert edges(traced(model, input_size=(2, 3))) == [("x", "a", 1), ("a", "relu", 1), ("relu", "output", 1)]
    assert model.forward == before


def test_a_forward_may_look_at_its_own_parts():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x):
            self.seen = summarize(self.a, input_data=x)
            assert self.seen.rows[0].output_shapes == "(2, 3)"
            return self.a(x)

    assert traced(Looks(), input_size=(2, 3)).calls[-1].output == TensorValue((2, 3), "float32")


def test_meta_runs_shapes_only_and_leaves_the_weights():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    trace = traced(model, input_size=(2, 3), engine="meta")
    assert (trace.engine.ran, trace.calls[0].output) == ("meta", TensorValue((2, 4), "float32"))
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_what_meta_cannot_run_is_said_in_a_note():
    class Branching(nn.Linear):
        def forward(self, x):
            return super().forward(x) if bool(x.sum() > 0) else x

    with pytest.raises(RuntimeError, match="meta") as caught:
        traced(Branching(2, 2), input_size=(1, 2), engine="meta")
    assert any("engine='real'" in note for note in caught.value.__notes__)


def test_nothing_keeps_the_model_alive():
    model = Residual()
    gone = weakref.ref(model)
    # What was recorded holds no circle either: it is freed at once, not when garbage is collected.
    gc.disable()
    try:
        trace = traced(model, input_size=(2, 3))
        del model
        assert gone() is None
    finally:
        gc.enable()
    assert trace.modules


class BySize(nn.Module):
    """Takes another way where the batch is not of two, or looks different but is the same."""

    def __init__(self, way):
        super().__init__()
        self.way, self.one, self.other = way, nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        two = len(x) == 2
        if self.way == "modules":
            return self.one(x) if two else self.other(x)
        if self.way == "functions":
            return torch.relu(self.one(x)) if two else torch.tanh(self.one(x))
        first, second = self.one(x), self.other(x)
        return first + x if two else second + x


@pytest.mark.parametrize("way", ["modules", "functions", "edges"])
def test_another_way_at_another_size_is_refused(way):
    with pytest.raises(ValueError, match="another way at another size"):
        traced(BySize(way), input_size=(None, 3))


def test_dimensions_stay_open_however_often_layers_stride_over_them():
    layers = [nn.Conv2d(3, 4, 7), *(nn.Conv2d(4, 4, 3, stride=2, padding=1) for _ in range(4))]
    trace = traced(nn.Sequential(*layers), input_size=(None, 3, None, None))
    assert trace.calls[-1].output == TensorValue((None, 4, None, None), "float32")


def test_dimensions_that_have_to_be_small_may_be_open():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Parameter(torch.ones(9, 3))

        def forward(self, x):
            return x + self.table[: x.shape[1]]

    trace = traced(Positions(), input_size=(None, None, 3))
    assert trace.calls[0].output == TensorValue((None, None, 3), "float32")


def test_each_of_two_sizes_finds_the_model_as_it_was():
    class Remembers(nn.Module):
        seen = None

        def forward(self, x):
            self.seen = torch.zeros_like(x) if self.seen is None else self.seen
            return x + self.seen

    assert traced(Remembers(), input_size=(None, 3)).calls[0].output == TensorValue((None, 3), "float32")


@pytest.mark.parametrize("kind", ["sparse", "strided", "jagged"])
def test_sparse_and_nested_tensors_go_through_layers_that_hand_them_on(kind):
    if kind == "sparse":
        x = torch.eye(4).to_sparse()
    else:
        x = torch.nested.nested_tensor([torch.ones(2, 4), torch.ones(3, 4)], layout=getattr(torch, kind))
    trace = traced(nn.Sequential(nn.Identity(), nn.Dropout()), input_data=(x,))
    assert edges(trace) == [("input", "0", 1), ("0", "1", 1), ("1", "output", 1)]
    assert trace.calls[0].output.shape == ((4, 4) if kind == "sparse" else (2, None, 4))


def test_sizes_may_be_numpys_integers():
    shape = np.array([2, 3])
    assert traced(nn.Identity(), input_size=tuple(shape)).calls[0].output == TensorValue((2, 3), "float32")


def test_a_generator_argument_is_not_consumed():
    class Sums(nn.Module):
        def forward(self, items):
            return sum(items)

    trace = traced(Sums(), input_data=((torch.ones(2) for _ in range(3)),))
    assert trace.calls[0].output == TensorValue((2,), "float32")


def test_another_thread_that_runs_the_same_model_is_not_recorded():
    model, began, ended = Residual(), threading.Event(), threading.Event()

    class Waits(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            began.set()
            assert ended.wait(60)
            return self.inner(x)

    results = []

    def other():
        assert began.wait(60)
        results.append(model(torch.ones(2, 3)).shape)
        ended.set()

    thread = threading.Thread(target=other)
    thread.start()
    trace = traced(Waits(), input_size=(2, 3))
    thread.join()
    assert results == [(2, 3)]
    assert len(trace.calls) == 4


def test_an_error_that_forward_catches_is_no_failure():
    class Tries(nn.Sequential):
        def forward(self, x):
            try:
                return self[0](x)
            except RuntimeError:
                return self[1](x)

    trace = traced(Tries(nn.Linear(9, 1), nn.Linear(3, 1)), input_size=(2, 3))
    assert trace.failure is None
    assert trace.calls[2].parent == 0


class Frozen(Exception):
    """Takes no attribute, not even its traceback, and cannot say what it is."""

    def __init__(self, one, two):
        super().__init__(one, two)

    def __setattr__(self, name, value):
        raise TypeError("frozen")

    def __str__(self):
        raise TypeError("speechless")


@pytest.mark.parametrize(
    "error", [Frozen(1, 2), StopIteration(1), GeneratorExit(), KeyboardInterrupt(), SystemExit(3)], ids=repr
)
def test_every_exception_is_raised_as_it_is(error):
    class Raises(nn.Module):
        def forward(self, x):
            raise error

    try:
        summarize(nn.Sequential(nn.Linear(3, 3), Raises()), input_size=(2, 3))
    except BaseException as raised:
        assert raised is error  # noqa: PT017
        assert error.summary.rows[1].failed
        assert error.__notes__
    else:
        pytest.fail("nothing was raised")


@pytest.mark.parametrize("again", ["another", "the same", "its own"])
def test_the_call_that_failed_is_not_one_whose_error_was_caught(again):
    """An exception may lie where one that was caught had lain, or be the same object."""
    one = ValueError("no")

    class Raises(nn.Module):
        def forward(self, x):
            raise one if again == "the same" else ValueError("no")

    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = Raises(), Raises()

        def forward(self, x):
            with contextlib.suppress(ValueError):
                self.first(x)
            if again == "its own":
                raise ValueError("no")
            return self.second(x)

    with pytest.raises(ValueError, match="no") as caught:
        traced(Tries(), input_size=(2, 3))
    trace = caught.value.trace
    assert trace.modules[trace.calls[trace.failure.call].module].path == ("" if again == "its own" else "second")


def test_as_deep_as_the_model_itself_can_run():
    model = nn.Linear(2, 2)
    for _ in range(200):
        model = nn.Sequential(model)
    assert len(traced(model, input_size=(1, 2)).calls) == 201


def test_a_model_deeper_than_a_copy_can_follow_runs_on_meta():
    model = nn.Linear(2, 2)
    for _ in range(180):
        model = nn.Sequential(model)
    # What torch imports at the first run on meta is not imported 200 levels deep.
    traced(nn.Linear(2, 2), input_size=(1, 2), engine="meta")
    with pytest.raises(RecursionError, match="recursion"):
        copy.deepcopy(model)
    assert len(traced(model, input_size=(1, 2), engine="meta").calls) == 181


def test_a_model_deeper_than_python_s_limit_is_told_so():
    model = nn.Linear(2, 2)
    for _ in range(400):
        model = nn.Sequential(model)
    with pytest.raises(RecursionError, match="recursion") as caught:
        traced(model, input_size=(1, 2))
    (note,) = caught.value.__notes__
    assert "sys.setrecursionlimit" in note
    assert len(note) < 700


def test_a_nested_tensor_may_be_made_in_forward():
    class Makes(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 6)

        def forward(self, x):
            return self.layer(torch.nested.nested_tensor([x[0], x[1, :2]], layout=torch.jagged)).values()

    trace = traced(Makes(), input_size=(2, 3, 5))
    assert trace.nodes[-1].output.shape == (5, 6)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"input_size": (-1, 3)}, ValueError, "negative"),
        ({"input_size": (2, 3), "input_data": torch.ones(2, 3)}, ValueError, "both"),
        ({"engine": "real"}, ValueError, "give input_size"),
        ({"engine": "none"}, ValueError, "engine"),
        ({"mode": "test"}, ValueError, "mode"),
        ({"input_size": (2.0, 3)}, TypeError, "ints"),
    ],
)
def test_bad_arguments_are_refused_before_the_model_is_touched(arguments, error, match):
    model = Residual()
    model.a.register_forward_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(error, match=match):
        traced(model, **arguments)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        traced(nn.Linear, input_size=(2, 3))


def test_the_functions_of_one_call_have_its_number_and_no_other():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return torch.tanh(self.layer(torch.sigmoid(x) * 2)) + x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Block()

        def forward(self, x):
            return self.block(torch.relu(self.block(x)))

    trace = traced(Net(), input_size=(2, 4))
    ran = {call.index: [] for call in trace.calls if not call.leaf}
    for node in trace.nodes:
        if node.kind == "function":
            ran[node.call].append(node.name)
    calls = {index: trace.calls[index] for index in ran}
    found = [(trace.modules[calls[i].module].path, calls[i].number, names) for i, names in ran.items()]
    functions = ["sigmoid", "mul", "tanh", "add"]
    assert found == [("", 0, ["relu"]), ("block", 0, functions), ("block", 1, functions)]
