"""How long do save_model and load_model take beside torch.save, torch.load and safetensors? All sync to disk."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import nn

from benchmarks._harness import clocked, compare, figure, store
from torchkutils import load_model, load_weights, open_model_file, save_model

READ = (
    "safetensors and torch.load(mmap=True) leave the bytes in a map of the file until they are used: here all sides "
    "read every value once, after loading. The peers' model is built on the meta device and given the loaded tensors."
)
NOTES = {
    "save 500 MB in 100 tensors": "Ours holds the architecture too: the configs are read and the tree is built again "
    "to compare it.",
}

Build = Callable[[], nn.Module]


def synced(write: Callable[[pathlib.Path], Any], path: pathlib.Path) -> None:
    """Write a file and wait for the disk, as save_model does."""
    write(path)
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def touched(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read every value, so that whoever loaded lazily has loaded."""
    for tensor in tensors.values():
        tensor.sum()
    return tensors


def into(build: Build, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        model = build()
    model.load_state_dict(tensors, assign=True)
    return touched(model.state_dict())


def saving(
    title: str, model: nn.Module, folder: pathlib.Path, target: dict[str, float], repeats: int
) -> dict[str, Any]:
    state = model.state_dict
    return compare(
        f"save {title}",
        lambda: save_model(model, folder / "ours.h5"),
        {
            "torch.save": lambda: synced(lambda path: torch.save(state(), path), folder / "theirs.pt"),
            "safetensors": lambda: synced(
                lambda path: safetensors.torch.save_file(state(), path), folder / "theirs.safetensors"
            ),
        },
        target=target,
        repeats=repeats,
        warmup=1,
        note=NOTES.get(f"save {title}", ""),
    )


def loading(
    title: str, build: Build, folder: pathlib.Path, targets: tuple[float, float | None], repeats: int
) -> list[dict[str, Any]]:
    ours, theirs, safe = folder / "ours.h5", folder / "theirs.pt", folder / "theirs.safetensors"
    peers = {
        "torch.load": lambda: into(build, torch.load(theirs)),
        "torch.load, mapped": lambda: into(build, torch.load(theirs, mmap=True)),
        "safetensors": lambda: into(build, safetensors.torch.load_file(safe)),
    }
    return [
        compare(
            f"load {title} into a model, and read it",
            lambda: touched(load_model(ours).state_dict()),
            peers,
            target={"safetensors": targets[0]},
            repeats=repeats,
            warmup=1,
            note=READ,
        ),
        compare(
            f"load {title} with mmap=True, and read it",
            lambda: touched(load_model(ours, mmap=True).state_dict()),
            {"safetensors": peers["safetensors"]},
            target={"safetensors": targets[1]} if targets[1] else None,
            repeats=repeats,
            warmup=1,
            note=READ,
        ),
    ]


def of_size(
    title: str,
    build: Build,
    folder: pathlib.Path,
    save: dict[str, float],
    load: tuple[float, float | None],
    repeats: int,
) -> list[dict[str, Any]]:
    model = build()
    found = [
        saving(title, model, folder, save, repeats),
        *loading(title, build, folder, load, repeats),
    ]
    size, data = (folder / "ours.h5").stat().st_size, sum(p.numel() * 4 for p in model.parameters())
    return [
        *found,
        figure(f"overhead of {title}", (size - data) / data * 100, "%"),
        figure(f"file of {title}", size / 1e6, "MB"),
    ]


PEAK = """
import re, sys, torch, torchkutils
def peak():
    # Not ru_maxrss: it begins with what the process had that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
torchkutils.save_model(torch.nn.Linear(2, 2), sys.argv[1] + ".small")
torchkutils.load_model(sys.argv[1] + ".small")
before = peak()
model = torchkutils.load_model(sys.argv[1])
print(peak() - before)
"""


def peak_of_loading(path: pathlib.Path) -> int:
    """Bytes by which the peak memory of a fresh process grows when it loads a model."""
    done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
    return int(done.stdout)


def one_tensor(path: pathlib.Path) -> torch.Tensor:
    with open_model_file(path) as file:
        return file.read("7.weight")


def large() -> nn.Module:
    return nn.ModuleList([nn.Linear(1250, 1000, bias=False) for _ in range(100)])


def many() -> nn.Module:
    return nn.ParameterList([nn.Parameter(torch.zeros(100)) for _ in range(5000)])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results = of_size(
            "500 MB in 100 tensors", large, folder, {"safetensors": 1.1, "torch.save": 0.9}, (1.15, 1.05), 7
        )
        grown = peak_of_loading(folder / "ours.h5")
        results.append(figure("memory above the tensors while loading 500 MB", (grown - 500e6) / 1e6, "MB", target=20))
        part = nn.ModuleDict({"7": nn.Linear(1250, 1000, bias=False)})
        ours = folder / "ours.h5"
        title = "one 5 MB tensor out of 500 MB"
        results += [
            clocked(f"{title} by open_model_file", lambda: one_tensor(ours), "ms", target=3),
            clocked(f"{title} by load_weights", lambda: load_weights(part, ours, strict=False), "ms", target=3),
        ]
        results += of_size("5,000 tensors of 100", many, folder, {"safetensors": 1.5}, (0.9, None), 7)
    store("model_file", results)


if __name__ == "__main__":
    main()
