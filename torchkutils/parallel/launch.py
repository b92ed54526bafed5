"""Run one piece of work for each replica: one after another or in threads, in the caller's surroundings."""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torchkutils._torch_versions import default_device
from torchkutils.parallel.scatter_gather import Shard

Work = Callable[[], Any]

# Below this, Python holds the interpreter lock most of the time and threads only wait for each other.
SECONDS_A_LAYER = 2e-4
WATCHED_RUNS = 3

_CORES = os.cpu_count() or 1


class Surroundings:
    """The calling thread's autocast, grad and inference mode, default device and context variables."""

    def __init__(self, devices: Sequence[torch.device]) -> None:
        self._grad = torch.is_grad_enabled()
        self._inference = torch.is_inference_mode_enabled()
        self._cache = torch.is_autocast_cache_enabled()
        self._autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind))
            for kind in sorted({"cpu", *(device.type for device in devices)})
            if torch.amp.is_autocast_available(kind)
        ]
        self._default_device = default_device()
        self._first = devices[0]
        self._context = contextvars.copy_context()

    def run(self, work: Work) -> Any:
        """Run in a new thread as if in the calling one."""
        return self._context.copy().run(self._run, work)

    def _run(self, work: Work) -> Any:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self._inference))
            stack.enter_context(torch.set_grad_enabled(self._grad))
            for kind, enabled, dtype in self._autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled, cache_enabled=self._cache))
            if self._default_device != torch.device("cpu"):
                stack.enter_context(self._default_device)
            return work()


@contextlib.contextmanager
def on_device(shard: Shard, first: torch.device) -> Iterator[None]:
    """Make the shard's device the current one, and the default one where the caller's default is the first device."""
    with contextlib.ExitStack() as stack:
        if shard.device.type == "cuda":
            stack.enter_context(torch.cuda.device(shard.device))
        if shard.device != first and default_device() == first:
            stack.enter_context(shard.device)
        yield


@contextlib.contextmanager
def own_random_numbers(generators: Sequence[torch.Generator]) -> Iterator[None]:
    """Let generators that were seeded alike give different numbers, and leave their seeds as they were.

    `torch.manual_seed` seeds every accelerator with the same number: without this, dropout would drop the same
    places of each shard. Positions advance as in any forward, so one seed gives one sequence.
    """
    changed = []
    seeds: set[int] = set()
    for place, generator in enumerate(generators):
        seed = generator.initial_seed()
        if seed in seeds:
            changed.append((generator, seed))
            _reseed(generator, (seed + place * 0x9E3779B97F4A7C15) % 2**63)
        seeds.add(seed)
    try:
        yield
    finally:
        for generator, seed in changed:
            _reseed(generator, seed)


def _reseed(generator: Any, seed: int) -> None:
    offset = generator.get_offset()
    generator.manual_seed(seed)
    generator.set_offset(offset)


def gpu_generators(devices: Sequence[torch.device]) -> list[torch.Generator]:
    """The default generators of the distinct CUDA devices."""
    distinct = dict.fromkeys(device for device in devices if device.type == "cuda")
    return [torch.cuda.default_generators[device.index] for device in distinct] if len(distinct) > 1 else []


def run_all(works: Sequence[Work], plan: Sequence[Shard], *, threads: bool) -> list[Any]:
    """Run each piece of work on its shard's device and give the results in order.

    An exception keeps its type and attributes; a note says which replica and device it came from. With threads,
    all are waited for and the first replica's exception is raised.
    """
    first = plan[0].device

    def one(place: int) -> Any:
        try:
            if plan[place].device == first and first.type == "cpu":
                return works[place]()
            with on_device(plan[place], first):
                return works[place]()
        except BaseException as error:
            error.add_note(f"in replica {plan[place].replica} on {plan[place].device} of multi_gpu_model")
            raise

    with own_random_numbers(gpu_generators([shard.device for shard in plan])):
        if not threads or len(works) == 1:
            return [one(place) for place in range(len(works))]
        return _run_in_threads(one, len(works), Surroundings([shard.device for shard in plan]))


def _run_in_threads(one: Callable[[int], Any], count: int, surroundings: Surroundings) -> list[Any]:
    results: list[Any] = [None] * count
    errors: list[BaseException | None] = [None] * count

    def guarded(place: int) -> None:
        try:
            results[place] = surroundings.run(lambda: one(place)) if place else one(place)
        except BaseException as error:
            errors[place] = error

    others = [threading.Thread(target=guarded, args=(place,), daemon=True) for place in range(1, count)]
    for thread in others:
        thread.start()
    guarded(0)
    for thread in others:
        thread.join()
    for error in errors:
        if error is not None:
            raise error
    return results


@dataclass
class _Watched:
    """What was seen so far of one kind of call.

    Attributes:
        seconds: The fastest run one after another, a replica, and the fastest run in threads.
        runs: How many runs of either kind were seen.
        drew: Whether random numbers of the CPU were drawn.
    """

    seconds: dict[bool, float] = field(default_factory=lambda: {False: math.inf, True: math.inf})
    runs: dict[bool, int] = field(default_factory=lambda: {False: 0, True: 0})
    drew: bool = False


class LaunchChoice:
    """Whether threads pay: decided from a few watched runs, anew for each mode.

    On the CPU threads pay where torch itself runs on one thread, there are more cores, layers are heavy, and no random
    numbers are drawn (the CPU has one generator: the order in which threads draw from it would differ from run to
    run); three runs one after another show it. Accelerators take work asynchronously, so that one thread feeds them
    all, unless their kernels are so short that launching is what takes the time: three runs one after another and
    three in threads show which launches faster. (Each accelerator has its own generator.)
    """

    def __init__(self, launch: str, layers: int) -> None:
        self._launch = launch
        self._layers = max(layers, 1)
        self._known: dict[object, bool] = {}
        self._watched: dict[object, _Watched] = {}

    def threads(self, key: object, devices: Sequence[torch.device]) -> bool | None:
        """True or False, None when a run must be watched first: see `trial`."""
        if self._launch != "auto":
            return self._launch == "threads"
        if _CORES < 2 or (_on_cpu(devices) and torch.get_num_threads() > 1):
            return False
        if not _on_cpu(devices) and (len(set(devices)) < 2 or devices[0].type == "meta"):
            return False
        return self._known.get(key)

    def trial(self, key: object) -> bool:
        """Whether the next watched run is in threads."""
        return self._watched.get(key, _Watched()).runs[False] >= WATCHED_RUNS

    def learn(self, key: object, seconds: float, drew: bool, *, on_cpu: bool = True, threads: bool = False) -> None:
        """Take in what a run showed: seconds a replica, and whether it drew random numbers of the CPU."""
        watched = self._watched.setdefault(key, _Watched())
        # The first runs also pay for what torch sets up once: the fastest counts.
        watched.seconds[threads] = min(watched.seconds[threads], seconds)
        watched.runs[threads] += 1
        watched.drew = watched.drew or drew
        if on_cpu and watched.runs[False] == WATCHED_RUNS:
            self._known[key] = not watched.drew and watched.seconds[False] / self._layers > SECONDS_A_LAYER
        elif not on_cpu and watched.runs[True] == WATCHED_RUNS:
            self._known[key] = not watched.drew and watched.seconds[True] < 0.9 * watched.seconds[False]


def _on_cpu(devices: Sequence[torch.device]) -> bool:
    return all(device.type == "cpu" for device in devices)
