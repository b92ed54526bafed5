"""Models that are sharded over ranks: here over one, in this process; tests/parallel has real ranks."""

from __future__ import annotations

from collections import namedtuple

import pytest
import torch
from torch import distributed, nn

from torchkutils import load_optimizer, load_weights, read_metadata, save_model
from torchkutils.objects.sharded_model import Team

Rates = namedtuple("Rates", "low high")


@pytest.fixture
def mesh(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh

    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def sharded(model, mesh):
    from torch.distributed.tensor import Shard, distribute_tensor

    for name, one in list(model.named_parameters()):
        setattr(model, name, nn.Parameter(distribute_tensor(one.detach(), mesh, [Shard(0)])))
    return model


def test_named_tuples_in_the_state_and_metadata_are_saved(mesh, tmp_path):
    model = sharded(nn.Linear(4, 2), mesh)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    optimizer.param_groups[0]["rates"] = Rates(0.1, torch.tensor(0.5))
    optimizer.param_groups[0]["pairs"] = [Rates(1, 2)]
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    save_model(model, tmp_path / "m.h5", optimizer=optimizer, metadata={"rates": Rates(1, 2)})
    assert read_metadata(tmp_path / "m.h5") == {"rates": (1, 2)}
    other = sharded(nn.Linear(4, 2), mesh)
    resumed = torch.optim.Adam(other.parameters())
    load_weights(other, tmp_path / "m.h5")
    load_optimizer(tmp_path / "m.h5", resumed)
    assert torch.equal(other.weight.full_tensor(), model.weight.full_tensor())
    assert resumed.param_groups[0]["rates"][1].item() == 0.5
    assert resumed.param_groups[0]["pairs"] == [(1, 2)]
    for one, two in zip(optimizer.state.values(), resumed.state.values(), strict=True):
        assert torch.equal(one["exp_avg"].full_tensor(), two["exp_avg"].full_tensor())


def test_a_missing_rank_is_named_after_the_timeout(mesh):
    class TwoRanks:
        mesh = torch.tensor([0, 1])

        def get_coordinate(self):
            return [0]

    with pytest.raises(RuntimeError, match=r"the ranks \[1\] have not made it"):
        Team(TwoRanks()).meet(0.2)
