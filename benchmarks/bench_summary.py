"""What does a summary cost, next to a bare forward and to torchinfo?"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# Each with what it is fed: the convolutions take about 40 ms, as a small real network does.
MODELS: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
    "CNN of 100 modules": lambda: (convolutions(), torch.rand(1, 3, 72, 72)),
    "encoder of 48 layers": lambda: (NoFastPath(48), torch.rand(1, 64, 256)),
    "chain of 500 Linear": lambda: (chain(500), torch.rand(1, 8)),
    "chain of 5,000 Linear": lambda: (chain(5000), torch.rand(1, 8)),
}
NOTES = {
    "CNN of 100 modules": "about 50 µs a module: 30 in the walk, the snapshot of 99 buffers and putting them back, the "
    "rest in describing calls and rows. glibc keeps its memory on both sides: else page faults decide, by up to 2 ×",
    "encoder of 48 layers": "about 38 µs a module: half of it in describing calls and tensors while the forward runs, "
    "whose matrices drive Python's data out of the caches; the other half before and after it",
    "chain of 5,000 Linear": "of our time the forward alone takes a fifth; the walk and the records a fifth, the "
    "snapshot and putting back a seventh, watching and describing calls a fifth, rows an eighth, collections a tenth",
}
TARGETS = {"CNN of 100 modules": 1.1, "encoder of 48 layers": 1.2, "chain of 5,000 Linear": 6.0}


def bare(model: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        model(x)


def torchinfo_summary(model: nn.Module, **inputs: Any) -> Any:
    import torchinfo

    return torchinfo.summary(model, verbose=0, **inputs)


def compare_forward(name: str) -> dict[str, Any]:
    """A summary next to a bare forward and, of chains, to torchinfo's."""
    model, x = MODELS[name]()
    model.eval()
    floor = {"bare forward": lambda: bare(model, x)}
    peers: dict[str, Callable[[], Any]] = {}
    targets = {"bare forward": TARGETS[name]} if name in TARGETS else {}
    if name.startswith("chain") and importlib.util.find_spec("torchinfo"):
        peers["torchinfo"] = lambda: torchinfo_summary(model, input_data=x)
        if name in TARGETS:
            targets["torchinfo"] = 0.35
    return compare(
        name,
        lambda: summarize(model, input_data=x),
        peers,
        floor=floor,
        target=targets,
        repeats=11 if name.startswith("chain of 5,000") else 25,
        warmup=2,
        clock=time.process_time,
        whole_heap=True,
        note=NOTES.get(name, ""),
    )


def compare_structure() -> dict[str, Any]:
    """No input on either side: the modules and their parameters alone."""
    model = chain(5000).eval()
    peers = {"torchinfo": lambda: torchinfo_summary(model)} if importlib.util.find_spec("torchinfo") else {}
    question = "structure alone of 5,000 Linear"
    return compare(
        question,
        lambda: summarize(model),
        peers,
        target={"torchinfo": 0.3},
        repeats=9,
        warmup=1,
        clock=time.process_time,
        whole_heap=True,
        note="of 14 µs a module the walk takes a third, records and flow a third, rows a third; torchinfo takes 26",
    )


def peak_above_forward(name: str) -> float:
    """Megabytes of Python's heap that a summary needs at its peak, the summary itself among them.

    Its tensors are the snapshot of the buffers, which the target leaves out, and those of the forward.
    """
    model, x = MODELS[name]()
    model.eval()
    summarize(model, input_data=x)
    tracemalloc.start()
    summarize(model, input_data=x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def meta_of_70_billion() -> None:
    """Print parameters, seconds, and the most bytes that the process can have grown by, for a model on meta."""
    with torch.device("meta"):
        layer = nn.TransformerEncoderLayer(8192, 64, 28672, batch_first=True, bias=False)
        model = nn.TransformerEncoder(layer, 95, enable_nested_tensor=False)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    start = time.perf_counter()
    summary = summarize(model, input_size=(1, 2048, 8192))
    seconds = time.perf_counter() - start
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - pages * resource.getpagesize()
    print(summary.total_params, seconds, grown)


def alone(call: str) -> list[float]:
    """The numbers that a function of this file prints in a process of its own."""
    code = f"import torch; torch.set_num_threads(1); from benchmarks import bench_summary as b; b.{call}"
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True)
    return [float(number) for number in done.stdout.split()]


def keep_memory() -> None:
    """Let glibc hand no memory back: the page faults of getting it anew cost a forward up to its own time."""
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            libc.mallopt(option, 1 << 30)


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def main() -> None:
    torch.set_num_threads(1)
    keep_memory()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    rows = [compare_forward(name) for name in MODELS]
    torch.backends.mha.set_fastpath_enabled(fast)
    seconds = {row["question"]: row["seconds"]["ours"]["median"] for row in rows}
    grown = seconds["chain of 5,000 Linear"] / seconds["chain of 500 Linear"] / 10
    rows.append(figure("time a module at 5,000 to 500", grown, "×", target=1.3))
    rows.append(compare_structure())
    for name in TARGETS:
        question = f"peak memory above a bare forward and a copy of the buffers, {name}"
        rows.append(figure(question, peak_above_forward(name), "MB", target=10.0))
    parameters, elapsed, grown_bytes = alone("meta_of_70_billion()")
    question = f"meta model of {parameters / 1e9:.0f} billion parameters"
    rows.append(figure(question, elapsed, "s", target=10.0))
    rows.append(figure(f"{question}, peak memory of the summary", grown_bytes / 1e6, "MB", target=300.0))
    store("summary", rows)


if __name__ == "__main__":
    main()
