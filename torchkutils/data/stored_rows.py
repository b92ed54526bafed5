"""What a data set stores, told from its metadata alone: how many rows, of which shape and dtype, in which chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from torchkutils import _lazy

if TYPE_CHECKING:
    import h5py


@dataclass(frozen=True)
class StoredRows:
    """Rows of one data set, or of a group with one data set a row.

    Attributes:
        length: How many rows there are.
        row_shape: The shape of a row, axes of an array type included; () for ragged rows.
        dtype: The dtype of the values: of the field, where one was asked for; object for ragged rows and text.
        ragged: The dtype of the values of ragged rows, each of which has its own length; None for others.
        row_bytes: Bytes of one stored row, all fields included; of a mean row where they are unequal.
        chunk_rows: How many neighbouring rows are stored together; None for contiguous data.
    """

    length: int
    row_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    ragged: np.dtype[Any] | None
    row_bytes: int
    chunk_rows: int | None

    def kind(self) -> tuple[Any, ...]:
        """What must be the same in all files that are read as one, and after a file was replaced."""
        return self.row_shape, self.dtype, self.ragged

    def described(self) -> str:
        """Dtype and shape in words."""
        if self.ragged is not None:
            return f"{self.length} ragged rows of {self.ragged}"
        return f"{self.dtype} of shape {(self.length, *self.row_shape)}"


def stored_dataset(dataset: h5py.Dataset, field: str | None) -> StoredRows:
    """Describe a data set.

    Raises:
        ValueError: It has no such field.
    """
    record = dataset.dtype
    dtype = record if field is None else _field_dtype(dataset, field)
    values, inner = base_and_axes(dtype)
    ragged = ragged_values(values)
    chunks = dataset.chunks
    return StoredRows(
        length=len(dataset),
        row_shape=(*dataset.shape[1:], *inner),
        dtype=values if ragged is None else np.dtype(object),
        ragged=ragged,
        row_bytes=record.itemsize * math.prod(dataset.shape[1:]),
        chunk_rows=chunks[0] if chunks else None,
    )


def stored_group(file: h5py.File, names: list[str], shown: str) -> StoredRows:
    """Describe data sets that are one row each: rows of equal shapes are stacked, unequal ones are ragged.

    Raises:
        ValueError: Their dtypes differ, or they hold text or records.
    """
    shapes: set[tuple[int, ...]] = set()
    dtype: np.dtype[Any] | None = None
    values = 0
    for name in names:
        row = file[name]
        own = row.dtype
        if dtype is not None and own != dtype:
            raise ValueError(
                f"the data sets of {shown!r} that are one row each must have one dtype: {names[0]!r} holds {dtype}, "
                f"{name!r} holds {own}"
            )
        dtype = own
        shapes.add(row.shape)
        values += math.prod(row.shape)
    assert dtype is not None
    base, inner = base_and_axes(dtype)
    ragged = base if len(shapes) > 1 else None
    return StoredRows(
        length=len(names),
        row_shape=() if ragged is not None else (*shapes.pop(), *inner),
        dtype=base if ragged is None else np.dtype(object),
        ragged=ragged,
        row_bytes=dtype.itemsize * values // len(names),
        chunk_rows=None,
    )


def base_and_axes(dtype: np.dtype[Any]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """An array type, as PyTables writes, as the dtype of its values and the axes that it adds to each row."""
    if dtype.subdtype is None:
        return dtype, ()
    return dtype.subdtype[0], tuple(dtype.subdtype[1])


def ragged_values(dtype: np.dtype[Any]) -> np.dtype[Any] | None:
    """The dtype of the values of rows of varying length; None for text and everything else."""
    found = _lazy.h5py.check_vlen_dtype(dtype)
    if found is None or found in (str, bytes):
        return None
    values: np.dtype[Any] = np.dtype(found)
    return values


def lies_as_in_memory(dataset: h5py.Dataset) -> bool:
    """Whether the bytes in the file are those that NumPy has for this dtype, so that HDF5 need not convert them.

    The type in the file may have padding, another order of real and imaginary parts, or fewer significant bits.
    """
    dtype = dataset.dtype
    base, _ = base_and_axes(dtype)
    if dtype.hasobject or base.kind not in "biufcV" or dtype.itemsize == 0:
        return False
    return bool(_lazy.h5py.h5t.py_create(dtype, logical=True) == dataset.id.get_type())


def _field_dtype(dataset: h5py.Dataset, field: str) -> np.dtype[Any]:
    fields = dataset.dtype.names
    where = f"{dataset.name!r} in {dataset.file.filename!r}"
    if fields is None:
        raise ValueError(f"field must be None for dataset {where}, which holds {dataset.dtype} and no fields")
    if field not in fields:
        raise ValueError(f"field must be one of {list(fields)}, the fields of dataset {where}; got {field!r}")
    dtype: np.dtype[Any] = dataset.dtype[field]
    return dtype
