"""Rows of an HDF5 data set as tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

_TENSOR_KINDS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"}


def fits_a_tensor(dtype: np.dtype[Any]) -> bool:
    """Whether torch has such a dtype, whatever its byte order."""
    return dtype.str[1:] in _TENSOR_KINDS


def to_tensor(result: Any) -> torch.Tensor:
    """Rows as a tensor that can be written to; a TypeError where no tensor can hold them."""
    if isinstance(result, torch.Tensor):
        return result
    array = np.asarray(result)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not fits_a_tensor(native.dtype):
        raise TypeError(f"it gives {described(native.dtype)}, which no tensor can hold; pass as_tensor=False")
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    return torch.from_numpy(native)


def described(dtype: np.dtype[Any]) -> str:
    """A dtype in words."""
    if dtype.names is not None:
        return f"a compound of the fields {list(dtype.names)}"
    if dtype.kind in "SUTO":
        return "text or objects of varying length" if dtype.kind == "O" else f"text ({dtype})"
    return f"{dtype} values"
