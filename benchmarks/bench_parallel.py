"""What does multi_gpu_model cost beside the replicas' own work, on ['cpu', 'cpu'] with one thread each?"""

from __future__ import annotations

import pathlib
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks._harness import compare, figure, store
from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model


def linears(count: int, width: int, *, bias: bool = True) -> nn.Module:
    return nn.Sequential(*[nn.Linear(width, width, bias=bias) for _ in range(count)])


def tiny_layers() -> list[dict[str, Any]]:
    """60 × Linear 64: Python's own work dominates, so threads would only wait for each other."""
    model, x = linears(60, 64), torch.randn(32, 64)
    parallel = multi_gpu_model(model, devices=["cpu", "cpu"])
    half = x[:16]
    with torch.no_grad():
        alternating = compare(
            "forward, 60 × Linear 64, two replicas",
            lambda: parallel(x),
            floor={"one replica on its shard": lambda: model(half)},
            target={"one replica on its shard": 2.2},
            repeats=201,
        )
        total, inside = in_one_call(parallel, x, 401)
    ratio = statistics.median(t / (i / 2) for t, i in zip(total, inside, strict=True))
    return [
        alternating,
        figure("forward, 60 × Linear 64: the call / one replica's time in that call", ratio, "×", target=2.2),
    ]


def unchanged_weights() -> list[dict[str, Any]]:
    """1,500 parameters: what is paid to find that nothing changed."""
    model, x = linears(750, 8).eval(), torch.randn(4, 8)
    parallel = multi_gpu_model(model, devices=["cpu", "cpu"], batch_axes={"output": 0})
    with torch.no_grad():
        total, inside = in_one_call(parallel, x, 201)
    above = statistics.median(t - i for t, i in zip(total, inside, strict=True)) * 1e3
    rows = [figure("inference, unchanged, 1,500 parameters: above the replicas' own work", above, "ms", target=0.6)]
    with SimulatedDevices(), torch.no_grad():
        small = linears(20, 8).eval()
        far = multi_gpu_model(small, devices=["meta:0", "meta:1"])
        far(x)
        before = far._replicas.copies_made
        far(x)
        copies = far._replicas.copies_made - before
    return [*rows, figure("parameters copied in inference when nothing changed", copies, "copies", target=0)]


def in_one_call(parallel: Any, x: torch.Tensor, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of each call and of the replicas' forwards inside it: a shared machine disturbs both alike."""
    parallel(x)
    inside = 0.0

    def timed(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            nonlocal inside
            start = time.perf_counter()
            result = forward(*args)
            inside += time.perf_counter() - start
            return result

        return run

    for replica in parallel._replicas.replicas:
        replica.module.forward = timed(replica.module.forward)
    totals, insides = [], []
    for _ in range(repeats):
        inside = 0.0
        start = time.perf_counter()
        parallel(x)
        totals.append(time.perf_counter() - start)
        insides.append(inside)
    return totals, insides


def refresh_against_rebuild() -> dict[str, Any]:
    """216 parameters with running statistics, four replicas: a training step's refresh against building anew."""
    blocks = [nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)) for _ in range(54)]
    parallel = multi_gpu_model(nn.Sequential(*blocks), devices=["cpu"] * 4)
    parallel(torch.randn(8, 16))
    replicas = parallel._replicas
    return compare(
        "a training step's refresh, 216 parameters, 4 replicas",
        replicas.ready,
        {"building the replicas": lambda: (setattr(replicas, "_snapshot", None), replicas.ready())},
        target={"building the replicas": 0.1},
        repeats=51,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    store("parallel", [*tiny_layers(), *unchanged_weights(), refresh_against_rebuild()])
