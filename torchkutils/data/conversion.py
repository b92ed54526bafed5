"""Arrays to tensors, as torch's `default_convert` does it, and for the arrays that it refuses too."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import torch

from torchkutils import _nested


class ToTensors:
    """The `collate_fn` of a loader that was given none: a batch with its arrays as tensors.

    Arrays of text and of objects stay as they are, tuples become lists, as with torch's own. Arrays that torch refuses
    are copied: reversed ones, read-only ones, fields of records. Dates and durations become int64, in their own unit.
    """

    def __call__(self, batch: Any) -> Any:
        """Convert a batch."""
        return to_tensors(batch)


class AsTheyAre:
    """The `collate_fn` that keeps batches as `__getitem__` gave them."""

    def __call__(self, batch: Any) -> Any:
        """Give the batch back."""
        return batch


def to_tensors(value: Any) -> Any:
    """A value with the arrays in it as tensors.

    Raises:
        TypeError: An array of a dtype that no tensor can have.
    """
    if type(value) is np.ndarray:
        return _array_to_tensor(value)
    if isinstance(value, (torch.Tensor, str, bytes)):
        return value
    if isinstance(value, (np.ndarray, np.generic)):
        return _array_to_tensor(np.asarray(value)) if value.dtype.kind not in "SUO" else value
    if isinstance(value, Mapping):
        return _mapping(value)
    if isinstance(value, tuple):
        return _tuple(value)
    return _sequence(value) if isinstance(value, Sequence) else value


def _array_to_tensor(array: np.ndarray[Any, Any]) -> Any:
    dtype = array.dtype
    if dtype.kind in "SUOa":
        return array
    if dtype.kind in "mM":
        array = array.astype(array.dtype.newbyteorder("="), copy=False).view(np.int64)
    elif not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    # torch takes no negative strides and none between elements, and warns of memory that must not be written to.
    plain = array.flags.writeable and all(
        stride >= 0 and stride % array.itemsize == 0 for stride in array.strides if array.itemsize
    )
    return torch.from_numpy(array if plain else np.array(array))


def _mapping(value: Mapping[Any, Any]) -> Any:
    converted = {key: to_tensors(part) for key, part in value.items()}
    if type(value) is dict:
        return converted
    try:
        if isinstance(value, MutableMapping):
            # Its class may hold more than its items, a default for instance.
            result = copy.copy(value)
            result.update(converted)
            return result
        return type(value)(converted)  # type: ignore[call-arg]
    except TypeError:
        return converted


def _tuple(value: tuple[Any, ...]) -> Any:
    converted = [to_tensors(part) for part in value]
    return type(value)(*converted) if hasattr(value, "_fields") else converted


def _sequence(value: Sequence[Any]) -> Any:
    converted = [to_tensors(part) for part in value]
    if type(value) is list:
        return converted
    try:
        if isinstance(value, MutableSequence):
            result = copy.copy(value)
            for position, part in enumerate(converted):
                result[position] = part
            return result
        return type(value)(converted)  # type: ignore[call-arg]
    except TypeError:
        return converted


def pinned(batch: Any, *, tensors: bool = True) -> Any:
    """A batch with its tensors in pinned memory; objects with a `pin_memory` method pin themselves.

    Args:
        batch: The batch.
        tensors: Its plain tensors too, not only such objects.
    """

    def pinned_leaf(leaf: Any) -> Any:
        if not hasattr(leaf, "pin_memory") or (type(leaf) is torch.Tensor and not tensors):
            return leaf
        return leaf.pin_memory()

    return _nested.map_leaves(batch, pinned_leaf, rigid=True)
