"""Tensors and the HDF5 data sets that hold them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["StoredTensor", "array_of", "checked_tensor", "dtype_name", "empty_tensor", "numpy_dtype", "stored_dtype"]

DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}
"""Every dtype of torch, by its name in files."""
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StoredTensor(NamedTuple):
    """Where one tensor lies in a file."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    dataset: str
    offset: int | None
    """First element in a packed data set; None when the data set is the tensor's own."""

    @property
    def nbytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def as_json(self) -> dict[str, Any]:
        """The entry of the file's index."""
        entry: dict[str, Any] = {
            "name": self.name,
            "dtype": dtype_name(self.dtype),
            "shape": list(self.shape),
            "dataset": self.dataset,
        }
        if self.offset is not None:
            entry["offset"] = self.offset
        return entry

    @classmethod
    def from_json(cls, entry: Any) -> StoredTensor:
        """Read an entry of the index, checked in type.

        Raises:
            ValueError: The entry is malformed.
        """
        try:
            name, dataset, shape, offset = entry["name"], entry["dataset"], entry["shape"], entry.get("offset")
            if not isinstance(shape, list) or len(shape) > 64:
                raise TypeError("shape")
            if not all(type(size) is int and size >= 0 for size in [*shape, 0 if offset is None else offset]):
                raise TypeError("a size")
            if not isinstance(name, str) or not isinstance(dataset, str):
                raise TypeError("a name")
            return cls(name, DTYPES[entry["dtype"]], tuple(shape), dataset, offset)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"an entry of its index is malformed: {str(entry)[:100]}") from error


@functools.cache
def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in files: torch's own, without `torch.`."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the data set: bfloat16, float8 and complex32 have no NumPy form and are stored as their bits.

    Raises:
        ValueError: The dtype cannot be stored.
    """
    try:
        torch.empty(0, dtype=dtype, device="cpu").numpy()
    except (TypeError, RuntimeError):
        if dtype.itemsize not in _INTEGERS or str(dtype).startswith("torch.q"):
            raise ValueError(f"a tensor of dtype {dtype} cannot be stored; dequantize it first") from None
        return _INTEGERS[dtype.itemsize]
    return dtype


@functools.cache
def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """NumPy's dtype of the data set that holds tensors of a dtype."""
    return np.dtype(torch.empty(0, dtype=stored_dtype(dtype), device="cpu").numpy().dtype)


def array_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """The array that is written for a tensor: its values, or its bits where NumPy lacks the dtype."""
    plain = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    return np.asarray(plain.view(stored_dtype(plain.dtype)).numpy())


def empty_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, npt.NDArray[Any]]:
    """Fresh memory for a stored tensor, and the array through which it is filled."""
    tensor = torch.empty(shape, dtype=dtype, device="cpu")
    return tensor, tensor.view(stored_dtype(dtype)).numpy()


def checked_tensor(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor itself.

    Raises:
        ValueError: It has no values that could be written.
    """
    if torch.nn.parameter.is_lazy(tensor):
        raise ValueError(f"{name} has no shape yet; call the model once before saving it")
    if tensor.is_meta:
        raise ValueError(f"{name} lies on the meta device and has no values; give the model real tensors first")
    if type(tensor) not in _PLAIN_CLASSES and type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise ValueError(
            f"{name} is a {type(tensor).__name__}, whose parts cannot be stored; make it a plain tensor first"
        )
    stored_dtype(tensor.dtype)
    return tensor


_PLAIN_CLASSES = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
