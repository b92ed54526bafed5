"""Losses computed on each replica: which of them can be merged exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss)
_FUNCTIONS = (F.cross_entropy, F.nll_loss)


def check_mergeable(fn: Any, targets: Any, reduction: str, weights: Any) -> None:
    """Refuse what shards cannot merge exactly, where it can be seen.

    Raises:
        TypeError: `weights` cannot be called.
        ValueError: An unknown reduction, one that contradicts `fn`'s own, a mean in which samples weigh unequally
            without `weights`, or a sum with them.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', what fn does over samples, got {reduction!r}")
    function, options = _options(fn)
    _check_reduction(function, options, reduction)
    if weights is not None:
        _check_weights(weights, reduction)
    elif reduction == "mean" and (function in _FUNCTIONS or isinstance(function, _CLASSES)):
        _check_equal_weights(options, targets)


def _check_reduction(function: Any, options: dict[str, Any], reduction: str) -> None:
    own = options.get("reduction") or "mean"
    known = function in _FUNCTIONS or (isinstance(function, nn.Module) and "reduction" in options)
    if known and own != reduction and (own, reduction) != ("batchmean", "mean"):
        raise ValueError(f"reduction must be what fn does, {own!r} here, got {reduction!r}; change one of them")


def _check_equal_weights(options: dict[str, Any], targets: Any) -> None:
    """Refuse a mean over classes in which samples weigh unequally."""
    if options.get("weight") is not None:
        raise ValueError(
            "fn must weigh every sample alike to be merged from shards, got class weights with a mean; give the "
            "shard's weight by weights=lambda targets: class_weights[targets].sum()"
        )
    ignored = options.get("ignore_index", -100)
    if isinstance(targets, Tensor) and not targets.is_floating_point() and bool((targets == ignored).any()):
        raise ValueError(
            f"targets must not hold ignore_index ({ignored}) with a mean: shards would count different numbers of "
            f"samples; give the number that counts by weights=lambda targets: (targets != {ignored}).sum()"
        )


def _check_weights(weights: Any, reduction: str) -> None:
    if not callable(weights):
        raise TypeError(f"weights must be a function of a shard's targets, got {type(weights).__name__}")
    if reduction == "sum":
        raise ValueError("weights must be None with reduction='sum', which adds up the shards as they are")


def weight_of(weights: Callable[[Any], Any], targets: Any) -> float:
    """The weight of one shard's loss.

    Raises:
        TypeError: It is no number.
        ValueError: It is negative or not finite.
    """
    with torch.no_grad():
        weight = weights(targets)
    if isinstance(weight, Tensor) and weight.numel() == 1:
        weight = weight.item()
    if not isinstance(weight, int | float):
        raise TypeError(f"weights must give a number for a shard's targets, got {type(weight).__name__}")
    if not 0 <= weight < math.inf:
        raise ValueError(f"weights must give a finite number ≥ 0 for a shard's targets, got {weight}")
    return float(weight)


def _options(fn: Any) -> tuple[Any, dict[str, Any]]:
    if isinstance(fn, partial):
        function, options = _options(fn.func)
        return function, {**options, **fn.keywords}
    if isinstance(fn, nn.Module):
        names = ("reduction", "weight", "ignore_index")
        return fn, {name: getattr(fn, name) for name in names if hasattr(fn, name)}
    return fn, {}


def loss_on(
    fn: Callable[[Any, Any], Tensor], replica: Callable[..., Any], call: Any, target: Any, device: torch.device
) -> Tensor:
    """One replica's loss, on its device."""
    if isinstance(fn, nn.Module):
        fn = _loss_module_on(fn, device)
    args, kwargs = call
    loss = fn(replica(*args, **kwargs), target)
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise TypeError(f"fn must return a 0-d tensor, reduced over its samples, got {shape}")
    return loss


def _loss_module_on(fn: nn.Module, device: torch.device) -> nn.Module:
    if any(parameter.device != device for parameter in fn.parameters()):
        raise ValueError(f"fn must hold no parameters away from {device}; make them part of the model")
    if all(buffer.device == device for buffer in fn.buffers()):
        return fn
    return copy.deepcopy(fn).to(device)
