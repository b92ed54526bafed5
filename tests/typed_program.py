"""What a user writes, for type checkers: it is checked by mypy and pyright, and never run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import torchkutils as ku
from torchkutils.integrations import assert_summary_matches


class Batches(ku.Sequence):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(4, 2), torch.zeros(4)


@ku.register_keras_serializable(package="shop")
class Net(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width


def look(model: nn.Module) -> int:
    summary: ku.ModelSummary = ku.summarize(
        model, input_size=(None, 3, 32, 32), columns=["params", "flops"], mode="train"
    )
    ku.print_summary(model, input_size=[(1, 2), (1, 3)], style="tree")
    ku.summarize(model, input_size={"x": (1, 2)}, dtypes=torch.float16, engine="meta")
    plot: ku.ModelPlot = ku.plot_model(model, "model.svg", rankdir="LR", input_size=torch.Size([1, 2]), drawer="layers")
    plot.save("again.png")
    assert_summary_matches(model, "golden.json", input_size=(1, 2))
    return summary.total_params + len(summary.rows)


def files(model: nn.Module) -> str:
    net: Net = Net(width=3)
    ku.save_model(net, "net.h5", metadata={"epoch": 3})
    loaded: nn.Module = ku.load_model("net.h5", device="cpu", custom_objects={"Net": Net})
    ku.load_weights(loaded, "net.h5", strict=False).missing_keys.append("x")
    ku.Registry("https://example.org/", {"a.zip": "0" * 64}, retries=5).fetch("a.zip", extract=True)
    return ku.get_file(origin="https://example.org/data.zip", extract=True)


def feed() -> float:
    loader: ku.SequenceLoader = Batches().loader(num_workers=2, shuffle=True, shard="drop", workers="threads")
    total = 0.0
    for batch in loader:
        total += float(batch[0].sum())
    matrix = ku.HDF5Matrix("data.h5", "x", as_tensor=False)
    bar = ku.Progbar(len(loader), stateful_metrics=["acc"])
    bar.add(1, values=[("loss", 0.5)])
    return total + len(matrix)


def several(model: nn.Module) -> Any:
    parallel: ku.ParallelModel = ku.multi_gpu_model(model, devices=["cpu", "cpu"], strategy="replicate")
    return parallel(torch.ones(4, 2))


with ku.CustomObjectScope({"Net": Net}), ku.custom_object_scope({"Net": Net}):
    ku.get_custom_objects()["Other"] = Net
rows: Any = ku.to_categorical([0, 2], num_classes=3)
unit: Any = ku.normalize(np.ones(3), axis=None)
padded: Any = ku.pad_sequences([[1], [2, 3]], padding="post")
