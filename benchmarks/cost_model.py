"""How long is a training step on N GPUs? Arithmetic, fed with what was counted and measured; no GPU was at hand.

    python -m benchmarks.cost_model            # prints the tables of docs/cost-model.md
    python -m benchmarks.cost_model --write    # writes them there, and results/cost_model.json

Counted: which tensors multi_gpu_model copies between which devices in one step, on simulated devices. Measured: the
digest of merged batches, and two gloo ranks (results/distributed.json), against which the model is checked. Everything
else is assumed: it stands in `MACHINES` and `JOBS`, and on the page.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch

from benchmarks._harness import RESULTS, figure, store
from benchmarks._two_ranks import BATCH, CONTROL, network
from benchmarks.counted_copies import counted
from torchkutils.parallel.fingerprints import fingerprint

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "cost-model.md"
MARKS = ("<!-- the program's tables begin -->", "<!-- the program's tables end -->")
GPUS = (1, 2, 4, 8)
COPY = 10e-6
"""Seconds to launch one copy (assumed)."""
NO_ROOM = "does not fit"
BUCKET = 25e6
"""Bytes that DDP reduces at a time: the last bucket has no backward left to hide behind."""


@dataclass(frozen=True)
class Machine:
    """GPUs and what lies between them; bytes a second and direction, FLOP a second that a training sustains."""

    name: str
    memory: float
    flops: float
    peer: float
    host: float
    network: float = 0.0


@dataclass(frozen=True)
class Job:
    """A training step on one GPU: float32 weights, the batch of one GPU, and what it takes and gives."""

    name: str
    parameters: float
    tensors: int
    blocks: int
    flops: float
    input_bytes: float
    output_bytes: float
    target_bytes: float

    @property
    def weight_bytes(self) -> float:
        return 4 * self.parameters


MACHINES = (
    Machine("8 × P100, PCIe 3", 16e9, 5e12, 10e9, 10e9),
    Machine("8 × A100, PCIe 4", 80e9, 60e12, 20e9, 20e9, 10e9),
    Machine("8 × A100, NVLink", 80e9, 60e12, 230e9, 20e9, 10e9),
)
JOBS = (
    Job("ResNet-50, 64 images a GPU", 25.6e6, 161, 16, 64 * 24.6e9, 64 * 3 * 224 * 224 * 4, 64 * 1000 * 4, 64 * 8),
    Job("GPT-2 small, 8 × 1,024 tokens a GPU", 124e6, 148, 12, 6 * 124e6 * 8192, 8192 * 8, 8192 * 50257 * 4, 8192 * 8),
    Job("7 G parameters, 2 × 2,048 tokens a GPU", 7e9, 291, 32, 6 * 7e9 * 4096, 4096 * 8, 4096 * 32000 * 4, 4096 * 8),
)


def replicate_seconds(job: Job, machine: Machine, devices: int, *, sharded_loss: bool = False) -> float:
    """One process: gradients travel while backward computes, but for the last bucket; nothing else is hidden."""
    traffic, copies = counted(devices, sharded_loss=sharded_loss)
    sizes = {"weights": job.weight_bytes, "inputs": devices * job.input_bytes, "numbers": 4.0}
    # With the loss on each replica the targets travel in the outputs' place.
    sizes["outputs"] = devices * (job.target_bytes if sharded_loss else job.output_bytes)
    seconds = job.flops / machine.flops
    backward = seconds * 2 / 3
    buckets = max(1, round(job.weight_bytes / BUCKET))
    for phase, kind in sorted({key[:2] for key in traffic}):
        ports: Counter[tuple[str, str]] = Counter()
        for (one_phase, one_kind, source, target), part in traffic.items():
            if (one_phase, one_kind) == (phase, kind):
                rate = machine.host if "cpu" in (source, target) else machine.peer
                # Weights go out by NCCL's broadcast, from GPU to GPU; everything else is sent piece by piece.
                if kind != "weights" or phase == "backward":
                    ports[source, "out"] += part * sizes[kind] / rate
                ports[target, "in"] += part * sizes[kind] / rate
        # The CPU has a port for each GPU.
        load = max((load for (device, _), load in ports.items() if device != "cpu"), default=0.0)
        if (phase, kind) == ("backward", "weights"):
            load = max(load - backward, load / buckets)
        # What was counted is one bucket; the CPU launches all copies one after another.
        seconds += load + COPY * copies[phase, kind] * (buckets if kind == "weights" else 1)
    return seconds


def ddp_seconds(job: Job, machine: Machine, devices: int, machines: int = 1, *, outputs: str = "local") -> float:
    """Gradients by a ring, hidden behind backward but for the last bucket."""
    ranks, slowest = devices * machines, machine.network if machines > 1 else machine.peer
    forward = job.flops / machine.flops / 3
    ring = 2 * (ranks - 1) / ranks * job.weight_bytes / slowest
    exposed = max(ring - 2 * forward, ring * min(1.0, BUCKET / job.weight_bytes))
    seconds = 3 * forward + exposed
    if outputs != "local" and ranks > 1:
        # Each rank digests the whole batch ...
        seconds += ranks * (job.input_bytes + job.target_bytes) / fingerprint_rate()
    if outputs == "merged" and ranks > 1:
        # ... and gets the whole outputs on its GPU, then on the CPU; their gradients come back.
        seconds += ranks * job.output_bytes * (1 / slowest + 2 / machine.host)
    return seconds


def fsdp_seconds(job: Job, machine: Machine, devices: int, machines: int = 1) -> float:
    """Weights gathered in forward and in backward, gradients scattered, each hidden but for one block."""
    ranks, slowest = devices * machines, machine.network if machines > 1 else machine.peer
    forward = job.flops / machine.flops / 3
    once = (ranks - 1) / ranks * job.weight_bytes / slowest
    return 3 * forward + max(once - forward, once / job.blocks) + max(2 * once - 2 * forward, 2 * once / job.blocks)


_rate: list[float] = []


def fingerprint_rate() -> float:
    """Bytes a second, measured here."""
    if not _rate:
        stored = RESULTS / "cost_model.json"
        if stored.exists():
            rows = json.loads(stored.read_text(encoding="utf-8"))["results"]
            _rate.append(next(row["value"] for row in rows if row["unit"] == "bytes/s"))
        else:
            _rate.append(measured_rate())
    return _rate[0]


def measured_rate() -> float:
    batch, times = ("batch", torch.randn(2**22)), []
    for _ in range(21):
        start = time.perf_counter()
        fingerprint([batch])
        times.append(time.perf_counter() - start)
    return float(2**24 / statistics.median(times))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(job: Job, machine: Machine, seconds: float, gpus: int, *, spread_weights: bool) -> str:
    """The step's time, and samples a second against one GPU, each GPU with its own batch."""
    # Weights, gradients and Adam's two moments in float32; activations come on top.
    if 4 * job.weight_bytes / (gpus if spread_weights else 1) > machine.memory:
        return NO_ROOM
    speedup = gpus * job.flops / machine.flops / seconds
    return f"{seconds * 1e3:,.0f} ms, {speedup:.1f} ×"


def one_machine() -> str:
    ways: dict[str, Callable[[Job, Machine, int], float]] = {
        "replicate": replicate_seconds,
        "replicate, `sharded_loss`": partial(replicate_seconds, sharded_loss=True),
        "ddp, merged": partial(ddp_seconds, outputs="merged"),
        "ddp, merged, `sharded_loss`": partial(ddp_seconds, outputs="loss"),
        "ddp, local": ddp_seconds,
        "fsdp, local": fsdp_seconds,
    }
    parts = []
    for job in JOBS:
        rows = [
            [
                machine.name,
                way,
                *(cell(job, machine, f(job, machine, n), n, spread_weights="fsdp" in way) for n in GPUS),
            ]
            for machine in MACHINES
            for way, f in ways.items()
        ]
        head = ["Machine", "Strategy", "1 GPU", "2 GPUs", "4 GPUs", "8 GPUs"]
        parts.append(f"**{job.name}**\n\n" + table(head, rows))
    return "\n\n".join(parts)


def several_machines() -> str:
    rows = []
    machine = MACHINES[-1]
    for job in JOBS:
        for way, seconds in (("ddp, local", ddp_seconds), ("fsdp, local", fsdp_seconds)):
            times = {8 * count: seconds(job, machine, 8, count) for count in (1, 2, 4, 8)}
            cells = [cell(job, machine, time, n, spread_weights="fsdp" in way) for n, time in times.items()]
            if set(cells) != {NO_ROOM}:
                rows.append([job.name, way, *cells])
    return table(["Job, 8 × A100 with NVLink each", "Strategy", *(f"{8 * m} GPUs" for m in (1, 2, 4, 8))], rows)


def counts() -> str:
    rows = []
    for devices in GPUS[1:]:
        for loss in (False, True):
            traffic, copies = counted(devices, sharded_loss=loss)
            sums: Counter[tuple[str, str]] = Counter()
            for (phase, kind, _, _), part in traffic.items():
                sums[phase, kind] += part
            cells = [
                f"{sums[phase, kind]:.3g} × ({copies[phase, kind]:g})"
                for phase, kind in (
                    ("forward", "weights"),
                    ("backward", "weights"),
                    ("forward", "inputs"),
                    ("forward", "outputs"),
                    ("backward", "outputs"),
                )
            ]
            rows.append([str(devices), "`sharded_loss`" if loss else "merged", *cells])
    return table(
        ["GPUs", "Loss", "weights out", "gradients back", "inputs", "outputs (or targets)", "their gradients"], rows
    )


def check() -> tuple[str, dict[str, float]]:
    """The model against the two gloo ranks of results/distributed.json."""
    document = json.loads((RESULTS / "distributed.json").read_text(encoding="utf-8"))
    seconds = {name: row["median"] for name, row in document["results"][0]["seconds"].items()}
    wire = {
        row["question"]: row["value"] * 1e-6 for row in document["results"] if row["question"].startswith("all-reduce")
    }
    times = {int(question.split()[2].replace(",", "")): value for question, value in wire.items()}
    small, large = times[400_000], times[4_000_000]
    # What gloo takes for the gradients lies between two measured sizes.
    size = 4 * sum(parameter.numel() for parameter in network().parameters())
    ring = small + (large - small) * (size - 400_000) / 3_600_000
    predicted = {"local": seconds[CONTROL] + ring}
    predicted["merged"] = predicted["local"] + 3 * times[4] + 2 * BATCH * 3 * 32 * 32 * 4 / fingerprint_rate()
    rows, ratios = [], {}
    for name, label in (("local", "ddp, local"), ("merged", "ddp, merged")):
        ratios[label] = predicted[name] / seconds[name]
        times_of = [f"{one * 1e3:.1f} ms" for one in (predicted[name], seconds[name])]
        rows.append([label, *times_of, f"{ratios[label] - 1:+.1%}"])
    return table(["Two gloo ranks", "predicted", "measured", "off by"], rows), ratios


def page() -> str:
    parts = ["### Copies counted in one step", counts(), "### One machine", one_machine()]
    parts += ["### Several machines", several_machines(), "### Checked", check()[0]]
    return "\n\n".join(parts)


def write() -> None:
    """Bring the page up to date with what was measured."""
    _rate[:] = [measured_rate()]
    rows = [figure("the digest that compares merged batches, one thread", _rate[0], "bytes/s")]
    for label, ratio in check()[1].items():
        rows.append(figure(f"predicted / measured step of two gloo ranks, {label}", ratio, "×"))
    store("cost_model", rows)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{page()}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    torch.set_num_threads(1)
    if parser.parse_args().write:
        write()
    else:
        print(page())


if __name__ == "__main__":
    main()
