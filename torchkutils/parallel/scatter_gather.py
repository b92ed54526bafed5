"""Tensors cut by one plan and brought to their devices, and tensors of all devices joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from torchkutils._torch_versions import gather_function, scatter_function
from torchkutils.parallel.nested_batches import to_device


@dataclass(frozen=True)
class Shard:
    """Rows [start, start + length) of the batch, for the replica of that number."""

    replica: int
    device: torch.device
    start: int
    length: int


Plan = list[Shard]


def plan_shards(batch: int, devices: Sequence[torch.device], split: str) -> Plan:
    """Share `batch` rows among the devices; devices without a row are left out."""
    count = len(devices)
    base, rest = divmod(batch, count)
    if split == "even":
        lengths = [base + (place < rest) for place in range(count)]
    else:
        lengths = [base] * (count - 1) + [base + rest]
    plan, start = [], 0
    for place, (device, length) in enumerate(zip(devices, lengths, strict=True)):
        if length:
            plan.append(Shard(place, device, start, length))
        start += length
    return plan


def shard_weights(plan: Plan) -> list[float]:
    """Each shard's part of the batch; they sum to 1."""
    total = sum(shard.length for shard in plan)
    return [shard.length / total for shard in plan]


def cut_tensor(tensor: Tensor, plan: Plan, axis: int) -> list[Tensor]:
    """A tensor's pieces along an axis, each on its shard's device."""
    if spans_gpus([shard.device for shard in plan]) and tensor.device.type in ("cpu", "cuda"):
        targets, lengths = [shard.device for shard in plan], [shard.length for shard in plan]
        return list(scatter_function().apply(targets, lengths, axis, tensor))
    # narrow, not split: a view of several outputs at once refuses operations in place under autograd.
    return [to_device(tensor.narrow(axis, shard.start, shard.length), shard.device) for shard in plan]


def join_tensors(pieces: Sequence[Tensor], axis: int, target: torch.device) -> Tensor:
    """The pieces of all replicas in one tensor on `target`."""
    if len(pieces) == 1:
        return pieces[0].to(target)
    if target.type == "cuda" and spans_gpus([tensor.device for tensor in pieces]):
        joined: Tensor = gather_function().apply(target, axis, *pieces)
        return joined
    return torch.cat([tensor.to(target) for tensor in pieces], axis)


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float], target: torch.device) -> Tensor:
    """Add tensors with weights on `target`; integers and bools become the default float dtype."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        if not weight and len(tensors) > 1:
            # A mean over nothing is not a number, and would stay so times 0.
            continue
        moved = tensor.to(target)
        if not (moved.is_floating_point() or moved.is_complex()):
            moved = moved.to(torch.get_default_dtype())
        part = moved * weight
        total = part if total is None else total + part
    return tensors[0].to(target) * float("nan") if total is None else total


def spans_gpus(devices: Sequence[torch.device]) -> bool:
    """Whether these are CUDA devices, two or more, each different: where torch.nn.parallel works."""
    return len(devices) > 1 and all(d.type == "cuda" for d in devices) and len(set(devices)) == len(devices)
