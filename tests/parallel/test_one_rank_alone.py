"""What one rank alone does is an error on every rank, in seconds, or is exchanged; what all ranks do is right.

Both ranks stay alive after an error, so that none is freed by the other one's end.
"""

import contextlib
import datetime
import os
import pathlib
import time

import pytest
import torch
from torch import distributed, nn
from torch.utils.checkpoint import checkpoint

from tests.parallel import test_drift as drift
from tests.parallel import test_rank_faults as rank_faults
from tests.ranks import SHARDS, on_ranks, same_on_all_ranks
from torchkutils import multi_gpu_model

pytestmark = pytest.mark.slow

IN_TIME = 20
"""Seconds within which every rank must have raised; the group's timeout is a minute."""


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)


class Net(nn.Module):
    """A body (frozen at first), a layer, running statistics, a buffer in the graph and a nested head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.middle, self.head = nn.Linear(4, 4), nn.Linear(4, 4), Head()
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("scale", torch.ones(4))
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.norm(self.middle(self.body(x).tanh())) * self.scale)

    def training_step(self, x):
        return self(x).square().mean()

    def around_forward(self, x):
        return self.head(self.middle(self.body(x))).square().mean()


class Run:
    """One rank's part of a case."""

    def __init__(self, rank, strategy, outputs):
        self.rank = rank
        self.own_batches = outputs == "local"
        self.model = Net()
        self.parallel = multi_gpu_model(self.model, strategy=strategy, outputs=outputs)
        self.optimizer = torch.optim.SGD(self.parallel.parameters(), lr=0.1, momentum=0.9)
        self.passes = 0

    def batch(self):
        self.passes += 1
        seed = 2 * self.passes + (self.rank if self.own_batches else 0)
        return torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))

    def loss(self):
        return self.parallel(self.batch()).square().mean()

    def step(self, loss=None, *, takes_it=True):
        self.optimizer.zero_grad()
        (self.loss if loss is None else loss)().backward()
        if takes_it:
            self.optimizer.step()


def _load(run, part):
    part.load_state_dict({name: value * 1.5 for name, value in part.state_dict().items()})


def _set(module, name, value):
    setattr(module, name, value)


def _add_parameter(run):
    run.model.extra = nn.Parameter(torch.ones(3))


def _tie(run):
    run.model.middle.weight = run.model.body.weight


def _convert(run):
    run.model.double()
    run.model.float()


def _evaluate(run):
    run.model.eval()
    with torch.no_grad():
        run.parallel(torch.ones(4, 4))


# What is done between two steps, and what comes of it under ddp and fsdp: where rank 1 does it alone, where all do.
# "raises": an error on every rank. "exchanged": the same on all ranks afterwards.
BETWEEN_STEPS = {
    "freeze": (lambda run: run.model.middle.requires_grad_(False), "raises", "exchanged", "raises", "raises"),
    "unfreeze": (lambda run: run.model.body.requires_grad_(True), "raises", "exchanged", "raises", "raises"),
    "replace a layer": (
        lambda run: _set(run.model, "middle", nn.Linear(4, 4)),
        *("raises", "exchanged", "raises", "raises"),
    ),
    "replace a nested layer": (
        lambda run: _set(run.model.head, "linear", nn.Linear(4, 2)),
        *("raises", "exchanged", "raises", "raises"),
    ),
    "remove a bias": (
        lambda run: _set(run.model.head.linear, "bias", None),
        *("raises", "exchanged", "raises", "raises"),
    ),
    "add a parameter": (_add_parameter, "raises", "exchanged", "raises", "raises"),
    "tie two parameters": (_tie, "raises", "exchanged", "raises", "raises"),
    "load a state": (lambda run: _load(run, run.model), "raises", "exchanged", "raises", "exchanged"),
    "load a frozen part": (lambda run: _load(run, run.model.body), "raises", "exchanged", "raises", "exchanged"),
    "convert to double and back": (_convert, "raises", "exchanged", "raises", "exchanged"),
    "eval()": (lambda run: run.model.eval(), "raises", "exchanged", "raises", "exchanged"),
    "change a buffer that a graph needs": (lambda run: run.model.scale.mul_(2), *["exchanged"] * 4),
    "reset running statistics": (lambda run: run.model.norm.reset_running_stats(), *["exchanged"] * 4),
    "one optimizer step more": (lambda run: run.optimizer.step(), "raises", "exchanged", "raises", "exchanged"),
}


def _between_steps(change, who):
    def way(run):
        for _ in range(2):
            run.step()
        if who == "all" or run.rank == 1:
            change(run)
        for _ in range(3):
            run.step()

    return way


def _on_rank_1(loss):
    """A step by `loss` on rank 1, and by the parallel model's forward on rank 0."""

    def way(run):
        for _ in range(3):
            run.step((lambda: loss(run)) if run.rank == 1 else None)

    return way


def _skipped_step(run):
    for number in range(4):
        run.step(takes_it=not (run.rank == 1 and number == 1))


def _optimizer_of_a_part(run):
    if run.rank == 1:
        run.optimizer = torch.optim.SGD(run.model.middle.parameters(), lr=0.1)
    for _ in range(3):
        run.step()


def _no_sync_on_one_rank(run):
    for _ in range(3):
        with run.parallel.no_sync() if run.rank == 1 else contextlib.nullcontext():
            run.step(takes_it=False)
        run.optimizer.step()


def _uneven_accumulation(run):
    for _ in range(2):
        for _ in range(1 + run.rank):
            run.loss().backward()
        run.optimizer.step()
        run.optimizer.zero_grad()


def _frozen_before_backward(run):
    for number in range(3):
        loss = run.loss()
        if run.rank == 1 and number == 1:
            run.model.middle.requires_grad_(False)
        run.step(lambda loss=loss: loss)


def _new_gradients(run):
    for _ in range(3):
        run.step(takes_it=False)
        if run.rank == 1:
            for parameter in run.model.parameters():
                parameter.grad = None if parameter.grad is None else parameter.grad * 0.5
        run.optimizer.step()


def _hook_that_writes(run):
    if run.rank == 1:
        run.model.middle.register_forward_hook(lambda module, *_: (module.weight.data.mul_(0.9), None)[1])
    for _ in range(3):
        run.step()


def _gradient_hook(run):
    # Under ddp and fsdp the hook changes what is exchanged.
    if run.rank == 1:
        run.model.middle.weight.register_hook(lambda gradient: gradient * 3)
    for _ in range(3):
        run.step()


def _another_learning_rate(run):
    run.optimizer.param_groups[0]["lr"] = 0.1 + 0.4 * run.rank
    for _ in range(12):
        run.step()


def _failing_loss(run):
    def fails(output, target):
        if run.rank == 1:
            raise ValueError("no such target")
        return output.square().mean()

    run.step(lambda: run.parallel.sharded_loss(fails, run.batch(), torch.zeros(4, 2)))


def _checkpointed(run):
    for reentrant in (False, True):
        run.step(
            lambda reentrant=reentrant: checkpoint(
                run.parallel, run.batch().requires_grad_(), use_reentrant=reentrant
            ).mean()
        )


def _loaded_before_evaluation(run):
    run.step()
    if run.rank == 1:
        _load(run, run.model)
    _evaluate(run)
    run.model.train()
    run.step()


def _buffer_before_evaluation(run):
    run.step()
    if run.rank == 1:
        run.model.scale.mul_(2)
    _evaluate(run)
    _evaluate(run)


# Whole ways of training, by what they do: under ddp and fsdp with local outputs, and with merged outputs. Where both
# ranks get the same batch, ranks that took another number of batches are told so first.
WAYS = {
    "a method that calls forward": (_on_rank_1(lambda run: run.model.training_step(run.batch())), *["raises"] * 4),
    "the template": (_on_rank_1(lambda run: run.model(run.batch()).mean()), *["raises"] * 4),
    "no step": (_skipped_step, *["raises"] * 4),
    "an optimizer of a part": (_optimizer_of_a_part, *["raises"] * 4),
    "no_sync on one rank": (_no_sync_on_one_rank, *["raises"] * 4),
    "uneven accumulation": (_uneven_accumulation, *["raises"] * 4),
    "frozen before backward": (_frozen_before_backward, *["raises"] * 4),
    "a hook that writes values": (_hook_that_writes, "raises", "raises", None, None),
    "new gradient tensors": (_new_gradients, "raises", "raises", None, None),
    "a gradient hook": (_gradient_hook, "exchanged", "exchanged", None, None),
    "another learning rate": (_another_learning_rate, "raises", "raises", None, None),
    "a loss that fails": (_failing_loss, "raises", "raises", None, None),
    "checkpointing around the model": (_checkpointed, *["exchanged"] * 4),
    "loaded, then evaluated": (_loaded_before_evaluation, *["raises"] * 4),
    "a buffer changed, then evaluated": (_buffer_before_evaluation, None, *["raises"] * 3),
}


def _cases(strategy, outputs):
    sharded = strategy == "fsdp"
    for name, (change, *results) in BETWEEN_STEPS.items():
        for who, result in zip(("rank 1", "all"), results[2 * sharded : 2 * sharded + 2], strict=True):
            yield f"{name}, {who}", _between_steps(change, who), result
    for name, (way, *results) in WAYS.items():
        result = results[2 * sharded + (outputs == "merged")]
        if result is not None:
            yield name, way, result


def _met(folder, rank, name):
    """Wait until the other rank has come here too; whether it came in time."""
    (folder / f"{name}.{rank}").touch()
    begun = time.monotonic()
    while not (folder / f"{name}.{1 - rank}").exists():
        if time.monotonic() - begun > IN_TIME:
            return False
        time.sleep(0.01)
    return True


def _all_cases(rank, folder, strategy, outputs):
    alive = []
    for number, (name, way, expected) in enumerate(_cases(strategy, outputs)):
        # A group of its own: after an error messages may be under way.
        distributed.destroy_process_group()
        _met(folder, rank, f"begin{number}")
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/store{number}",
            rank=rank,
            world_size=2,
            timeout=datetime.timedelta(seconds=60),
        )
        error = None
        try:
            # Kept: a model that is freed waits for what its rank had sent before the error.
            alive.append(run := Run(rank, strategy, outputs))
            way(run)
        except (RuntimeError, ValueError) as caught:
            error = caught
        assert _met(folder, rank, f"end{number}"), f"{name}: rank {rank} is alone after {error!r}"
        if expected == "raises":
            assert error is not None, f"{name}: no error on rank {rank}"
            continue
        if error is not None:
            raise AssertionError(f"{name}: refused on rank {rank}") from error
        for key, value in run.model.state_dict().items():
            whole = value.full_tensor() if hasattr(value, "full_tensor") else value
            assert same_on_all_ranks(whole), f"{name}: {key} differs"
    _met(folder, rank, "done")
    os._exit(0)


@pytest.mark.parametrize("outputs", ["local", "merged"])
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=SHARDS)])
def test_no_rank_drifts_or_waits(strategy, outputs, tmp_path):
    on_ranks(_all_cases, tmp_path, pathlib.Path(tmp_path), strategy, outputs)
    assert (tmp_path / "done.0").exists()
    assert (tmp_path / "done.1").exists()


# The lines of docs/strategies.md about what one rank alone does, and what runs each.
ON_THE_PAGE = {
    "freezes, unfreezes, replaces, adds or ties parameters": "replace a layer",
    "loads a state, also of a frozen part, or draws initial values anew": "load a frozen part",
    "converts to another dtype or device, and back": "convert to double and back",
    "takes one optimizer step more or less, has another optimizer or learning rate": "one optimizer step more",
    "clips or scales an exchanged gradient in place, then steps": drift._gradients_that_one_rank_changes,
    "replaces a gradient by a new tensor": "new gradient tensors",
    "trains by another method, or inside `no_sync`": "no_sync on one rank",
    "is in `eval()`": "eval()",
    "changes buffers before a forward in training": "change a buffer that a graph needs",
    "changes buffers before an evaluation": "a buffer changed, then evaluated",
    "edits a value through `.data` or `.numpy()`": drift._what_only_one_rank_does_raises_on_all,
    "edits a value by less than a ten-thousandth of its tensor's largest": drift._equal_ranks_are_no_false_alarm,
    "loads other weights for an evaluation and puts its own back": drift._equal_ranks_are_no_false_alarm,
    "raises an exception, or has no more batches": rank_faults.test_a_broken_rank_ends_the_others_in_time,
}


def test_the_page_says_what_one_rank_alone_may_do():
    page = (pathlib.Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
    table = page.partition("| One rank alone … | ddp | fsdp |\n|---|---|---|\n")[2].partition("\n\n")[0]
    assert [line.split("|")[1].strip() for line in table.splitlines()] == list(ON_THE_PAGE)
    assert all(callable(run) or run in BETWEEN_STEPS or run in WAYS for run in ON_THE_PAGE.values())


def test_the_table_has_cases_of_each_kind():
    for strategy in ("ddp", "fsdp"):
        results = [result for _, _, result in _cases(strategy, "local")]
        assert {"raises", "exchanged"} == set(results)
        assert len(results) > 30
