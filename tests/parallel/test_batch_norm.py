"""Running statistics and other buffers after a forward on several devices."""

import copy

import pytest
import torch
from torch import nn

from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model

NORMS = {
    "1d": (nn.BatchNorm1d, (9, 4)),
    "1d with length": (nn.BatchNorm1d, (9, 4, 5)),
    "2d": (nn.BatchNorm2d, (9, 4, 3, 2)),
    "3d": (nn.BatchNorm3d, (9, 4, 2, 2, 2)),
    "instance 1d": (nn.InstanceNorm1d, (9, 4, 5)),
    "instance 2d": (nn.InstanceNorm2d, (9, 4, 3, 2)),
    "instance 3d": (nn.InstanceNorm3d, (9, 4, 2, 2, 2)),
}


@pytest.mark.parametrize("devices", [["cpu"] * 2, ["cpu"] * 4, ["meta:0", "meta:1"]], ids=str)
@pytest.mark.parametrize("momentum", [0.1, 0.0, None])
@pytest.mark.parametrize("name", NORMS)
def test_running_statistics_become_those_of_the_whole_batch(name, momentum, devices):
    kind, shape = NORMS[name]
    template = kind(4, momentum=momentum, track_running_stats=True).double()
    single = copy.deepcopy(template)
    with SimulatedDevices():
        parallel = multi_gpu_model(template, devices=devices)
        for seed in range(3):
            torch.manual_seed(seed)
            x = torch.randn(shape, dtype=torch.float64) * 3 + 100
            parallel(x)
            single(x)
    for key, value in single.state_dict().items():
        torch.testing.assert_close(template.state_dict()[key], value, rtol=1e-12, atol=1e-12, msg=key)


def test_a_layer_called_twice_in_one_forward_updates_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3).double()

        def forward(self, x):
            self.norm(x)
            return self.norm(x * 2 + 1)

    template = Twice()
    single = copy.deepcopy(template)
    x = torch.randn(7, 3, dtype=torch.float64)
    multi_gpu_model(template, devices=["cpu"] * 3)(x)
    single(x)
    torch.testing.assert_close(template.state_dict(), single.state_dict(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["meta:0", "meta:1"]], ids=str)
def test_buffers_first_takes_the_first_shards_statistics(devices):
    template = nn.BatchNorm1d(3)
    single = copy.deepcopy(template)
    x = torch.randn(8, 3)
    with SimulatedDevices():
        multi_gpu_model(template, devices=devices, buffers="first")(x)
    single(x[:4])
    torch.testing.assert_close(template.state_dict(), single.state_dict())


def test_frozen_statistics_stay_and_eval_uses_the_templates():
    template = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2))
    parallel = multi_gpu_model(template, devices=["cpu", "cpu"])
    x = torch.randn(8, 3)
    parallel(x)
    kept = template[0].running_mean.clone()
    template[0].eval()
    parallel(x)
    assert torch.equal(template[0].running_mean, kept)
    parallel.eval()
    torch.testing.assert_close(parallel(x), template(x))


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("devices", [["cpu", "cpu"], ["meta:0", "meta:1"]], ids=str)
def test_other_buffers_are_the_first_replicas(in_place, devices):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x):
            if in_place:
                self.seen += x.shape[0]
            else:
                self.seen = self.seen + x.shape[0]
            return x + self.seen

    template = Counting()
    with SimulatedDevices():
        parallel = multi_gpu_model(template, devices=devices)
        parallel(torch.zeros(5, 1))
        out = parallel(torch.zeros(5, 1))
    assert template.seen == 6
    assert out.flatten().tolist() == [6, 6, 6, 5, 5]
