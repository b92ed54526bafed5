"""One-hot rows back to class labels."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from torchkutils._typing import ArrayLike

__all__ = ["from_categorical"]


def from_categorical(rows: ArrayLike, axis: int = -1, *, ignore_index: int | None = None) -> Any:
    """Turn one-hot rows, or rows of scores or probabilities, into class numbers: the inverse of `to_categorical`.

    Args:
        rows: Numbers of shape S + (C,), C at least 1; any dtype with an order.
        axis: The axis of the classes.
        ignore_index: The label of rows of zeros, as `to_categorical(…, ignore_index=…)` makes them.

    Returns:
        int64 of shape S: where the row is largest, the first such place. A tensor on the same device for a tensor, a
        NumPy array for everything else.

    Raises:
        ValueError: `axis` does not exist or is empty, a row holds NaN, or a row is all zeros and `ignore_index` is not
            given (the first such row is named).
        TypeError: `rows` does not hold real numbers, or `ignore_index` is no integer.

    Keras has no such function; its users write `argmax(rows, axis=-1)`, which gives class 0 for a row of zeros.

    >>> from_categorical([[0, 1, 0], [1, 0, 0]])
    array([1, 0])
    >>> from_categorical(torch.tensor([[0.1, 0.9], [0.0, 0.0]]), ignore_index=-100).tolist()
    [1, -100]
    """
    if ignore_index is not None:
        try:
            ignore_index = operator.index(ignore_index)
        except TypeError:
            raise TypeError(f"ignore_index must be an integer or None, got {ignore_index!r}") from None
    if isinstance(rows, torch.Tensor):
        return _labels(rows.detach(), axis, ignore_index)
    array = np.asarray(rows)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"rows must hold real numbers, got an array of dtype {array.dtype}")
    return _labels(torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="))), axis, ignore_index).numpy()


def _labels(rows: torch.Tensor, axis: int, ignore_index: int | None) -> torch.Tensor:
    if rows.is_complex():
        raise TypeError(f"rows must hold real numbers, got a tensor of dtype {rows.dtype}")
    if not -rows.ndim <= axis < rows.ndim:
        raise ValueError(f"axis must lie in [{-rows.ndim}, {rows.ndim}) for rows with {rows.ndim} axes, got {axis}")
    if rows.shape[axis] == 0:
        raise ValueError(f"rows must have at least one class along axis {axis}, got shape {tuple(rows.shape)}")
    whole = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
    if rows.is_floating_point():
        _refuse_where(rows.isnan().any(axis), "holds NaN")
    labels = whole.argmax(axis)
    zeros = (whole == 0).all(axis)
    if ignore_index is None:
        _refuse_where(zeros, "is all zeros, so it has no class; give ignore_index")
        return labels
    return labels.masked_fill(zeros, ignore_index)


def _refuse_where(wrong: torch.Tensor, what: str) -> None:
    """Raise for the first row that is wrong."""
    if bool(wrong.any()):
        index = wrong.nonzero()[0].tolist()
        raise ValueError(f"the row at index {index[0] if len(index) == 1 else tuple(index)} {what}")
