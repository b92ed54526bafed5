"""Type aliases that several rooms of the package share."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Union

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
