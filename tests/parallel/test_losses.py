"""sharded_loss: the loss on each replica, equal to the merged one or refused."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model

TWO = ["cpu", "cpu"]
X = torch.randn(7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0, 1, 2, 0, 1, 2, 2])


def linear():
    torch.manual_seed(0)
    return nn.Linear(4, 3).double()


@pytest.mark.parametrize("devices", [["cpu"] * 3, ["meta:0", "meta:1"]], ids=str)
@pytest.mark.parametrize(
    ("fn", "target", "reduction"),
    [
        (F.cross_entropy, CLASSES, "mean"),
        (nn.CrossEntropyLoss(reduction="sum"), CLASSES, "sum"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), CLASSES, "mean"),
        (partial(F.cross_entropy, reduction="sum", weight=None), CLASSES, "sum"),
        (nn.MSELoss(), X[:, :3], "mean"),
        (lambda output, target: (output - target).abs().sum(), X[:, :3], "sum"),
    ],
)
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: (x,), lambda x: {"input": x}], ids=["tensor", "tuple", "dict"])
def test_value_and_gradients_equal_those_of_the_whole_batch(fn, target, reduction, devices, wrap):
    template = linear()
    single = copy.deepcopy(template)
    with SimulatedDevices() as mode:
        parallel = multi_gpu_model(template, devices=devices)
        loss = parallel.sharded_loss(fn, wrap(X), target, reduction=reduction)
        returned = [count for (_, goal), count in mode.copies.items() if goal == "cpu"]
        loss.backward()
    whole = fn(single(X), target)
    whole.backward()
    assert loss.ndim == 0
    assert sum(returned) <= len(devices)
    torch.testing.assert_close(loss, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(template.weight.grad, single.weight.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("fn", "target", "reduction", "words"),
    [
        (F.mse_loss, X[:, :3], "median", "reduction must be 'mean' or 'sum'"),
        (nn.CrossEntropyLoss(reduction="sum"), CLASSES, "mean", "what fn does, 'sum' here"),
        (F.cross_entropy, CLASSES, "sum", "what fn does, 'mean' here"),
        (nn.MSELoss(reduction="none"), X[:, :3], "mean", "what fn does, 'none' here"),
        (nn.CrossEntropyLoss(weight=torch.ones(3)), CLASSES, "mean", "class weights with a mean"),
        (partial(F.nll_loss, weight=torch.ones(3)), CLASSES, "mean", "class weights with a mean"),
        (F.cross_entropy, CLASSES - 100 * (CLASSES == 0), "mean", r"ignore_index \(-100\)"),
        (nn.CrossEntropyLoss(ignore_index=2), CLASSES, "mean", r"ignore_index \(2\)"),
    ],
)
def test_what_cannot_be_merged_exactly_is_refused_where_it_can_be_seen(fn, target, reduction, words):
    parallel = multi_gpu_model(linear(), devices=TWO)
    with pytest.raises(ValueError, match=words):
        parallel.sharded_loss(fn, X, target, reduction=reduction)


def test_a_loss_for_each_sample_is_refused():
    parallel = multi_gpu_model(linear(), devices=TWO)
    with pytest.raises(TypeError, match=r"0-d tensor, reduced over its samples, got \(4, 3\)"):
        parallel.sharded_loss(lambda output, target: output - target, X, X[:, :3])


def test_targets_are_cut_with_the_inputs():
    parallel = multi_gpu_model(linear(), devices=TWO)
    with pytest.raises(ValueError, match=r"same length along axis 0, got args\[0\]: 7, targets: 6"):
        parallel.sharded_loss(F.cross_entropy, X, CLASSES[:6])
