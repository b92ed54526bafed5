"""Totals: what `model.parameters()` gives, the bytes that are held, the same on table, page and labels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from torchkutils import model_to_dot, summarize
from torchkutils.models.page import totals_text
from torchkutils.models.records import Run
from torchkutils.models.trace import trace_model


class InAList(nn.Module):
    """Parts in a plain list, which `model.parameters()` does not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.parts = nn.Linear(3, 1), [nn.Linear(3, 3), nn.Linear(3, 3)]

    def forward(self, x: torch.Tensor) -> Any:
        for part in self.parts:
            x = part(x)
        return self.head(x)


class Below(InAList):
    """The parts hold modules of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))]


class Tied(nn.Module):
    """A module in a plain list shares its weight with one that is registered after it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = InAList()
        self.last = nn.Linear(3, 3)
        self.last.weight = self.first.parts[0].weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.first(self.last(x))


class Elsewhere(nn.Module):
    """The very module stands in a plain list and is registered elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.first = InAList()
        self.last = self.first.parts[1]

    def forward(self, x: torch.Tensor) -> Any:
        return self.first(self.last(x))


@pytest.mark.parametrize("kind", [InAList, Below, Tied, Elsewhere])
@pytest.mark.parametrize("inputs", [{}, {"input_size": (2, 3)}], ids=["structure", "run"])
@pytest.mark.parametrize("depth", [None, 1, 0])
def test_totals_are_those_of_the_models_parameters(kind: Any, inputs: dict[str, Any], depth: int | None) -> None:
    model = kind()
    summary = summarize(model, depth=depth, **inputs)
    right = sum(parameter.numel() for parameter in model.parameters())
    assert (summary.total_params, summary.trainable_params) == (right, right)
    assert sum(row.params or 0 for row in summary.rows) == right
    assert summary.param_bytes == 4 * right
    assert summary.buffer_bytes == sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())


def test_modules_in_plain_lists_are_shown_and_marked() -> None:
    summary = summarize(InAList(), input_size=(2, 3))
    marked = [row.path for row in summary.rows if not row.registered]
    assert marked == ["parts[0]", "parts[1]"]
    assert str(summary).count("(not registered)") == 2
    assert summary.flops == 2 * 2 * (9 + 9 + 3)


def test_a_lazy_model_says_the_same_everywhere() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1))
    summary = summarize(model)
    assert summary.total_params == 5
    assert not summary.params_known
    assert "Total params: ≥ 5" in str(summary)
    assert "≥ 5" in repr(summary)
    assert "Total params: ≥ 5" in summary._repr_markdown_()
    assert totals_text(trace_model(model, Run())).startswith("≥ 5 parameters")
    assert "params: ?" in model_to_dot(model, show_params=True).source


def test_parts_that_are_no_parameters_of_the_model_count_nothing_in_a_picture_either() -> None:
    source = model_to_dot(InAList(), input_size=(2, 3), show_params=True).source
    assert source.count("params: 0") == 2
    assert totals_text(trace_model(InAList(), Run(input_size=(2, 3)))).startswith("4 parameters")


class Wrapped(torch.Tensor):
    """A subclass that holds 8-bit integers and a scale, as quantisation libraries do."""

    data8: torch.Tensor
    scale: torch.Tensor

    @staticmethod
    def __new__(cls: Any, data8: torch.Tensor, scale: torch.Tensor) -> Any:
        return torch.Tensor._make_wrapper_subclass(cls, data8.shape, dtype=torch.float32)

    def __init__(self, data8: torch.Tensor, scale: torch.Tensor) -> None:
        self.data8, self.scale = data8, scale

    def __tensor_flatten__(self) -> Any:
        return ["data8", "scale"], None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:
            return Wrapped(args[0].data8, args[0].scale)
        raise NotImplementedError(f"{function}")


def test_a_tensor_that_wraps_others_counts_their_bytes() -> None:
    model = nn.Linear(8, 4, bias=False)
    wrapped = Wrapped(torch.ones(4, 8, dtype=torch.int8), torch.ones(4, 1))
    model.weight = nn.Parameter(wrapped, requires_grad=False)
    summary = summarize(model)
    assert summary.total_params == 32
    assert summary.param_bytes == 32 + 16
    assert summary.bytes_by_dtype == {"int8": 32, "float32": 16}


@pytest.mark.filterwarnings("ignore")
def test_sparse_tensors_count_their_indices() -> None:
    model = nn.Module()
    model.coo = nn.Parameter(torch.eye(3).to_sparse())
    model.csr = nn.Parameter(torch.eye(3).to_sparse_csr())
    summary = summarize(model)
    assert summary.param_bytes == (2 * 3 * 8 + 3 * 4) + (4 * 8 + 3 * 8 + 3 * 4)


def test_weights_that_torchao_quantised_take_the_bytes_that_are_held() -> None:
    # It is no part of the development tools: transformers would load it too, which takes long.
    quantization = pytest.importorskip("torchao.quantization")
    model = nn.Sequential(nn.Linear(64, 64, bias=False)).eval()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    names, _ = model[0].weight.__tensor_flatten__()
    held = [getattr(model[0].weight, name) for name in names]
    summary = summarize(model, input_size=(1, 64))
    assert summary.param_bytes == sum(
        part.numel() * part.element_size() for part in held if isinstance(part, torch.Tensor)
    )
    assert summary.total_params == 64 * 64
    assert summary.rows[0].parameter_kinds == ("quantised 8 bit",)


@pytest.mark.filterwarnings("ignore")
def test_a_quantised_module_shows_its_logical_weight_and_its_bits() -> None:
    from torch.ao.nn import quantized

    summary = summarize(nn.Sequential(nn.Linear(8, 8), quantized.Linear(8, 4)))
    assert summary.total_params == 72
    assert summary.rows[1].parameter_kinds == ("quantised 8 bit: weight (4, 8)",)
    assert "(quantised 8 bit: weight (4, 8))" in str(summary)
