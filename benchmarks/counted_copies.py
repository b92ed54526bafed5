"""What multi_gpu_model copies between devices in one training step, counted on simulated devices."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import torch
from torch import nn

from tests.parallel.simulated_devices import SimulatedDevices
from torchkutils import multi_gpu_model

Traffic = Counter[tuple[str, str, str, str]]
"""Parts of all weights, of the whole inputs and of the whole outputs, by phase, kind, source and target."""


class Counting(SimulatedDevices):
    """Notes for each copy what it carries: known by its shape."""

    def __init__(self, kinds: dict[tuple[int, ...], str]) -> None:
        super().__init__()
        self.kinds, self.phase = kinds, ""
        self.bytes_of: Counter[tuple[str, str, str, str]] = Counter()
        self.number_of: Counter[tuple[str, str]] = Counter()

    def count(self, source: torch.device, target: torch.device, tensor: torch.Tensor) -> None:
        # Weights and gradients travel in flat buckets, or in flat parts of them.
        flat = "weights" if tensor.ndim == 1 and tensor.numel() >= 16 else "numbers"
        kind = self.kinds.get(tuple(tensor.shape), flat)
        self.bytes_of[self.phase, kind, str(source), str(target)] += tensor.numel() * tensor.element_size()
        self.number_of[self.phase, kind] += 1


@functools.cache
def counted(devices: int, *, sharded_loss: bool = False) -> tuple[Traffic, Counter[tuple[str, str]]]:
    """Run one training step on simulated devices, the weights on the first; what was copied, as parts of the whole."""
    batch, inputs, outputs = 8 * devices, 24, 12
    kinds = {(8, inputs): "inputs", (batch, inputs): "inputs", (8, outputs): "outputs"}
    with Counting(kinds) as counting:
        model = nn.Sequential(nn.Linear(inputs, 40), nn.ReLU(), nn.Linear(40, outputs)).to("meta:0")
        parallel: Any = multi_gpu_model(model, devices=[f"meta:{place}" for place in range(devices)])
        images, targets = torch.randn(batch, inputs), torch.randn(batch, outputs)
        # The second step is counted: the first also builds the replicas.
        for _ in range(2):
            counting.bytes_of.clear(), counting.number_of.clear()
            counting.phase = "forward"
            if sharded_loss:
                loss = parallel.sharded_loss(nn.MSELoss(), images, targets)
            else:
                loss = nn.functional.mse_loss(parallel(images), targets)
            counting.phase = "backward"
            loss.backward()
    whole = {"weights": 4 * sum(p.numel() for p in model.parameters()), "numbers": 1}
    whole |= {"inputs": 4 * images.numel(), "outputs": 4 * targets.numel()}
    parts = {key: size / whole[key[1]] for key, size in counting.bytes_of.items()}
    return Counter(parts), counting.number_of
