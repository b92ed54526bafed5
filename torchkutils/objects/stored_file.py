"""The HDF5 layout of a model file, written, and read as the data of a stranger; docs/file-format.md describes it."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from torchkutils import _lazy
from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.objects.plain_values import parse_json, write_json
from torchkutils.objects.tensors import StoredTensor, array_of, empty_tensor, stored_dtype

__all__ = ["FORMAT_VERSION", "ModelFile", "open_model_file", "write_model_file"]

FORMAT = "torchkutils"
FORMAT_VERSION = 1
ARCHITECTURE_LIMIT = 1 << 20
DOCUMENT_LIMIT = 1 << 26
DOCUMENTS = ("architecture", "index", "metadata", "optimizer")

# A data set costs about 300 bytes and 50 µs: small tensors of a file with very many of them share one per dtype.
_MANY = 200
_SMALL = 4096


def write_model_file(path: PathLike, documents: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write documents and tensors, whole or not at all."""
    texts = {name: write_json(value) for name, value in documents.items()}
    if len(texts.get("architecture", b"")) > ARCHITECTURE_LIMIT:
        raise ValueError(
            f"the architecture must fit into {ARCHITECTURE_LIMIT} bytes of JSON, got {len(texts['architecture'])}; "
            "register a class that builds the repeated parts"
        )
    places = _places(tensors)
    texts["index"] = write_json({**documents["index"], "tensors": [one.as_json() for one in places]})
    try:
        with (
            replacing(path) as temporary,
            _lazy.h5py.File(temporary, "w", libver=("v110", "v110"), locking=False) as file,
        ):
            file.attrs["format"] = np.bytes_(FORMAT)
            file.attrs["format_version"] = FORMAT_VERSION
            for name, text in texts.items():
                file.attrs[f"{name}_sha256"] = np.bytes_(hashlib.sha256(text).hexdigest())
                file.create_dataset(name, data=np.frombuffer(text, np.uint8), track_times=False)
            _write_tensors(file, places, tensors)
    except RuntimeError as err:
        # HDF5 reports what fails while it closes a file, a full disk for one, without an errno of its own.
        raise OSError(f"{os.fspath(path)} could not be written, what was there is as it was: {err}") from err


def _places(tensors: Mapping[str, torch.Tensor]) -> list[StoredTensor]:
    small = {name for name, one in tensors.items() if one.numel() * one.element_size() < _SMALL}
    packed = small if len(small) > _MANY else set()
    ends: dict[str, int] = defaultdict(int)
    places = []
    for number, (name, tensor) in enumerate(tensors.items()):
        dataset, offset = f"tensors/{_quoted(name) or number}", None
        if name in packed:
            dataset = f"packed/{str(tensor.dtype).removeprefix('torch.')}"
            offset = ends[dataset]
            ends[dataset] += tensor.numel()
        places.append(StoredTensor(name, tensor.dtype, tuple(tensor.shape), dataset, offset))
    return places


def _quoted(name: str) -> str:
    """The name as one HDF5 link name: no slash, no NUL, not a single dot."""
    text = name.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return "%2E" if text == "." else text


def _write_tensors(file: Any, places: list[StoredTensor], tensors: Mapping[str, torch.Tensor]) -> None:
    packed: dict[str, list[StoredTensor]] = defaultdict(list)
    for place in places:
        if place.offset is not None:
            packed[place.dataset].append(place)
            continue
        data = file.create_dataset(place.dataset, data=array_of(tensors[place.name]), track_times=False)
        data.attrs["dtype"] = np.bytes_(str(place.dtype).removeprefix("torch."))
    for dataset, members in packed.items():
        flat = np.concatenate([array_of(tensors[one.name]).reshape(-1) for one in members])
        file.create_dataset(dataset, data=flat, track_times=False)


@contextlib.contextmanager
def open_model_file(path: PathLike) -> Iterator[ModelFile]:
    """Open a model file for reading.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It is no HDF5 file, or a damaged one.
        ValueError: It is no model file of torchkutils, one of a newer version, or one that breaks the layout's rules.
    """
    name = os.fspath(path)
    if not os.path.exists(name):  # noqa: PTH110
        raise FileNotFoundError(f"there is no model file {name}")
    try:
        with _lazy.h5py.File(name, "r", locking=False) as file:
            yield ModelFile(file, name)
    except (ValueError, OSError) as err:
        if name in str(err):
            raise
        raise type(err)(f"{name}: {err}") from err
    except (RuntimeError, KeyError, TypeError, UnicodeError) as err:
        raise ValueError(f"{name} is damaged or no model file: {err}") from err


class ModelFile:
    """An open model file: documents are checked against their digests, tensors against the file's own size."""

    def __init__(self, file: Any, name: str) -> None:
        self._root = _lazy.h5py.h5g.open(file.id, b"/")
        self._size = os.path.getsize(name)  # noqa: PTH202
        self._check_format(name)
        self.index = self._document("index", DOCUMENT_LIMIT)
        if not isinstance(self.index, dict) or not isinstance(self.index.get("tensors"), list):
            raise ValueError("its index is malformed")
        listed = [StoredTensor.from_json(entry) for entry in self.index["tensors"]]
        self.tensors = {one.name: one for one in listed}
        if len(self.tensors) < len(listed):
            raise ValueError("its index names a tensor twice")
        total = sum(one.nbytes for one in listed)
        if total > self._size:
            raise ValueError(f"its index promises {total} bytes of tensors, the file has {self._size} bytes in all")
        self._packed: dict[str, torch.Tensor] = {}

    def _check_format(self, name: str) -> None:
        found = self._attribute("format")
        if found != FORMAT.encode():
            keras = self._root.links.exists(b"model_weights") or any(
                _lazy.h5py.h5a.exists(self._root, one) for one in (b"keras_version", b"model_config", b"layer_names")
            )
            kind = "a Keras model file, which needs Keras to be read" if keras else "no model file of torchkutils"
            raise ValueError(f"{name} is {kind}; use a file written by save_model or save_weights")
        version = self._attribute("format_version")
        if not isinstance(version, (int, np.integer)) or not 1 <= version <= FORMAT_VERSION:
            raise ValueError(
                f"{name} has format version {version}, this torchkutils reads up to {FORMAT_VERSION}; "
                "install a newer torchkutils"
            )

    def _attribute(self, name: str) -> Any:
        h5a = _lazy.h5py.h5a
        if not h5a.exists(self._root, name.encode()):
            return None
        attribute = h5a.open(self._root, name.encode())
        kind = attribute.dtype.kind
        if attribute.shape != () or kind not in "Si" or attribute.dtype.itemsize > 256:
            raise ValueError(f"its attribute {name!r} must be short text or an integer")
        value = np.empty((), attribute.dtype)
        attribute.read(value)
        return value[()]

    def document(self, name: str) -> Any:
        """A JSON document, None when the file has none of that name."""
        if not self._root.links.exists(name.encode()):
            return None
        limit = ARCHITECTURE_LIMIT if name == "architecture" else DOCUMENT_LIMIT
        return self._document(name, limit)

    def _document(self, name: str, limit: int) -> Any:
        dataset = self._dataset(name, np.dtype(np.uint8), None)
        if dataset.ndim != 1 or dataset.size > limit:
            raise ValueError(f"its {name} must be at most {limit} bytes of JSON, got shape {dataset.shape}")
        data = dataset[()].tobytes()
        if self._attribute(f"{name}_sha256") != hashlib.sha256(data).hexdigest().encode():
            raise ValueError(f"its {name} does not match its digest: the file is damaged")
        return parse_json(data, f"its {name}", limit=limit, bounded_integers=name == "architecture")

    def _dataset(self, path: str, dtype: np.dtype[Any], shape: tuple[int, ...] | None) -> Any:
        """A data set that lies in this very file, plain, and is no larger than what the file holds."""
        h5py = _lazy.h5py
        group = self._root
        parts = path.split("/", 1)
        for depth, part in enumerate(parts):
            raw = part.encode()
            if not raw or not group.links.exists(raw):
                raise ValueError(f"it holds no data set {path!r}")
            if group.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
                raise ValueError(f"{path!r} must lie in the file itself, not behind a soft or external link")
            group = h5py.h5o.open(group, raw)
            expected = h5py.h5d.DatasetID if depth == len(parts) - 1 else h5py.h5g.GroupID
            if not isinstance(group, expected):
                raise ValueError(f"{path!r} must be a data set inside a group")
        settings = group.get_create_plist()
        layout = settings.get_layout()
        if layout not in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) or settings.get_external_count():
            raise ValueError(f"{path!r} must be stored plainly, not in chunks, virtually or in another file")
        found, extent = group.dtype, group.shape
        size = math.prod(extent)
        if found != dtype or (shape is not None and extent != shape):
            raise ValueError(f"{path!r} must hold {dtype} of shape {shape}, got {found} of {extent}")
        if size and group.get_storage_size() != size * dtype.itemsize:
            raise ValueError(f"{path!r} claims the shape {extent}, which the file does not hold")
        if layout == h5py.h5d.CONTIGUOUS and size:
            offset = group.get_offset()
            if offset is None or offset + size * dtype.itemsize > self._size:
                raise ValueError(f"{path!r} reaches past the end of the file")
        return h5py.Dataset(group)

    def read(self, name: str) -> torch.Tensor:
        """A tensor of the index, in memory of its own.

        Raises:
            ValueError: The index has no such tensor, or its data set is not what the index says.
        """
        if name not in self.tensors:
            raise ValueError(f"it holds no tensor {name!r}")
        stored = self.tensors[name]
        numpy_dtype = np.dtype(torch.empty(0, dtype=stored_dtype(stored.dtype)).numpy().dtype)
        if stored.offset is not None:
            return self._read_packed(stored, numpy_dtype)
        dataset = self._dataset(stored.dataset, numpy_dtype, stored.shape)
        tensor, target = empty_tensor(stored)
        if target.size:
            dataset.id.read(_lazy.h5py.h5s.ALL, _lazy.h5py.h5s.ALL, target)
        return tensor

    def _read_packed(self, stored: StoredTensor, dtype: np.dtype[Any]) -> torch.Tensor:
        if stored.dataset not in self._packed:
            dataset = self._dataset(stored.dataset, dtype, None)
            if dataset.ndim != 1:
                raise ValueError(f"{stored.dataset!r} must have one axis, got {dataset.shape}")
            whole = StoredTensor("", stored.dtype, dataset.shape, stored.dataset, None)
            tensor, target = empty_tensor(whole)
            if target.size:
                dataset.id.read(_lazy.h5py.h5s.ALL, _lazy.h5py.h5s.ALL, target)
            self._packed[stored.dataset] = tensor
        packed, count = self._packed[stored.dataset], stored.nbytes // stored.dtype.itemsize
        start = stored.offset or 0
        if packed.dtype != stored.dtype or start + count > packed.numel():
            raise ValueError(f"the tensor {stored.name!r} reaches past the end of {stored.dataset!r}")
        return packed[start : start + count].clone().reshape(stored.shape)
