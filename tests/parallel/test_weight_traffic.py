"""What travels between devices, counted on simulated ones: in buckets, while backward runs, and to no device twice."""

import copy

import pytest
import torch
from torch import nn

from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model
from torchkutils.parallel import weight_traffic

LAYERS, WIDTH = 6, 16
LAYER_BYTES = 8 * WIDTH * WIDTH


def deep(layers=LAYERS):
    torch.manual_seed(0)
    return nn.Sequential(*[nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(layers)]).double()


def devices(count):
    return [f"meta:{place}" for place in range(count)]


def step(model, count, monkeypatch, bucket_layers):
    """One training step on so many devices, the second one: its events in backward, and in forward."""
    monkeypatch.setattr(weight_traffic, "BUCKET_BYTES", bucket_layers * LAYER_BYTES)
    single = copy.deepcopy(model)
    x = torch.randn(16, WIDTH, dtype=torch.float64)
    with SimulatedDevices() as mode:
        parallel = multi_gpu_model(model, devices=devices(count), batch_axes={"output": 0})
        parallel(x)
        mode.forget()
        output = parallel(x)
        forward = list(mode.events)
        mode.forget()
        output.square().sum().backward()
    single(x).square().sum().backward()
    for mine, other in zip(model.parameters(), single.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-12, atol=1e-12)
    return forward, mode


@pytest.mark.parametrize(("bucket_layers", "buckets"), [(1, 6), (2, 3), (4, 2), (6, 1)])
def test_weights_go_out_and_gradients_come_back_one_copy_a_bucket_and_device(bucket_layers, buckets, monkeypatch):
    forward, mode = step(deep(), 2, monkeypatch, bucket_layers)
    out = [event for event in forward if event != "mm" and event[0] == "cpu"]
    # The pieces of the batch travel too, one to each device.
    assert len(out) == 2 * buckets + 2
    assert sum(mode.copies[device, "cpu"] for device in devices(2)) == 2 * buckets
    assert sum(mode.bytes[device, "cpu"] for device in devices(2)) == 2 * LAYERS * LAYER_BYTES


def test_gradients_travel_while_backward_still_computes(monkeypatch):
    _, mode = step(deep(), 2, monkeypatch, 1)
    back = [place for place, event in enumerate(mode.events) if event != "mm" and event[1] == "cpu"]
    products = [place for place, event in enumerate(mode.events) if event == "mm"]
    # The last layer's gradients leave before the products of the layers below it; the first layer's leave last.
    below_first_bucket = sum(product > back[0] for product in products)
    assert below_first_bucket >= 2 * (LAYERS - 1) - 1
    assert back[-1] > products[-1]


@pytest.mark.parametrize("count", [3, 4, 8])
def test_with_three_devices_or_more_each_sums_its_part(count, monkeypatch):
    _, mode = step(deep(), count, monkeypatch, 6)
    whole = LAYERS * LAYER_BYTES
    to_master = sum(size for (_, target), size in mode.bytes.items() if target == "cpu")
    assert to_master == whole
    for device in devices(count):
        received = sum(size for (source, target), size in mode.bytes.items() if target == device and source != "cpu")
        assert abs(received - whole * (count - 1) / count) <= 8 * count


def test_a_tensor_of_another_memory_format_keeps_it():
    model = nn.Conv2d(4, 8, 3).double().to(memory_format=torch.channels_last)
    x = torch.randn(4, 4, 5, 5, dtype=torch.float64)
    with SimulatedDevices():
        parallel = multi_gpu_model(model, devices=devices(2))
        torch.testing.assert_close(parallel(x), model(x), rtol=0, atol=1e-12)
        replica = parallel._replicas.replicas[1].module
    assert replica.weight.is_contiguous(memory_format=torch.channels_last)


def test_one_weight_may_change_between_forward_and_backward_of_the_others():
    """As in a GAN: an optimizer steps on one part while the other part's graph is alive."""
    model = deep(2)
    x = torch.randn(4, WIDTH, dtype=torch.float64)
    with SimulatedDevices():
        parallel = multi_gpu_model(model, devices=devices(2), batch_axes={"output": 0})
        loss = parallel(x).square().sum()
        with torch.no_grad():
            model[0].weight.mul_(2)
        parallel(x)
        loss.backward()
    assert model[1].weight.grad is not None
