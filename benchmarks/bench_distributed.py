"""What do two gloo ranks of one thread give, beside one rank, beside plain DistributedDataParallel, and when merged?

Both ranks run the same rounds; a barrier stands before each timed call. The network is compute-bound: some
11 GFLOP a rank and step for 0.5 MB of gradients.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from torch import distributed, multiprocessing, nn

from benchmarks._harness import compare, figure, spread, store
from torchkutils import multi_gpu_model

BATCH = 16
"""Images a rank and step."""


def network() -> nn.Module:
    torch.manual_seed(0)
    width = 64
    body = [nn.Conv2d(3, width, 3, padding=1), nn.ReLU()]
    for _ in range(3):
        body += [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


class Step:
    """One training step of a model on one batch."""

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def __call__(self) -> None:
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def steps(rank: int) -> dict[str, Any]:
    """What is timed; each is called on both ranks at once."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2 * BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (2 * BATCH,), generator=generator)
    own = slice(rank * BATCH, (rank + 1) * BATCH)
    plain_ddp = nn.parallel.DistributedDataParallel(network())
    alone = Step(network(), images[own], labels[own])
    return {
        "local": Step(multi_gpu_model(network(), strategy="ddp", outputs="local"), images[own], labels[own]),
        "merged": Step(multi_gpu_model(network(), strategy="ddp"), images, labels),
        "fsdp": Step(multi_gpu_model(network(), strategy="fsdp", outputs="local"), images[own], labels[own]),
        "plain DDP": Step(plain_ddp, images[own], labels[own]),
        "one rank": alone if rank == 0 else lambda: None,
        "two ranks that share nothing": alone,
    }


def measure(rank: int, folder: str, repeats: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    contestants = steps(rank)
    with contextlib.redirect_stdout(io.StringIO()) if rank else contextlib.nullcontext():
        rows = [
            compare(
                f"a step under ddp, local, of 2 × {BATCH} images",
                contestants["local"],
                {name: contestants[name] for name in ("one rank", "plain DDP", "merged", "fsdp")}
                | {"two ranks that share nothing": contestants["two ranks that share nothing"]},
                # Two ranks do two batches: 1.7 × the samples a second is 2 / 1.7 of the time.
                target={"one rank": 2 / 1.7, "plain DDP": 1 / 0.97},
                repeats=repeats,
                setup=distributed.barrier,
            )
        ]
        rows += figures(rows[0])
        rows += wire(rank)
    if rank == 0:
        pathlib.Path(folder, "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()


def figures(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The same times as throughput, which is what was asked for."""
    seconds = {name: values["median"] for name, values in row["seconds"].items()}
    return [
        figure(
            "samples a second, two ranks / one",
            2 * seconds["one rank"] / seconds["ours"],
            "×",
            target=1.7,
            at_least=True,
        ),
        figure(
            "the same, two ranks that share nothing / one: what the cores allow",
            2 * seconds["one rank"] / seconds["two ranks that share nothing"],
            "×",
        ),
        figure(
            "samples a second / plain DDP's", seconds["plain DDP"] / seconds["ours"], "×", target=0.97, at_least=True
        ),
        figure("merged: above local, a step", (seconds["merged"] - seconds["ours"]) * 1e3, "ms"),
        figure("fsdp: above ddp, a step", (seconds["fsdp"] - seconds["ours"]) * 1e3, "ms"),
    ]


def wire(rank: int) -> list[dict[str, Any]]:
    """What gloo takes for an all-reduce: the cost model is fed with it."""
    rows = []
    for elements in (1, 10_000, 100_000, 1_000_000):
        tensor = torch.zeros(elements)
        times = []
        for _ in range(60):
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        middle = spread(times[10:])
        rows.append(
            figure(f"all-reduce of {4 * elements:,} bytes, two gloo ranks", middle["median"] * 1e6, "µs")
            | {"spread": middle}
        )
    return rows


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 41
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, args=(folder, repeats), nprocs=2)
        rows = json.loads(pathlib.Path(folder, "rows.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    store("distributed", [*rows, figure("load average before", load, "processes")])

    from benchmarks import cost_model

    cost_model.write()


if __name__ == "__main__":
    main()
