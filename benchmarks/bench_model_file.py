"""How long do save_model and load_model take beside torch.save and torch.load? All of them sync to disk."""

from __future__ import annotations

import os
import pathlib
import tempfile

import torch
from torch import nn

from benchmarks._harness import compare, figure, store
from torchkutils import load_model, load_weights, save_model

NOTES = {
    "save 500 MB in 100 tensors": "About 60 ms go into reading the configs, rebuilding the tree on the meta device to "
    "compare it, and the index; about 200 ms each into HDF5's writes and its close, where the system allocates the "
    "blocks. Times vary with the disk: of four saves in a row, not alternating with torch.save, two took 0.6 s "
    "(torch.save 0.65 s) and two 1.6 to 1.9 s (torch.save's first 1.4 s).",
    "load 500 MB in 100 tensors": "Reading takes 100 to 130 ms, as long as a bare preadv of the same bytes into fresh "
    "memory; about 30 ms go into building 100 modules and checking each data set, which torch.load of a state dict "
    "does not do. Two threads did not read faster here.",
}


def torch_save(model: nn.Module, path: pathlib.Path) -> None:
    with open(path, "wb") as file:
        torch.save(model.state_dict(), file)
        file.flush()
        os.fsync(file.fileno())


def rows(title: str, model: nn.Module, folder: pathlib.Path, targets: tuple[float, float], repeats: int) -> list[dict]:
    ours, theirs = folder / "ours.h5", folder / "theirs.pt"
    found = [
        compare(
            f"save {title}", lambda: save_model(model, ours), {"torch.save": lambda: torch_save(model, theirs)},
            target={"torch.save": targets[0]}, repeats=repeats, warmup=1,
        ),
        compare(
            f"load {title}", lambda: load_model(ours), {"torch.load": lambda: torch.load(theirs)},
            target={"torch.load": targets[1]}, repeats=repeats, warmup=1,
        ),
    ]  # fmt: skip
    found = [row | {"note": NOTES[row["question"]]} if row["question"] in NOTES else row for row in found]
    data = sum(p.numel() * 4 for p in model.parameters())
    found.append(figure(f"overhead of {title}", (ours.stat().st_size - data) / data * 100, "%"))
    found.append(figure(f"file of {title}", ours.stat().st_size / 1e6, "MB"))
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        large = nn.ModuleList([nn.Linear(1250, 1000, bias=False) for _ in range(100)])
        results = rows("500 MB in 100 tensors", large, folder, (1.1, 1.0), 7)
        part = nn.ModuleDict({"7": nn.Linear(1250, 1000, bias=False)})
        one = compare("one 5 MB tensor", lambda: load_weights(part, folder / "ours.h5", strict=False), {}, repeats=15)
        median = one["seconds"]["ours"]["median"] * 1e3
        results += [one, figure("one 5 MB tensor out of 500 MB by load_weights", median, "ms", target=10)]
        small = nn.ParameterList([nn.Parameter(torch.randn(100)) for _ in range(5000)])
        results += rows("5,000 tensors of 100", small, folder, (3, 3), 7)
        store("model_file", results)
