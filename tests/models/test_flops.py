"""FLOPs of functions, against torch's own counter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from torchkutils import summarize


class Computed(nn.Module):
    def __init__(self, forward: Any) -> None:
        super().__init__()
        self.run = forward

    def forward(self, *tensors: torch.Tensor) -> Any:
        return self.run(*tensors)


FUNCTIONS = {
    "attention": (functional.scaled_dot_product_attention, [(2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 6)]),
    "einsum": (lambda a, b: torch.einsum("bij,bjk->bik", a, b), [(2, 3, 4), (2, 4, 5)]),
    "einsum without an arrow": (lambda a, b: torch.einsum("ij,jk", a, b), [(3, 4), (4, 5)]),
    "einsum with an ellipsis": (lambda a, b: torch.einsum("...ij,...jk->...ik", a, b), [(2, 6, 3, 4), (2, 6, 4, 5)]),
    "einsum that sums all": (lambda a, b: torch.einsum("ij,ij->", a, b), [(3, 4), (3, 4)]),
    "einsum of an outer product": (lambda a, b: torch.einsum("i,j->ij", a, b), [(3,), (4,)]),
    "einsum of one": (lambda a: torch.einsum("ij->ji", a), [(3, 4)]),
    "tensordot": (lambda a, b: torch.tensordot(a, b, dims=([1, 2], [0, 1])), [(3, 4, 5), (4, 5, 6)]),
    "matmul": (torch.matmul, [(2, 3, 4), (4, 5)]),
    "linear": (functional.linear, [(2, 3, 4), (5, 4)]),
    "convolution in groups": (lambda a, b: functional.conv2d(a, b, groups=2), [(1, 4, 6, 6), (6, 2, 3, 3)]),
    "addmm": (torch.addmm, [(3, 5), (3, 4), (4, 5)]),
    "an overload": (torch.ops.aten.mm.default, [(3, 4), (4, 5)]),
    "baddbmm": (torch.baddbmm, [(2, 3, 5), (2, 3, 4), (2, 4, 5)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_count_as_torchs_counter_does(name: str) -> None:
    function, shapes = FUNCTIONS[name]
    with FlopCounterMode(display=False) as counter:
        function(*[torch.empty(shape, device="meta") for shape in shapes])
    summary = summarize(Computed(function), input_data=tuple(torch.ones(shape) for shape in shapes))
    assert summary.flops == counter.get_total_flops()
    assert all(row.flops_known for row in summary.rows)


def test_a_product_of_three_operands_is_a_lower_bound() -> None:
    model = Computed(lambda a, b, c: torch.einsum("ij,jk,kl->il", a, b, c))
    summary = summarize(model, input_size=[(2, 3), (3, 4), (4, 5)], columns=["flops"])
    assert not summary.rows[0].flops_known
    assert "Total FLOPs: ≥ 0" in str(summary)


@pytest.mark.parametrize(("kind", "gates"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
def test_cells_count_both_products(kind: type[nn.RNNCellBase], gates: int) -> None:
    assert summarize(kind(4, 5), input_size=(2, 4)).flops == 2 * 2 * gates * 5 * (4 + 5)


def test_an_operator_that_somebody_registered_makes_a_lower_bound() -> None:
    @torch.library.custom_op("torchkutils_tests::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return x + x

    class Custom(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.layer, self.function = nn.Linear(4, 4), function

        def forward(self, x: torch.Tensor) -> Any:
            return self.function(self.layer(x))

    for function in (torch.ops.torchkutils_tests.twice, torch.ops.torchkutils_tests.twice.default):
        summary = summarize(Custom(function), input_size=(2, 4), columns=["flops"])
        assert summary.flops == 64
        assert "Total FLOPs: ≥ 64" in str(summary)
    assert "≥" not in str(summarize(Custom(torch.ops.aten.relu), input_size=(2, 4), columns=["flops"]))
