"""Ranks never drift apart without a word: every way of training is exchanged, or raises on every rank.

Each rank has its own batch. After some steps all ranks must hold the same weights, and those of one process that saw
all batches.
"""

import copy
import os
import pathlib
import time

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.join import Join

from tests.ranks import batch, on_ranks, same_on_all_ranks
from torchkutils import multi_gpu_model
from torchkutils.parallel.collectives import from_everyone
from torchkutils.parallel.parameter_checks import ParameterChecks

pytestmark = pytest.mark.slow


class Net(nn.Module):
    """A body and two heads, and ways of training other than forward."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Linear(4, 4)
        self.heads = nn.ModuleList([nn.Linear(4, 2), nn.Linear(4, 2)])
        self.double()

    def forward(self, x, head=0):
        return self.heads[head](self.body(x).tanh())

    def training_step(self, x):
        return self(x).square().mean()

    def step_around_forward(self, x):
        return self.heads[1](self.body(x)).square().mean()


def _forward(p, x, rank):
    return p(x).square().mean()


def _one_loss(loss):
    def step(p, m, optimizer, x, rank):
        loss(p, m, x, rank).backward()

    return step


def _two_backwards(p, m, optimizer, x, rank):
    output = p(x)
    output.square().mean().backward(retain_graph=True)
    output.abs().mean().backward()


def _two_forwards_then_two_backwards(p, m, optimizer, x, rank):
    first, second = p(x), p(x * 2, 1)
    first.square().mean().backward()
    second.square().mean().backward()


def _by_hand(p, m, optimizer, x, rank):
    own = [parameter for parameter in m.parameters() if parameter.requires_grad]
    for parameter, gradient in zip(own, torch.autograd.grad(m(x).square().mean(), own, allow_unused=True), strict=True):
        if gradient is not None:
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def _gathered_without_a_last_exchange(p, m, optimizer, x, rank):
    with p.no_sync():
        p(x).square().mean().backward()


def _gathered(p, m, optimizer, x, rank):
    with p.no_sync():
        p(x).square().mean().backward()
    p(x * 2).square().mean().backward()


def _clipped(p, m, optimizer, x, rank):
    p.training_step(x).backward()
    nn.utils.clip_grad_norm_(p.parameters(), 0.1)


def _reentrant(p, m, optimizer, x, rank):
    x = x.clone().requires_grad_()
    torch.utils.checkpoint.checkpoint(p.training_step, x, use_reentrant=True).backward()


# What is trained, and how one process would: the mean of the same function over the ranks' batches.
STEPS = {
    "forward": _one_loss(lambda p, m, x, rank: p(x).square().mean()),
    "a method that calls forward": _one_loss(lambda p, m, x, rank: p.training_step(x)),
    "a method around forward": _one_loss(lambda p, m, x, rank: p.step_around_forward(x)),
    "the template itself": _one_loss(lambda p, m, x, rank: m(x).square().mean()),
    "module": _one_loss(lambda p, m, x, rank: p.module(x).square().mean()),
    "a submodule": _one_loss(lambda p, m, x, rank: p.body(x).square().mean()),
    "another head on each rank": _one_loss(lambda p, m, x, rank: p(x, rank).square().mean()),
    "two backwards": _two_backwards,
    "two forwards, then two backwards": _two_forwards_then_two_backwards,
    "gradients by hand": _by_hand,
    "no_sync without a last exchange": _gathered_without_a_last_exchange,
    "no_sync": _gathered,
    "clipped": _clipped,
    "reentrant checkpoint": _reentrant,
    "a forward that is thrown away first": _one_loss(lambda p, m, x, rank: (p(x * 3), p(x).square().mean())[1]),
}


def _every_way_is_exchanged(rank, names, strategy):
    for name in names:
        template = Net()
        alone = copy.deepcopy(template)
        parallel = multi_gpu_model(template, strategy=strategy, outputs="local")
        ours = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
        theirs = torch.optim.SGD(alone.parameters(), lr=0.1, momentum=0.9)
        for seed in range(3):
            ours.zero_grad()
            theirs.zero_grad()
            STEPS[name](parallel, template, ours, batch(3, seed=10 * seed + rank), rank)
            for other in range(2):
                STEPS[name](_Alone(alone), alone, theirs, batch(3, seed=10 * seed + other), other)
            for parameter in alone.parameters():
                if parameter.grad is not None:
                    parameter.grad /= 2
            if name == "clipped":
                # The rank clips the mean; here each half was clipped by itself.
                continue
            for (key, mine), single in zip(template.named_parameters(), alone.parameters(), strict=True):
                gradient = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
                exchanged_at_step = name in ("gradients by hand", "no_sync without a last exchange")
                assert (gradient is None) == (single.grad is None), (name, key)
                if gradient is not None and not exchanged_at_step:
                    torch.testing.assert_close(gradient, single.grad, rtol=0, atol=1e-12, msg=f"{name}: {key}")
            ours.step()
            theirs.step()
        for (key, mine), single in zip(template.named_parameters(), alone.parameters(), strict=True):
            value = mine.detach().full_tensor() if hasattr(mine, "full_tensor") else mine.detach()
            assert same_on_all_ranks(value), (name, key)
            if name != "clipped":
                torch.testing.assert_close(value, single.detach(), rtol=0, atol=1e-12, msg=f"{name}: {key}")


class _Alone:
    """A model of one process with what the parallel one has besides."""

    def __init__(self, model):
        self._model = model
        self.module = model

    def __call__(self, *args):
        return self._model(*args)

    def __getattr__(self, name):
        return getattr(self._model, name)

    def no_sync(self):
        return torch.enable_grad()


def _changes_are_taken_over(rank):
    def unfrozen(m):
        m.body.requires_grad_(True)

    def frozen(m):
        m.body.requires_grad_(False)

    def replaced(m):
        torch.manual_seed(rank + 5)
        m.heads[0] = nn.Linear(4, 3).double()

    def added(m):
        torch.manual_seed(rank + 5)
        m.body = nn.Sequential(m.body, nn.Linear(4, 4).double())

    def trained_buffer(m):
        m.register_buffer("factor", torch.ones(4, dtype=torch.float64).requires_grad_())
        forward = m.body.forward
        m.body.forward = lambda x: forward(x) * m.factor

    for change in (unfrozen, frozen, replaced, added, trained_buffer):
        model = Net()
        model.body.requires_grad_(change is not unfrozen)
        parallel = multi_gpu_model(model, strategy="ddp", outputs="local")
        for _ in range(2):
            parallel(batch(3, seed=rank)).sum().backward()
        change(parallel)
        model.zero_grad()
        parallel(batch(3, seed=rank)).square().sum().backward()
        trained = [t for t in (*model.parameters(), *model.buffers()) if t.grad is not None]
        assert len(trained) == {"frozen": 2, "added": 6, "trained_buffer": 4}.get(change.__name__, 4) + (
            change is trained_buffer
        )
        for tensor in trained:
            assert same_on_all_ranks(tensor.grad), change
            assert same_on_all_ranks(tensor.detach()), change


class Deep(nn.Module):
    """More parameters than one sample of values holds."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(40)]).double()

    def forward(self, x):
        return self.layers(x)


def _load(m, optimizer):
    m.load_state_dict({name: value * 1.5 for name, value in m.state_dict().items()})


def _edit_one_value(m, optimizer):
    with torch.no_grad():
        m.layers[20].bias[2] += 0.01


def _edit_through_data(m, optimizer):
    m.layers[20].bias.data[2] += 1


def _draw_anew(m, optimizer):
    m.layers.apply(lambda module: module.reset_parameters() if isinstance(module, nn.Linear) else None)


# What one rank does between a step and the next forward, and within how many passes all ranks see it: at once what
# torch counts or an optimizer did; what goes around torch's counts when the sample of values comes to it.
ALONE = {
    "a state that is loaded": (_load, 1),
    "one value, in place": (_edit_one_value, 1),
    "one value, through .data": (_edit_through_data, 40),
    "initial values of another seed": (_draw_anew, 1),
}


def _trained(parallel, optimizer, passes):
    for seed in range(passes):
        optimizer.zero_grad()
        parallel(batch(3, seed=seed)).square().sum().backward()
        optimizer.step()


def _what_only_one_rank_does_raises_on_all(rank):
    for name, (change, passes) in ALONE.items():
        parallel = multi_gpu_model(Deep(), strategy="ddp", outputs="local")
        optimizer = torch.optim.SGD(parallel.parameters(), lr=1e-3)
        _trained(parallel, optimizer, 2)
        torch.manual_seed(rank)
        if rank == 1 or change is _draw_anew:
            change(parallel, optimizer)
        try:
            _trained(parallel, optimizer, passes)
            message = ""
        except RuntimeError as error:
            message = str(error)
        assert "ranks must hold the same parameters, got other values than rank 0's on rank 1" in message, name


def _gradients_that_one_rank_changes(rank):
    def clip(p):
        nn.utils.clip_grad_value_(p.parameters(), 1e-3)

    def scale(p):
        p.layers[20].bias.grad.mul_(0.5)

    for change in (clip, scale):
        parallel = multi_gpu_model(Deep(), strategy="ddp", outputs="local")
        optimizer = torch.optim.SGD(parallel.parameters(), lr=10.0)

        def passes(change=change, parallel=parallel, optimizer=optimizer):
            for seed in range(2):
                optimizer.zero_grad()
                parallel(batch(3, seed=seed)).square().sum().backward()
                if rank == 1 and seed == 0:
                    change(parallel)
                optimizer.step()

        with pytest.raises(RuntimeError, match="ranks must hold the same parameters, got other values than rank 0's"):
            passes()


def _an_optimizer_step_of_one_rank(rank):
    parallel = multi_gpu_model(Deep(), strategy="ddp", outputs="local")
    optimizer = torch.optim.Adam(parallel.parameters(), lr=1e-3, fused=True)
    _trained(parallel, optimizer, 2)
    if rank == 1:
        # Its gradients are those that were exchanged; a fused optimizer leaves no trace in torch's counts.
        optimizer.step()
    with pytest.raises(RuntimeError, match="ranks must hold the same parameters, got other values than rank 0's"):
        _trained(parallel, optimizer, 1)


def _update_by_hand(parallel):
    with torch.no_grad():
        for parameter in parallel.parameters():
            parameter -= 1e-3 * parameter.grad


def _equal_ranks_are_no_false_alarm(rank):
    compared = []
    compare = ParameterChecks._compare
    ParameterChecks._compare = lambda self: (compared.append(1), compare(self))
    try:
        # An optimizer's step, also one that runs backward passes inside, and clipping on every rank: no comparison.
        for make in (torch.optim.SGD, lambda p, lr: torch.optim.LBFGS(p, lr=lr, max_iter=3)):
            parallel = multi_gpu_model(Deep(), strategy="ddp", outputs="local")
            optimizer = make(parallel.parameters(), lr=1e-3)
            for seed in range(4):

                def closure(seed=seed, parallel=parallel, optimizer=optimizer):
                    optimizer.zero_grad()
                    loss = parallel(batch(3, seed=seed)).square().sum()
                    loss.backward()
                    nn.utils.clip_grad_norm_(parallel.parameters(), 1.0)
                    return loss

                optimizer.step(closure)
        assert not compared
        # A frozen part that the optimizer holds too: what was exchanged is not exchanged again.
        model = Deep()
        model.layers[0].requires_grad_(False)
        frozen = multi_gpu_model(model, strategy="ddp", outputs="local")
        frozen._exchange._average = None
        _trained(frozen, torch.optim.SGD(frozen.parameters(), lr=1e-3, momentum=0.9), 3)
        assert not compared
        # Updates by hand: the first is looked at, what repeats is not.
        for seed in range(5):
            parallel.zero_grad()
            parallel(batch(3, seed=seed)).square().sum().backward()
            _update_by_hand(parallel)
        assert len(compared) == 1
        # Averaged weights that one rank puts in for an evaluation, and takes out again.
        kept = copy.deepcopy(parallel.state_dict())
        if rank == 0:
            parallel.load_state_dict({name: value * 0.5 for name, value in kept.items()})
            parallel.load_state_dict(kept)
        _trained(parallel, torch.optim.SGD(parallel.parameters(), lr=1e-3), 2)
        assert len(compared) >= 2
        # A change so small that another processor might have rounded so.
        if rank == 0:
            with torch.no_grad():
                parallel.layers[3].bias[0] += 1e-6 * parallel.layers[3].bias.abs().max()
        _trained(parallel, torch.optim.SGD(parallel.parameters(), lr=1e-3), 2)
    finally:
        ParameterChecks._compare = compare
    for parameter in parallel.parameters():
        torch.testing.assert_close(parameter, from_everyone(parameter)[0], rtol=1e-5, atol=1e-8)


def _another_structure_on_one_rank_raises_on_all(rank, outputs):
    parallel = multi_gpu_model(Net(), strategy="ddp", outputs=outputs)
    parallel.body.requires_grad_(rank == 0)
    with pytest.raises(RuntimeError, match="ranks must do the same things in the same order"):
        parallel(batch(3)).sum().backward()
    # What one rank had sent before is still under way: after such an error the processes end.
    (pathlib.Path(os.environ["DONE"]) / str(rank)).touch()
    time.sleep(1)
    os._exit(0)


def _uneven_numbers_of_batches(rank):
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)).double()
    parallel = multi_gpu_model(model, strategy="ddp", outputs="local")
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1)
    with Join([parallel]):
        for step in range(2 + 2 * rank):
            parallel(batch(3, seed=step + 10 * rank)).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    for value in model.state_dict().values():
        assert same_on_all_ranks(value)
    parallel(batch(3, seed=rank)).square().sum().backward()
    assert same_on_all_ranks(model[0].weight.grad)
    for options in ({"strategy": "fsdp"}, {"strategy": "ddp", "outputs": "merged"}):
        with pytest.raises(ValueError, match="Join needs strategy='ddp' with outputs='local'"):
            Join([multi_gpu_model(nn.Linear(2, 2), **options)])


def _running_statistics_after_a_method(rank):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4).double()

        def forward(self, x):
            return self.norm(x)

        def training_step(self, x):
            return self(x).square().mean()

    model = Normed()
    parallel = multi_gpu_model(model, strategy="ddp", outputs="local")
    parallel.training_step(batch(5, seed=rank)).backward()
    assert same_on_all_ranks(model.norm.running_mean)


def _fsdp_refuses_what_it_would_not_exchange(rank):
    def replaced(m):
        m[0] = nn.Linear(4, 4)

    def unfrozen(m):
        m[0].requires_grad_(True)

    for change, message in (
        (replaced, "every parameter must be sharded under 'fsdp', got 0.weight"),
        (unfrozen, "must stay"),
    ):
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        model[0].requires_grad_(change is not unfrozen)
        parallel = multi_gpu_model(model, strategy="fsdp", outputs="local")
        parallel(batch(3).float()).sum().backward()
        change(model)
        with pytest.raises(ValueError, match=message):
            parallel(batch(3).float())
    model = nn.Linear(4, 4)
    model.register_buffer("factor", torch.ones(4).requires_grad_())
    with pytest.raises(ValueError, match="buffers must not require grad to be sharded, got factor"):
        multi_gpu_model(model, strategy="fsdp")


def test_every_way_of_training_is_exchanged_under_ddp(tmp_path):
    on_ranks(_every_way_is_exchanged, tmp_path, list(STEPS), "ddp")


FSDP_STEPS = ["forward", "a method that calls forward", "the template itself", "module", "no_sync"]


def test_every_way_of_training_is_exchanged_under_fsdp(tmp_path):
    on_ranks(_every_way_is_exchanged, tmp_path, FSDP_STEPS, "fsdp")


@pytest.mark.parametrize(
    "check",
    [
        _changes_are_taken_over,
        _what_only_one_rank_does_raises_on_all,
        _gradients_that_one_rank_changes,
        _an_optimizer_step_of_one_rank,
        _equal_ranks_are_no_false_alarm,
        _uneven_numbers_of_batches,
        _running_statistics_after_a_method,
        _fsdp_refuses_what_it_would_not_exchange,
    ],
)
def test_two_ranks(check, tmp_path):
    on_ranks(check, tmp_path)


@pytest.mark.parametrize("outputs", ["local", "merged"])
def test_another_structure_on_one_rank(outputs, tmp_path, monkeypatch):
    monkeypatch.setenv("DONE", str(tmp_path))
    on_ranks(_another_structure_on_one_rank_raises_on_all, tmp_path, outputs)
    assert (tmp_path / "0").exists()
    assert (tmp_path / "1").exists()


def test_without_a_group_nothing_is_exchanged():
    assert not distributed.is_initialized()
    with multi_gpu_model(nn.Linear(2, 2), devices=["cpu", "cpu"]).no_sync():
        pass
