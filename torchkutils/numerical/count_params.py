"""How many numbers a model's weights hold."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch.nn.parameter import is_lazy

__all__ = ["count_params"]


def count_params(weights: torch.nn.Module | Iterable[torch.Tensor]) -> int:
    """Count the elements of a model's parameters, or of some tensors; each tensor once.

    Args:
        weights: A module, whose parameters are counted, or tensors, such as `model.buffers()`.

    Returns:
        The sum of their `numel()`. Those that a lazy module has not made yet count 0.

    Raises:
        TypeError: `weights` is neither, or holds something that is no tensor.

    Differs from Keras: its function of this name takes a layer's list of weights only.

    >>> count_params(torch.nn.Linear(3, 2))
    8
    """
    if isinstance(weights, torch.nn.Module):
        tensors: list[torch.Tensor] = list(weights.parameters())
    elif isinstance(weights, Iterable) and not isinstance(weights, torch.Tensor):
        tensors = list(weights)
    else:
        raise TypeError(f"weights must be a module or an iterable of tensors, got {type(weights).__name__}")
    for tensor in tensors:
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"weights must hold tensors, got {type(tensor).__name__}")
    once = {id(tensor): tensor for tensor in tensors}
    return sum(0 if is_lazy(tensor) else tensor.numel() for tensor in once.values())
