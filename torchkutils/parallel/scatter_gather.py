"""Cutting a batch, and merging what came back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors inside tuples, lists, mappings and dataclasses."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, np.ndarray):
        raise TypeError("a NumPy array among the arguments: wrap it by torch.from_numpy, so that it can be cut")
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from tensors_in(getattr(value, field.name))


def map_tensors(value: Any, change: Callable[[torch.Tensor], Any]) -> Any:
    """The same structure with each tensor replaced."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*[map_tensors(item, change) for item in value])
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(item, change) for item in value)
    if isinstance(value, Mapping):
        changed = {key: map_tensors(item, change) for key, item in value.items()}
        return changed if type(value) is dict else type(value)(**changed)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return type(value)(**{name: map_tensors(getattr(value, name), change) for name in names})
    return value


def shared_batch(value: Any) -> int:
    """The length along axis 0 that all tensors have.

    Raises:
        ValueError: No tensor with an axis, different lengths, or length 0.
    """
    lengths = [int(tensor.shape[0]) for tensor in tensors_in(value) if tensor.dim()]
    if not lengths:
        raise ValueError("no argument is a tensor with an axis 0, so there is no batch to cut")
    if len(set(lengths)) > 1:
        raise ValueError(f"the tensors among the arguments differ along axis 0: {lengths}; name whole ones in `shared`")
    if lengths[0] == 0:
        raise ValueError("the batch has length 0 along axis 0; give at least one sample")
    return lengths[0]


def shard_sizes(batch: int, count: int, split: str) -> list[int]:
    """How many samples each device gets.

    >>> shard_sizes(7, 3, "even"), shard_sizes(7, 3, "keras")
    ([3, 2, 2], [2, 2, 3])
    """
    share, rest = divmod(batch, count)
    if split == "keras":
        return [share] * (count - 1) + [share + rest]
    return [share + (number < rest) for number in range(count)]


def cut(value: Any, first: int, size: int | None, device: torch.device) -> Any:
    """A shard of every tensor on a device; 0-d tensors, and all of them with size None, go whole."""

    def shard(tensor: torch.Tensor) -> torch.Tensor:
        piece = tensor if size is None or not tensor.dim() else tensor[first : first + size]
        return piece.to(device, non_blocking=True)

    return map_tensors(value, shard)


def merge(results: list[Any], sizes: list[int], device: torch.device) -> Any:
    """One output in place of the replicas': tensors end to end along axis 0, scalars averaged by shard size."""
    first = results[0]
    if isinstance(first, torch.Tensor):
        here = [result.to(device) for result in results]
        if first.dim():
            return torch.cat(here)
        return sum(scalar * (size / sum(sizes)) for scalar, size in zip(here, sizes, strict=True))
    if isinstance(first, Mapping):
        merged = {key: merge([result[key] for result in results], sizes, device) for key in first}
        return merged if type(first) is dict else type(first)(**merged)
    if isinstance(first, list | tuple):
        items = [merge(list(column), sizes, device) for column in zip(*results, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    if dataclasses.is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in dataclasses.fields(first)]
        return type(first)(**{n: merge([getattr(result, n) for result in results], sizes, device) for n in names})
    return first
