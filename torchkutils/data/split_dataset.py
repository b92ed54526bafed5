"""One data set cut into two."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Subset

from torchkutils import _nested
from torchkutils._keras_names import taken_for_keras

__all__ = ["split_dataset"]

Size = int | float | None


@taken_for_keras(preferred_backend=(None, "torch", "tensorflow", "jax"))
def split_dataset(
    dataset: Any,
    left_size: Size = None,
    right_size: Size = None,
    shuffle: bool = False,
    seed: int | None = None,
) -> tuple[Dataset[Any], Dataset[Any]]:
    """Cut a data set into a left and a right part.

    Args:
        dataset: A map-style `Dataset`; an array or tensor, cut along axis 0; a tuple, list or dict of arrays and
            tensors of one length, nested as you like; or a list of samples.
        left_size: How much the left part gets: a fraction in (0, 1) or a number of samples. None means the rest.
        right_size: The same for the right part. At least one of the two must be given.
        shuffle: Draw which sample goes where; otherwise the left part holds the first samples.
        seed: Of that draw. None takes it from torch's generator.

    Returns:
        Two map-style Datasets; no sample is in both, and none is copied. Together they hold everything where one size
        is None or the sizes add up to it. Arrays give NumPy rows, tensors give tensors, in the containers they came in.

    Raises:
        TypeError: `dataset` is none of these (iterable-style ones have no length), or a size is no number.
        ValueError: No size is given, a size is out of range, the sizes exceed the data, a part would be empty, or the
            arrays differ in length.

    Differs from Keras 3: the samples stay where they are (Keras reads all of them into memory). Its
    `preferred_backend` may be given and has no effect.

    >>> left, right = split_dataset(np.arange(10), left_size=0.7)
    >>> len(left), len(right), int(right[0])
    (7, 3, 7)
    """
    samples = _samples_of(dataset)
    total = len(samples)  # type: ignore[arg-type]
    left, right = _counts(total, left_size, right_size)
    order = list(range(total))
    if shuffle:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        order = torch.randperm(total, generator=generator).tolist()
    return Subset(samples, order[:left]), Subset(samples, order[left : left + right])


class Rows(Dataset[Any]):
    """Arrays and tensors of one length in containers: a sample has a row of each."""

    def __init__(self, arrays: Any) -> None:
        self._arrays = arrays
        lengths = {path: len(array) for path, array in _nested.leaves_with_paths(arrays, "dataset")}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the arrays of dataset must have one length, got {lengths}")
        self._length = next(iter(lengths.values()))

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        return _nested.map_leaves(self._arrays, lambda array: array[index])


def _samples_of(dataset: Any) -> Dataset[Any]:
    if isinstance(dataset, IterableDataset) or (isinstance(dataset, Dataset) and not isinstance(dataset, Sized)):
        raise TypeError(f"dataset must have a length and samples by number, got an iterable {type(dataset).__name__}")
    if isinstance(dataset, Dataset):
        return dataset
    leaves = list(_nested.leaves(dataset))
    if leaves and all(isinstance(leaf, np.ndarray | torch.Tensor) for leaf in leaves):
        if any(leaf.ndim == 0 for leaf in leaves):
            raise TypeError("dataset holds an array without axes, which has no samples")
        return Rows(dataset)
    if isinstance(dataset, list | tuple):
        return _Listed(dataset)
    kind = type(dataset).__name__
    raise TypeError(f"dataset must be a map-style Dataset, arrays or tensors, or a list of samples, got {kind}")


class _Listed(Dataset[Any]):
    """Samples in a list."""

    def __init__(self, samples: Any) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Any:
        return self._samples[index]


def _counts(total: int, left_size: Size, right_size: Size) -> tuple[int, int]:
    """How many samples each part gets."""
    if left_size is None and right_size is None:
        raise ValueError("left_size or right_size must be given: a fraction in (0, 1) or a number of samples")
    left = _count(total, left_size, "left_size")
    right = _count(total, right_size, "right_size")
    if left is None:
        left = total - (right or 0)
    if right is None:
        right = total - left
    if left + right > total:
        raise ValueError(f"left_size and right_size ask for {left} + {right} samples, dataset holds {total}")
    for name, count in (("left", left), ("right", right)):
        if count == 0:
            raise ValueError(
                f"the {name} part would be empty: left_size={left_size}, right_size={right_size} of {total}"
            )
    return left, right


def _count(total: int, size: Any, argument: str) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, int | float | np.integer | np.floating):
        raise TypeError(f"{argument} must be a fraction or a number of samples, got {size!r}")
    if isinstance(size, int | np.integer):
        if not 0 < size <= total:
            raise ValueError(f"{argument} must lie in [1, {total}] for {total} samples, got {size}")
        return int(size)
    if not 0 < size < 1:
        raise ValueError(f"{argument} must lie in (0, 1) when it is a fraction, got {size}")
    return round(float(size) * total)
