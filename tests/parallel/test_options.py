"""What people pass to DistributedDataParallel and `fully_shard` reaches it, on two gloo ranks."""

import copy

import pytest
import torch
from torch import distributed, nn

from tests.ranks import batch, on_ranks, same_on_all_ranks
from torchkutils import gather_for_metrics, is_main_process, multi_gpu_model


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def _hook(state, bucket):
    state.append(bucket.buffer().numel())
    distributed.all_reduce(bucket.buffer())
    future = torch.futures.Future()
    future.set_result(bucket.buffer() / distributed.get_world_size())
    return future


def _options_of_ddp(rank):
    called = []
    for options in (
        {"find_unused_parameters": True},
        {"static_graph": True},
        {"bucket_cap_mb": 1, "gradient_as_bucket_view": True},
        {"comm_hook": (called, _hook)},
    ):
        model, single = network(), network()
        model.add_module("idle", nn.Identity())
        parallel = multi_gpu_model(model, strategy="ddp", outputs="local", options=options)
        for seed in range(3):
            model.zero_grad()
            single.zero_grad()
            parallel(batch(3, seed=10 * seed + rank)).square().mean().backward()
            for other in range(2):
                (single(batch(3, seed=10 * seed + other)).square().mean() / 2).backward()
            for mine, theirs in zip(model.parameters(), single.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12, msg=str(options))
    assert len(called) == 3
    # A hook that was registered later stays when the engine is made anew.
    model = network()
    parallel = multi_gpu_model(model, strategy="ddp", outputs="local")
    later = []
    parallel.register_comm_hook(later, _hook)
    model[0].requires_grad_(False)
    parallel(batch(3, seed=rank)).sum().backward()
    assert len(later) == 1


def _options_of_fsdp(rank):
    from torch.distributed.fsdp import MixedPrecisionPolicy

    seen = []
    model = nn.Linear(4, 3)
    model.register_forward_hook(lambda module, arguments, output: seen.append(output.dtype))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    parallel = multi_gpu_model(model, strategy="fsdp", outputs="local", options={"mp_policy": policy})
    parallel(batch(3).float()).sum().backward()
    assert seen == [torch.bfloat16]
    single = network()
    model = copy.deepcopy(single)
    parallel = multi_gpu_model(model, strategy="fsdp", outputs="local", options={"reshard_after_forward": False})
    loss = parallel(batch(4, seed=rank)).square().sum()
    loss.backward()
    total = nn.utils.clip_grad_norm_(parallel.parameters(), 1e9)
    sum(single(batch(4, seed=other)).square().sum() / 2 for other in range(2)).backward()
    wanted = nn.utils.clip_grad_norm_(single.parameters(), 1e9)
    total = total.full_tensor() if hasattr(total, "full_tensor") else total
    torch.testing.assert_close(total, wanted, rtol=1e-10, atol=0)


def _losses_over_tokens(rank):
    labels = torch.tensor([[0, 1, 2, -100], [0, 1, -100, -100], [2, -100, -100, -100]])
    features = batch(12, width=4).view(3, 4, 4)

    def fn(output, target):
        return nn.functional.cross_entropy(output.flatten(0, 1), target.flatten())

    for outputs in ("merged", "local"):
        model, single = network(), network()
        parallel = multi_gpu_model(model, strategy="ddp", outputs=outputs)
        own = slice(None) if outputs == "merged" else (slice(2, 3) if rank else slice(0, 2))
        loss = parallel.sharded_loss(fn, features[own], labels[own], weights=lambda target: (target != -100).sum())
        wanted = fn(single(features), labels)
        torch.testing.assert_close(loss, wanted, rtol=0, atol=1e-12)
        loss.backward()
        wanted.backward()
        for mine, theirs in zip(model.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=1e-12)


def _the_callers_random_state(rank):
    torch.manual_seed(0)
    quiet, drawing = multi_gpu_model(nn.Linear(4, 4)), multi_gpu_model(nn.Dropout(0.5))
    state = torch.get_rng_state()
    quiet(batch(4).float())
    assert torch.equal(state, torch.get_rng_state())
    first = drawing(torch.ones(8, 64))
    assert not torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, drawing(torch.ones(8, 64)))
    assert not torch.equal(first[:4], first[4:])
    assert same_on_all_ranks(torch.get_rng_state())
    torch.set_rng_state(state)
    assert torch.equal(drawing(torch.ones(8, 64)), first)


def _metrics_of_all(rank):
    assert is_main_process() is (rank == 0)
    value = {"rows": torch.arange(2 + rank) + 10 * rank, "loss": torch.tensor(float(rank)), "name": f"rank {rank}"}
    found = gather_for_metrics(value)
    assert found["rows"].tolist() == [0, 1, 10, 11, 12]
    assert found["loss"].tolist() == [0.0, 1.0]
    assert found["name"] == ["rank 0", "rank 1"]
    assert gather_for_metrics(value["rows"], length=4).tolist() == [0, 1, 10, 11]
    with pytest.raises(ValueError, match="length must be at most the number of rows that were gathered, 5, got 6"):
        gather_for_metrics(value["rows"], length=6)
    with pytest.raises(ValueError, match="must differ in axis 0 alone"):
        gather_for_metrics(torch.ones(2, 2 + rank))


@pytest.mark.slow
@pytest.mark.parametrize(
    "check", [_options_of_ddp, _options_of_fsdp, _losses_over_tokens, _the_callers_random_state, _metrics_of_all]
)
def test_two_ranks(check, tmp_path):
    on_ranks(check, tmp_path)


@pytest.mark.parametrize(
    ("strategy", "options", "error", "words"),
    [
        ("ddp", {"mp_policy": None}, ValueError, "arguments of DistributedDataParallel, got 'mp_policy'; it takes"),
        ("ddp", {"device_ids": [0]}, ValueError, "got 'device_ids'"),
        ("ddp", {"broadcast_buffers": True}, ValueError, "got 'broadcast_buffers'"),
        ("fsdp", {"static_graph": True}, ValueError, r"arguments of torch.distributed.fsdp.fully_shard, got 'static_"),
        ("ddp", [("static_graph", True)], TypeError, "options must map names of arguments to values, got list"),
    ],
)
def test_options_that_the_engine_does_not_take_are_refused(strategy, options, error, words):
    with pytest.raises(error, match=words):
        multi_gpu_model(network(), strategy=strategy, options=options)


@pytest.mark.parametrize(
    ("backend", "config", "device"),
    [
        ("undefined", "cpu:gloo,cuda:nccl", "cuda:1"),
        ("undefined", "cpu:gloo", "cuda:1"),
        ("nccl", "cuda:nccl", "cuda:1"),
        ("gloo", "cpu:gloo,cuda:gloo", "cpu"),
    ],
)
def test_a_group_with_a_backend_for_gpus_uses_them(backend, config, device, monkeypatch):
    from torchkutils.parallel.ranks import rank_device

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(distributed, "get_backend_config", lambda: config)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert str(rank_device("ddp")) == device
