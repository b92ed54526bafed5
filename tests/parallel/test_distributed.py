"""strategy='ddp' in two real gloo processes."""

import copy
import datetime

import pytest
import torch
from torch import distributed, multiprocessing, nn

from torchkutils import multi_gpu_model


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def _batch(count, seed=1):
    return torch.randn(count, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _on_rank(rank, check, store):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=datetime.timedelta(seconds=60)
    )
    try:
        check(rank)
    finally:
        distributed.destroy_process_group()


def _merged_equals_single(rank):
    model = _model()
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model)
    assert parallel.__template__ is model
    assert list(parallel.state_dict()) == list(single.state_dict())
    for count in (8, 7):
        model.zero_grad()
        single.zero_grad()
        ours, theirs = parallel(_batch(count)), single(_batch(count))
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        ours.square().mean().backward()
        theirs.square().mean().backward()
        for mine, other in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def _bad_batches_raise_on_all_ranks(rank):
    parallel = multi_gpu_model(_model(), strategy="ddp")
    with pytest.raises(ValueError, match="same batch on every rank"):
        parallel(_batch(4, seed=rank))
    with pytest.raises(ValueError, match="a sample for each of the 2 ranks"):
        parallel(_batch(1))
    with pytest.raises(ValueError, match="LOCAL_RANK decides"):
        multi_gpu_model(_model(), devices=["cpu", "cpu"], strategy="ddp")
    with pytest.raises(ValueError, match="LOCAL_RANK decides"):
        multi_gpu_model(_model(), 2)
    assert parallel(_batch(4)).shape == (4, 3)


def _local_averages_gradients(rank):
    model = _model()
    parallel = multi_gpu_model(model, outputs="local")
    single = _model()
    parallel(_batch(4, seed=rank)).square().mean().backward()
    single(torch.cat([_batch(4, seed=0), _batch(4, seed=1)])).square().mean().backward()
    for mine, other in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=0, atol=1e-12)


def _same_on_all_ranks(tensor):
    everyone = [torch.empty_like(tensor) for _ in range(2)]
    distributed.all_gather(everyone, tensor.contiguous())
    return torch.equal(*everyone)


def _running_statistics_are_those_of_the_whole_batch(rank):
    for momentum, outputs in ((0.1, "merged"), (None, "merged"), (0.1, "local")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.BatchNorm1d(4, momentum=momentum), nn.Linear(4, 3)).double()
        single = copy.deepcopy(model)
        parallel = multi_gpu_model(model, outputs=outputs)
        for seed in (1, 2):
            batch = _batch(7, seed=seed)
            mine = batch if outputs == "merged" else (batch[:3] if rank else batch[3:])
            first, second = parallel(mine), parallel(mine)
            (first.square().mean() + second.square().mean()).backward()
            single(batch), single(batch)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, single.state_dict()[name], rtol=0, atol=1e-12)
            assert _same_on_all_ranks(value), name
        assert model[0].momentum == momentum
        parallel.eval()
        torch.testing.assert_close(parallel(batch), single.eval()(batch), rtol=0, atol=1e-12)


def _first_takes_the_running_statistics_of_rank_0(rank):
    model = nn.BatchNorm1d(4).double()
    first = copy.deepcopy(model)
    multi_gpu_model(model, buffers="first")(_batch(7))
    first(_batch(7)[:4])
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
    assert torch.equal(parallel(_batch(4), factor=2.0), _batch(4) * 2)
    with pytest.raises(ValueError, match="same batch on every rank"):
        parallel(_batch(4), factor=float(rank))
    failing = multi_gpu_model(Scaled(fails=rank == 1), strategy="ddp")
    expected = (KeyError, "no such row") if rank else (RuntimeError, "an exception on rank 1")
    with pytest.raises(expected[0], match=expected[1]):
        failing(_batch(4))
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
    assert _same_on_all_ranks(torch.get_rng_state())


CHECKS = [
    _arguments_and_failures_are_agreed_on,
    _ranks_draw_different_reproducible_numbers,
    _merged_equals_single,
    _bad_batches_raise_on_all_ranks,
    _local_averages_gradients,
    _running_statistics_are_those_of_the_whole_batch,
    _first_takes_the_running_statistics_of_rank_0,
]


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS)
def test_two_ranks(check, tmp_path):
    multiprocessing.spawn(_on_rank, args=(check, str(tmp_path / "store")), nprocs=2)


def test_ddp_without_a_process_group_says_how_to_get_one():
    with pytest.raises(ValueError, match="needs a process group, got none; start under torchrun"):
        multi_gpu_model(_model(), strategy="ddp")
