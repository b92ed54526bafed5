"""How long does building and rendering a model's graph take, beside torchview.draw_graph and Graphviz alone?"""

from __future__ import annotations

import pathlib
import sys
import time

import pygraphviz
import torch
import torchview
from torch import nn

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import torchkutils
from benchmarks._harness import compare, figure, store
from tests.models.pictured import ResidualNet
from torchkutils.models.render import render


def building(question: str, model: nn.Module, data: torch.Tensor, target: float, repeats: int) -> dict:
    return compare(
        f"building the graph, {question}",
        lambda: torchkutils.model_to_dot(model, expand_nested=True, input_data=data),
        {"torchview": lambda: torchview.draw_graph(model, input_data=data, depth=100, device="cpu")},
        target={"torchview": target},
        repeats=repeats,
        warmup=1,
        clock=time.process_time,
    )


def rendering(source: str) -> list[dict]:
    def alone() -> bytes:
        return pygraphviz.AGraph(string=source).draw(format="svg", prog="dot")

    render(source, "svg")
    begin = time.perf_counter()
    render(source, "svg")
    took = time.perf_counter() - begin
    compared = compare(
        "rendering 1,000 nodes to SVG",
        lambda: render(source, "svg"),
        floor={"Graphviz alone": alone},
        target={"Graphviz alone": 1.2},
        repeats=9,
        warmup=1,
    )
    return [compared, figure("1,000-node SVG", took, "s", target=2.0)]


def main() -> None:
    torch.set_num_threads(1)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 48, enable_nested_tensor=False).eval()
    chain = nn.Sequential(*[nn.Linear(2, 2) for _ in range(5_000)])
    short = chain[:500]
    rows = [
        building("residual CNN", ResidualNet(12).eval(), torch.ones(1, 3, 16, 16), 0.6, 9),
        building("48-layer encoder", encoder, torch.ones(1, 8, 32), 0.7, 5),
        building("5,000-module chain", chain, torch.ones(1, 2), 0.4, 3),
    ]
    linear = compare(
        "building the graph of 5,000 modules",
        lambda: torchkutils.model_to_dot(chain, input_size=(1, 2)),
        floor={
            "500 modules, ten times": lambda: [torchkutils.model_to_dot(short, input_size=(1, 2)) for _ in range(10)]
        },
        target={"500 modules, ten times": 1.3},
        repeats=5,
        warmup=1,
        clock=time.process_time,
    )
    source = torchkutils.model_to_dot(chain[:999], show_shapes=True, input_size=(1, 2)).source
    store("plot", [*rows, linear, *rendering(source)])


if __name__ == "__main__":
    main()
