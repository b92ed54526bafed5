"""The HDF5 layout of a model file, written.

HDF5 lays out the file and says where each data set lies; the bytes of the tensors are then written there from the
tensors' own memory. So nothing is copied into HDF5's buffers, and its close has nothing left to write.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchkutils import _lazy
from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.objects.budget import write_json
from torchkutils.objects.stored_file import FORMAT, FORMAT_VERSION, checked_path
from torchkutils.objects.tensors import StoredTensor, array_of, dtype_name, numpy_dtype

__all__ = ["write_model_file"]

# A data set costs about 300 bytes and 50 µs: small tensors of a file with very many of them share one per dtype.
_MANY = 200
_SMALL = 4096
_AT_ONCE = 1 << 30


def write_model_file(path: PathLike, documents: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write documents and tensors, whole or not at all.

    Raises:
        ValueError: A document is beyond what a reader accepts; nothing was written.
        OSError: The file cannot be written; an older one is as it was.
    """
    name = checked_path(path)
    entries = _entries(tensors)
    size = sum(one.nbytes for one in entries)
    index = {**documents["index"], "tensors": [one.as_json() for one in entries]}
    texts = {key: write_json(value, f"the {key}", size) for key, value in {**documents, "index": index}.items()}
    try:
        with replacing(path) as temporary:
            offsets = _lay_out(temporary, entries, texts)
            _write_values(temporary, entries, tensors, offsets)
    except RuntimeError as error:
        # HDF5 reports what fails while it closes a file, a full disk for one, without an errno of its own.
        raise OSError(f"{name} could not be written, what was there is as it was: {error}") from error


def _entries(tensors: Mapping[str, torch.Tensor]) -> list[StoredTensor]:
    small = {name for name, one in tensors.items() if one.numel() * one.element_size() < _SMALL}
    packed = small if len(small) > _MANY else set()
    ends: dict[str, int] = defaultdict(int)
    entries = []
    for number, (name, tensor) in enumerate(tensors.items()):
        dataset, offset = f"tensors/{_quoted(name) or number}", None
        if name in packed:
            dataset = f"packed/{dtype_name(tensor.dtype)}"
            offset = ends[dataset]
            ends[dataset] += tensor.numel()
        entries.append(StoredTensor(name, tensor.dtype, tuple(tensor.shape), dataset, offset))
    return entries


def _quoted(name: str) -> str:
    """The name as one HDF5 link name: no slash, no NUL, not a single dot; "" where HDF5 has no form for it."""
    text = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    if len(text) > 1000 or not text.isprintable():
        return ""
    return "%2E" if text == "." else text


def _lay_out(temporary: Any, entries: list[StoredTensor], texts: Mapping[str, bytes]) -> dict[str, int]:
    """Write everything but the tensors' values; gives the offset of each data set's first byte."""
    h5py = _lazy.h5py
    with h5py.File(
        temporary,
        "w",
        libver=("v110", "v110"),
        locking=False,
        alignment_threshold=1024,
        alignment_interval=4096,
    ) as file:
        file.attrs["format"] = np.bytes_(FORMAT)
        file.attrs["format_version"] = FORMAT_VERSION
        for name, text in texts.items():
            file.attrs[f"{name}_sha256"] = np.bytes_(hashlib.sha256(text).hexdigest())
            file.create_dataset(name, data=np.frombuffer(text, np.uint8), track_times=False)
        extents: dict[str, tuple[torch.dtype, list[int]]] = {}
        for entry in entries:
            if entry.offset is None:
                extents[entry.dataset] = entry.dtype, list(entry.shape)
            else:
                _, extent = extents.setdefault(entry.dataset, (entry.dtype, [0]))
                extent[0] = entry.offset + math.prod(entry.shape)
        return {name: _create(file, name, dtype, extent) for name, (dtype, extent) in extents.items()}


def _create(file: Any, path: str, dtype: torch.dtype, extent: list[int]) -> int:
    """Make a data set whose space is taken at once and not filled."""
    h5py = _lazy.h5py
    group_name, _, name = path.partition("/")
    group = file.require_group(group_name)
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_layout(h5py.h5d.CONTIGUOUS)
    settings.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    settings.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    settings.set_obj_track_times(False)
    kind = h5py.h5t.py_create(numpy_dtype(dtype), logical=True)
    space = h5py.h5s.create_simple(tuple(extent))
    dataset = h5py.h5d.create(group.id, name.encode(), kind, space, settings)
    if group_name == "tensors":
        h5py.Dataset(dataset).attrs["dtype"] = np.bytes_(dtype_name(dtype))
    return int(dataset.get_offset() or 0)


def _write_values(
    temporary: Any, entries: list[StoredTensor], tensors: Mapping[str, torch.Tensor], offsets: Mapping[str, int]
) -> None:
    handle = os.open(temporary, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        packed: dict[str, list[npt.NDArray[Any]]] = defaultdict(list)
        for entry in entries:
            array = array_of(tensors[entry.name])
            if entry.offset is not None:
                packed[entry.dataset].append(array.reshape(-1))
            elif array.size:
                write_at(handle, array, offsets[entry.dataset])
        for dataset, arrays in packed.items():
            write_at(handle, np.concatenate(arrays), offsets[dataset])
    finally:
        os.close(handle)


def write_at(handle: int, array: npt.NDArray[Any], offset: int) -> None:
    """Write an array's bytes into a file from an offset on."""
    memory: Any = memoryview(array.reshape(-1).view(np.uint8).data)
    while memory.nbytes:
        if hasattr(os, "pwrite"):
            count = os.pwrite(handle, memory[:_AT_ONCE], offset)
        else:
            os.lseek(handle, offset, os.SEEK_SET)
            count = os.write(handle, memory[:_AT_ONCE])
        memory, offset = memory[count:], offset + count
