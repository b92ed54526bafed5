"""Which positions of a Dataset lie in one chunk, through StackDataset, ConcatDataset and Subset."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, StackDataset, Subset

from torchkutils.data.hdf5_matrix import HDF5Matrix

_BLOCK_BYTES = 2**18
"""What contiguous data are cut into, for want of chunks."""


@dataclass(frozen=True)
class RowBlocks:
    """Positions of a Dataset, block by block.

    Attributes:
        edges: Where each block begins, and the number of positions; int64.
        order: The positions, sorted by block; None where they are in order anyway.
    """

    edges: np.ndarray[Any, Any]
    order: np.ndarray[Any, Any] | None = None

    def positions(self, first: int, stop: int) -> np.ndarray[Any, Any]:
        """The positions first … stop - 1 in the order of the blocks."""
        return np.arange(first, stop) if self.order is None else self.order[first:stop]

    def block_numbers(self, positions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Which block each position lies in."""
        places = positions
        if self.order is not None:
            places = np.empty_like(self.order)
            places[self.order] = np.arange(len(self.order))
            places = places[positions]
        return np.searchsorted(self.edges, places, side="right") - 1


def matrices_of(data: Any) -> list[HDF5Matrix]:
    """All HDF5Matrix objects that a Dataset is made of."""
    if isinstance(data, HDF5Matrix):
        return [data]
    return [matrix for part in _parts(data) for matrix in matrices_of(part)]


def blocks_of(data: Any) -> RowBlocks:
    """Cut a Dataset into blocks of positions that are stored together.

    Raises:
        TypeError: There is no HDF5Matrix in it.
    """
    if isinstance(data, HDF5Matrix):
        return RowBlocks(data.block_edges(_BLOCK_BYTES))
    if not matrices_of(data):
        raise TypeError(
            "data must be an HDF5Matrix, or a StackDataset, ConcatDataset or Subset that holds one, got "
            f"{type(data).__name__}"
        )
    if isinstance(data, StackDataset):
        return blocks_of(max(filter(matrices_of, _parts(data)), key=_row_bytes))
    if isinstance(data, Subset):
        return _of_subset(blocks_of(data.dataset), np.asarray(data.indices, dtype=np.int64))
    return _joined(
        [blocks_of(part) if matrices_of(part) else RowBlocks(np.array([0, len(part)])) for part in _parts(data)]
    )


def start_reading(data: Any, positions: np.ndarray[Any, Any]) -> None:
    """Tell each HDF5Matrix which of its rows will be read soon."""
    if isinstance(data, HDF5Matrix):
        data.start_reading(positions)
    elif isinstance(data, StackDataset):
        for part in _parts(data):
            start_reading(part, positions)
    elif isinstance(data, Subset):
        start_reading(data.dataset, np.asarray(data.indices, dtype=np.int64)[positions])
    elif isinstance(data, ConcatDataset):
        stops = np.asarray(data.cumulative_sizes)
        numbers = np.searchsorted(stops, positions, side="right")
        for number in np.unique(numbers).tolist():
            first = int(stops[number - 1]) if number else 0
            start_reading(data.datasets[number], positions[numbers == number] - first)


def _parts(data: Any) -> list[Any]:
    if isinstance(data, StackDataset):
        return list(data.datasets.values() if isinstance(data.datasets, dict) else data.datasets)
    if isinstance(data, ConcatDataset):
        return list(data.datasets)
    return [data.dataset] if isinstance(data, Subset) else []


def _row_bytes(data: Any) -> int:
    return max(matrix.row_bytes for matrix in matrices_of(data))


def _of_subset(inner: RowBlocks, indices: np.ndarray[Any, Any]) -> RowBlocks:
    numbers = inner.block_numbers(indices)
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.diff(numbers[order], prepend=-1))
    return RowBlocks(np.append(starts, len(indices)).astype(np.int64), order)


def _joined(parts: list[RowBlocks]) -> RowBlocks:
    edges: list[np.ndarray[Any, Any]] = [np.zeros(1, np.int64)]
    orders: list[np.ndarray[Any, Any]] = []
    first = 0
    for part in parts:
        edges.append(part.edges[1:] + first)
        orders.append(part.positions(0, int(part.edges[-1])) + first)
        first += int(part.edges[-1])
    order = None if all(part.order is None for part in parts) else np.concatenate(orders)
    return RowBlocks(np.concatenate(edges), order)
