"""The safetensors format, written and read as the data of a stranger: a length, a JSON header, then the bytes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torchkutils._whole_file import replacing
from torchkutils.objects.budget import parse_json
from torchkutils.objects.file_writer import write_at
from torchkutils.objects.tensors import array_of, checked_tensor, empty_tensor

__all__ = ["read_safetensors_header", "read_safetensors_tensor", "write_safetensors"]

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "C64": "complex64",
}  # fmt: skip
_NAMES = {getattr(torch, name): short for short, name in _DTYPES.items()}
_HEADER_LIMIT = 100 << 20


def write_safetensors(path: str, tensors: Mapping[str, Any]) -> None:
    """Write tensors in the safetensors format, whole or not at all.

    Raises:
        ValueError: A value is no tensor that the format can hold.
        OSError: The file cannot be written.
    """
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided or tensor.dtype not in _NAMES:
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise ValueError(f"{name} is nothing that a safetensors file can hold: {kind}; save to a path in .h5")
        checked_tensor(tensor, name)
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]
        }  # fmt: skip
        offset += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary:
        handle = os.open(temporary, os.O_RDWR | getattr(os, "O_BINARY", 0))
        try:
            write_at(handle, np.frombuffer(len(text).to_bytes(8, "little") + text, np.uint8), 0)
            for name, tensor in tensors.items():
                array = array_of(tensor)
                if array.size:
                    write_at(handle, array, 8 + len(text) + header[name]["data_offsets"][0])
        finally:
            os.close(handle)


def read_safetensors_header(path: str) -> dict[str, tuple[torch.dtype, tuple[int, ...], int]]:
    """The tensors of a safetensors file: dtype, shape and the offset of the first byte.

    Raises:
        ValueError: The header is malformed, or promises more than the file holds.
    """
    size = os.path.getsize(path)  # noqa: PTH202
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(f"its header claims {length} bytes, the file has {size}")
        # The header may take what its tensors do, as an index may.
        told = parse_json(file.read(length), "its index", max(size - length, 0))
    if not isinstance(told, dict):
        raise ValueError("its header must be a dict")
    told.pop("__metadata__", None)
    found = {name: _entry(name, one, 8 + length, size) for name, one in told.items()}
    if sum(math.prod(shape) * dtype.itemsize for dtype, shape, _ in found.values()) > size:
        raise ValueError("its header names some bytes twice")
    return found


def _entry(name: str, told: Any, base: int, size: int) -> tuple[torch.dtype, tuple[int, ...], int]:
    if not isinstance(told, dict) or told.get("dtype") not in _DTYPES:
        raise ValueError(f"its entry {name[:60]!r} is malformed")
    shape, offsets = _sizes(told.get("shape"), name), _sizes(told.get("data_offsets"), name)
    dtype = getattr(torch, _DTYPES[told["dtype"]])
    count = math.prod(shape) * dtype.itemsize
    if len(offsets) != 2 or offsets[1] - offsets[0] != count or base + offsets[1] > size:
        raise ValueError(f"its entry {name[:60]!r} does not lie in the file")
    return dtype, tuple(shape), base + offsets[0]


def _sizes(numbers: Any, name: str) -> list[int]:
    if not isinstance(numbers, list) or len(numbers) > 64 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"its entry {name[:60]!r} is malformed")
    return numbers


def read_safetensors_tensor(path: str, dtype: torch.dtype, shape: tuple[int, ...], offset: int) -> torch.Tensor:
    """One tensor of a safetensors file."""
    tensor, target = empty_tensor(shape, dtype)
    if target.size:
        with open(path, "rb") as file:
            file.seek(offset)
            memory = memoryview(target.reshape(-1).view(np.uint8).data)
            if file.readinto(memory) != memory.nbytes:
                raise OSError("the file ends inside a tensor; it is being changed or damaged")
    return tensor
