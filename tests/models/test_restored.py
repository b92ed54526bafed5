"""Forwards that change whatever a forward can change: afterwards all is as it was before."""

from __future__ import annotations

import dataclasses
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.models.whole_state import whole_state
from torchkutils import summarize


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
