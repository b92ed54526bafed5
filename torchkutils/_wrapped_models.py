"""Wrappers that hold one model: compiled, several devices, DataParallel, DistributedDataParallel."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

__all__ = ["inner_model", "unwrapped"]


def inner_model(model: nn.Module) -> nn.Module | None:
    """The model that a wrapper holds; None for a module that is no wrapper.

    `__template__` is where this package's own wrappers say what they hold; the folders know of each other by it alone.
    """
    for inner in (model.__dict__.get("__template__"), _child(model, "_orig_mod"), _parallelised(model)):
        if isinstance(inner, nn.Module) and inner is not model:
            return inner
    return None


def _child(model: nn.Module, name: str) -> Any:
    # The `_modules` of a script is no dict and has no `get`.
    held: Any = model._modules
    return held[name] if name in held else None  # noqa: SIM401


def _parallelised(model: nn.Module) -> Any:
    wrappers: list[Any] = [nn.DataParallel]
    # Whoever wrapped a model with it has imported it; asking for it otherwise imports torch.distributed.
    distributed = getattr(sys.modules.get("torch.nn.parallel.distributed"), "DistributedDataParallel", None)
    if distributed is not None:
        wrappers.append(distributed)
    return _child(model, "module") if isinstance(model, tuple(wrappers)) else None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside all its wrappers."""
    inner = inner_model(model)
    while inner is not None:
        model, inner = inner, inner_model(inner)
    return model
