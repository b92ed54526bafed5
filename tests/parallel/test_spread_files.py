"""Saving and loading under strategy='fsdp' and 'ddp', in real gloo processes."""

import pytest
import torch
from torch import distributed, nn

from tests.ranks import batch, on_ranks, same_on_all_ranks
from torchkutils import (
    load_model,
    load_optimizer,
    load_weights,
    multi_gpu_model,
    read_metadata,
    register_keras_serializable,
    save_model,
    save_weights,
)

pytestmark = pytest.mark.slow


@register_keras_serializable("spread_files")
class Custom(nn.Module):
    """A class whose recorded arguments hold a module, with ties, odd dtypes and a frozen parameter."""

    def __init__(self, body):
        super().__init__()
        self.body = body
        self.norm = nn.BatchNorm1d(4)
        self.table = nn.Linear(4, 3)
        self.tied = nn.Linear(4, 3)
        self.tied.weight = self.table.weight
        self.frozen = nn.Parameter(torch.rand(5, 3), requires_grad=False)
        self.register_buffer("count", torch.tensor([1, 2, 3], dtype=torch.int16))
        self.register_buffer("mask", torch.tensor(True))

    def forward(self, x):
        x = self.norm(self.body(x.float()))
        return self.table(x) + self.tied(x) * self.frozen[0]


def _model(seed=0):
    torch.manual_seed(seed)
    return Custom(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))


def _step(model, optimizer, seed):
    model(batch(6, seed)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()


def _equal(spread, plain):
    for name, value in plain.state_dict().items():
        mine = spread.state_dict()[name]
        mine = mine.full_tensor() if hasattr(mine, "full_tensor") else mine
        assert mine.dtype == value.dtype, name
        torch.testing.assert_close(mine, value, rtol=0, atol=1e-6)


def _fsdp_saves_what_one_process_would(rank, folder):
    model = multi_gpu_model(_model(seed=rank), strategy="fsdp")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    _step(model, optimizer, 1)
    path = folder / "model.h5"
    save_model(model, path, optimizer=optimizer, metadata={"epoch": 1})
    assert path.exists()
    distributed.barrier()
    assert [file.name for file in folder.iterdir()] == ["model.h5"]
    assert read_metadata(path) == {"epoch": 1}
    # One process goes on from it ...
    single = load_model(path)
    assert type(single) is Custom
    assert type(single.body) is nn.Sequential
    assert single.tied.weight is single.table.weight
    assert not single.frozen.requires_grad
    _equal(model, single)
    alone = torch.optim.Adam(single.parameters())
    load_optimizer(path, alone)
    # ... and so do two ranks that began elsewhere. Only the first can read.
    again = multi_gpu_model(_model(seed=7), strategy="fsdp")
    second = torch.optim.Adam(again.parameters())
    mine = path if rank == 0 else folder / "nowhere.h5"
    load_weights(again, mine)
    load_optimizer(mine, second)
    assert second.param_groups[0]["lr"] == 1e-2
    for seed in (2, 3):
        _step(model, optimizer, seed)
        _step(again, second, seed)
        alone_outputs = single(batch(6, seed))
        alone_outputs.square().mean().backward()
        alone.step()
        alone.zero_grad()
    for one, other in zip(again.parameters(), model.parameters(), strict=True):
        assert torch.equal(one.full_tensor(), other.full_tensor())
    assert again.count.tolist() == [1, 2, 3]
    save_weights(again.body, folder / "body.h5")
    body = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    load_weights(body, folder / "body.h5")
    _equal(again.body, body)


def _faults_reach_every_rank(rank, folder):
    class Unknown(nn.Linear):
        pass

    model = multi_gpu_model(Unknown(4, 3), strategy="fsdp")
    path = folder / "model.h5"
    with pytest.raises(ValueError, match=r"neither a torch\.nn class nor registered"):
        save_model(model, path)
    with pytest.raises(OSError, match="must name a file"):
        save_weights(model, folder)
    assert not path.exists()
    save_weights(model, path)
    before = model.weight.to_local().clone()
    for name, kind, match in (
        ("none.h5", FileNotFoundError, "there is no model file"),
        ("bad.h5", ValueError, "shape"),
    ):
        if rank == 0:
            save_weights(nn.Linear(4, 5), folder / "bad.h5")
        with pytest.raises(kind, match=match):
            load_weights(model, folder / name)
    with pytest.raises(ValueError, match="holds no optimizer"):
        load_optimizer(path, torch.optim.SGD(model.parameters(), lr=0.1))
    assert torch.equal(model.weight.to_local(), before)
    save_weights(model, path)


def _plain_fully_shard_saves_too(rank, folder):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = _model()
    model.body.register_forward_hook(lambda *_: None)
    fully_shard(model.body, mesh=init_device_mesh("cpu", (2,)))
    with pytest.raises(ValueError, match=r"model.body has hooks|hooks \(_forward_hooks\)"):
        save_model(model, folder / "model.h5")
    save_weights(model, folder / "model.h5")
    single = _model(seed=3)
    load_weights(single, folder / "model.h5")
    _equal(model, single)


def _ddp_saves_from_one_rank(rank, folder):
    model = multi_gpu_model(_model(seed=rank), strategy="ddp")
    optimizer = torch.optim.Adam(model.parameters())
    _step(model, optimizer, 1)
    if rank == 0:
        save_model(model, folder / "model.h5", optimizer=optimizer)
    distributed.barrier()
    single = load_model(folder / "model.h5")
    _equal(model, single)
    save_model(model, folder / "model.h5", optimizer=optimizer)
    load_weights(model, folder / "model.h5")
    load_optimizer(folder / "model.h5", optimizer)
    _step(model, optimizer, 2)
    assert same_on_all_ranks(model.table.weight.detach())


def _a_model_too_large_for_one_process(rank, folder):
    """Sharded on the meta device by torch, then filled from a file, never whole on a rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    source = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    if rank == 0:
        save_weights(source, folder / "model.h5")
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    fully_shard(model, mesh=init_device_mesh("cpu", (2,)))
    model.to_empty(device="cpu")
    parallel = multi_gpu_model(model, strategy="fsdp")
    load_weights(parallel, folder / "model.h5")
    torch.testing.assert_close(parallel(batch(5).float()), source(batch(5).float()))


@pytest.mark.parametrize(
    "check",
    [
        _fsdp_saves_what_one_process_would,
        _faults_reach_every_rank,
        _plain_fully_shard_saves_too,
        _ddp_saves_from_one_rank,
        _a_model_too_large_for_one_process,
    ],
)
def test_two_ranks(check, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    on_ranks(check, tmp_path, folder)
