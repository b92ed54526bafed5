"""How every benchmark here measures: ours and the peer's alternate in one process, medians, a ratio with its spread.

    comparison = compare("to_categorical (1e6, 10)", ours, {"keras": peer}, target={"keras": 1.0})
    store("to_categorical", [comparison])

A target is the largest acceptable ratio ours / peer. Run as `python -m benchmarks.bench_<subject>` or as a file.
"""

from __future__ import annotations

import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

RESULTS = pathlib.Path(__file__).parent / "results"
PACKAGES = (
    "torch",
    "numpy",
    "h5py",
    "torchinfo",
    "torchview",
    "pooch",
    "requests",
    "safetensors",
    "fsspec",
    "graphviz",
)


def compare(
    question: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]],
    *,
    target: Mapping[str, float] | None = None,
    repeats: int = 15,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    setup: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """Time `ours` and each peer in turn, `repeats` times, and give medians, spreads and ratios.

    Args:
        question: What is asked, with sizes.
        ours: Our call, without arguments.
        peers: The baselines by name.
        target: The largest acceptable ratio ours / peer, by peer; for the record, nothing is raised.
        repeats: Rounds; in each one every contestant runs once.
        warmup: Rounds that are not counted.
        clock: `time.perf_counter` for elapsed seconds, `time.process_time` for CPU seconds of this process.
        setup: Runs before each call, outside the measured time.
    """
    contestants = {"ours": ours, **peers}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(-warmup, repeats):
        for name, call in contestants.items():
            if setup is not None:
                setup()
            gc.collect()
            start = clock()
            call()
            elapsed = clock() - start
            if round_number >= 0:
                seconds[name].append(elapsed)
    median_ours = statistics.median(seconds["ours"])
    result: dict[str, Any] = {
        "question": question,
        "clock": getattr(clock, "__name__", str(clock)),
        "repeats": repeats,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {},
    }
    for name in peers:
        pairs = [mine / other for mine, other in zip(seconds["ours"], seconds[name], strict=True)]
        ratio = median_ours / statistics.median(seconds[name])
        wanted = (target or {}).get(name)
        result["ratios"][name] = {
            "ratio_of_medians": ratio,
            "paired": spread(pairs),
            "target": wanted,
            "met": None if wanted is None else ratio <= wanted,
        }
        verdict = "" if wanted is None else f"  (target ≤ {wanted}: {'met' if ratio <= wanted else 'MISSED'})"
        low, high = result["ratios"][name]["paired"]["p25"], result["ratios"][name]["paired"]["p75"]
        print(f"{question}: {median_ours * 1e3:.3f} ms, {ratio:.3f} × {name} [{low:.3f}, {high:.3f}]{verdict}")
    return result


def figure(
    question: str, value: float, unit: str, *, target: float | None = None, at_least: bool = False
) -> dict[str, Any]:
    """Record one number that is no ratio of times: bytes, counts, an error."""
    met = None if target is None else (value >= target if at_least else value <= target)
    sign = "≥" if at_least else "≤"
    verdict = "" if target is None else f"  (target {sign} {target}: {'met' if met else 'MISSED'})"
    print(f"{question}: {value:.4g} {unit}{verdict}")
    return {"question": question, "value": value, "unit": unit, "target": target, "at_least": at_least, "met": met}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and extremes of some measurements."""
    ordered = sorted(values)
    quartiles = statistics.quantiles(ordered, n=4) if len(ordered) > 1 else [ordered[0]] * 3
    return {
        "median": statistics.median(ordered),
        "p25": quartiles[0],
        "p75": quartiles[2],
        "min": ordered[0],
        "max": ordered[-1],
    }


def store(subject: str, rows: Sequence[Mapping[str, Any]]) -> pathlib.Path:
    """Write benchmarks/results/<subject>.json: the rows, the machine, the versions, the day."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{subject}.json"
    document = {"subject": subject, "date": datetime.date.today().isoformat(), **machine(), "results": list(rows)}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def machine() -> dict[str, Any]:
    """What the figures were measured on and with."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
            "shared_and_noisy": True,
        },
        "python": platform.python_version(),
        "versions": versions,
    }
