"""How long do save_model and load_model take beside torch.save, torch.load and safetensors? All sync to disk."""

from __future__ import annotations

import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from torch import nn

from benchmarks._harness import clocked, compare, figure, store
from torchkutils import load_model, load_weights, save_model

READ = (
    "safetensors and torch.load(mmap=True) leave the bytes in a map of the file until they are used: here all sides "
    "read every value once, after loading. The peers' model is built on the meta device and given the loaded tensors."
)
NOTES = {
    "save 500 MB in 100 tensors": "Ours holds the architecture too: about 60 ms go into reading the configs and "
    "building the tree again to compare it. The rest is HDF5's writes and its close; times vary with the disk.",
    "load 500 MB in 100 tensors": "Ours builds the model, torch.load gives its state dict only. About 30 ms go into "
    "building 100 modules and checking each data set.",
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


def saving(title: str, model: nn.Module, folder: pathlib.Path, target: float, repeats: int) -> dict[str, Any]:
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
        target={"torch.save": target},
        repeats=repeats,
        warmup=1,
        note=NOTES.get(f"save {title}", ""),
    )


def loading(title: str, build: Build, folder: pathlib.Path, target: float, repeats: int) -> list[dict[str, Any]]:
    ours, theirs, safe = folder / "ours.h5", folder / "theirs.pt", folder / "theirs.safetensors"
    return [
        compare(
            f"load {title}",
            lambda: load_model(ours),
            {"torch.load": lambda: torch.load(theirs)},
            target={"torch.load": target},
            repeats=repeats,
            warmup=1,
            note=NOTES.get(f"load {title}", ""),
        ),
        compare(
            f"load {title} into a model, and read it",
            lambda: touched(load_model(ours).state_dict()),
            {
                "torch.load": lambda: into(build, torch.load(theirs)),
                "torch.load, mapped": lambda: into(build, torch.load(theirs, mmap=True)),
                "safetensors": lambda: into(build, safetensors.torch.load_file(safe)),
            },
            repeats=repeats,
            warmup=1,
            note=READ,
        ),
    ]


def of_size(
    title: str, build: Build, folder: pathlib.Path, targets: tuple[float, float], repeats: int
) -> list[dict[str, Any]]:
    model = build()
    found = [
        saving(title, model, folder, targets[0], repeats),
        *loading(title, build, folder, targets[1], repeats),
    ]
    size, data = (folder / "ours.h5").stat().st_size, sum(p.numel() * 4 for p in model.parameters())
    return [
        *found,
        figure(f"overhead of {title}", (size - data) / data * 100, "%"),
        figure(f"file of {title}", size / 1e6, "MB"),
    ]


def large() -> nn.Module:
    return nn.ModuleList([nn.Linear(1250, 1000, bias=False) for _ in range(100)])


def many() -> nn.Module:
    return nn.ParameterList([nn.Parameter(torch.zeros(100)) for _ in range(5000)])


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        results = of_size("500 MB in 100 tensors", large, folder, (1.1, 1.0), 7)
        part = nn.ModuleDict({"7": nn.Linear(1250, 1000, bias=False)})
        results.append(
            clocked(
                "one 5 MB tensor out of 500 MB by load_weights",
                lambda: load_weights(part, folder / "ours.h5", strict=False),
                "ms",
                target=10,
            )
        )
        results += of_size("5,000 tensors of 100", many, folder, (3, 3), 7)
    store("model_file", results)


if __name__ == "__main__":
    main()
