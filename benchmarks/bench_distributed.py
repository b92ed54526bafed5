"""What do two gloo ranks of one thread give, beside one rank, beside plain DistributedDataParallel, and when merged?

Both ranks run the same rounds, a barrier before each timed call. The machine may be shared: a round begins and ends
with a control, two ranks that share nothing, and counts only where both controls found the cores free. The network is
compute-bound: some 11 GFLOP a rank and step for 0.5 MB of gradients.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import torch
from torch import distributed, multiprocessing, nn

from benchmarks import cost_model
from benchmarks._harness import figure, spread, store
from benchmarks._two_ranks import BATCH, CONTROL, network
from torchkutils import multi_gpu_model

PATIENCE = 240
"""Seconds to wait for rounds with free cores."""


class Step:
    """One training step of a model on one batch."""

    def __init__(self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.model, self.images, self.labels = model, images, labels
        self.optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def __call__(self) -> None:
        loss = nn.functional.cross_entropy(self.model(self.images), self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


def steps(rank: int) -> dict[str, Any]:
    """What is timed; each is called on both ranks at once."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2 * BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(10, (2 * BATCH,), generator=generator)
    own = slice(rank * BATCH, (rank + 1) * BATCH)
    plain_ddp = nn.parallel.DistributedDataParallel(network())
    alone = Step(network(), images[own], labels[own])
    # One process with both replicas, while the other rank waits at the barrier.
    replicas = Step(multi_gpu_model(network(), devices=["cpu", "cpu"], strategy="replicate"), images, labels)
    return {
        "local": Step(multi_gpu_model(network(), strategy="ddp", outputs="local"), images[own], labels[own]),
        "merged": Step(multi_gpu_model(network(), strategy="ddp"), images, labels),
        "fsdp": Step(multi_gpu_model(network(), strategy="fsdp", outputs="local"), images[own], labels[own]),
        "plain DDP": Step(plain_ddp, images[own], labels[own]),
        "two replicas": replicas if rank == 0 else lambda: None,
        "one rank": alone if rank == 0 else lambda: None,
        CONTROL: alone,
    }


def measure(rank: int, folder: str, wanted: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    rounds = quiet_rounds(steps(rank), wanted)
    with contextlib.redirect_stdout(io.StringIO()) if rank else contextlib.nullcontext():
        rows = [*figures(*rounds), *own_work(), *wire()]
    if rank == 0:
        pathlib.Path(folder, "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    distributed.barrier()
    distributed.destroy_process_group()


def quiet_rounds(contestants: dict[str, Any], wanted: int) -> tuple[list[dict[str, float]], int]:
    """The times of `wanted` rounds in which the cores were free (of all, where those are too few), and how many ran."""
    rounds: list[dict[str, float]] = []
    begun = time.monotonic()
    while True:
        times = {}
        for name in (CONTROL, *contestants, f"{CONTROL}, again"):
            call = contestants[name.removesuffix(", again")]
            distributed.barrier()
            start = time.perf_counter()
            call()
            times[name] = time.perf_counter() - start
        rounds.append(times)
        free = quiet(rounds)
        # The first rank's clock decides for both.
        enough = len(free) >= wanted and len(rounds) >= 2 * wanted
        done = torch.tensor(int(enough or time.monotonic() - begun > PATIENCE))
        distributed.broadcast(done, src=0)
        if done:
            break
    return (quiet(rounds) if len(quiet(rounds)) >= 5 else rounds), len(rounds)


def quiet(rounds: list[dict[str, float]]) -> list[dict[str, float]]:
    usual = statistics.quantiles([times[CONTROL] for times in rounds], n=10)[0] if len(rounds) > 1 else 0.0
    return [one for one in rounds if max(one[CONTROL], one[f"{CONTROL}, again"]) <= 1.1 * usual]


def figures(rounds: list[dict[str, float]], all_rounds: int) -> list[dict[str, Any]]:
    """Medians of the times, and the ratios that were asked for, with the spread over rounds."""
    names = ("local", "one rank", "plain DDP", "merged", "fsdp", "two replicas", CONTROL)
    seconds = {name: spread([times[name] for times in rounds]) for name in names}
    rows: list[dict[str, Any]] = [{"question": f"a step, {BATCH} images a rank, two gloo ranks", "seconds": seconds}]
    rows.append(figure("quiet rounds", len(rounds), f"of {all_rounds}"))

    def ratio(question: str, above: str, below: str, factor: float, target: float | None) -> None:
        value = factor * seconds[above]["median"] / seconds[below]["median"]
        paired = spread([factor * times[above] / times[below] for times in rounds])
        rows.append(figure(question, value, "×", target=target, at_least=True) | {"paired": paired})
        print(f"    over rounds: {paired['p25']:.3f} to {paired['p75']:.3f}")

    ratio("samples a second under ddp local, two ranks / one", "one rank", "local", 2, 1.75)
    ratio("the same, two ranks that share nothing / one: what the cores allow", "one rank", CONTROL, 2, None)
    ratio("samples a second under ddp local / plain DDP's", "plain DDP", "local", 1, 0.97)
    ratio("samples a second of two replicas in one process / ddp local's two ranks", "local", "two replicas", 1, None)
    for name in ("merged", "fsdp"):
        above = spread([(times[name] - times["local"]) * 1e3 for times in rounds])
        rows.append(
            figure(f"{name}: above ddp local in the same round, a step", above["median"], "ms") | {"spread": above}
        )
        print(f"    over rounds: {above['p25']:.2f} to {above['p75']:.2f} ms")
    return rows


def own_work() -> list[dict[str, Any]]:
    """A network so small that what is added to DDP shows: forward and backward in turns."""
    x = torch.randn(4, 8)

    def tiny() -> nn.Module:
        return nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))

    contestants = {
        "plain DDP": nn.parallel.DistributedDataParallel(tiny()),
        "local": multi_gpu_model(tiny(), strategy="ddp", outputs="local"),
        "merged": multi_gpu_model(tiny(), strategy="ddp"),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(400):
        # Every other round goes backwards, so that nobody always comes first.
        for name, model in list(contestants.items())[:: -1 if number % 2 else 1]:
            distributed.barrier()
            start = time.perf_counter()
            model(x.new_ones(4, 8) if name == "merged" else x).sum().backward()
            times[name].append((time.perf_counter() - start) * 1e6)
    rows = []
    for name in ("local", "merged"):
        above = spread([mine - other for mine, other in zip(times[name], times["plain DDP"], strict=True)])
        # What ranks do beside DDP to see that none drifts; 'merged' compares and gathers whole batches too.
        target = 200 if name == "local" else None
        rows.append(
            figure(f"a tiny network, {name}: above plain DDP, a step", above["median"], "µs", target=target)
            | {"spread": above}
        )
    return rows


def wire() -> list[dict[str, Any]]:
    """What gloo takes for an all-reduce: the cost model is fed with it."""
    rows = []
    for elements in (1, 10_000, 100_000, 1_000_000):
        tensor = torch.zeros(elements)
        times = []
        for _ in range(60):
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(tensor)
            times.append(time.perf_counter() - start)
        middle = spread(times[10:])
        rows.append(
            figure(f"all-reduce of {4 * elements:,} bytes, two gloo ranks", middle["median"] * 1e6, "µs")
            | {"spread": middle}
        )
    return rows


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        multiprocessing.spawn(measure, args=(folder, wanted), nprocs=2)
        rows = json.loads(pathlib.Path(folder, "rows.json").read_text(encoding="utf-8"))
    torch.set_num_threads(1)
    store("distributed", [*rows, figure("load average before", load, "processes")])
    cost_model.write()


if __name__ == "__main__":
    main()
