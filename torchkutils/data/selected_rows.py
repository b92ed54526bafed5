"""Rows that HDF5 itself reads: of types that it must convert, in layouts that only it knows, one data set a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from torchkutils.data.stored_rows import StoredRows, ragged_values

if TYPE_CHECKING:
    import h5py

Array: TypeAlias = "np.ndarray[Any, Any]"

_RUN_WORTH_A_SLICE = 8
"""From this mean length on, reading runs of rows as slices beats h5py's selection of single rows."""


class SelectedRows:
    """Rows read by h5py: runs as slices where they are long enough, single rows otherwise, each only once.

    Args:
        dataset: The data set.
        field: The field of its records that is read; None for all of them.
        before: Runs before each read: what makes rows of a writer visible.
    """

    def __init__(
        self, dataset: h5py.Dataset, field: str | None = None, before: Callable[[], Any] | None = None
    ) -> None:
        self._view: Any = dataset if field is None else dataset.fields(field)
        self._before = before
        ragged = ragged_values(dataset.dtype if field is None else dataset.dtype[field])
        self._swapped = ragged if ragged is not None and not ragged.isnative else None

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        return self._read(slice(first, stop))

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self._read(slice(rows.start, rows.stop, rows.step))

    def take(self, rows: Array) -> Array:
        """Rows by number."""
        if len(rows) == 0:
            return self.span(0, 0)
        wanted, places = np.unique(rows, return_inverse=True)
        starts = np.flatnonzero(np.diff(wanted, prepend=wanted[0] - 2) != 1)
        if len(wanted) < _RUN_WORTH_A_SLICE * len(starts):
            read = self._read(wanted)
        else:
            stops = np.append(starts[1:], len(wanted))
            read = np.concatenate([self.span(wanted[a], wanted[b - 1] + 1) for a, b in zip(starts, stops, strict=True)])
        in_order = len(wanted) == len(rows) and bool((places[1:] > places[:-1]).all())
        return read if in_order else read[places]

    def start_reading(self, rows: Array) -> None:
        """Nothing: HDF5 reads one thing at a time."""

    def _read(self, key: Any) -> Array:
        if self._before is not None:
            self._before()
        read = np.asarray(self._view[key])
        if self._swapped is None:
            return read
        # h5py reads such values in the file's byte order, and calls the arrays native.
        for place, row in enumerate(read):
            read[place] = row if row.dtype == self._swapped else row.view(self._swapped)
        return read


class GroupRows:
    """Rows each of which is a data set: stacked where their shapes are equal, an array of arrays otherwise."""

    def __init__(self, file: h5py.File, names: list[str], stored: StoredRows) -> None:
        self._file = file
        self._names = names
        self._stored = stored

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        return self.strided(range(first, stop))

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self._read(list(rows))

    def take(self, rows: Array) -> Array:
        """Rows by number, each read once."""
        wanted, places = np.unique(rows, return_inverse=True)
        return self._read(wanted.tolist())[places]

    def start_reading(self, rows: Array) -> None:
        """Nothing: HDF5 reads one thing at a time."""

    def _read(self, rows: list[int]) -> Array:
        read = np.empty((len(rows), *self._stored.row_shape), self._stored.dtype)
        for place, row in enumerate(rows):
            read[place] = self._file[self._names[row]][()]
        return read


class FieldRows:
    """One field of records that are read whole."""

    def __init__(self, records: Any, field: str) -> None:
        self._records = records
        self._field = field

    def span(self, first: int, stop: int) -> Array:
        """Rows first … stop - 1."""
        return self._picked(self._records.span(first, stop))

    def strided(self, rows: range) -> Array:
        """Rows first, first + step, …."""
        return self._picked(self._records.strided(rows))

    def take(self, rows: Array) -> Array:
        """Rows by number."""
        return self._picked(self._records.take(rows))

    def start_reading(self, rows: Array) -> None:
        """As the records do it."""
        self._records.start_reading(rows)

    def _picked(self, records: Array) -> Array:
        return np.ascontiguousarray(records[self._field])
