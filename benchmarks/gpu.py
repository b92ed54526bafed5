"""What do several devices give on this machine's GPUs, beside one GPU and beside nn.DataParallel? `make bench-gpu`.

Without a GPU it says so and ends: nothing is measured, nothing is claimed.
"""

from __future__ import annotations

import copy
import os
import pathlib
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks._harness import figure, spread, store
from torchkutils import multi_gpu_model


def convolutions() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layers: list[nn.Module] = [nn.Conv2d(3, 128, 3, padding=1), nn.ReLU()]
    for _ in range(8):
        layers += [nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 1000))
    return model, torch.randn(256, 3, 64, 64), torch.randint(1000, (256,))


def small_layers() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    layers = [layer for _ in range(60) for layer in (nn.Linear(256, 256), nn.ReLU())]
    return nn.Sequential(*layers), torch.randn(512, 256), torch.randint(256, (512,))


def step(model: Any, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> None:
        output = model(images)
        loss = nn.functional.cross_entropy(output, labels.to(output.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def alternating(contestants: dict[str, Callable[[], None]], repeats: int = 30) -> dict[str, dict[str, Any]]:
    """Seconds and the peak of memory of each, in turns, after everything before has ended."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    peaks: dict[str, int] = {}
    for turn in range(repeats + 3):
        for name, run in contestants.items():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats(0)
            start = time.perf_counter()
            run()
            for device in range(torch.cuda.device_count()):
                torch.cuda.synchronize(device)
            if turn >= 3:
                times[name].append(time.perf_counter() - start)
                peaks[name] = torch.cuda.max_memory_allocated(0)
    return {name: {**spread(times[name]), "peak": peaks[name]} for name in contestants}


def measure(name: str, make: Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]) -> list[dict[str, Any]]:
    model, images, labels = make()
    count = torch.cuda.device_count()
    gpus = list(range(count)) if count > 1 else [0, 0]
    devices = [f"cuda:{gpu}" for gpu in gpus]
    on_gpu = lambda: copy.deepcopy(model).to("cuda:0")  # noqa: E731
    x = images.to("cuda:0")
    contestants = {"one GPU": step(on_gpu(), x, labels)}
    for launch in ("auto", "serial", "threads"):
        parallel = multi_gpu_model(on_gpu(), devices=devices, cpu_merge=False, launch=launch)
        contestants[f"replicate, {launch}"] = step(parallel, x, labels)
    if count > 1:
        contestants["DataParallel"] = step(nn.DataParallel(on_gpu(), device_ids=gpus), x, labels)
    found = alternating(contestants)
    rows: list[dict[str, Any]] = [{"question": f"a training step, {name}, {devices}", "seconds": found}]
    ours = found["replicate, auto"]
    if "DataParallel" in found:
        peer = found["DataParallel"]
        time_ratio, memory_ratio = ours["median"] / peer["median"], ours["peak"] / peer["peak"]
        rows.append(figure(f"{name}: time / DataParallel's", time_ratio, "×", target=0.8))
        rows.append(figure(f"{name}: peak of GPU 0 / DataParallel's", memory_ratio, "×", target=1.0))
    rows.append(figure(f"{name}: one GPU's time / replicate's", found["one GPU"]["median"] / ours["median"], "×"))
    return rows


def measured_or_why_not(
    name: str, make: Callable[[], tuple[nn.Module, torch.Tensor, torch.Tensor]]
) -> list[dict[str, Any]]:
    """A part's rows; where it fails, one row that says why: an hour on a GPU must not end without any."""
    try:
        return measure(name, make)
    except Exception as error:
        traceback.print_exc()
        return [{"question": f"a training step, {name}", "failed": f"{type(error).__name__}: {error}"}]


def main() -> int:
    """Measure every part and write what there is after each; 1 where one failed."""
    if not torch.cuda.is_available():
        print("no GPU here: nothing was measured, and nothing is claimed")
        return 0
    cards = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
    rows: list[dict[str, Any]] = [{"question": "cards", "names": cards, "load": os.getloadavg()[0]}]
    for name, make in (("convolutions", convolutions), ("60 × Linear 256", small_layers)):
        rows += measured_or_why_not(name, make)
        store("gpu", rows)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
