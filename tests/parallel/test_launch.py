"""What follows into a replica, errors from replicas, random numbers, when threads run."""

import contextlib
import contextvars
import copy

import pytest
import torch
from torch import nn

from torchkutils import multi_gpu_model
from torchkutils.parallel.launch import LaunchChoice, own_random_numbers

TWO = ["cpu", "cpu"]
MODE = contextvars.ContextVar("MODE", default="outside")


class Look(nn.Module):
    """Reports its surroundings."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.seen = []

    def forward(self, x):
        state = {
            "grad": torch.is_grad_enabled(),
            "inference": torch.is_inference_mode_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "dtype": torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None,
            "cache": torch.is_autocast_cache_enabled(),
            "default": str(torch.get_default_device()),
            "made": torch.zeros(1).device.type,
            "context": MODE.get(),
            "product": self.linear(x).dtype,
        }
        return x, {key: str(value) for key, value in state.items()}


@pytest.mark.parametrize("launch", ["serial", "threads", "auto"])
@pytest.mark.parametrize(
    "surroundings",
    [
        [],
        [torch.no_grad],
        [torch.inference_mode],
        [lambda: torch.autocast("cpu", torch.bfloat16)],
        [lambda: torch.autocast("cpu", torch.float16, cache_enabled=False), torch.no_grad],
        [lambda: torch.device("meta")],
    ],
)
def test_the_surroundings_follow_into_every_replica(launch, surroundings):
    template = Look()
    x = torch.ones(4, 2)
    parallel = multi_gpu_model(template, devices=TWO, launch=launch, outputs="local")
    token = MODE.set("inside")
    try:
        with contextlib.ExitStack() as stack:
            for enter in surroundings:
                stack.enter_context(enter())
            expected = template(x)[1]
            outputs = parallel(x)
    finally:
        MODE.reset(token)
    assert [output[1] for output in outputs] == [expected, expected]
    assert expected["context"] == "inside"


class TwoWordsError(Exception):
    def __init__(self, first, second):
        super().__init__(first, second)
        self.second = second


class Failing(nn.Module):
    def forward(self, x):
        if x.sum() < 0:
            raise TwoWordsError("bad", 7)
        return x


@pytest.mark.parametrize("launch", ["serial", "threads"])
def test_an_exception_keeps_its_type_and_says_where_it_came_from(launch):
    parallel = multi_gpu_model(Failing(), devices=TWO, launch=launch)
    with pytest.raises(TwoWordsError, match="bad") as caught:
        parallel(torch.tensor([[1.0], [-1.0]]))
    assert caught.value.second == 7
    assert caught.value.__notes__ == ["in replica 1 on cpu of multi_gpu_model"]
    assert parallel(torch.ones(2, 1)).shape == (2, 1)


@pytest.mark.parametrize("launch", ["serial", "auto"])
def test_replicas_draw_different_numbers_and_one_seed_gives_one_sequence(launch):
    parallel = multi_gpu_model(nn.Dropout(0.5), devices=TWO, launch=launch)
    runs = []
    for _ in range(2):
        torch.manual_seed(3)
        runs.append([parallel(torch.ones(8, 50)) for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert not torch.equal(runs[0][0][:4], runs[0][0][4:])


def test_the_callers_random_state_is_untouched_by_a_model_that_draws_nothing():
    parallel = multi_gpu_model(nn.Linear(2, 2), devices=TWO)
    before = torch.get_rng_state()
    parallel(torch.ones(4, 2))
    assert torch.equal(before, torch.get_rng_state())


class FakeGenerator:
    """What a GPU's generator shows: a seed and a position."""

    def __init__(self, seed, offset=0):
        self.seed, self.offset = seed, offset

    def initial_seed(self):
        return self.seed

    def manual_seed(self, seed):
        self.seed, self.offset = seed, 0

    def get_offset(self):
        return self.offset

    def set_offset(self, offset):
        self.offset = offset


def test_generators_seeded_alike_differ_inside_and_keep_seed_and_progress_outside():
    generators = [FakeGenerator(5, 8), FakeGenerator(5, 8), FakeGenerator(9, 0), FakeGenerator(5, 8)]
    with own_random_numbers(generators):
        inside = [generator.seed for generator in generators]
        for generator in generators:
            generator.offset += 4
    assert len(set(inside)) == 4
    assert [(g.seed, g.offset) for g in generators] == [(5, 12), (5, 12), (9, 4), (5, 12)]


def test_threads_are_chosen_only_for_heavy_cpu_layers_without_random_numbers(monkeypatch):
    monkeypatch.setattr("torchkutils.parallel.launch._CORES", 2)
    cpu = [torch.device("cpu")] * 2
    choice = LaunchChoice("auto", layers=10)
    assert choice.threads("mode", cpu) is None
    for seconds in (1.0, 1e-4, 1e-4):  # the first run also sets things up
        choice.learn("light", seconds=seconds, drew=False)
        choice.learn("heavy", seconds=1.0, drew=False)
        choice.learn("random", seconds=1.0, drew=seconds == 1.0)
    assert [choice.threads(key, cpu) for key in ("light", "heavy", "random")] == [False, True, False]
    assert choice.threads("heavy", [torch.device("cuda:0")] * 2) is False
    assert not choice.trial("heavy") or choice.threads("heavy", cpu)
    assert LaunchChoice("threads", 1).threads("light", cpu) is True


@pytest.mark.parametrize(("serial", "threaded", "chosen"), [(1.0, 0.5, True), (1.0, 0.95, False), (0.5, 1.0, False)])
def test_on_several_gpus_the_faster_launch_is_chosen_after_three_runs_of_each(serial, threaded, chosen, monkeypatch):
    monkeypatch.setattr("torchkutils.parallel.launch._CORES", 2)
    gpus = [torch.device("cuda", place) for place in range(2)]
    choice = LaunchChoice("auto", layers=10)
    tried = []
    while choice.threads("mode", gpus) is None:
        trial = choice.trial("mode")
        tried.append(trial)
        choice.learn("mode", threaded if trial else serial, drew=False, on_cpu=False, threads=trial)
    assert tried == [False] * 3 + [True] * 3
    assert choice.threads("mode", gpus) is chosen


@pytest.mark.parametrize("launch", ["serial", "threads"])
def test_gradients_are_the_same_however_replicas_are_launched(launch):
    torch.manual_seed(0)
    template = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    single = copy.deepcopy(template)
    x = torch.randn(9, 4, dtype=torch.float64)
    multi_gpu_model(template, devices=["cpu"] * 3, launch=launch)(x).square().sum().backward()
    single(x).square().sum().backward()
    for mine, other in zip(template.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def test_hooks_of_the_template_run_in_every_replica_and_the_wrappers_own_once():
    template = nn.Sequential(nn.Linear(2, 2))
    calls = []
    template[0].register_forward_hook(lambda *_: calls.append("layer"))
    parallel = multi_gpu_model(template, devices=TWO)
    parallel.register_forward_hook(lambda *_: calls.append("whole"))
    parallel(torch.ones(4, 2))
    assert calls == ["layer", "layer", "whole"]
