"""Every kind of container × cut into shards and merged again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.containers import CONTAINERS, OBJECTS, PACKED, Make, holding_itself
from torchkutils import _nested, multi_gpu_model

EVERY = CONTAINERS | OBJECTS


class HandsOn(nn.Module):
    """Gives what it was given, and notes which classes and lengths came."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor, held: Any) -> Any:
        seen.append((type(held), [len(one) for one in tensors(held)]))
        return held


seen: list[tuple[type, list[int]]] = []


def tensors(held: Any) -> list[torch.Tensor]:
    return _nested.of_kind(torch.Tensor, held, objects=True)


@pytest.mark.parametrize("make", EVERY.values(), ids=EVERY)
def test_a_container_is_cut_and_merged_as_what_it_is(make: Make) -> None:
    seen.clear()
    a, b = torch.rand(5, 3), torch.rand(5)
    given = make(a, b)
    merged = multi_gpu_model(HandsOn(), devices=["cpu", "cpu"])(torch.rand(5), given)
    assert sorted(lengths[0] for _, lengths in seen) == [2, 3]
    assert all(kind is type(given) and len(set(lengths)) == 1 for kind, lengths in seen)
    assert type(merged) is type(given)
    assert all(map(torch.equal, tensors(merged), tensors(given)))
    assert set(map(id, tensors(given))) == {id(a), id(b)}, "what was given did not change"


@pytest.mark.parametrize("make", PACKED.values(), ids=PACKED)
def test_a_packed_sequence_is_refused_by_name(make: Make) -> None:
    with pytest.raises(TypeError, match="is a PackedSequence, which has no batch axis"):
        multi_gpu_model(HandsOn(), devices=["cpu", "cpu"])(torch.rand(5), make(torch.rand(5, 3), torch.rand(4, 3)))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_a_nested_tensor_is_refused_by_name(layout: torch.layout) -> None:
    nested = torch.nested.nested_tensor([torch.rand(2, 3), torch.rand(4, 3)], layout=layout)
    with pytest.raises(TypeError, match=r"args\[0\] is a nested tensor, which cannot be cut and merged"):
        multi_gpu_model(nn.Identity(), devices=["cpu", "cpu"])(nested)

    class Nests(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nested.nested_tensor(list(x), layout=layout)

    with pytest.raises(TypeError, match="output is a nested tensor, which cannot be cut and merged"):
        multi_gpu_model(Nests(), devices=["cpu", "cpu"])(torch.rand(4, 3))


def test_what_holds_itself_is_refused_by_name() -> None:
    value = holding_itself(torch.rand(5, 3), torch.rand(5))
    with pytest.raises(TypeError, match=r"args\[1\]\[2\]\[2\] is a list that holds itself"):
        multi_gpu_model(HandsOn(), devices=["cpu", "cpu"])(torch.rand(5), value)


def test_an_output_that_holds_itself_is_refused() -> None:
    class Endless(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return holding_itself(x, super().forward(x))

    with pytest.raises(TypeError, match=r"output.* lies over 100 levels deep, as in a value that holds itself"):
        multi_gpu_model(Endless(3, 3), devices=["cpu", "cpu"])(torch.rand(5, 3))


def test_what_is_held_twice_is_cut_twice() -> None:
    pair = (torch.rand(5, 3), torch.rand(5))
    merged = multi_gpu_model(HandsOn(), devices=["cpu", "cpu"])(torch.rand(5), [pair, pair])
    assert all(map(torch.equal, tensors(merged), [*pair, *pair]))
