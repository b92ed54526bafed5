"""Forwards that call functions which torch.compile made: they run as they are, as one box, and nothing recompiles."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.traced import traced
from tests.models.whole_state import whole_state
from torchkutils import summarize


@torch.compile(fullgraph=True, backend="eager")
def doubled(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x) * 2


@torch.compile(backend="eager")
def with_graph_break(x: torch.Tensor) -> torch.Tensor:
    y = x * 2
    torch._dynamo.graph_break()
    return y + 1


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)


class Function(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return self.b(doubled(self.a(x)))


class GraphBreak(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return self.b(with_graph_break(self.a(x)))


class Method(Base):
    @torch.compile(fullgraph=True, backend="eager")
    def helper(self, x: torch.Tensor) -> Any:
        return self.a(x).relu()

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.helper(x))


class Held(Base):
    """In places where no search by names would find it."""

    def __init__(self) -> None:
        super().__init__()
        self.functions = [torch.compile(lambda x: x.relu() * 3, fullgraph=True, backend="eager")]

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.functions[0](self.a(x)))


class Cond(Base):
    def forward(self, x: torch.Tensor) -> Any:
        return torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: self.b(x), (x,))


class Flex(Base):
    def forward(self, x: torch.Tensor) -> Any:
        from torch.nn.attention.flex_attention import flex_attention

        heads = self.a(x)[:, None]
        return self.b(flex_attention(heads, heads, heads)[:, 0])


INPUTS = {Flex: (2, 16, 4)}


@pytest.mark.parametrize("kind", [Function, GraphBreak, Method, Held, Cond, Flex])
@pytest.mark.parametrize("ran_before", [True, False], ids=["compiled before", "not compiled before"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_compiled_function_is_one_box(kind: type[nn.Module], ran_before: bool) -> None:
    model, x = kind(), torch.rand(INPUTS.get(kind, (2, 4)))
    with torch.no_grad():
        if ran_before:
            model(x)
        compilations: list[int] = []

        def began(*_: Any) -> None:
            compilations.append(threading.get_ident())

        before = whole_state(model)
        trace = traced(model, input_data=x)
        assert trace.failure is None
        assert whole_state(model) == before
        assert not all(call.flops_known for call in trace.calls)
        nodes = [node for node in trace.nodes if node.name.endswith("(compiled)")]
        assert len(nodes) == (kind is not Cond)
        if kind is Cond:
            # It called no module under watch: what it did itself is part of its box.
            return
        assert {trace.nodes[edge.source].name for edge in trace.edges if edge.target == nodes[0].index} & {
            "a",
            "x",
            "getitem",
        }
        # What a look compiled is what the model itself runs: nothing is compiled once more.
        model(x)
        torch._dynamo.callback_handler.register_start_callback(began)
        try:
            model(x), traced(model, input_data=x), model(x)
        finally:
            torch._dynamo.callback_handler.remove_start_callback(began)
        # torch.cond and its like compile at each call of their own.
        assert kind in (Cond, Flex) or not [thread for thread in compilations if thread == threading.get_ident()][1:]


def test_the_counts_are_lower_bounds() -> None:
    summary = summarize(Function(), input_size=(2, 4))
    assert (summary.flops, summary.flops_known) == (2 * 2 * 2 * 16, False)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_a_forward_that_raises_after_a_compiled_function(error: BaseException) -> None:
    class Raises(Base):
        def forward(self, x: torch.Tensor) -> Any:
            doubled(self.a(x))
            raise error

    model = Raises()
    before = whole_state(model)
    with pytest.raises(type(error), match=re.escape(str(error))) as caught:
        traced(model, input_size=(2, 4))
    assert caught.value is error
    assert whole_state(model) == before


def test_a_compiled_function_that_raises() -> None:
    @torch.compile(backend="eager")
    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("told to")

    class Calls(Base):
        def forward(self, x: torch.Tensor) -> Any:
            try:
                fails(x)
            except ValueError:
                return self.a(x)

    assert [call.leaf for call in traced(Calls(), input_size=(2, 4)).calls] == [False, True]


def test_a_profiler_that_runs_is_left_alone() -> None:
    import sys

    def profile(*_: Any) -> None:
        pass

    seen: list[Callable[..., Any] | None] = []

    class Looks(Base):
        def forward(self, x: torch.Tensor) -> Any:
            seen.append(sys.getprofile())
            return self.a(x)

    sys.setprofile(profile)
    try:
        traced(Looks(), input_size=(2, 4))
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert seen == [profile]
