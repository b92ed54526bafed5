"""How long is a training step on N GPUs? Arithmetic, fed with what was counted and measured; no GPU was at hand.

    python -m benchmarks.cost_model            # prints the tables of docs/cost-model.md
    python -m benchmarks.cost_model --write    # writes them there, and results/cost_model.json

Counted: which tensors multi_gpu_model copies between which devices in one step, on simulated devices. Measured: two
gloo ranks (results/distributed.json, against which the model is checked) and the digest of merged batches. Everything else
is assumed: it stands in `MACHINES` and `JOBS`, and on the page.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from torch import nn

from benchmarks._harness import RESULTS, figure, store
from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model
from torchkutils.parallel.fingerprints import fingerprint
from torchkutils.parallel.structure import Structure

PAGE = pathlib.Path(__file__).parents[1] / "docs" / "cost-model.md"
MARKS = ("<!-- the program's tables begin -->", "<!-- the program's tables end -->")
GPUS = (1, 2, 4, 8)
COPY = 10e-6
"""Seconds to launch one copy (assumed)."""
BUCKET = 25e6
"""Bytes that DDP reduces at a time: the last bucket has no backward left to hide behind."""


@dataclass(frozen=True)
class Machine:
    """GPUs and what lies between them; bytes a second and direction, FLOP a second that a training sustains."""

    name: str
    flops: float
    peer: float
    host: float
    network: float = 0.0
    shared_port: bool = False
    """Whether peers are reached through the port that leads to the host."""


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

    @property
    def weight_bytes(self) -> float:
        return 4 * self.parameters


MACHINES = (
    Machine("8 × P100, PCIe 3", 5e12, 10e9, 10e9, shared_port=True),
    Machine("8 × A100, PCIe 4", 60e12, 20e9, 20e9, 10e9, shared_port=True),
    Machine("8 × A100, NVLink", 60e12, 230e9, 20e9, 10e9),
)
JOBS = (
    Job("ResNet-50, 64 images a GPU", 25.6e6, 161, 16, 64 * 24.6e9, 64 * 3 * 224 * 224 * 4, 64 * 1000 * 4),
    Job("GPT-2 small, 8 × 1,024 tokens a GPU", 124e6, 148, 12, 6 * 124e6 * 8192, 8192 * 8, 8192 * 50257 * 4.0),
    Job("1.3 G parameters, 8 × 1,024 tokens a GPU", 1.3e9, 292, 24, 6 * 1.3e9 * 8192, 8192 * 8, 8192 * 50257 * 4.0),
)

Traffic = Counter[tuple[str, str, str, str]]
"""Parts of all weights, of the whole inputs and of the whole outputs, by phase, kind, source and target."""


class Counting(SimulatedDevices):
    """Notes for each copy what it carries: known by its shape."""

    def __init__(self, kinds: dict[tuple[int, ...], str]) -> None:
        super().__init__()
        self.kinds, self.phase = kinds, ""
        self.bytes_of: Counter[tuple[str, str, str, str]] = Counter()
        self.number_of: Counter[tuple[str, str]] = Counter()

    def count(self, source: torch.device, target: torch.device, tensor: torch.Tensor) -> None:
        kind = self.kinds.get(tuple(tensor.shape), "numbers")
        self.bytes_of[self.phase, kind, str(source), str(target)] += tensor.numel() * tensor.element_size()
        self.number_of[self.phase, kind] += 1


def counted(devices: int, *, sharded_loss: bool = False) -> tuple[Traffic, Counter[tuple[str, str]]]:
    """Run one training step on simulated devices, the weights on the first; what was copied, as parts of the whole."""
    batch, inputs, outputs = 8 * devices, 24, 12
    kinds = {(8, inputs): "inputs", (batch, inputs): "inputs", (8, outputs): "outputs"}
    kinds |= {(40, inputs): "weights", (40,): "weights", (outputs, 40): "weights", (outputs,): "weights"}
    with Counting(kinds) as counting:
        model = nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, outputs)).to("meta:0")
        parallel: Any = multi_gpu_model(model, devices=[f"meta:{place}" for place in range(devices)])
        images, targets = torch.randn(batch, inputs), torch.randn(batch, outputs)
        counting.phase = "forward"
        counting.bytes_of.clear(), counting.number_of.clear()
        if sharded_loss:
            loss = parallel.sharded_loss(nn.MSELoss(), images, targets)
        else:
            loss = nn.functional.mse_loss(parallel(images), targets)
        counting.phase = "backward"
        loss.backward()
    whole = {"weights": 4 * sum(p.numel() for p in model.parameters()), "numbers": 1}
    whole |= {"inputs": 4 * images.numel(), "outputs": 4 * targets.numel()}
    parts = {key: size / whole[key[1]] for key, size in counting.bytes_of.items()}
    tensors = sum(1 for _ in model.parameters())
    return Counter(parts), Counter(
        {key: n / (tensors if key[1] == "weights" else 1) for key, n in counting.number_of.items()}
    )


def replicate_seconds(job: Job, machine: Machine, devices: int, *, sharded_loss: bool = False) -> float:
    """One process: nothing overlaps, for the weights' copies are one node of the graph, before and after all else."""
    traffic, copies = counted(devices, sharded_loss=sharded_loss)
    sizes = {"weights": job.weight_bytes, "inputs": devices * job.input_bytes, "numbers": 4.0}
    # With the loss on each replica the targets travel in the outputs' place: one number for a row of them.
    sizes["outputs"] = devices * (job.output_bytes if not sharded_loss else job.output_bytes / 50257)
    seconds = job.flops / machine.flops
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
        seconds += max((load for (device, _), load in ports.items() if device != "cpu"), default=0.0)
        seconds += COPY * copies[phase, kind] * (job.tensors if kind == "weights" else 1)
    return seconds


def ddp_seconds(job: Job, machine: Machine, devices: int, machines: int = 1, *, merged: bool = False) -> float:
    """Gradients by a ring, hidden behind backward but for the last bucket."""
    ranks, slowest = devices * machines, machine.network if machines > 1 else machine.peer
    forward = job.flops / machine.flops / 3
    ring = 2 * (ranks - 1) / ranks * job.weight_bytes / slowest
    exposed = max(ring - 2 * forward, ring * min(1.0, BUCKET / job.weight_bytes))
    seconds = 3 * forward + exposed
    if merged and ranks > 1:
        # Each rank digests the whole batch, and gets the whole outputs, on its GPU and then on the CPU.
        whole_in, whole_out = ranks * job.input_bytes, ranks * job.output_bytes
        seconds += whole_in / fingerprint_rate() + whole_out / slowest + 2 * whole_out / machine.host
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
    batch, times = Structure(torch.randn(2**22), "batch"), []
    for _ in range(21):
        start = time.perf_counter()
        fingerprint([batch])
        times.append(time.perf_counter() - start)
    return float(2**24 / statistics.median(times))


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def speedups() -> str:
    """Samples a second against one GPU, each GPU with its own batch."""
    parts = []
    for job in JOBS:
        rows = []
        for machine in MACHINES:
            alone = job.flops / machine.flops
            ways: dict[str, Any] = {
                "replicate": replicate_seconds,
                "replicate, `sharded_loss`": lambda *a: replicate_seconds(*a, sharded_loss=True),
                "ddp, merged": lambda *a: ddp_seconds(*a, merged=True),
                "ddp, local": ddp_seconds,
                "fsdp, local": fsdp_seconds,
            }
            for way, seconds in ways.items():
                rows.append([machine.name, way, *(f"{n * alone / seconds(job, machine, n):.1f}" for n in GPUS[1:])])
        parts.append(f"**{job.name}**\n\n" + table(["Machine", "Strategy", *(f"{n} GPUs" for n in GPUS[1:])], rows))
    return "\n\n".join(parts)


def several_machines() -> str:
    rows = []
    machine = MACHINES[-1]
    for job in JOBS:
        alone = job.flops / machine.flops
        for way, seconds in (("ddp", ddp_seconds), ("fsdp", fsdp_seconds)):
            rows.append([job.name, way, *(f"{8 * m * alone / seconds(job, machine, 8, m):.1f}" for m in (1, 2, 4, 8))])
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


def check() -> tuple[str, list[dict[str, Any]]]:
    """The model against the two gloo ranks of results/distributed.json."""
    document = json.loads((RESULTS / "distributed.json").read_text(encoding="utf-8"))
    seconds = {name: row["median"] for name, row in document["results"][0]["seconds"].items()}
    wire = {
        row["question"]: row["value"] * 1e-6 for row in document["results"] if row["question"].startswith("all-reduce")
    }
    times = {int(question.split()[2].replace(",", "")): value for question, value in wire.items()}
    small, large = times[400_000], times[4_000_000]
    # Parameters of bench_distributed.network(): 0.45 MB; what gloo takes for them lies between two measured sizes.
    size = 450_000
    ring = small + (large - small) * (size - 400_000) / 3_600_000
    predicted = {"ours": seconds["two ranks that share nothing"] + ring}
    predicted["merged"] = predicted["ours"] + 3 * times[4] + 2 * 16 * 3 * 32 * 32 * 4 / fingerprint_rate()
    rows, stored = [], []
    for name, label in (("ours", "ddp, local"), ("merged", "ddp, merged")):
        error = predicted[name] / seconds[name] - 1
        rows.append([label, f"{predicted[name] * 1e3:.1f} ms", f"{seconds[name] * 1e3:.1f} ms", f"{error:+.1%}"])
        stored.append(
            figure(f"predicted / measured step of two gloo ranks, {label}", predicted[name] / seconds[name], "×")
        )
    return table(["Two gloo ranks", "predicted", "measured", "off by"], rows), stored


def page() -> str:
    parts = ["### Copies counted in one step", counts(), "### Speed-up in one machine", speedups()]
    parts += ["### Speed-up over several machines", several_machines(), "### Checked", check()[0]]
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if not parser.parse_args().write:
        print(page())
        return
    _rate.append(measured_rate())
    store("cost_model", [figure("the digest that compares merged batches, one thread", _rate[0], "bytes/s"), *check()[1]])
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    PAGE.write_text(f"{before}{MARKS[0]}\n\n{page()}\n\n{MARKS[1]}{rest.partition(MARKS[1])[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
