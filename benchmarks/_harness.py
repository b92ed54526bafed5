"""How every benchmark here measures: ours and the peer's alternate in one process, medians, a ratio with its spread.

    comparison = compare("to_categorical (1e6, 10)", ours, {"keras": peer}, target={"keras": 1.0})
    store("to_categorical", [comparison])

A target is the largest acceptable ratio ours / peer. `python -m benchmarks <subject>` runs
benchmarks/bench_<subject>.py and draws docs/benchmarks.md from everything that is stored.
"""

from __future__ import annotations

import contextlib
import datetime
import gc
import importlib.metadata
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

RESULTS = pathlib.Path(__file__).parent / "results"
UNITS = {"s": 1.0, "ms": 1e3, "µs": 1e6}
PACKAGES = (
    "torchkutils",
    "torch",
    "numpy",
    "h5py",
    "keras",
    "scikit-learn",
    "torchinfo",
    "torchview",
    "pooch",
    "requests",
    "safetensors",
    "fsspec",
    "graphviz",
    "pygraphviz",
)


def compare(
    question: str,
    ours: Callable[[], Any],
    peers: Mapping[str, Callable[[], Any]] | None = None,
    *,
    floor: Mapping[str, Callable[[], Any]] | None = None,
    target: Mapping[str, float] | None = None,
    repeats: int = 15,
    warmup: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    setup: Callable[[], Any] | None = None,
    whole_heap: bool = False,
    note: str = "",
) -> dict[str, Any]:
    """Time `ours` and each peer in turn, `repeats` times, and give medians, spreads and ratios.

    Every other round goes backwards, so that nobody always comes first. What a call returns is freed outside the
    measured time.

    Args:
        question: What is asked, with sizes.
        ours: Our call, without arguments.
        peers: What a user could take instead, by name.
        floor: What the work costs at the least, by name: a bare forward, a copy in memory. No alternative to ours.
        target: The largest acceptable ratio ours / baseline, by name; for the record, nothing is raised.
        repeats: Rounds; in each one every contestant runs once.
        warmup: Rounds that are not counted.
        clock: `time.perf_counter` for elapsed seconds, `time.process_time` for CPU seconds of this process,
            `process_tree_time` for those of its children too.
        setup: Runs before each call, outside the measured time.
        whole_heap: Let collections during a call look at torch's objects too, as they do in a user's process: where
            calls make so many objects that this is part of their cost.
        note: What a reader must know to judge the figures, why a target was missed.
    """
    baselines = {**(peers or {}), **(floor or {})}
    contestants = {"ours": ours, **baselines}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    with contextlib.nullcontext() if whole_heap else only_new_garbage():
        for round_number in range(-warmup, repeats):
            for name in list(contestants)[:: -1 if round_number % 2 else 1]:
                if setup is not None:
                    setup()
                gc.collect()
                start = clock()
                kept = contestants[name]()
                elapsed = clock() - start
                del kept
                if round_number >= 0:
                    seconds[name].append(elapsed)
    median_ours = statistics.median(seconds["ours"])
    result: dict[str, Any] = {
        "question": question,
        "clock": getattr(clock, "__name__", str(clock)),
        "repeats": repeats,
        "seconds": {name: spread(values) for name, values in seconds.items()},
        "ratios": {},
    } | ({"note": note} if note else {})
    for name in baselines:
        pairs = [mine / other for mine, other in zip(seconds["ours"], seconds[name], strict=True)]
        ratio = median_ours / statistics.median(seconds[name])
        wanted = (target or {}).get(name)
        result["ratios"][name] = {
            "floor": name in (floor or {}),
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
    question: str, value: float, unit: str, *, target: float | None = None, at_least: bool = False, note: str = ""
) -> dict[str, Any]:
    """Record one number that is no ratio of times: bytes, counts, an error."""
    met = None if target is None else (value >= target if at_least else value <= target)
    sign = "≥" if at_least else "≤"
    verdict = "" if target is None else f"  (target {sign} {target}: {'met' if met else 'MISSED'})"
    print(f"{question}: {value:.4g} {unit}{verdict}")
    row = {"question": question, "value": value, "unit": unit, "target": target, "at_least": at_least, "met": met}
    return row | ({"note": note} if note else {})


def clocked(
    question: str,
    call: Callable[[], Any],
    unit: str,
    *,
    target: float | None = None,
    repeats: int = 15,
    calls: int = 1,
    note: str = "",
) -> dict[str, Any]:
    """Record how long one call takes, where there is no peer: the median of `repeats` times, each of so many calls.

    Args:
        question: What is asked, with sizes.
        call: What is measured, without arguments; runs once before.
        unit: 's', 'ms' or 'µs'.
        target: The largest acceptable time, in that unit.
        repeats: How many times are taken.
        calls: Calls in each of them, for what is too short for the clock.
        note: As in `compare`.
    """
    call()
    times = []
    with only_new_garbage():
        for _ in range(repeats):
            gc.collect()
            start = time.perf_counter()
            for _ in range(calls):
                call()
            times.append((time.perf_counter() - start) / calls * UNITS[unit])
    return taken(question, times, unit, target=target, note=note)


def taken(
    question: str, values: Sequence[float], unit: str, *, target: float | None = None, note: str = ""
) -> dict[str, Any]:
    """Record the median of what was measured several times elsewhere, with its spread."""
    found = spread(values)
    row = figure(question, found["median"], unit, target=target, note=note)
    return row | {"repeats": len(values), "spread": found}


@contextlib.contextmanager
def only_new_garbage() -> Iterator[None]:
    """Keep what exists out of the collections before each call: of torch's many objects they took longer than most."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def process_tree_time() -> float:
    """CPU seconds of this process and of its children that have ended: what other work on the machine hardly moves."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


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
    found = [rounded(row) for row in rows]
    document = {"subject": subject, "date": datetime.date.today().isoformat(), **machine(), "results": found}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def rounded(value: Any) -> Any:
    """The same with floats of six digits: more is noise, and makes the files' changes hard to read."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


def machine() -> dict[str, Any]:
    """What the figures were measured on and with, and which share of the cores other work had meanwhile."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
            "torch_threads": torch.get_num_threads(),
            "other_work": other_work(),
        },
        "python": platform.python_version(),
        "versions": versions,
    }


def busy_seconds() -> tuple[float, float, float] | None:
    """The time, the CPU seconds that the machine has spent, and those that this process has; None where unknown."""
    counters = pathlib.Path("/proc/stat")
    if not counters.exists():
        return None
    user, nice, system, _, _, interrupts, soft, steal = map(int, counters.read_text().split("\n")[0].split()[1:9])
    spent = (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), spent, process_tree_time()


BUSY_AT_START = busy_seconds()


def other_work() -> float | None:
    """The share of all cores, 0 to 1, that other processes and other guests of the host took since the start."""
    if BUSY_AT_START is None or (now := busy_seconds()) is None:
        return None
    elapsed, spent, ours = (after - before for before, after in zip(BUSY_AT_START, now, strict=True))
    return round(max(0.0, spent - ours) / elapsed / (os.cpu_count() or 1), 2)


def processor() -> str:
    """The processor's name, where the system tells it."""
    described = pathlib.Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
