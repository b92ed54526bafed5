"""Every kind of container that a module may return × how it is described, and where the edges of its tensors begin."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.containers import CONTAINERS, OBJECTS, PACKED, Make, holding_itself
from tests.models.traced import traced
from torchkutils import _nested
from torchkutils.models.records import Collection, Trace, tensors_in

EVERY = CONTAINERS | OBJECTS


class Hands(nn.Module):
    """A layer that hands its inputs on inside a container."""

    def __init__(self, make: Make) -> None:
        super().__init__()
        self.make = make

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> Any:
        return self.make(a, b)


class Takes(nn.Module):
    """A layer that takes a container."""

    def forward(self, held: Any) -> torch.Tensor:
        return _nested.of_kind(torch.Tensor, held, objects=True)[0] * 2


class Model(nn.Module):
    def __init__(self, make: Make) -> None:
        super().__init__()
        self.one, self.two, self.hands, self.takes = nn.Linear(4, 3), nn.Linear(4, 3), Hands(make), Takes()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.hands(self.one(x), self.two(x))
        taken = self.takes(held)
        one, two = _nested.of_kind(torch.Tensor, held, objects=True)[:2]
        return one + two + taken


def edges_at(trace: Trace, name: str) -> list[tuple[str, int, int]]:
    """What the nodes of a name take: the source, which of its tensors, how often."""
    names = [node.name for node in trace.nodes]
    return sorted((names[edge.source], edge.tensor, edge.count) for edge in trace.edges if names[edge.target] == name)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_container_that_a_layer_hands_on_is_described_and_loses_no_edge(make: Make) -> None:
    trace = traced(Model(make), input_size=(2, 4))
    call = next(call for call in trace.calls if trace.modules[call.module].path == "hands")
    assert isinstance(call.output, Collection)
    assert call.output.class_name == type(make(torch.zeros(1), torch.zeros(1))).__name__
    assert [tensor.shape for tensor in tensors_in(call.output)] == [(2, 3), (2, 3)]
    assert edges_at(trace, "hands") == [("one", 0, 1), ("two", 0, 1)]
    assert edges_at(trace, "takes") == [("hands", 0, 1), ("hands", 1, 1)]
    assert edges_at(trace, "add") == [("add", 0, 1), ("hands", 0, 1), ("hands", 1, 1), ("takes", 0, 1)]


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_a_packed_sequence_comes_from_the_layer_that_packed_it(make: Make) -> None:
    class Packs(Model):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.hands(self.one(x), self.two(x)).data.sum()

    trace = traced(Packs(make), input_size=(2, 4))
    assert edges_at(trace, "hands") == [("one", 0, 1), ("two", 0, 1)]
    assert edges_at(trace, "sum") == [("hands", 0, 1)]


def test_what_holds_itself_and_what_is_held_twice_end() -> None:
    trace = traced(Model(holding_itself), input_size=(2, 4))
    assert edges_at(trace, "hands") == [("one", 0, 1), ("two", 0, 1)]
    shared = traced(Model(lambda a, b: [pair := (a, b), pair]), input_size=(2, 4))
    assert edges_at(shared, "hands") == [("one", 0, 1), ("two", 0, 1)]
    assert {source for source, _, _ in edges_at(shared, "takes")} == {"hands"}
