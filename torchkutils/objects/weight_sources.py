"""Files of weights that others wrote, each as names, shapes and a way to read a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["WeightSource", "foreign_source"]


class WeightSource(NamedTuple):
    """A file of weights, whatever its format."""

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    read_into: Callable[[str, torch.Tensor], bool] = lambda key, target: False
    extra: Callable[[], dict[str, Any]] = dict
    extra_keys: set[str] = set()


def foreign_source(path: str, kind: str, model: nn.Module) -> WeightSource | None:
    """The source of a file that is none of torchkutils; None for HDF5 that may be one.

    Raises:
        ValueError: The format holds no weights that can be read; it is named.
    """
    if kind == "HDF5":
        return None
    raise ValueError(f"it is {kind}")
