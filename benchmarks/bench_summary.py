"""What does a summary cost, next to a bare forward and to torchinfo?"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks._harness import compare, figure, store
from torchkutils.models.summary import summarize


class NoFastPath(nn.Module):
    """An encoder whose layers take the ordinary way, as they do under a trace."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 512, batch_first=True, activation=nn.GELU(approximate="tanh"))
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(x)


def convolutions() -> nn.Module:
    parts: list[nn.Module] = [nn.Conv2d(3, 32, 3, padding=1)]
    for _ in range(33):
        parts += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*parts)


def chain(length: int) -> nn.Module:
    return nn.Sequential(*[nn.Linear(8, 8) for _ in range(length)])


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    per_module = {}
    cases = [
        ("CNN of 100 modules", convolutions(), torch.rand(1, 3, 48, 48), 1.1, 7),
        ("encoder of 48 layers", NoFastPath(48), torch.rand(1, 64, 256), 1.2, 5),
        ("chain of 500 Linear", chain(500), torch.rand(1, 8), None, 7),
        ("chain of 5,000 Linear", chain(5000), torch.rand(1, 8), 6.0, 3),
    ]
    for name, model, x, target, repeats in cases:
        model.eval()

        def bare(model: nn.Module = model, x: torch.Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        peers = {"bare forward": bare}
        targets = {} if target is None else {"bare forward": target}
        if name.startswith("chain") and importlib.util.find_spec("torchinfo"):
            import torchinfo

            peers["torchinfo"] = lambda model=model, x=x: torchinfo.summary(model, input_data=x, verbose=0)
            targets["torchinfo"] = 0.35
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        row = compare(
            name,
            lambda model=model, x=x: summarize(model, input_data=x),
            peers,
            target=targets,
            repeats=repeats,
            warmup=1,
            clock=time.process_time,
        )
        torch.backends.mha.set_fastpath_enabled(fast)
        rows.append(row)
        per_module[name] = row["seconds"]["ours"]["median"]
    grown = per_module["chain of 5,000 Linear"] / per_module["chain of 500 Linear"] / 10
    rows.append(figure("time a module at 5,000 to 500", grown, "×", target=1.3))
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(8192, 64, 28672, batch_first=True, bias=False)
        big = nn.TransformerEncoder(layer, 95, enable_nested_tensor=False)
    start = time.perf_counter()
    summary = summarize(big, input_size=(1, 2048, 8192))
    seconds = time.perf_counter() - start
    question = f"meta model of {summary.total_params / 1e9:.0f} billion parameters"
    rows.append(figure(question, seconds, "s", target=10.0))
    store("summary", rows)


if __name__ == "__main__":
    main()
