"""Type aliases that several folders of the package share."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Union

if TYPE_CHECKING:
    import numpy as np
    import torch

PathLike: TypeAlias = Union[str, "os.PathLike[str]"]
"""A path as text, or an object that names one."""

ArrayLike: TypeAlias = Union["torch.Tensor", "np.ndarray[Any, Any]", Sequence[Any], float]
"""A tensor, an array, nested lists of numbers or one number."""

DTypeLike: TypeAlias = Union[str, "torch.dtype", "np.dtype[Any]", type]
"""A dtype by name, from torch or from NumPy."""

Shape: TypeAlias = tuple[int | None, ...]
"""The sizes of a tensor's axes; None is a size that is left open."""

Sizes: TypeAlias = Sequence[int | None]
"""A shape as it is given: any sequence of sizes."""

InputSize: TypeAlias = Sizes | Sequence[Sizes] | Mapping[str, Sizes]
"""One shape with the batch axis, a list of shapes, or a dict of them by argument name."""

InputDTypes: TypeAlias = DTypeLike | Sequence[DTypeLike | None] | Mapping[str, DTypeLike]
"""One dtype for all inputs that are made, or a list or dict of them like the shapes."""

Rankdir: TypeAlias = Literal["TB", "BT", "LR", "RL"]
"""Where a picture goes: to the bottom, to the top, to the right, to the left."""

ColumnName: TypeAlias = Literal[
    "input_shape",
    "output_shape",
    "dtype",
    "params",
    "trainable",
    "flops",
    "bytes",
    "connected_to",
    "share",
    "macs",
    "output_bytes",
    "arguments",
    "is_trainable",
]
"""A column of a summary."""
