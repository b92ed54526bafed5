"""What may stand in the brackets of `rows[key]`, and which rows it means: NumPy's rules for one axis."""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import numpy as np
import torch

RowKey: TypeAlias = "int | range | np.ndarray[Any, np.dtype[np.int64]]"
"""One row, an arithmetic run of rows, or an int64 array of rows of any shape; all within [0, length)."""


def rows_of(key: object, length: int) -> RowKey:
    """Say which of `length` rows a key means.

    Args:
        key: An int, a slice, or a list, array, tensor, pandas Series or Index, or range of ints (any order, repeated,
            negative, empty), or a boolean mask of one value a row. 0-d integer arrays and tensors count as ints. A key
            followed by `...` counts as the key alone.
        length: How many rows there are.

    Returns:
        An int for an int, a range for a slice, an int64 array of the key's shape otherwise; nothing negative in it.

    Raises:
        IndexError: An index outside [-length, length), or a mask of another length.
        TypeError: Any other kind of key.
    """
    if isinstance(key, slice):
        return range(*key.indices(length))
    if isinstance(key, range):
        return _checked(np.arange(key.start, key.stop, key.step, dtype=np.int64), length)
    if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis:
        # scikit-learn writes array[rows, ...].
        return rows_of(key[0], length)
    if isinstance(key, (list, np.ndarray, torch.Tensor)) or _is_pandas(key):
        return _rows_of_array(_as_array(key), length)
    if isinstance(key, (bool, np.bool_)) or not hasattr(type(key), "__index__"):
        raise _bad_key(key)
    index = operator.index(key)  # type: ignore[arg-type]
    if not -length <= index < length:
        raise IndexError(f"index {index} is out of range for {length} rows")
    return index % length


def run_or_rows(indices: list[Any], length: int) -> RowKey:
    """The same for a batch of single rows, with a shorter way for those that follow each other: the usual batch."""
    if indices and type(indices[0]) is int and 0 <= indices[0] <= length - len(indices):
        run = range(indices[0], indices[0] + len(indices))
        # Equal floats or bools are no rows, so that the types count too.
        if indices == list(run) and set(map(type, indices)) == {int}:
            return run
    return rows_of(indices, length)


def _is_pandas(key: object) -> bool:
    """A Series or an Index: known by its module, which is not imported for this."""
    return type(key).__module__.partition(".")[0] == "pandas" and hasattr(key, "to_numpy")


def _as_array(key: Any) -> np.ndarray[Any, Any]:
    if isinstance(key, torch.Tensor):
        return np.asarray(key.detach().cpu().numpy())
    if not isinstance(key, list):
        return np.asarray(key)
    try:
        array = np.asarray(key)
    except ValueError as error:
        raise TypeError(f"a list of rows must hold ints or bools in equal lengths: {error}") from error
    # NumPy makes float64 of an empty list, and takes it as an index all the same.
    return array.astype(np.int64) if array.size == 0 else array


def _rows_of_array(array: np.ndarray[Any, Any], length: int) -> RowKey:
    if array.dtype == np.bool_:
        if array.ndim != 1:
            raise TypeError(f"a boolean mask must have one axis, one value a row; got shape {array.shape}")
        if len(array) != length:
            raise IndexError(f"a boolean mask must have {length} values, one a row; got {len(array)}")
        return np.flatnonzero(array).astype(np.int64, copy=False)
    if array.dtype == object and any(isinstance(index, int) and abs(index) >= 2**63 for index in array.flat):
        # Integers beyond 64 bits: NumPy keeps them as objects, and no row has such a number.
        raise IndexError(f"an index beyond 64 bits is out of range for {length} rows")
    if array.dtype.kind not in "iu":
        raise TypeError(f"rows are chosen by ints or bools, not by {array.dtype} values; convert them first")
    if array.ndim == 0:
        return rows_of(int(array), length)
    return _checked(array, length)


def _checked(indices: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    if indices.size == 0:
        return indices.astype(np.int64)
    lowest, highest = int(indices.min()), int(indices.max())
    if lowest < -length or highest >= length:
        worst = highest if highest >= length else lowest
        raise IndexError(f"index {worst} is out of range for {length} rows")
    rows = indices.astype(np.int64, copy=False)
    return np.where(rows < 0, rows + length, rows) if lowest < 0 else rows


def _bad_key(key: object) -> TypeError:
    return TypeError(
        "rows are chosen by an int, a slice, a list, array, tensor or range of ints, or a boolean mask; "
        f"got {key!r:.80} ({type(key).__name__}); index the other axes of what comes back"
    )
