"""What `columns` and `depth` promise, and parameters that are no plain tensors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from torchkutils import summarize

SHARED = nn.Linear(6, 6)
MODELS = {
    "transformer": nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 2, enable_nested_tensor=False),
    "shared": nn.Sequential(nn.Sequential(SHARED, nn.ReLU()), nn.Sequential(nn.Sequential(SHARED), nn.Linear(6, 2))),
    "leaf": nn.Linear(3, 2),
    "without parameters": nn.Sequential(nn.ReLU()),
    "recurrent": nn.ModuleDict({"a": nn.LSTM(3, 4, 2), "b": nn.ModuleList([nn.GRUCell(2, 2)])}),
}


@pytest.mark.parametrize("depth", [0, 1, 2, 3, 9, None])
@pytest.mark.parametrize("name", MODELS)
def test_the_rows_add_up_to_the_total_at_every_depth(name: str, depth: int | None) -> None:
    model = MODELS[name]
    summary = summarize(model, depth=depth)
    assert sum(row.params or 0 for row in summary.rows) == summary.total_params
    assert summary.total_params == sum(parameter.numel() for parameter in model.parameters())
    assert sum(row.trainable_params for row in summary.rows) == summary.trainable_params
    assert sum(row.param_bytes for row in summary.rows) == summary.param_bytes == 4 * summary.total_params


@pytest.mark.parametrize(
    ("column", "header", "field"),
    [
        ("input_shape", "Input Shape", "(2, 3)"),
        ("output_shape", "Output Shape", "(2, 4)"),
        ("dtype", "Dtype", "float32"),
        ("params", "Param #", "16"),
        ("trainable", "Trainable", "4"),
        ("flops", "FLOPs", "48"),
        ("bytes", "Bytes", "64"),
        ("share", "Param %", "100.0"),
        ("macs", "MACs", "24"),
        ("output_bytes", "Output Bytes", "32"),
        ("arguments", "Arguments", "in_features=3, out_features=4, bias=True"),
    ],
)
def test_each_column_shows_what_its_name_says(column: str, header: str, field: str) -> None:
    layer = nn.Linear(3, 4)
    layer.weight.requires_grad_(False)
    lines = str(summarize(nn.Sequential(layer), input_size=(2, 3), columns=[column])).splitlines()
    assert lines[2].split("  ")[0] == "Layer (type)"
    assert lines[2].rstrip().endswith(header)
    assert lines[4].rstrip().endswith(f" {field}")


@pytest.mark.filterwarnings("ignore")
def test_sparse_parameters_are_named_and_counted() -> None:
    model = nn.Module()
    model.held = nn.Parameter(torch.eye(3).to_sparse())
    summary = summarize(model)
    assert summary.rows[0].parameter_kinds == ("sparse",)
    assert "(sparse)" in str(summary)
