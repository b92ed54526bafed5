"""strategy='ddp' and 'fsdp' in two real gloo processes."""

import copy
import pickle

import pytest
import torch
from torch import distributed, nn

from tests.ranks import SHARDS, batch, on_ranks, same_on_all_ranks
from torchkutils import multi_gpu_model


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def _merged_equals_single(rank):
    model = _model()
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model)
    assert parallel.__template__ is model
    assert list(parallel.state_dict()) == list(single.state_dict())
    for count in (8, 7):
        model.zero_grad()
        single.zero_grad()
        ours, theirs = parallel(batch(count)), single(batch(count))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        ours.square().mean().backward()
        theirs.square().mean().backward()
        for mine, other in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def _bad_batches_raise_on_all_ranks(rank):
    parallel = multi_gpu_model(_model(), strategy="ddp")
    with pytest.raises(ValueError, match="same batch on every rank"):
        parallel(batch(4, seed=rank))
    # A rank without a sample computes one to keep pace, which does not count.
    torch.testing.assert_close(parallel(batch(1)), _model()(batch(1)), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="LOCAL_RANK decides"):
        multi_gpu_model(_model(), devices=["cpu", "cpu"], strategy="ddp")
    with pytest.raises(ValueError, match="LOCAL_RANK decides"):
        multi_gpu_model(_model(), 2)
    assert parallel(batch(4)).shape == (4, 3)


def _local_averages_gradients(rank):
    model = _model()
    parallel = multi_gpu_model(model, outputs="local")
    single = _model()
    parallel(batch(4, seed=rank)).square().mean().backward()
    single(torch.cat([batch(4, seed=0), batch(4, seed=1)])).square().mean().backward()
    for mine, other in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def _running_statistics_are_those_of_the_whole_batch(rank):
    for momentum, outputs in ((0.1, "merged"), (None, "merged"), (0.1, "local")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 3)).double()
        single = copy.deepcopy(model)
        parallel = multi_gpu_model(model, outputs=outputs)
        for seed in (1, 2):
            rows = batch(7, seed=seed)
            mine = rows if outputs == "merged" else (rows[:3] if rank else rows[3:])
            first, second = parallel(mine), parallel(mine)
            (first.square().mean() + second.square().mean()).backward()
            single(rows), single(rows)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, single.state_dict()[name], rtol=0, atol=1e-12)
            assert same_on_all_ranks(value), name
        assert model[0].momentum == momentum
        parallel.eval()
        torch.testing.assert_close(parallel(rows), single.eval()(rows), rtol=0, atol=1e-12)


def _first_takes_the_running_statistics_of_rank_0(rank):
    model = nn.BatchNorm1d(4).double()
    first = copy.deepcopy(model)
    multi_gpu_model(model, buffers="first")(batch(7))
    first(batch(7)[:4])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, first.state_dict()[name], rtol=0, atol=1e-12)


class Scaled(nn.Module):
    def __init__(self, fails=False):
        super().__init__()
        self.fails = fails

    def forward(self, x, factor=1.0):
        if self.fails:
            raise KeyError("no such row")
        return x * factor


def _arguments_and_failures_are_agreed_on(rank):
    parallel = multi_gpu_model(Scaled(), strategy="ddp")
    assert torch.equal(parallel(batch(4), factor=2.0), batch(4) * 2)
    with pytest.raises(ValueError, match="same batch on every rank"):
        parallel(batch(4), factor=float(rank))
    failing = multi_gpu_model(Scaled(fails=rank == 1), strategy="ddp")
    expected = (KeyError, "no such row") if rank else (RuntimeError, "an exception on rank 1")
    with pytest.raises(expected[0], match=expected[1]):
        failing(batch(4))
    for options, match in (({"launch": "threads"}, "launch must be 'auto'"), ({"cpu_relocation": True}, "must be Fal")):
        with pytest.raises(ValueError, match=match):
            multi_gpu_model(Scaled(), strategy="ddp", **options)


def _ranks_draw_different_reproducible_numbers(rank):
    parallel = multi_gpu_model(nn.Dropout(0.5))
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(parallel(torch.ones(64, 4)))
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0][:32], drawn[0][32:])
    assert same_on_all_ranks(torch.get_rng_state())


class TwoInputs(nn.Module):
    """A table that every sample looks into: an argument that must not be cut."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3).double()

    def forward(self, x, table):
        return self.linear(x) @ table


def _shared_arguments_are_not_cut(rank, strategy):
    model = TwoInputs()
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model, strategy=strategy, shared=("table",))
    table = batch(3, seed=5, width=2)
    for call in (lambda m: m(batch(7), table), lambda m: m(x=batch(7), table=table)):
        ours, theirs = call(parallel), call(single)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="same batch on every rank"):
        parallel(batch(7), batch(3, seed=rank, width=2))
    loss = parallel.sharded_loss(nn.MSELoss(), {"x": batch(7), "table": table}, batch(7, seed=2, width=2))
    wanted = nn.MSELoss()(single(batch(7), table), batch(7, seed=2, width=2))
    torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)


def _losses_are_those_of_all_samples(rank, strategy):
    """Merged and local, with a mean and a sum, where the ranks hold 5 and 2 samples."""
    for outputs in ("merged", "local"):
        for reduction in ("mean", "sum"):
            model, single = _model(), _model()
            parallel = multi_gpu_model(model, strategy=strategy, outputs=outputs)
            rows, goals = batch(7), torch.arange(7) % 3
            own = slice(None) if outputs == "merged" else (slice(5, 7) if rank else slice(0, 5))
            fn = nn.CrossEntropyLoss(reduction=reduction)
            loss = parallel.sharded_loss(fn, rows[own], goals[own], reduction=reduction)
            wanted = fn(single(rows), goals)
            torch.testing.assert_close(loss.detach(), wanted.detach(), rtol=0, atol=1e-12)
            loss.backward()
            wanted.backward()
            _same_gradients(model, single)
            with torch.no_grad():
                torch.testing.assert_close(
                    parallel.sharded_loss(fn, rows[own], goals[own], reduction=reduction), wanted, rtol=0, atol=1e-12
                )


def _bad_losses_raise_on_all_ranks(rank, strategy):
    parallel = multi_gpu_model(_model(), strategy=strategy, outputs="local")
    goals = torch.tensor([0, -100 if rank else 1])
    expected = (ValueError, "ignore_index") if rank else (RuntimeError, "an exception on rank 1")
    with pytest.raises(expected[0], match=expected[1]):
        parallel.sharded_loss(nn.functional.cross_entropy, batch(2), goals)
    expected = (ValueError, "at least one sample") if rank else (RuntimeError, "an exception on rank 1")
    with pytest.raises(expected[0], match=expected[1]):
        parallel.sharded_loss(nn.functional.cross_entropy, batch(2)[rank * 2 :], goals[rank * 2 :])
    merged = multi_gpu_model(_model(), strategy=strategy)
    with pytest.raises(ValueError, match="same batch on every rank"):
        merged.sharded_loss(nn.functional.cross_entropy, batch(2), torch.tensor([0, rank]))


def _same_gradients(model, single):
    for mine, other in zip(model.parameters(), single.parameters(), strict=True):
        ours = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
        torch.testing.assert_close(ours, other.grad, rtol=0, atol=1e-12)


class Blocks(nn.Module):
    """Blocks large enough to be gathered one by one, tied and frozen parameters, an LSTM."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm = nn.LSTM(4, 8, batch_first=True)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 65536), nn.Linear(65536, 8)) for _ in range(2)])
        self.table = nn.Linear(8, 3)
        self.tied = nn.Linear(8, 3)
        self.tied.weight = self.table.weight
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.idle = nn.Linear(2, 2)
        self.double()

    def forward(self, x):
        x = self.lstm(x.unsqueeze(1))[0].squeeze(1)
        for block in self.blocks:
            x = block(x)
        return self.table(x) + self.tied(x) * self.frozen


class Odd(nn.Module):
    """Gives a float, a scalar, an int16 tensor; other things where it is told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3).double()
        self.extra = False

    def forward(self, x):
        y = self.linear(x)
        odd = {"rows": y, "mean": y.mean(), "number": float(y.detach().mean()), "kinds": x[:, 0].to(torch.int16)}
        return {**odd, "more": y} if self.extra else odd


def _odd_outputs_are_merged_or_refused(rank, strategy):
    model = Odd()
    parallel = multi_gpu_model(model, strategy=strategy, batch_axes={"number": "mean"})
    ours, theirs = parallel(batch(7)), Odd()(batch(7))
    assert ours["number"] == pytest.approx(theirs["number"], rel=1e-12)
    for name in ("rows", "mean", "kinds"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-12)
    model.extra = rank == 1
    with pytest.raises(ValueError, match="one structure on every rank to be merged, got another one than rank 0's on"):
        parallel(batch(7))
    model.extra = False
    unpacked = batch(7)
    packed = nn.utils.rnn.pack_sequence([unpacked])
    expected = (
        (TypeError, "is a PackedSequence")
        if rank
        else (RuntimeError, "a forward in training with grad must succeed on every rank")
    )
    with pytest.raises(expected[0], match=expected[1]):
        parallel(packed if rank else unpacked)


def _a_failed_forward_may_be_followed_by_another(rank, strategy):
    for outputs in ("merged", "local"):
        model, single = _model(), _model()
        parallel = multi_gpu_model(model, strategy=strategy, outputs=outputs)
        for _ in range(2):
            with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
                parallel(batch(6, width=5))
            torch.testing.assert_close(parallel(batch(6)), single(batch(6)), rtol=0, atol=1e-12)
        parallel(batch(6)).sum().backward()
        single(batch(6)).sum().backward()
        _same_gradients(model, single)


def _fsdp_equals_single(rank):
    model = Blocks()
    single = copy.deepcopy(model)
    if rank:
        nn.init.zeros_(model.table.weight)
    keys = list(model.state_dict())
    parallel = multi_gpu_model(model, strategy="fsdp")
    assert parallel.__template__ is model
    assert isinstance(model, Blocks)
    assert list(parallel.state_dict()) == keys
    for part in model.parameters():
        assert part.to_local().numel() < part.numel()
    assert [type(block).__name__ for block in model.blocks] == ["FSDPSequential"] * 2
    ours, theirs = (torch.optim.Adam(m.parameters(), lr=1e-2) for m in (parallel, single))
    for count in (8, 7):
        outputs, wanted = parallel(batch(count)), single(batch(count))
        torch.testing.assert_close(outputs, wanted, rtol=1e-10, atol=1e-9)
        outputs.square().mean().backward()
        wanted.square().mean().backward()
        for (name, mine), other in zip(model.named_parameters(), single.parameters(), strict=True):
            assert (mine.grad is None) == (other.grad is None), name
            if other.grad is not None:
                torch.testing.assert_close(mine.grad.full_tensor(), other.grad, rtol=1e-10, atol=1e-9)
        for optimizer in (ours, theirs):
            optimizer.step()
            optimizer.zero_grad()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            torch.testing.assert_close(parallel.eval()(batch(5)), single.eval()(batch(5)), rtol=1e-10, atol=1e-9)
    # What an optimizer made only now gets are the sharded parameters.
    assert all(hasattr(parameter, "full_tensor") for parameter in parallel.parameters())
    with pytest.raises(TypeError, match="cannot be pickled or copied; save_model, called on every rank"):
        pickle.dumps(parallel)
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        copy.deepcopy(parallel)


def _fsdp_refuses_what_it_cannot_shard(rank):
    scalar = nn.Linear(2, 2)
    scalar.factor = nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ValueError, match=r"0-d factor; give it shape \(1,\)"):
        multi_gpu_model(scalar, strategy="fsdp")
    with pytest.raises(ValueError, match="one dtype to be sharded together, got"):
        multi_gpu_model(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double()), strategy="fsdp")
    with pytest.raises(ValueError, match=r"0\.weight on the meta device"):
        multi_gpu_model(nn.Sequential(nn.Linear(2, 2, device="meta")), strategy="fsdp")
    with pytest.raises(ValueError, match="LOCAL_RANK decides"):
        multi_gpu_model(nn.Linear(2, 2), 2, strategy="fsdp")
    model = nn.Linear(2, 2)
    multi_gpu_model(model, strategy="fsdp")
    with pytest.raises(ValueError, match="spread over ranks already"):
        multi_gpu_model(model, strategy="ddp")


def _own_groups_are_kept(rank):
    from torch.distributed.fsdp import fully_shard

    model = _model()
    single = copy.deepcopy(model)
    fully_shard(model[0], mesh=torch.distributed.device_mesh.init_device_mesh("cpu", (2,)))
    parallel = multi_gpu_model(model, strategy="fsdp")
    torch.testing.assert_close(parallel(batch(5)), single(batch(5)), rtol=0, atol=1e-12)
    assert [type(one).__name__ for one in model] == ["FSDPLinear", "Tanh", "Linear"]


def _running_statistics_under_fsdp(rank):
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    model.register_buffer("odd", torch.tensor([rank], dtype=torch.int16))
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model, strategy="fsdp")
    parallel(batch(7)).sum().backward()
    single(batch(7))
    for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked"):
        torch.testing.assert_close(model.state_dict()[name], single.state_dict()[name], rtol=0, atol=1e-12)
    assert model.odd.tolist() == [0]


def _ranks_must_want_the_same(rank):
    wanted = "model and options must be the same on every rank, got others than rank 0's on rank 1"
    for strategy in ("ddp", "fsdp"):
        with pytest.raises(ValueError, match=wanted):
            multi_gpu_model(nn.Linear(2, 2 + rank), strategy=strategy)
        with pytest.raises(ValueError, match=wanted):
            multi_gpu_model(nn.Linear(2, 2), strategy=strategy, outputs=("merged", "local")[rank])
        torch.manual_seed(rank)
        model = multi_gpu_model(nn.Linear(2, 2, bias=False), strategy=strategy)
        assert same_on_all_ranks(model(torch.eye(2)).detach())
    with pytest.raises(ValueError, match="on rank 1"):
        multi_gpu_model(nn.Linear(2, 2), strategy=("ddp", "fsdp")[rank])


CHECKS = [
    _arguments_and_failures_are_agreed_on,
    _ranks_draw_different_reproducible_numbers,
    _merged_equals_single,
    _bad_batches_raise_on_all_ranks,
    _local_averages_gradients,
    _running_statistics_are_those_of_the_whole_batch,
    _first_takes_the_running_statistics_of_rank_0,
    _fsdp_equals_single,
    _fsdp_refuses_what_it_cannot_shard,
    _own_groups_are_kept,
    _running_statistics_under_fsdp,
    _ranks_must_want_the_same,
]
BOTH_CHECKS = [
    _shared_arguments_are_not_cut,
    _losses_are_those_of_all_samples,
    _bad_losses_raise_on_all_ranks,
    _odd_outputs_are_merged_or_refused,
    _a_failed_forward_may_be_followed_by_another,
]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_two_ranks(check, tmp_path):
    on_ranks(check, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("check", BOTH_CHECKS)
def test_two_ranks_under_both_strategies(check, strategy, tmp_path):
    on_ranks(check, tmp_path, strategy)


@pytest.mark.slow
def test_three_ranks(tmp_path):
    on_ranks(_losses_are_those_of_all_samples_of_three, tmp_path, world=3)


def _losses_are_those_of_all_samples_of_three(rank):
    for strategy in ("ddp", "fsdp"):
        model, single = _model(), _model()
        parallel = multi_gpu_model(model, strategy=strategy, outputs="local")
        loss = parallel.sharded_loss(nn.MSELoss(), batch(7)[rank * 2 : 7 if rank == 2 else rank * 2 + 2], _goals(rank))
        wanted = nn.MSELoss()(single(batch(7)), batch(7, seed=2, width=3))
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
        loss.backward()
        wanted.backward()
        _same_gradients(model, single)


def _goals(rank):
    return batch(7, seed=2, width=3)[rank * 2 : 7 if rank == 2 else rank * 2 + 2]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_without_a_process_group_the_error_says_how_to_get_one(strategy):
    with pytest.raises(ValueError, match=f"'{strategy}' needs a process group, got none; start under torchrun"):
        multi_gpu_model(_model(), strategy=strategy)


@pytest.fixture
def alone():
    """A process group of one."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("local_rank", [None, "", "2", "-1", "one"])
def test_a_local_rank_that_names_no_gpu_is_refused(local_rank, alone, monkeypatch):
    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local_rank is not None:
        monkeypatch.setenv("LOCAL_RANK", local_rank)
    with pytest.raises(ValueError, match=f"LOCAL_RANK must be one of the 2 GPUs here, got {local_rank!r}; torchrun"):
        multi_gpu_model(_model(), strategy="ddp")


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=SHARDS)])
def test_a_group_of_one_works_too(strategy, alone):
    single = _model()
    parallel = multi_gpu_model(_model(), strategy=strategy)
    torch.testing.assert_close(parallel(batch(3)), single(batch(3)), rtol=0, atol=1e-12)
    assert repr(parallel).startswith("DistributedModel(")
    assert f"strategy='{strategy}', world_size=1" in repr(parallel)
