"""Copies of parameters on other devices, inside the graph: backward sums their gradients onto the master."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchkutils.parallel.scatter_gather import spans_gpus


class Broadcast(torch.autograd.Function):
    """`apply(devices, *tensors)` → every tensor on the first device, then every tensor on the second, and so on.

    It saves nothing, so one node serves any number of backward passes. A tensor that took no part gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, devices: Sequence[torch.device], *tensors: Tensor) -> tuple[Tensor, ...]:
        """Copies of all tensors, one device after another."""
        ctx.set_materialize_grads(False)
        ctx.homes = [tensor.device for tensor in tensors]
        return tuple(copy for copies in copy_to(devices, tensors) for copy in copies)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """The sum of each tensor's gradients, where the tensor lies; None where none came."""
        count = len(ctx.homes)
        sums = (_sum_on(home, gradients[place::count]) for place, home in enumerate(ctx.homes))
        return (None, *sums)


def copy_to(devices: Sequence[torch.device], tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """Fresh copies of all tensors on each device; between distinct GPUs by torch's coalesced broadcast."""
    if not tensors:
        return [[] for _ in devices]
    home = tensors[0].device
    if home.type == "cpu" and spans_gpus(devices):
        # From a CPU master first to one GPU, and from there to the others.
        hub = [tensor.to(devices[0]) for tensor in tensors]
        return [hub, *copy_to(devices[1:], hub)]
    if home.type == "cuda" and all(device.type == "cuda" for device in devices):
        from torch.nn.parallel.comm import broadcast_coalesced

        plain = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in tensors]
        copies = broadcast_coalesced(plain, [home, *devices])[1:]  # type: ignore[no-untyped-call]
        return [
            [torch.view_as_complex(new) if old.is_complex() else new for new, old in zip(row, tensors, strict=True)]
            for row in copies
        ]
    return [[tensor.to(device, copy=True) for tensor in tensors] for device in devices]


def _sum_on(home: torch.device, gradients: Sequence[Tensor | None]) -> Tensor | None:
    total: Tensor | None = None
    for gradient in gradients:
        if gradient is not None:
            moved = gradient.to(home)
            total = moved if total is None else total + moved
    return total
