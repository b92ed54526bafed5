"""Cut a batch by one plan, bring the pieces to their devices, merge what comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchkutils._torch_versions import gather_function, scatter_function
from torchkutils.parallel.structure import Structure


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
    starts = [sum(lengths[:place]) for place in range(count)]
    shards = zip(range(count), devices, starts, lengths, strict=True)
    return [Shard(*shard) for shard in shards if shard[3]]


def batch_length(structures: Sequence[Structure]) -> int:
    """The length along axis 0 that all tensors share.

    Raises:
        TypeError: A NumPy array among the leaves.
        ValueError: No tensor with an axis, unequal lengths, or a length of 0.
    """
    lengths: dict[str, int] = {}
    for structure in structures:
        for path, leaf in zip(structure.paths, structure.leaves, strict=True):
            if isinstance(leaf, np.ndarray):
                raise TypeError(
                    f"{path} is a NumPy array, which cannot be cut over devices; pass torch.as_tensor({path})"
                )
            if is_cut(leaf):
                lengths[path] = leaf.size(0)
    if not lengths:
        raise ValueError("the arguments must hold a tensor with a batch axis, got none; call the template itself")
    if len(set(lengths.values())) > 1:
        raise ValueError(
            "all tensors must have the same length along axis 0, got "
            + ", ".join(f"{path}: {length}" for path, length in lengths.items())
            + "; name arguments that every replica needs whole in shared=(...)"
        )
    length = next(iter(lengths.values()))
    if length == 0:
        raise ValueError(f"the batch must hold at least one sample, got length 0 along axis 0 of {', '.join(lengths)}")
    return length


def is_cut(leaf: Any) -> bool:
    """Whether a leaf is cut along axis 0: a tensor that has one."""
    return isinstance(leaf, Tensor) and leaf.ndim > 0


def scatter(structure: Structure, plan: Plan, *, whole: bool = False) -> list[Any]:
    """The structure once for each shard: tensors cut (unless `whole`) and on the shard's device."""
    columns = [_scatter_leaf(leaf, plan, whole) for leaf in structure.leaves]
    return [structure.filled([column[place] for column in columns]) for place in range(len(plan))]


def _scatter_leaf(leaf: Any, plan: Plan, whole: bool) -> list[Any]:
    if not isinstance(leaf, Tensor):
        return [leaf] * len(plan)
    if whole or leaf.ndim == 0:
        return [leaf.to(shard.device, non_blocking=True) for shard in plan]
    if spans_gpus([shard.device for shard in plan]) and leaf.device.type in ("cpu", "cuda"):
        targets = [shard.device for shard in plan]
        return list(scatter_function().apply(targets, [shard.length for shard in plan], 0, leaf))
    # narrow, not split: a view of several outputs at once refuses operations in place under autograd.
    return [leaf.narrow(0, shard.start, shard.length).to(shard.device, non_blocking=True) for shard in plan]


def gather(outputs: Sequence[Any], plan: Plan, target: torch.device) -> Any:
    """One output in place of the replicas', on `target`.

    Tensors are joined along axis 0; 0-d tensors and Python floats are averaged by shard length; any other value is
    the first replica's.

    Raises:
        ValueError: The replicas returned different structures, or tensors that do not fit along axis 0.
    """
    structures = [Structure(output, "output") for output in outputs]
    first = structures[0]
    for shard, other in zip(plan, structures, strict=True):
        if other.paths != first.paths:
            raise ValueError(
                "the replicas' outputs must have one structure to be merged, got "
                f"{first.paths} from replica {plan[0].replica} and {other.paths} from replica {shard.replica}; "
                "use outputs='local'"
            )
    weights = shard_weights(plan)
    columns = list(zip(*[structure.leaves for structure in structures], strict=True))
    for path, column in zip(first.paths, columns, strict=True):
        _check_joinable(path, column, plan)
    return first.filled([_gather_leaf(list(column), weights, target) for column in columns])


def _check_joinable(path: str, column: Sequence[Any], plan: Plan) -> None:
    shapes = [tuple(leaf.shape) for leaf in column if isinstance(leaf, Tensor)]
    if len({shape[1:] for shape in shapes}) > 1 or len({len(shape) for shape in shapes}) > 1:
        raise ValueError(
            f"{path} must have its batch along axis 0 to be merged, got shapes {shapes} from the replicas; "
            "transpose it in the model, or use outputs='local'"
        )
    for leaf, shard in zip(column, plan, strict=True):
        # One shard is the whole batch: nothing is joined.
        if len(plan) > 1 and isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] != shard.length:
            raise ValueError(
                f"{path} must have one row a sample to be merged, got shape {tuple(leaf.shape)} for {shard.length} "
                "samples; use outputs='local'"
            )


def shard_weights(plan: Plan) -> list[float]:
    """Each shard's part of the batch; they sum to 1."""
    total = sum(shard.length for shard in plan)
    return [shard.length / total for shard in plan]


def _gather_leaf(column: list[Any], weights: list[float], target: torch.device) -> Any:
    first = column[0]
    if type(first) is float:
        return sum(weight * value for weight, value in zip(weights, column, strict=True))
    if not isinstance(first, Tensor):
        return first
    if first.ndim == 0:
        return weighted_sum(column, weights, target)
    if len(column) > 1 and target.type == "cuda" and spans_gpus([tensor.device for tensor in column]):
        joined: Tensor = gather_function().apply(target, 0, *column)
        return joined
    return torch.cat([tensor.to(target) for tensor in column]) if len(column) > 1 else first.to(target)


def weighted_sum(scalars: Sequence[Tensor], weights: Sequence[float], target: torch.device) -> Tensor:
    """Add 0-d tensors with weights on `target`; integers and bools become the default float dtype."""
    total: Tensor | None = None
    for scalar, weight in zip(scalars, weights, strict=True):
        moved = scalar.to(target)
        if not (moved.is_floating_point() or moved.is_complex()):
            moved = moved.to(torch.get_default_dtype())
        part = moved * weight
        total = part if total is None else total + part
    assert total is not None
    return total


def spans_gpus(devices: Sequence[torch.device]) -> bool:
    """Whether these are CUDA devices, two or more, each different: where torch.nn.parallel works."""
    return len(devices) > 1 and all(d.type == "cuda" for d in devices) and len(set(devices)) == len(devices)
