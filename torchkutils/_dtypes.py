"""A dtype by whatever names it: a string, NumPy's or torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from torchkutils._call_hints import nearest
from torchkutils._typing import DTypeLike

_TORCH_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def torch_dtype(dtype: DTypeLike, argument: str = "dtype") -> torch.dtype:
    """The torch dtype of this name; a TypeError that names the argument where there is none."""
    if isinstance(dtype, torch.dtype):
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in _TORCH_DTYPES:
        return _TORCH_DTYPES[dtype.removeprefix("torch.")]
    try:
        return torch.from_numpy(np.empty(0, dtype=np.dtype(dtype))).dtype
    except TypeError:
        raise TypeError(
            f"{argument} must name a torch dtype, got {dtype!r}{nearest(str(dtype), _TORCH_DTYPES)}"
        ) from None


def numpy_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """The NumPy dtype of this name; a TypeError where NumPy has none that holds numbers."""
    name: Any = str(dtype).removeprefix("torch.") if isinstance(dtype, (torch.dtype, str)) else dtype
    try:
        result: np.dtype[Any] = np.dtype(name)
    except TypeError:
        result = np.dtype("V")
    if result.kind == "V" and isinstance(dtype, str) and name not in _TORCH_DTYPES:
        raise TypeError(f"dtype must name a dtype, got {dtype!r}{nearest(dtype, _TORCH_DTYPES)}")
    # NumPy takes any class for `object`.
    if result.kind == "O" and isinstance(dtype, type) and dtype is not object:
        raise TypeError(f"dtype must name a dtype, got the class {dtype.__name__}")
    if result.kind not in "biufcO":
        raise TypeError(f"dtype must be one that NumPy arrays can hold numbers in, got {dtype!r}; pass y as a tensor")
    return result
