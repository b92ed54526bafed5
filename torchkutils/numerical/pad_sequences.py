"""Sequences of different lengths as one array."""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from torchkutils._call_hints import hinting, nearest, shown
from torchkutils._dtypes import torch_dtype
from torchkutils._typing import DTypeLike

__all__ = ["pad_sequences"]

Side = Literal["pre", "post"]


@hinting(max_len="maxlen", length="maxlen", max_length="maxlen", pad_value="value")
def pad_sequences(
    sequences: Sequence[Any],
    maxlen: int | None = None,
    dtype: DTypeLike = "int32",
    padding: Side = "pre",
    truncating: Side = "pre",
    value: Any = 0.0,
) -> Any:
    """Make sequences equally long, and one array of them.

    Args:
        sequences: n sequences: lists of numbers, arrays or tensors of shape (length, …) with equal inner shapes. Of
            text with `dtype=object` or a text dtype.
        maxlen: Length T of all of them. None means the longest.
        dtype: Of the result: a string, a `numpy.dtype` or a `torch.dtype`. Numbers are converted to it as NumPy does.
        padding: Where `value` is added to short ones: 'pre' (in front) or 'post' (behind).
        truncating: Where long ones are cut: 'pre' or 'post'.
        value: What is added.

    Returns:
        Shape (n, T, …). A tensor on their device where all sequences are tensors, else a NumPy array.

    Raises:
        ValueError: `sequences` holds something without a length, inner shapes differ (the row is named), `maxlen` is
            negative, `padding` or `truncating` is neither word, or `value` is text and `dtype` holds none.
        TypeError: `maxlen` is no integer, or an element cannot be converted to `dtype`.

    Differs from Keras: `maxlen=0` gives rows of length 0 instead of uncut ones, no sequences give shape (0, T), and
    tensors stay tensors.

    >>> pad_sequences([[1], [2, 3], [4, 5, 6]], maxlen=2)
    array([[0, 1],
           [2, 3],
           [5, 6]], dtype=int32)
    """
    _check_sides(padding=padding, truncating=truncating)
    lengths = _lengths(sequences)
    longest = int(lengths.max(initial=0))
    steps = longest if maxlen is None else _checked_length(maxlen)
    if longest > steps:
        kept: Sequence[Any] = [_cut(sequence, steps, truncating) for sequence in sequences]
        lengths = np.minimum(lengths, steps)
    else:
        kept = sequences if isinstance(sequences, list | tuple) else list(sequences)
    # 32 bits: half of what is to be compared.
    columns, ends = np.arange(steps, dtype=np.int32), lengths.astype(np.int32)[:, None]
    filled = columns < ends if padding == "post" else columns >= steps - ends
    if kept and all(isinstance(sequence, torch.Tensor) for sequence in kept):
        return _padded_tensors(kept, filled, torch_dtype(dtype), value)
    kind = _array_dtype(dtype)
    if isinstance(value, str) and kind.kind not in "OUS":
        raise ValueError(f"value {value!r} is text, which dtype {kind} does not hold; dtype=object does")
    return _padded_arrays(kept, lengths, filled, kind, value)


def _check_sides(**sides: str) -> None:
    for argument, side in sides.items():
        if side not in ("pre", "post"):
            raise ValueError(f"{argument} must be 'pre' or 'post', got {side!r}")


def _array_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        return np.dtype(str(dtype).removeprefix("torch.") if isinstance(dtype, torch.dtype) else dtype)
    except TypeError:
        raise TypeError(
            f"dtype must be one that NumPy has, got {dtype!r}{nearest(str(dtype), np.sctypeDict)}"
        ) from None


def _lengths(sequences: Any) -> npt.NDArray[np.int64]:
    if not hasattr(sequences, "__len__"):
        raise ValueError(f"sequences must be a list of sequences, got {type(sequences).__name__}")
    try:
        return np.fromiter(map(len, sequences), dtype=np.int64, count=len(sequences))
    except TypeError:
        for row, sequence in enumerate(sequences):
            if not hasattr(sequence, "__len__"):
                raise ValueError(f"sequences must hold sequences, got {sequence!r} at row {row}") from None
        raise


def _checked_length(maxlen: Any) -> int:
    try:
        steps = operator.index(maxlen)
    except TypeError:
        raise TypeError(f"maxlen must be an integer or None, got {maxlen!r}") from None
    if steps < 0:
        raise ValueError(f"maxlen must not be negative, got {steps}")
    return steps


def _cut(sequence: Any, steps: int, truncating: Side) -> Any:
    if len(sequence) <= steps:
        return sequence
    return sequence[:steps] if truncating == "post" else sequence[len(sequence) - steps :]


def _inner_shape(sequences: Sequence[Any]) -> tuple[int, ...]:
    """Of the first sequence that holds anything."""
    first = next((sequence for sequence in sequences if len(sequence)), None)
    return () if first is None else tuple(np.shape(first))[1:]


def _padded_arrays(
    sequences: Sequence[Any],
    lengths: npt.NDArray[np.int64],
    filled: npt.NDArray[np.bool_],
    dtype: np.dtype[Any],
    value: Any,
) -> npt.NDArray[Any]:
    try:
        inner = _inner_shape(sequences)
        rows = np.full((*filled.shape, *inner), value, dtype=dtype)
        if inner:
            rows[filled] = np.concatenate([np.asarray(one, dtype=dtype) for one in sequences if len(one)])
        elif lengths.any():
            rows[filled] = _numbers(sequences, lengths, dtype)
    except (ValueError, TypeError) as error:
        _refuse_ragged(sequences, error)
        _refuse_text(sequences, dtype, error)
        raise
    return rows


def _numbers(sequences: Sequence[Any], lengths: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """All elements of sequences of numbers in one array."""
    if isinstance(sequences[0], list | tuple):
        packed = _packed(sequences, lengths, dtype)
    elif all(type(sequence) is np.ndarray for sequence in sequences):
        packed = _joined(sequences, dtype)
    else:
        packed = None
    if packed is not None:
        return packed
    # One pass over all numbers: an array for each of many short lists costs ten times as much.
    elements = itertools.chain.from_iterable(map(_plain, sequences))
    return np.fromiter(elements, dtype=dtype, count=int(lengths.sum()))


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """The elements of arrays, None where converting them one by one could give something else."""
    dtypes = {array.dtype for array in arrays}
    if len(dtypes) > 1:
        return None
    flat = np.concatenate(arrays)
    if dtype.kind == "f" and flat.dtype.kind in "biuf":
        return flat.astype(dtype)
    if dtype.kind in "iu" and flat.dtype.kind in "biu":
        limits = np.iinfo(dtype)
        if limits.min <= int(flat.min()) and int(flat.max()) <= limits.max:
            return flat.astype(dtype)
    return None


# Letters that mean the same number to NumPy and to struct.
_PACKED = frozenset("bBhHiIlLqQfd")
# So many rows are packed at once that their numbers stay in the cache.
_ROWS = 1024


def _packed(sequences: Sequence[Any], lengths: npt.NDArray[np.int64], dtype: np.dtype[Any]) -> npt.NDArray[Any] | None:
    """Python's numbers as an array: struct converts them about three times as fast as NumPy does.

    None where it cannot: NumPy knows more conversions, warns of overflow, and its errors are the ones promised.
    """
    if dtype.char not in _PACKED or not dtype.isnative:
        return None
    result = np.empty(int(lengths.sum()), dtype=dtype)
    memory = result.data.cast("B")
    offset = 0
    try:
        for start in range(0, len(sequences), _ROWS):
            count = int(lengths[start : start + _ROWS].sum())
            elements = itertools.chain.from_iterable(sequences[start : start + _ROWS])
            struct.pack_into(f"{count}{dtype.char}", memory, offset, *elements)
            offset += count * dtype.itemsize
    except (struct.error, TypeError, ValueError, OverflowError):
        return None
    return None if dtype.char == "f" and np.isinf(result).any() else result


def _plain(sequence: Any) -> Any:
    """Something quick to iterate over."""
    return sequence.tolist() if isinstance(sequence, np.ndarray | torch.Tensor) and sequence.ndim == 1 else sequence


def _refuse_ragged(sequences: Sequence[Any], error: Exception) -> None:
    """Name the first row whose inner shape is not that of the first sequence."""
    shapes: list[Any] = []
    for row, sequence in enumerate(sequences):
        try:
            shape: Any = tuple(np.shape(sequence))[1:]
        except ValueError:
            raise ValueError(f"the sequence at row {row} has elements of different shapes") from error
        if len(sequence):
            shapes.append(shape)
            if shape != shapes[0]:
                raise ValueError(
                    f"the elements of row {row} have shape {shape}, those before it {shapes[0]}"
                ) from error


def _refuse_text(sequences: Sequence[Any], dtype: np.dtype[Any], error: Exception) -> None:
    """Name the first row that holds text where the dtype holds numbers."""
    for row, sequence in enumerate(sequences):
        text = next((one for one in sequence if isinstance(one, str | bytes)), None)
        if text is not None:
            raise ValueError(
                f"the sequence at row {row} holds the text {shown(text)}, which dtype {dtype} does not hold; "
                "number it, or give dtype=object and a text as value"
            ) from error


def _padded_tensors(
    sequences: Sequence[torch.Tensor], filled: npt.NDArray[np.bool_], dtype: torch.dtype, value: Any
) -> torch.Tensor:
    inner = _inner_shape(sequences)
    for row, sequence in enumerate(sequences):
        if len(sequence) and tuple(sequence.shape[1:]) != inner:
            raise ValueError(
                f"the elements of row {row} have shape {tuple(sequence.shape[1:])}, those before it {inner}"
            )
    device = sequences[0].device
    rows = torch.full((*filled.shape, *inner), value, dtype=dtype, device=device)
    rows[torch.from_numpy(filled).to(device)] = torch.cat(
        [one.to(dtype) for one in sequences if len(one)] or [rows.new_empty((0, *inner))]
    )
    return rows
