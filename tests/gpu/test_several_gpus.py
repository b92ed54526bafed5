"""Two GPUs or more: everything that goes across them."""

import copy

import pytest
import torch
from torch import nn

from torchkutils import multi_gpu_model

COUNT = torch.cuda.device_count() if torch.cuda.is_available() else 0

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(COUNT < 2, reason="there are not two GPUs here")]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 64), nn.Tanh(), nn.Linear(64, 4)).double()


def rows(count=4 * max(COUNT, 1) + 1):
    return torch.randn(count, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("home", ["cpu", "cuda:0", "cuda:1"])
@pytest.mark.parametrize("gpus", sorted({2, COUNT} - {0, 1}))
@pytest.mark.parametrize("cpu_merge", [True, False])
@pytest.mark.parametrize("launch", ["serial", "threads", "auto"])
def test_training_is_that_of_one_device(home, gpus, cpu_merge, launch):
    model = network().to(home)
    single = copy.deepcopy(model)
    parallel = multi_gpu_model(model, gpus, cpu_merge, launch=launch)
    optimizers = [torch.optim.Adam(one.parameters(), fused=home != "cpu") for one in (model, single)]
    for _ in range(5):
        ours, theirs = parallel(rows().to(home)), single(rows().to(home))
        torch.testing.assert_close(ours.cpu(), theirs.cpu(), rtol=0, atol=1e-9)
        ours.square().sum().backward()
        theirs.square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    with torch.no_grad():
        torch.testing.assert_close(parallel(rows().to(home)).cpu(), single(rows().to(home)).cpu(), rtol=0, atol=1e-9)


def test_each_replica_is_on_its_gpu():
    parallel = multi_gpu_model(network(), COUNT, outputs="local")
    assert [output.device.index for output in parallel(rows())] == list(range(COUNT))


def test_the_loss_on_each_replica():
    model = network()
    loss = multi_gpu_model(model, COUNT).sharded_loss(nn.MSELoss(), rows(), rows()[:, :4])
    torch.testing.assert_close(loss, nn.functional.mse_loss(model(rows()), rows()[:, :4]), rtol=0, atol=1e-12)


def test_generators_keep_their_seeds():
    parallel = multi_gpu_model(nn.Dropout(0.5), COUNT)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(parallel(torch.ones(8 * COUNT, 64)))
        assert {generator.initial_seed() for generator in torch.cuda.default_generators} == {3}
    assert torch.equal(*drawn)
    assert not torch.equal(drawn[0][:8], drawn[0][8:16])
