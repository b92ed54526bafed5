"""The HDF5 layout of a model file, read as the data of a stranger; docs/file-format.md describes it.

HDF5 only says where the bytes lie: each data set is checked once, then its values are read from its offset in the file
straight into a tensor, or mapped. `file_writer` writes the layout.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import mmap
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchkutils import _lazy
from torchkutils._call_hints import explained
from torchkutils._typing import PathLike
from torchkutils.objects.budget import Budget, parse_json, size_limit
from torchkutils.objects.other_files import is_hdf5, kind_of_file
from torchkutils.objects.tensors import StoredTensor, dtype_name, empty_tensor, numpy_dtype, stored_dtype

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "ModelFile",
    "check_ending",
    "checked_group",
    "checked_path",
    "errors_with_path",
    "is_keras_root",
    "linked",
    "opened_model_file",
]

FORMAT = "torchkutils"
FORMAT_VERSION = 2
_AT_ONCE = 1 << 30  # no system call moves more than 2 GiB


def checked_path(path: PathLike) -> str:
    """The path as text.

    Raises:
        TypeError: It is no path.
        ValueError: It is a URL.
    """
    try:
        name = os.fspath(path)
    except TypeError:
        raise TypeError(f"path must be text or an os.PathLike, got {explained(path, 'model')}") from None
    if not isinstance(name, str):
        raise TypeError(f"path must be text or an os.PathLike, got {path!r}")
    if "://" in name:
        raise ValueError(f"path must be local, got the URL {name[:100]}; save to a local file and copy it, with fsspec")
    return name


_OTHER_ENDINGS = {
    **dict.fromkeys((".pt", ".pth"), "torch.load reads such files; write .h5"),
    **dict.fromkeys((".pkl", ".pickle"), "pickle is neither written nor read; write .h5"),
    ".keras": "Keras reads such files, which hold no model of torch; write .h5",
    ".onnx": "torch.onnx.export writes such files; write .h5",
    ".npz": "numpy.savez writes such files; write .h5",
    ".safetensors": "a model does not fit into that format: save_weights writes it, or write .h5",
}


def check_ending(path: PathLike, *, also: tuple[str, ...] = ()) -> str:
    """The path as text, of a file that is about to be written as HDF5, or in a format `also`.

    Raises:
        TypeError: It is no path.
        ValueError: It is a URL, or ends as files of another format do, which their programs could not read.
    """
    name = checked_path(path)
    ending = pathlib.PurePath(name).suffix.lower()
    if ending in _OTHER_ENDINGS and ending not in also:
        raise ValueError(f"path must not end in {ending}, got {name!r}: HDF5 is written, and {_OTHER_ENDINGS[ending]}")
    return name


@contextlib.contextmanager
def opened_model_file(path: PathLike, *, mapped: bool = False) -> Iterator[ModelFile]:
    """Open a model file for reading.

    Args:
        path: The file.
        mapped: Whether tensors are private maps of the file instead of copies.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It is no HDF5 file, or a damaged one.
        ValueError: It is no model file of torchkutils, one of a newer version, or one that breaks the layout's rules.
    """
    name = checked_path(path)
    with errors_with_path(name):
        if not is_hdf5(name):
            kind = kind_of_file(name)
            raise ValueError(f"{name} is {kind}, no model file of torchkutils; {_WAYS.get(kind, _WAY)}")
        with _lazy.h5py.File(name, "r", locking=False) as file:
            yield ModelFile(file, name, mapped=mapped)


_WAY = "use a file written by save_model or save_weights"
_WAYS = {
    "a safetensors file": "it holds weights alone; build the model and use load_weights",
    "a torch checkpoint": "it holds weights alone; build the model and use load_weights",
}


@contextlib.contextmanager
def errors_with_path(name: str) -> Iterator[None]:
    """Let every error be a ValueError or OSError that names the file."""
    try:
        yield
    except (ValueError, OSError) as error:
        if name in str(error):
            raise
        raise type_of_error(error)(f"{name}: {error}") from error
    except (RuntimeError, LookupError, TypeError, AttributeError, ArithmeticError, MemoryError) as error:
        raise ValueError(f"{name} is damaged or no model file: {error or type(error).__name__}") from error


def type_of_error(error: Exception) -> type[Exception]:
    """The class to raise anew with a longer message: subclasses may take other arguments."""
    return OSError if isinstance(error, OSError) else ValueError


class ModelFile:
    """An open model file: documents are checked against their digests, tensors against the file's own size."""

    def __init__(self, file: Any, name: str, *, mapped: bool = False) -> None:
        self._root = checked_group(_lazy.h5py.h5g.open(file.id, b"/"), "/")
        self._size = os.path.getsize(name)  # noqa: PTH202
        self._handle = _handle_of(file)
        self._mapped = mapped and self._handle is not None
        self._map: mmap.mmap | None = None
        self._groups: dict[str, Any] = {}
        self._offsets: dict[str, tuple[int | None, tuple[int, ...]]] = {}
        self._packs: dict[str, npt.NDArray[Any]] = {}
        self._check_format(name)
        self.index: Any = self._document("index")
        if not isinstance(self.index, dict) or not isinstance(self.index.get("tensors"), list):
            raise ValueError("its index is malformed")
        listed = [StoredTensor.from_json(entry) for entry in self.index["tensors"]]
        self.tensors: dict[str, StoredTensor] = {one.name: one for one in listed}
        if len(self.tensors) < len(listed):
            raise ValueError("its index names a tensor twice")
        self.nbytes: int = sum(one.nbytes for one in listed)
        if self.nbytes > self._size:
            raise ValueError(
                f"its index promises {self.nbytes} bytes of tensors, the file has {self._size} bytes in all"
            )
        self.names: dict[str, str] = self._named()
        self.budget: Budget = Budget(len(listed), len(self.names), self.nbytes)

    def _named(self) -> dict[str, str]:
        names = self.index.get("names", {})
        if not isinstance(names, dict) or not all(isinstance(source, str) for source in names.values()):
            raise ValueError("its index must give each key the name of a tensor")
        return names

    def _check_format(self, name: str) -> None:
        if self._attribute("format") != FORMAT.encode():
            kind = "no model file of torchkutils"
            if is_keras_root(self._root):
                kind = "a Keras model file, which load_weights reads into a model"
            raise ValueError(f"{name} is {kind}; {_WAY}")
        version = self._attribute("format_version")
        if not isinstance(version, (int, np.integer)) or not 1 <= version <= FORMAT_VERSION:
            raise ValueError(
                f"{name} has format version {version}, this torchkutils reads up to {FORMAT_VERSION}; "
                "install a newer torchkutils"
            )

    def _attribute(self, name: str) -> Any:
        h5py = _lazy.h5py
        if not h5py.h5a.exists(self._root, name.encode()):
            return None
        attribute = h5py.h5a.open(self._root, name.encode())
        kind = attribute.get_type()
        plain = kind.get_class() in (h5py.h5t.STRING, h5py.h5t.INTEGER) and kind.get_size() <= 256
        if not plain or attribute.shape != () or attribute.dtype.kind not in "Siu":
            raise ValueError(f"its attribute {name!r} must be short text or an integer")
        value = np.empty((), attribute.dtype)
        attribute.read(value)
        return value[()]

    def document(self, name: str) -> Any:
        """A JSON document, None when the file has none of that name."""
        if not self._root.links.exists(name.encode()):
            return None
        return self._document(name)

    def _document(self, name: str) -> Any:
        room = max(self._size - size_limit("document", 0), 0)
        dataset = self._dataset(name, np.dtype(np.uint8), None)
        size = math.prod(dataset.shape)
        if len(dataset.shape) != 1 or size > size_limit(name, room):
            limit = size_limit(name, room)
            raise ValueError(f"its {name} must be at most {limit} bytes of JSON, got shape {dataset.shape}")
        data = np.empty(size, np.uint8)
        if size:
            dataset.read(_lazy.h5py.h5s.ALL, _lazy.h5py.h5s.ALL, data)
        if self._attribute(f"{name}_sha256") != hashlib.sha256(data.tobytes()).hexdigest().encode():
            raise ValueError(f"its {name} does not match its digest: the file is damaged")
        return parse_json(data.tobytes(), f"its {name}", room, bounded_integers=name == "architecture")

    def _group_of(self, path: str) -> tuple[Any, bytes]:
        """The group that holds a data set, and the name of the data set in it."""
        parent, _, last = path.rpartition("/")
        if parent and parent not in self._groups:
            if "/" in parent:
                raise ValueError(f"{path!r} must be a data set inside a group")
            group = linked(self._root, parent.encode(), path)
            if not isinstance(group, _lazy.h5py.h5g.GroupID):
                raise ValueError(f"{path!r} must be a data set inside a group")
            self._groups[parent] = checked_group(group, parent)
        return self._groups[parent] if parent else self._root, last.encode()

    def _dataset(self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> Any:
        """A data set that lies in this very file, plain, and is no larger than what the file holds."""
        group, raw = self._group_of(path)
        dataset = linked(group, raw, path)
        layout = _plain_layout(dataset, path)
        extent = dataset.shape
        if not _has_type(dataset, dtype) or (shape is not None and extent != shape):
            raise ValueError(f"{path!r} must hold {dtype} of shape {shape}, got another type or shape: {extent}")
        claimed = math.prod(extent) * dtype.itemsize
        if not claimed:
            return dataset
        if dataset.get_storage_size() != claimed:
            raise ValueError(f"{path!r} claims the shape {extent}, which the file does not hold")
        if layout == _lazy.h5py.h5d.CONTIGUOUS and not self._reaches(dataset.get_offset(), claimed):
            raise ValueError(f"{path!r} reaches past the end of the file")
        return dataset

    def _reaches(self, offset: int | None, count: int) -> bool:
        """Whether the file holds so many bytes from there on."""
        return offset is not None and offset + count <= self._size

    # -- tensors ------------------------------------------------------------------------------------------------------

    def stored(self, name: Any) -> StoredTensor:
        """The entry of the index for a tensor.

        Raises:
            ValueError: There is none.
        """
        found = self.tensors.get(name) if isinstance(name, str) else None
        if found is None:
            raise ValueError(f"it refers to a tensor {str(name)[:60]!r} that it does not hold")
        return found

    def check(self, name: str) -> int | None:
        """Check a tensor's data set, once; gives the offset of its first byte, None where only HDF5 can read it.

        Raises:
            ValueError: The data set is not what the index says.
        """
        stored = self.stored(name)
        if stored.dataset not in self._offsets:
            shape = stored.shape if stored.offset is None else None
            dataset = self._dataset(stored.dataset, numpy_dtype(stored.dtype), shape)
            if stored.offset is not None and len(dataset.shape) != 1:
                raise ValueError(f"{stored.dataset!r} must have one axis, got {dataset.shape}")
            self._offsets[stored.dataset] = dataset.get_offset(), dataset.shape
        offset, extent = self._offsets[stored.dataset]
        if stored.offset is None:
            if extent != stored.shape:
                raise ValueError(f"{stored.dataset!r} must have shape {stored.shape}, got {extent}")
            return offset
        if not stored.dataset.endswith(f"/{dtype_name(stored.dtype)}"):
            raise ValueError(f"{stored.dataset!r} must hold {stored.dtype}")
        if stored.offset + math.prod(stored.shape) > extent[0]:
            raise ValueError(f"the tensor {name[:60]!r} reaches past the end of {stored.dataset!r}")
        return None if offset is None else offset + stored.offset * stored.dtype.itemsize

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the index, in memory of its own, or a private map of the file.

        Raises:
            ValueError: The index has no such tensor, or its data set is not what the index says.
        """
        stored, start = self.stored(name), self.check(name)
        if self._mapped and start is not None and stored.nbytes:
            return self._view(self._whole_map(), stored, start)
        if stored.dataset in self._packs and stored.nbytes:
            return self._view(self._packs[stored.dataset], stored, (stored.offset or 0) * stored.dtype.itemsize)
        tensor, target = empty_tensor(stored.shape, stored.dtype)
        self.read_into(name, target)
        return tensor

    def read_into(self, name: str, target: npt.NDArray[Any], first: int = 0) -> None:
        """Fill an array with values of a tensor, as they are stored, from its element `first` on."""
        if not target.size:
            return
        stored, start = self.stored(name), self.check(name)
        if self._handle is not None and start is not None:
            read_at(self._handle, target, start + first * stored.dtype.itemsize)
            return
        dataset = self._dataset(stored.dataset, numpy_dtype(stored.dtype), None)
        whole = np.empty(dataset.shape, numpy_dtype(stored.dtype))
        dataset.read(_lazy.h5py.h5s.ALL, _lazy.h5py.h5s.ALL, whole)
        begin = (stored.offset or 0) + first
        target.reshape(-1)[...] = whole.reshape(-1)[begin : begin + target.size]

    def read_packed(self) -> None:
        """Read the data sets that many small tensors share, each at once; the tensors become views of them."""
        for stored in self.tensors.values():
            if stored.offset is None or stored.dataset in self._packs or self._mapped or self._handle is None:
                continue
            self.check(stored.name)
            offset, extent = self._offsets[stored.dataset]
            if offset is not None:
                pack = np.empty(extent, numpy_dtype(stored.dtype))
                read_at(self._handle, pack, offset)
                self._packs[stored.dataset] = pack

    def _view(self, memory: Any, stored: StoredTensor, start: int) -> torch.Tensor:
        # Each tensor has a storage and a version counter of its own, over one piece of memory that they keep alive.
        flat = torch.frombuffer(memory, dtype=stored_dtype(stored.dtype), count=math.prod(stored.shape), offset=start)
        typed = flat if flat.dtype == stored.dtype else flat.view(stored.dtype)
        return typed if len(stored.shape) == 1 else typed.view(stored.shape)

    def _whole_map(self) -> mmap.mmap:
        if self._map is None:
            assert self._handle is not None
            self._map = mmap.mmap(self._handle, 0, access=mmap.ACCESS_COPY)
        return self._map


def checked_group(group: Any, name: str) -> Any:
    """A group whose links HDF5 can look up without a filter: a filter may make it load a library."""
    h5py = _lazy.h5py
    plist = group.get_create_plist()
    h5py.h5i.inc_ref(plist)
    # The number of filters is a property of every object's creation list; h5py offers it for data sets alone.
    if h5py.h5p.PropDCID(plist.id).get_nfilters():
        raise ValueError(f"the group {name!r} must be stored plainly, without filters")
    return group


def linked(group: Any, raw: bytes, path: str) -> Any:
    """The object that a hard link in a group leads to.

    Raises:
        ValueError: There is none, or the link is of another kind.
    """
    h5py = _lazy.h5py
    if not raw or not group.links.exists(raw):
        raise ValueError(f"it holds no data set {path[:100]!r}")
    if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise ValueError(f"{path[:100]!r} must lie in the file itself, not behind a soft or external link")
    return h5py.h5o.open(group, raw)


def is_keras_root(root: Any) -> bool:
    """Whether the root group of an HDF5 file has what Keras writes there, Keras 2 or Keras 3."""
    attributes = (b"keras_version", b"model_config", b"layer_names")
    if any(_lazy.h5py.h5a.exists(root, name) for name in attributes) or root.links.exists(b"model_weights"):
        return True
    return bool(root.links.exists(b"layers") and root.links.exists(b"vars"))


def _plain_layout(dataset: Any, path: str) -> int:
    """How the bytes of a data set are laid out: in one piece, or inside its header.

    Raises:
        ValueError: It is no data set, or its bytes are chunked, virtual or in another file.
    """
    h5d = _lazy.h5py.h5d
    if not isinstance(dataset, h5d.DatasetID):
        raise ValueError(f"{path!r} must be a data set")
    settings = dataset.get_create_plist()
    layout = int(settings.get_layout())
    if layout not in (h5d.CONTIGUOUS, h5d.COMPACT) or settings.get_external_count():
        raise ValueError(f"{path!r} must be stored plainly, not in chunks, virtually or in another file")
    return layout


def _has_type(dataset: Any, dtype: np.dtype[Any]) -> bool:
    """Whether the stored type is exactly the one of a dtype; a nested type is told by its class, never taken apart."""
    found, wanted = dataset.get_type(), _lazy.h5py.h5t.py_create(dtype, logical=True)
    same_kind = found.get_class() == wanted.get_class() and found.get_size() == wanted.get_size()
    return bool(same_kind and found == wanted)


def _handle_of(file: Any) -> int | None:
    """The descriptor through which HDF5 reads the file, where the system can read at an offset."""
    if not hasattr(os, "preadv"):
        return None
    try:
        return int(file.id.get_vfd_handle())
    except (NotImplementedError, RuntimeError, ValueError, TypeError):
        return None


def read_at(handle: int, target: npt.NDArray[Any], offset: int) -> None:
    """Fill an array with the bytes of a file from an offset on.

    Raises:
        OSError: The file ends before.
    """
    # Not every dtype has a buffer of its own: bytes have.
    memory: Any = memoryview(target.reshape(-1).view(np.uint8).data)
    while memory.nbytes:
        count = os.preadv(handle, [memory[:_AT_ONCE]], offset)
        if not count:
            raise OSError("the file ends inside a tensor; it is being changed or damaged")
        memory, offset = memory[count:], offset + count
