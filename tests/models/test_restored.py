"""Forwards that change whatever a forward can change: afterwards all is as it was before."""

from __future__ import annotations

import collections
import contextlib
import contextvars
import copy
import dataclasses
import functools
import io
import itertools
import queue
import random
import subprocess
import sys
import textwrap
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.whole_state import whole_state
from tests.ranks import SHARDS
from torchkutils import summarize
from torchkutils.models.tree.nested_values import all_tensors_of


@torch.library.custom_op("torchkutils_tests::bump", mutates_args={"target"})
def bump(target: torch.Tensor, by: torch.Tensor) -> None:
    target.add_(by)


class Changes(nn.Module):
    """Does something to itself, runs, and fails if it is told to."""

    def __init__(self, change: Callable[[Any, torch.Tensor], Any], fails: bool) -> None:
        super().__init__()
        self.layer, self.norm, self.table = nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Embedding(5, 3, max_norm=0.5)
        self.inner = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.bag = nn.EmbeddingBag(5, 3, max_norm=0.5)
        self.register_buffer("seen", torch.zeros(2))
        self.register_buffer("wide", torch.zeros(1).expand(3, 2))
        self.register_buffer("few", torch.eye(2).to_sparse())
        self.flat = torch.ones(4)
        self.one, self.two = nn.Parameter(self.flat[:2]), nn.Parameter(self.flat[2:])
        self.plain, self.plains = torch.zeros(2), [torch.zeros(2)]
        self.log: list[Any] = [1]
        self.deep = {"a": [1], "b": ({"c": set()},)}
        self.layer.weight.register_hook(lambda gradient: gradient)
        # The order of these is not the order in which they came.
        self.layer.register_forward_hook(lambda *_: None)
        self.layer.register_forward_hook(lambda *_: None, prepend=True)
        self.change, self.fails = change, fails

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.change(self, x)
        out: torch.Tensor = self.inner(self.norm(self.layer(x.float())))
        if self.fails:
            raise RuntimeError("told to")
        return out


def backward_inside(model: Any, x: torch.Tensor) -> None:
    with torch.enable_grad():
        model.layer(x.float()).sum().backward()


def hooked(model: Any, x: torch.Tensor) -> None:
    model.layer.register_forward_hook(lambda *_: None)
    model.inner[0].register_forward_pre_hook(lambda *_: None)


def hooked_parameters(model: Any, x: torch.Tensor) -> None:
    for parameter in model.layer.parameters():
        parameter.register_hook(lambda gradient: gradient * 2)
        parameter.register_post_accumulate_grad_hook(lambda _: None)


def other_class(model: Any, x: torch.Tensor) -> None:
    model.norm.__class__ = nn.BatchNorm2d
    model.norm.__class__ = type("Mine", (nn.BatchNorm1d,), {})


def other_memory(model: Any, x: torch.Tensor) -> None:
    model.layer.weight.data = model.layer.weight.data.t()
    model.layer.bias.data = torch.ones(3)
    model.seen.data = torch.ones(2)


def without_a_mode(model: Any, x: torch.Tensor) -> None:
    """Attributes, containers and flags need no function mode to be seen."""
    with torch._C.DisableTorchFunction():
        model.seen.add_(1)
        model.layer.weight.requires_grad_(False)
        model.layer.bias.grad = torch.ones(3)
        model.log.append(2)


def switches(model: Any, x: torch.Tensor) -> None:
    torch.set_grad_enabled(True)
    torch.set_autocast_enabled("cpu", True)
    torch.set_autocast_dtype("cpu", torch.float16)


def generators(model: Any, x: torch.Tensor) -> None:
    random.random(), np.random.rand(), torch.rand(3), torch.manual_seed(3)


CHANGES: dict[str, Callable[[Any, torch.Tensor], Any]] = {
    "a parameter in place": lambda m, x: m.layer.weight.data.add_(1),
    "a view of a parameter": lambda m, x: m.layer.weight.detach()[0].zero_(),
    "an in-place operator": lambda m, x: m.layer.bias.detach().__itruediv__(2),
    "item assignment": lambda m, x: m.layer.weight.data.__setitem__(0, 7.0),
    "an initialisation": lambda m, x: nn.init.normal_(m.layer.weight),
    "an overload": lambda m, x: torch.ops.aten.add_.Tensor(m.layer.weight.data, 1),
    "an operator of one's own": lambda m, x: bump(m.layer.weight.data, by=torch.ones(1)),
    "a list of an operator": lambda m, x: torch.ops.aten._foreach_add_([m.layer.bias.data, x], 1),
    "one of two parameters in one memory": lambda m, x: m.one.data.add_(1),
    "a plain tensor": lambda m, x: m.plain.add_(1),
    "a plain tensor in a list": lambda m, x: m.plains[0][:1].add_(1),
    "an expanded buffer": lambda m, x: m.wide[:1, :1].add_(1),
    "a sparse buffer": lambda m, x: m.few.mul_(2),
    "many at once": lambda m, x: torch._foreach_mul_([p.data for p in m.inner.parameters()], 2.0),
    "out=": lambda m, x: torch.add(m.seen.new_ones(3), 1, out=m.layer.bias.detach()),
    "a table that renormalises": lambda m, x: m.table(torch.tensor([0, 1, 1])),
    "a bag that renormalises": lambda m, x: m.bag(torch.tensor([[0, 1]])),
    "other memory": other_memory,
    "another shape": lambda m, x: m.layer.weight.detach_().t_(),
    "another dtype": lambda m, x: m.inner.double().float(),
    "a parameter replaced": lambda m, x: setattr(m.layer, "weight", nn.Parameter(torch.ones(3, 3))),
    "a parameter deleted": lambda m, x: delattr(m.table, "weight"),
    "a buffer in place": lambda m, x: m.seen.add_(1),
    "a buffer replaced": lambda m, x: setattr(m, "seen", torch.ones(3)),
    "a buffer added": lambda m, x: m.register_buffer("more", torch.ones(3)),
    "flags": lambda m, x: (m.train(), m.layer.requires_grad_(False), m.norm.eval()),
    "a gradient set": lambda m, x: setattr(m.layer.bias, "grad", torch.ones(3)),
    "a gradient cleared": lambda m, x: m.zero_grad(),
    "a backward inside": backward_inside,
    "an attribute set": lambda m, x: setattr(m, "cache", x),
    "an attribute of a stock layer": lambda m, x: setattr(m.layer, "note", "hello"),
    "an attribute equal but not the same": lambda m, x: setattr(m, "fails", int(m.fails)),
    "an attribute renamed": lambda m, x: m.__dict__.update(moved=m.__dict__.pop("fails")) or setattr(m, "fails", False),
    "lists, dicts and sets": lambda m, x: (m.log.clear(), m.deep["a"].append(x), m.deep["b"][0]["c"].add(1)),
    "a module replaced": lambda m, x: m.inner.__setitem__(1, nn.Tanh()),
    "a module added": lambda m, x: m.inner.append(nn.Linear(3, 3)),
    "hooks": hooked,
    "hooks of parameters": hooked_parameters,
    "a class": other_class,
    "switches of the thread": switches,
    "random generators": generators,
    "behind the mode's back": without_a_mode,
    "the input": lambda m, x: x.zero_(),
}


@pytest.mark.parametrize("mode", ["eval", "train", "same"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("name", CHANGES)
def test_whatever_forward_changes_is_put_back(name: str, fails: bool, mode: Any) -> None:
    model = Changes(CHANGES[name], fails)
    model.norm.eval()
    model.layer(torch.ones(2, 3)).sum().backward()
    x = torch.arange(6.0).reshape(2, 3)
    before, given = whole_state(model), (x.tolist(), x._version)
    if fails and name != "an attribute renamed":
        with pytest.raises(RuntimeError, match="told to"):
            summarize(model, input_data=x, mode=mode)
    else:
        summarize(model, input_data=x, mode=mode)
    assert whole_state(model) == before
    assert (x.tolist(), x._version) == given


class Odd(dict[str, Any]):
    """No plain dict."""


@dataclasses.dataclass(frozen=True)
class Parts:
    x: torch.Tensor


@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
def test_nothing_that_the_caller_hands_in_is_changed(fails: bool) -> None:
    def forward(model: Any, parts: Any, odd: Any, cache: Any, more: Any) -> Any:
        parts.x.add_(1), odd["x"].add_(1), odd.update(y=1), cache.append(1), more["deep"][0].clear(), more["x"].add_(1)
        if fails:
            raise RuntimeError("told to")
        return parts.x

    model, x = nn.Identity(), torch.zeros(2)
    model.forward = lambda *values: forward(model, *values)  # type: ignore[method-assign]
    given = (Parts(x), Odd(x=x), [], {"deep": [{1: 2}], "x": x})
    if fails:
        with pytest.raises(RuntimeError, match="told to"):
            summarize(model, input_data=given)
    else:
        summarize(model, input_data=given)
    assert (x.tolist(), x._version) == ([0, 0], 0)
    parts, odd, cache, more = given
    # By identity: == of containers asks tensors for one truth value, where they are not the same object.
    assert parts.x is odd["x"] is more["x"] is x
    assert (list(odd), cache, list(more), more["deep"]) == (["x"], [], ["deep", "x"], [{1: 2}])


def test_an_input_that_requires_a_gradient_does_so_in_forward() -> None:
    class Force(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(x.square().sum(), x)[0]

    x = torch.ones(2, 3, requires_grad=True)
    assert summarize(Force(), input_data=x).rows[0].output_shapes == "(2, 3)"
    assert x.grad is None


def test_what_was_made_in_inference_mode_is_put_back() -> None:
    def forward(model: Any, x: torch.Tensor) -> None:
        with torch.inference_mode():
            model.seen.add_(1), model.layer.weight.add_(1)

    with torch.inference_mode():
        model = Changes(forward, False)
    before = model.layer.weight.clone()
    summarize(model, input_size=(2, 3))
    assert model.seen.tolist() == [0, 0]
    assert torch.equal(model.layer.weight, before)


def test_gradients_stay_where_the_look_cannot_begin() -> None:
    class Uncopied(torch.Tensor):
        def clone(self, *, memory_format: Any = None) -> Any:
            raise MemoryError("no room")

    model = nn.Linear(3, 3)
    model(torch.ones(2, 3)).sum().backward()
    model.register_buffer("large", torch.ones(2).as_subclass(Uncopied))
    with pytest.raises(MemoryError, match="no room"):
        summarize(model, input_size=(2, 3))
    assert model.weight.grad is not None


def test_memory_replaced_unseen_is_said() -> None:
    def unseen(model: Any, x: torch.Tensor) -> None:
        with torch._C.DisableTorchFunction():
            model.layer.bias.data = torch.ones(3)

    with pytest.warns(RuntimeWarning, match="could not be seen"):
        summarize(Changes(unseen, False), input_size=(2, 3))


def test_other_threads_notice_nothing() -> None:
    """Another model, in another thread, runs by torch's own ways while this one is traced."""
    other, seen = nn.Sequential(nn.Linear(3, 3), nn.ReLU()), []
    running, done = threading.Event(), threading.Event()

    def elsewhere() -> None:
        assert running.wait(60)
        seen.append(
            (
                torch.is_grad_enabled(),
                torch._C._len_torch_function_stack(),
                nn.Module.__call__ is nn.Module._wrapped_call_impl,
                other(torch.ones(1, 3)).requires_grad,
                torch.is_autocast_enabled("cpu"),
            )
        )
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    summarize(Changes(lambda m, x: (running.set(), done.wait(60)), False), input_size=(2, 3))
    thread.join()
    assert seen == [(True, 0, True, True, False)]


class Counter:
    """An object of one's own."""

    def __init__(self) -> None:
        self.count, self.log, self.tensor, self.deep = 0, [1], torch.zeros(2), {"inner": Slotted(1)}

    def state(self) -> Any:
        inner = self.deep["inner"]
        return self.__dict__.keys() | set(), self.count, self.log[:], self.tensor.tolist(), inner.n, hasattr(inner, "m")

    def change(self) -> None:
        self.count, self.extra = 5, 1  # type: ignore[attr-defined]
        (
            self.log.append(2),
            self.tensor.add_(1),
            setattr(self.deep["inner"], "n", 7),
            setattr(self.deep["inner"], "m", 1),
        )


class Closed(list[Any]):
    def __len__(self) -> int:
        raise NotImplementedError

    def __iter__(self) -> Any:
        raise NotImplementedError


def counting() -> Callable[[], None]:
    count = 0

    def call() -> None:
        nonlocal count
        count += 1

    return call


def remembering() -> Callable[[], None]:
    def call(seen: list[int] = []) -> None:
        seen.append(1)

    return call


class Slotted:
    __slots__ = ("m", "n")

    def __init__(self, n: int) -> None:
        self.n = n


def exhausted(iterator: Any) -> list[Any]:
    return list(itertools.islice(copy.copy(iterator), 5))


# What makes a value, what changes it, and what is read of it.
VALUES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any], Callable[[Any], Any]]] = {
    "an object": (Counter, Counter.change, Counter.state),
    "an object in a tuple in a dict": (
        lambda: {"a": (Counter(),)},
        lambda held: held["a"][0].change(),
        lambda held: held["a"][0].state(),
    ),
    "an array": (lambda: np.zeros(3), lambda a: a.__setitem__(0, 1), lambda a: a.tolist()),
    "an array of objects": (
        lambda: np.array([None, "a"], object),
        lambda a: a.__setitem__(0, 1),
        lambda a: a.tolist(),
    ),
    "torch's generator": (torch.Generator, lambda g: torch.rand(1, generator=g), lambda g: g.get_state().tolist()),
    "NumPy's generator": (
        lambda: np.random.default_rng(0),
        lambda g: g.random(),
        lambda g: repr(g.bit_generator.state),
    ),
    "NumPy's older generator": (
        lambda: np.random.RandomState(0),
        lambda g: g.rand(),
        lambda g: repr(g.get_state(legacy=False)),
    ),
    "Python's generator of numbers": (lambda: random.Random(0), lambda g: g.random(), lambda g: g.getstate()),
    "bytes": (lambda: bytearray(b"ab"), lambda b: b.append(3), bytes),
    "an open file": (lambda: io.BytesIO(b"abc"), lambda f: f.read(2), lambda f: f.tell()),
    "a set": (lambda: {1}, lambda s: s.add(2), set),
    "an ordered dict": (lambda: collections.OrderedDict(a=1, b=2), lambda d: d.move_to_end("a"), list),
    "a deque": (lambda: collections.deque([1]), lambda d: d.append(2), list),
    "a counter": (lambda: collections.Counter("aab"), lambda c: c.update("c"), dict),
    "what an array of objects holds": (
        lambda: np.array([[], {}], object),
        lambda a: a[0].append(1),
        lambda a: a.tolist(),
    ),
    "a masked array": (
        lambda: np.ma.array([1, 2], mask=[0, 1]),
        lambda a: (a.__setitem__(0, 9), a.mask.__setitem__(0, True)),
        repr,
    ),
    "NumPy's source of bits": (lambda: np.random.PCG64(0), lambda g: g.random_raw(), lambda g: repr(g.state)),
    "a file in memory": (lambda: io.StringIO("abc"), lambda f: f.write("zz"), lambda f: (f.getvalue(), f.tell())),
    "a queue": (queue.Queue, lambda q: q.put(1), lambda q: q.qsize()),
    "a variable of a closure": (counting, lambda f: f(), lambda f: f.__closure__[0].cell_contents),
    "a default": (remembering, lambda f: f(), lambda f: f.__defaults__[0][:]),
    "a partial": (lambda: functools.partial(list.append, []), lambda f: f(1), lambda f: f.args[0][:]),
    "a bound method": (lambda: Counter().change, lambda f: f(), lambda f: f.__self__.state()),
    "a bound method of a list": (lambda: [].append, lambda f: f(1), lambda f: f.__self__[:]),
    "a list that forbids to be looked at": (lambda: Closed([1]), lambda v: list.append(v, 2), lambda v: list.copy(v)),
    "a gradient": (
        lambda: [torch.zeros(2, requires_grad=True)],
        lambda v: setattr(v[0], "grad", torch.ones(2)),
        lambda v: v[0].grad,
    ),
    "memory of a tensor": (
        lambda: [torch.zeros(2)],
        lambda v: (v[0].set_(torch.ones(3)), None)[1],
        lambda v: v[0].tolist(),
    ),
    "an array of a tensor": (
        lambda: [torch.zeros(2)],
        lambda v: v[0].numpy().__iadd__(1),
        lambda v: v[0].tolist(),
    ),
}
ITERATORS: dict[str, Callable[[], Any]] = {
    "of a list": lambda: iter([1, 2, 3]),
    "of a range": lambda: iter(range(3)),
    "of a dict": lambda: iter({"a": 1, "b": 2}),
    "count": itertools.count,
}


@pytest.mark.parametrize("where", ["attribute", "input"])
@pytest.mark.parametrize("fails", [False, True], ids=["ends well", "fails"])
@pytest.mark.parametrize("name", VALUES)
def test_state_outside_of_attributes_is_put_back(name: str, fails: bool, where: str) -> None:
    make, change, read = VALUES[name]

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = make()

        def forward(self, x: torch.Tensor, given: Any) -> torch.Tensor:
            change(self.value if where == "attribute" else given[0])
            if fails:
                raise RuntimeError("told to")
            return x

    model = Uses()
    # An array at the top of the arguments becomes a tensor.
    holder = types.SimpleNamespace(value=make())
    value = model.value if where == "attribute" else holder.value
    before = read(value)
    model.forward = lambda x, given: Uses.forward(model, x, [given.value])  # type: ignore[method-assign]
    with contextlib.suppress(RuntimeError):
        assert summarize(model, input_data=(torch.zeros(2), holder)).notes == ()
    assert read(value) == before
    assert value is (model.value if where == "attribute" else holder.value)


@pytest.mark.parametrize("name", ITERATORS)
def test_an_iterator_stands_where_it_stood(name: str) -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.items = ITERATORS[name]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            next(self.items)
            return x

    model = Draws()
    before = exhausted(model.items)
    assert summarize(model, input_size=(2, 3)).notes == ()
    assert exhausted(model.items) == before


def endless() -> Any:
    number = 0
    while True:
        yield number
        number += 1


@pytest.mark.parametrize("make", [endless, lambda: (n for n in range(3)), lambda: zip([1], [2], strict=True)])
@pytest.mark.parametrize("where", ["attribute", "input"])
def test_what_cannot_be_put_back_is_named(make: Callable[[], Any], where: str) -> None:
    class Draws(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()
            self.inner.stream = make()

        def forward(self, x: torch.Tensor, items: Any) -> torch.Tensor:
            next(self.inner.stream if where == "attribute" else items)
            return x

    (note,) = summarize(Draws(), input_data=(torch.ones(2), make())).notes
    assert note.startswith("inner.stream" if where == "attribute" else "the input")
    assert "could not be put back" in note


counted = {"calls": 0}
total = torch.zeros(2)
number = 0


@functools.lru_cache
def remembered(width: int) -> int:
    return width


def helper(x: Any) -> Any:
    helper.calls += 1  # type: ignore[attr-defined]
    return x


class Registry:
    names: dict[str, int] = {}


class Shared(nn.Module):
    calls = 0
    log: list[int] = []

    def change(self, what: str) -> None:
        """One method of the class, called by forward, as real models have them."""
        global number
        if what == "Shared.calls":
            type(self).calls += 1
        elif what == "Shared.log":
            self.log.append(1)
        elif what == "Shared.new":
            Shared.new = 1  # type: ignore[attr-defined]
        elif what == "the global name counted":
            counted["calls"] += 1
        elif what == "the global name total":
            total.add_(1)
        elif what == "the global name number":
            number += 1
        elif what == "the global name remembered":
            remembered(random.randrange(10**9))
        elif what == "Registry.names":
            Registry.names[str(random.random())] = 1
        else:
            helper(1)

    def forward(self, x: torch.Tensor, what: str) -> torch.Tensor:
        self.change(what)
        return x


helper.calls = 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "what",
    [
        *("Shared.calls", "Shared.log", "Shared.new", "Registry.names", "what the function helper holds"),
        *(f"the global name {name}" for name in ("counted", "total", "number", "remembered")),
    ],
)
def test_what_changes_in_the_program_around_is_named(what: str) -> None:
    (note,) = summarize(Shared(), input_data=(torch.ones(2), what)).notes
    assert note == f"{what} was changed by forward, and stays changed"
    if hasattr(Shared, "new"):
        del Shared.new


def test_what_a_hook_collects_stays_and_is_named() -> None:
    seen = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    assert summarize(model, input_size=(1, 2)).notes == (
        "the variable seen around <lambda> was changed by forward, and stays changed",
    )
    assert seen == [(1, 2)]


class Holds:
    def __init__(self, module: nn.Module) -> None:
        self.module = module


teacher = nn.BatchNorm1d(3)


@pytest.mark.parametrize("where", ["input", "in an input", "attribute", "global"])
def test_a_module_that_is_no_part_of_the_model_is_put_back(where: str) -> None:
    other = teacher if where == "global" else nn.BatchNorm1d(3)

    class Uses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.holder = Holds(other) if where == "attribute" else None

        def forward(self, x: torch.Tensor, given: Any) -> torch.Tensor:
            used = {"global": teacher, "attribute": getattr(self.holder, "module", None), "input": given}.get(where)
            used = given["teacher"] if where == "in an input" else used
            used.count = 1  # type: ignore[union-attr]
            with torch.no_grad():
                used.weight.add_(1)  # type: ignore[union-attr]
            return used(x)  # type: ignore[misc]

    x, given = torch.rand(4, 3), {"input": other, "in an input": {"teacher": other}}.get(where)
    before = whole_state(other)
    assert summarize(Uses(), input_data=(x, given)).notes == ()
    assert whole_state(other) == before


def test_what_belongs_to_this_thread_is_put_back() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    class Sets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.local = threading.local()
            self.local.n = 0
            self.cached = functools.lru_cache(abs)
            self.weak = weakref.WeakKeyDictionary[nn.Module, int]()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.local.n += 1
            self.cached(-1)
            self.weak[self] = 1
            variable.set(1)
            torch.set_default_dtype(torch.float64)
            np.seterr(all="raise")
            return x

    model, errors = Sets(), np.geterr()
    assert summarize(model, input_size=(1,)).notes == ()
    assert (model.local.n, model.cached.cache_info().currsize, len(model.weak), variable.get()) == (0, 0, 0, 0)
    assert (torch.get_default_dtype(), np.geterr()) == (torch.float32, errors)


def test_a_write_that_nobody_could_see_is_named() -> None:
    @torch.jit.script
    def add(weight: torch.Tensor) -> torch.Tensor:
        return weight.add_(1)

    class Writes(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            add(self.weight.detach() if x.sum() > 0 else self.weight.data)
            return x

    model = Writes(2, 2)
    before = model.weight.clone()
    assert summarize(model, input_data=-torch.ones(2)).notes == ()
    assert model.weight.equal(before)
    assert summarize(model, input_data=torch.ones(2)).notes == (
        "weight was changed by forward and could not be put back",
    )


def test_what_forward_did_not_use_is_not_named() -> None:
    class Idle(nn.Identity):
        stream = None

    model = Idle()
    model.stream = endless()
    next(model.stream)
    assert summarize(model, input_size=(2, 3)).notes == ()


@SHARDS
@pytest.mark.parametrize("deep", [False, True], ids=["a model", "a part of one"])
def test_a_model_under_fully_shard_runs_afterwards(deep: bool) -> None:
    """Before its first forward, which makes it the outermost one, and after it."""
    script = """
        import torch, torch.distributed as dist
        from torch import nn
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard
        from torchkutils import summarize

        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        mesh = init_device_mesh("cpu", (1,))

        def sharded():
            torch.manual_seed(0)
            inner = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
            fully_shard(inner, mesh=mesh)
            model = nn.Sequential(inner, nn.Linear(8, 2))
            fully_shard(model, mesh=mesh)
            return model

        def trained(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            for _ in range(2):
                model(torch.ones(2, 4)).sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            return [parameter.full_tensor() for parameter in model.parameters()]

        expected = trained(sharded())
        for runs_before in (0, 1):
            for grad in (False, True):
                model = sharded()
                for _ in range(runs_before):
                    model(torch.ones(2, 4)).sum().backward()
                    model.zero_grad()
                summarize(model[0] if DEEP else model, input_size=(1, 4), grad=grad)
                for one, other in zip(trained(model), expected, strict=True):
                    assert torch.equal(one, other)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script).replace("DEEP", repr(deep))],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning")
def test_a_cache_that_is_given_does_not_grow() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    model = transformers.LlamaForCausalLM(config).eval()
    for cache in (transformers.DynamicCache(), transformers.StaticCache(config=config, max_cache_len=16)):
        with torch.no_grad():
            model(input_ids=torch.arange(1, 9)[None], past_key_values=cache, use_cache=True)
        before = int(cache.get_seq_length()), [t.tolist() for t in all_tensors_of(cache)]
        summarize(model, input_data={"input_ids": torch.tensor([[3]]), "past_key_values": cache})
        assert (int(cache.get_seq_length()), [t.tolist() for t in all_tensors_of(cache)]) == before


def test_a_tuple_may_forbid_its_length() -> None:
    class Irreps(tuple):  # type: ignore[type-arg]
        def __len__(self) -> int:
            raise NotImplementedError

    class Layer(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 2)
            self.irreps = Irreps([(4, 0)])

    for inputs in ({"input_size": (1, 4)}, {}):
        assert summarize(nn.Sequential(Layer()), **inputs).total_params == 10


def test_a_frozen_script_is_a_layer() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU()).eval()))
        optimised = torch.jit.optimize_for_inference(torch.jit.script(nn.Sequential(nn.Linear(4, 8)).eval()))
    for script in (frozen, optimised):
        for mode in ("eval", "train", "same"):
            assert summarize(nn.Sequential(script, nn.ReLU()), input_size=(1, 4), mode=mode).rows[0].calls == 1


def test_an_offloaded_model_runs_for_real() -> None:
    accelerate = pytest.importorskip("accelerate")
    for inputs in ({"input_size": (1, 4)}, {"input_data": torch.rand(1, 4)}, {"input_data": np.ones((1, 4))}):
        for engine in ("auto", "real"):
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
            offloaded = accelerate.cpu_offload(model, execution_device="cpu")
            summary = summarize(offloaded, engine=engine, **inputs)
            assert (summary.engine, summary.flops) == ("real", 96)
            assert all(parameter.is_meta for parameter in offloaded.parameters())


@pytest.mark.parametrize(
    "way", ["autograd.grad", "backward", "a hook of a tensor", "an error of its own", "an assertion"]
)
def test_a_forward_that_wants_a_graph_gets_one(way: str) -> None:
    class Forces(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = x.requires_grad_(True)
            energy = self.net(x)
            if way == "an error of its own" and energy.grad_fn is None:
                raise ValueError("no graph")
            assert way != "an assertion" or energy.requires_grad
            if way == "a hook of a tensor":
                energy.register_hook(lambda gradient: gradient)
                return energy
            if way == "backward":
                energy.sum().backward()
                assert x.grad is not None
                return x.grad
            return torch.autograd.grad(energy.sum(), x)[0]

    model = Forces()
    before = whole_state(model)
    assert summarize(model, input_size=(4, 2)).rows[0].output_shapes == "(4, 1)"
    assert whole_state(model) == before


def test_a_parameter_that_is_written_to_through_numpy_is_put_back() -> None:
    class Writes(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.weight.detach().numpy()[:] = 1
            return super().forward(x)

    model = Writes(4, 4)
    before = whole_state(model)
    summarize(model, input_size=(2, 4))
    assert whole_state(model) == before


def test_gradients_are_a_choice() -> None:
    seen = []

    class Looks(nn.Identity):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.is_grad_enabled())
            return x

    for grad in (False, True):
        with torch.set_grad_enabled(not grad):
            summarize(Looks(), input_size=(1, 2), grad=grad)
    assert seen == [False, True]


class Buffers(nn.Module):
    """Writes to buffers of every kind; torch sees some of the writes, and numpy's memory takes others."""

    def __init__(self) -> None:
        super().__init__()
        numbers = torch.arange(4)
        with torch.inference_mode():
            inferred = torch.ones(3)
        held = {
            "not_a_number": torch.full((4,), float("nan")),
            "minus_zero": torch.tensor([-0.0, 0.0]),
            "large": torch.zeros(300, 300),
            "brain": torch.ones(3, dtype=torch.bfloat16),
            "eighth": torch.ones(3).to(torch.float8_e4m3fn),
            "flag": torch.tensor(True),
            "imaginary": torch.ones(2, dtype=torch.complex64),
            "nothing": torch.empty(0),
            "transposed": torch.arange(6.0).reshape(2, 3).t(),
            "expanded": torch.zeros(1).expand(5),
            "numbers": numbers,
            "some_numbers": numbers[1:3],
            "rebound": torch.ones(3, 4, 2),
            "inferred": inferred,
        }
        for name, tensor in held.items():
            self.register_buffer(name, tensor)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.not_a_number.fill_(1)
        self.minus_zero.neg_()
        self.large.add_(1)
        self.brain.mul_(2)
        self.eighth.zero_()
        self.flag.logical_not_()
        self.imaginary.mul_(1j)
        self.transposed.add_(1)
        self.some_numbers.detach().numpy()[:] = 7
        self.rebound.data = torch.zeros(1)
        self.expanded.data = torch.ones(5)
        return self.norm(x)

    def bits(self) -> dict[str, tuple[Any, ...]]:
        return {name: _bits(tensor) for name, tensor in self.named_buffers()}


def _bits(tensor: torch.Tensor) -> tuple[Any, ...]:
    contents = tensor.detach().contiguous().reshape(-1).view(torch.uint8).tolist()
    version = None if tensor.is_inference() else tensor._version
    return id(tensor), tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, version, contents


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_buffers_of_every_kind_are_put_back_bit_for_bit(mode: Any) -> None:
    model = Buffers()
    before = model.bits()
    summary = summarize(model, input_size=(4, 3), mode=mode)
    assert model.bits() == before
    assert summary.notes == ()
