"""Rows of an HDF5 data set as tensors or arrays, whatever they were stored as and a normalizer made of them."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch

RowBatch: TypeAlias = "torch.Tensor | np.ndarray[Any, Any] | list[torch.Tensor]"
"""Rows along the first axis; ragged rows as tensors are a list."""

_TENSOR_KINDS = {"b1", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", "c8", "c16"}


def fits_a_tensor(dtype: np.dtype[Any]) -> bool:
    """Whether torch has such a dtype, whatever its byte order."""
    return dtype.str[1:] in _TENSOR_KINDS


def to_tensor(result: Any) -> torch.Tensor:
    """Values as a tensor that can be written to; a TypeError where no tensor can hold them."""
    if isinstance(result, torch.Tensor):
        return result
    array = np.asarray(result)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not fits_a_tensor(native.dtype):
        raise TypeError(f"it gives {described(native.dtype)}, which no tensor can hold; pass as_tensor=False")
    # A field of records has strides that are no multiple of its own size, a flipped array has negative ones.
    even = all(stride >= 0 and stride % native.itemsize == 0 for stride in native.strides)
    if not (native.flags.writeable and native.flags.aligned and even):
        native = native.copy()
    return torch.from_numpy(native)


def to_rows(result: Any, count: int, *, as_tensor: bool) -> RowBatch:
    """What a normalizer made of `count` rows, as tensors or arrays.

    Raises:
        TypeError: It is None, or nothing that a tensor can hold.
        ValueError: It is not one row for each row.
    """
    if result is None:
        raise TypeError("it returns None; it must return the rows")
    if as_tensor and is_ragged(result):
        _check_count(len(result), count)
        return [to_tensor(row) for row in result]
    if as_tensor:
        rows: Any = to_tensor(result)
    elif isinstance(result, torch.Tensor):
        rows = result.detach().cpu().numpy()
    else:
        rows = as_array(result)
    _check_count(len(rows) if rows.ndim else 0, count)
    return rows  # type: ignore[no-any-return]


def is_ragged(result: Any) -> bool:
    """Whether rows are arrays or tensors of their own: in an object array, or unequal ones in a list."""
    if isinstance(result, np.ndarray):
        return result.dtype == object and result.ndim == 1 and all(isinstance(row, np.ndarray) for row in result)
    if not isinstance(result, (list, tuple)):
        return False
    shapes = [np.shape(row) for row in result if isinstance(row, (np.ndarray, torch.Tensor))]
    return len(shapes) == len(result) and len(set(shapes)) > 1


def as_array(result: Any) -> np.ndarray[Any, Any]:
    """An array; unequal rows as an array of arrays."""
    if not isinstance(result, (list, tuple)) or not is_ragged(result):
        return np.asarray(result)
    rows = np.empty(len(result), object)
    for place, row in enumerate(result):
        rows[place] = row.detach().cpu().numpy() if isinstance(row, torch.Tensor) else row
    return rows


def in_native_order(piece: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same values in the machine's byte order, as tensors need them."""
    return piece.astype(piece.dtype.newbyteorder("="), copy=False)


def described(dtype: np.dtype[Any]) -> str:
    """A dtype in words."""
    if dtype.names is not None:
        return f"a compound of the fields {list(dtype.names)}"
    if dtype.kind in "SUTO":
        return "text or objects of varying length" if dtype.kind == "O" else f"text ({dtype})"
    return f"{dtype} values"


def _check_count(made: int, count: int) -> None:
    if made != count:
        raise ValueError(f"it must keep the rows apart: it made {made} rows of {count}")
