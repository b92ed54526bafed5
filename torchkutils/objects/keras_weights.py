"""Keras's files of weights (`.weights.h5` of Keras 3, `.h5` of Keras 2 and 3) as tensors for a torch model.

Keras and torch share no names, so layers are matched in order, kind by kind: the second Dense is the second Linear.
Shapes decide nothing, they are checked afterwards; the change of layout belongs to the kind and is always applied.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from torchkutils import _lazy
from torchkutils.objects.budget import parse_json
from torchkutils.objects.stored_file import checked_group, is_keras_root, linked

__all__ = ["is_keras_file", "keras_tensors"]

Array = npt.NDArray[Any]
_OBJECTS_AT_MOST = 20_000
_DEPTH_AT_MOST = 20
_NOT_WEIGHTS = ("seed_generator", "optimizer", "metrics", "optimizer_weights", "top_level_model_weights")


class _Layer(NamedTuple):
    """One Keras layer that has weights."""

    name: str
    kind: str
    arrays: list[Array]


class _Unit(NamedTuple):
    """What one Keras layer fills: a module, of a recurrent one with several layers one of them."""

    prefix: str
    module: nn.Module
    layer: int


def is_keras_file(path: str) -> bool:
    """Whether an HDF5 file is one of Keras's."""
    with _lazy.h5py.File(path, "r", locking=False) as file:
        return is_keras_root(checked_group(_lazy.h5py.h5g.open(file.id, b"/"), "/"))


def keras_tensors(path: str, model: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors for a model's state dict out of a Keras file.

    Raises:
        ValueError: A layer or module is of a kind that has no counterpart, or there are more of one kind in the file
            than in the model, or fewer.
    """
    with _lazy.h5py.File(path, "r", locking=False) as file:
        layers = _Reading(file, os.path.getsize(path)).layers()  # noqa: PTH202
    by_kind: dict[str, list[_Layer]] = defaultdict(list)
    for layer in layers:
        by_kind[layer.kind].append(layer)
    units = _units(model)
    unknown = sorted(set(by_kind) - set(_KINDS))
    if unknown:
        raise ValueError(f"its layers of kind {unknown[:5]} have no counterpart in torch.nn; {_WAY}")
    for kind in {**units, **by_kind}:
        if len(units[kind]) != len(by_kind[kind]):
            raise ValueError(
                f"it holds {len(by_kind[kind])} layers of kind {kind!r}, the model has {len(units[kind])}; {_WAY}"
            )
    tensors: dict[str, torch.Tensor] = {}
    for kind, found in by_kind.items():
        for layer, unit in zip(found, units[kind], strict=True):
            for name, array in _KINDS[kind](layer, unit).items():
                tensors[unit.prefix + name] = torch.from_numpy(np.ascontiguousarray(array).copy())
    # Keras does not count the batches that a BatchNorm has seen: the model keeps its own numbers.
    counts = {key: value for key, value in model.state_dict().items() if key.endswith("num_batches_tracked")}
    return tensors | counts


_WAY = "build the model with the same layers in the same order"


# -- the model ---------------------------------------------------------------------------------------------------------

_CLASSES: dict[type[nn.Module], str] = {
    nn.Linear: "dense", nn.Embedding: "embedding", nn.PReLU: "p_re_lu", nn.LayerNorm: "layer_normalization",
    nn.GroupNorm: "group_normalization", nn.Conv1d: "conv1d", nn.Conv2d: "conv2d", nn.Conv3d: "conv3d",
    nn.ConvTranspose1d: "conv1d_transpose", nn.ConvTranspose2d: "conv2d_transpose",
    nn.ConvTranspose3d: "conv3d_transpose", nn.BatchNorm1d: "batch_normalization",
    nn.BatchNorm2d: "batch_normalization", nn.BatchNorm3d: "batch_normalization", nn.LSTM: "lstm", nn.GRU: "gru",
    nn.RNN: "simple_rnn",
}  # fmt: skip


def _units(model: nn.Module) -> dict[str, list[_Unit]]:
    """The modules of a model that hold tensors, by Keras's kind, in order.

    Raises:
        ValueError: A module with tensors has no counterpart in Keras.
    """
    found: dict[str, list[_Unit]] = defaultdict(list)
    for path, module in model.named_modules():
        if not [*module.parameters(recurse=False), *module.buffers(recurse=False)]:
            continue
        kind = _kind_of(module)
        if kind is None:
            raise ValueError(f"the model's module {path or 'itself'} is a {type(module).__name__}, no kind of Keras's")
        prefix = f"{path}." if path else ""
        layers = module.num_layers if isinstance(module, nn.RNNBase) else 1
        found[kind] += [_Unit(prefix, module, layer) for layer in range(layers)]
    return found


def _kind_of(module: nn.Module) -> str | None:
    """What Keras calls a module of this class and these settings; None where it has no such layer."""
    kind = _CLASSES.get(type(module))
    if isinstance(module, nn.RNNBase) and module.bidirectional:
        return f"bidirectional {kind}"
    if isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1:
        return "depthwise_conv2d"
    return kind


# -- the file ----------------------------------------------------------------------------------------------------------


class _Reading:
    """Walks a Keras file without trusting its links, sizes or types."""

    def __init__(self, file: Any, size: int) -> None:
        self._root = checked_group(_lazy.h5py.h5g.open(file.id, b"/"), "/")
        self._objects_left, self._bytes_left = _OBJECTS_AT_MOST, size

    def layers(self) -> list[_Layer]:
        """The layers with weights, in the order of the model as far as the file tells it."""
        links = self._root.links
        if links.exists(b"model_weights") or _lazy.h5py.h5a.exists(self._root, b"layer_names"):
            root = self._root
            if links.exists(b"model_weights"):
                root = checked_group(self._group(self._root, b"model_weights"), "model_weights")
            return self._named_layers(root)
        found: list[_Layer] = []
        self._collect(self._group(self._root, b"layers"), "layers", found)
        containers: dict[str, set[str]] = defaultdict(set)
        for layer in found:
            containers[layer.kind].add(layer.name.rpartition("/")[0])
        mixed = [kind for kind, found_in in containers.items() if len(found_in) > 1]
        if mixed:
            raise ValueError(
                f"its layers of kind {mixed[:5]} are in several nested models, and the file does not tell their "
                "order; save it as .h5 from Keras, which keeps the order"
            )
        return found

    def _group(self, parent: Any, name: bytes) -> Any:
        group = linked(parent, name, name.decode(errors="replace"))
        if not isinstance(group, _lazy.h5py.h5g.GroupID):
            raise ValueError(f"{name!r} must be a group")
        return checked_group(group, name.decode(errors="replace"))

    def _names(self, group: Any) -> list[bytes]:
        self._objects_left -= group.get_num_objs()
        if self._objects_left < 0:
            raise ValueError(f"it must hold at most {_OBJECTS_AT_MOST} groups and data sets")
        names = [group.get_objname_by_idx(number) for number in range(group.get_num_objs())]
        return sorted(names, key=_numbered)

    def _collect(self, group: Any, path: str, found: list[_Layer]) -> None:
        """The layers below a group of Keras 3: `dense_1/vars/0`, nested models in `layers`."""
        if path.count("/") > _DEPTH_AT_MOST:
            raise ValueError("its groups are nested too deep")
        for name in self._names(group):
            word = name.decode(errors="replace")
            if word in _NOT_WEIGHTS or word == "vars":
                continue
            child = self._group(group, name)
            inner, kind = f"{path}/{word}", re.sub(r"_\d+$", "", word)
            if child.links.exists(b"layers"):
                self._collect(self._group(child, b"layers"), inner, found)
                continue
            if kind == "bidirectional":
                parts = [self._arrays_below(self._group(child, way)) for way in (b"forward_layer", b"backward_layer")]
                inner_kind = _recurrent_kind(parts[0])
                found.append(_Layer(inner, f"bidirectional {inner_kind}", [*parts[0], *parts[1]]))
                continue
            arrays = self._arrays_below(child)
            if arrays:
                found.append(_Layer(inner, kind, arrays))

    def _arrays_below(self, group: Any, depth: int = 0) -> list[Array]:
        found: list[Array] = []
        if depth > _DEPTH_AT_MOST:
            raise ValueError("its groups are nested too deep")
        for name in self._names(group):
            word = name.decode(errors="replace")
            if word in _NOT_WEIGHTS:
                continue
            child = linked(group, name, word)
            if isinstance(child, _lazy.h5py.h5g.GroupID):
                found += self._arrays_below(checked_group(child, word), depth + 1)
            else:
                found.append(self._array(child, word))
        return found

    def _array(self, dataset: Any, name: str) -> Array:
        h5py = _lazy.h5py
        settings = dataset.get_create_plist()
        plain = settings.get_layout() in (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT) and not settings.get_external_count()
        kind = dataset.get_type()
        size = int(np.prod(dataset.shape, dtype=object)) * kind.get_size()
        self._bytes_left -= size
        if not plain or kind.get_class() not in (h5py.h5t.FLOAT, h5py.h5t.INTEGER) or kind.get_size() > 8:
            raise ValueError(f"{name!r} must be plain numbers")
        if self._bytes_left < 0 or dataset.get_storage_size() != size:
            raise ValueError(f"{name!r} claims the shape {dataset.shape}, which the file does not hold")
        array = np.empty(dataset.shape, dataset.dtype)
        if array.size:
            dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
        return array.astype(array.dtype.newbyteorder("="), copy=False)

    def _named_layers(self, root: Any) -> list[_Layer]:
        """The layers of the older format, which lists their names in order."""
        classes = self._classes()
        found = []
        for name in self._texts(root, b"layer_names"):
            group = self._group(root, name.encode())
            weights = self._texts(group, b"weight_names")
            arrays = [self._weight(group, one) for one in weights]
            if arrays:
                last = [one.rpartition("/")[2].partition(":")[0] for one in weights]
                kind = classes.get(name) or _kind_of_names(name, last, arrays)
                if kind == "bidirectional":
                    kind = f"bidirectional {_recurrent_kind(arrays[: len(arrays) // 2])}"
                found.append(_Layer(name, kind, arrays))
        return found

    def _weight(self, group: Any, path: str) -> Array:
        *parents, name = path.split("/")
        for parent in parents:
            group = self._group(group, parent.encode())
        return self._array(linked(group, name.encode(), path), path)

    def _texts(self, group: Any, attribute: bytes) -> list[str]:
        value = self._attribute(group, attribute)
        names = [] if value is None else value.tolist()
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]

    def _attribute(self, group: Any, name: bytes) -> Any:
        h5py = _lazy.h5py
        if not h5py.h5a.exists(group, name):
            return None
        attribute = h5py.h5a.open(group, name)
        count = int(np.prod(attribute.shape, dtype=object))
        self._objects_left -= count
        if attribute.get_type().get_class() != h5py.h5t.STRING or self._objects_left < 0:
            return None
        value = np.empty(attribute.shape, attribute.dtype)
        attribute.read(value)
        return value

    def _classes(self) -> dict[str, str]:
        """The class of each layer by name, where the file says how its model is built."""
        told = self._attribute(self._root, b"model_config")
        if told is None:
            return {}
        text = told[()] if told.shape == () else b""
        config = parse_json(text if isinstance(text, bytes) else str(text).encode(), "its model_config")
        layers = config.get("config", {}).get("layers", []) if isinstance(config, dict) else []
        found = {}
        for layer in layers:
            name = layer.get("config", {}).get("name") if isinstance(layer, dict) else None
            if isinstance(name, str) and isinstance(layer.get("class_name"), str):
                found[name] = _snake(layer["class_name"])
        return found


def _snake(name: str) -> str:
    """`Conv2DTranspose` as Keras writes it in files: conv2d_transpose."""
    text = re.sub(r"\W+", "", name)
    text = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", text)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", text).lower()


def _numbered(name: bytes) -> tuple[Any, ...]:
    word, _, number = name.decode(errors="replace").rpartition("_")
    if number.isdecimal() and word:
        return word, int(number)
    text = name.decode(errors="replace")
    return ("", int(text)) if text.isdecimal() else (text, 0)


def _kind_of_names(name: str, weights: list[str], arrays: list[Array]) -> str:
    """The kind of a layer in a file of weights alone: by Keras's own names, else by the names of its weights."""
    kind = re.sub(r"_\d+$", "", name)
    if kind in _KINDS or kind == "bidirectional":
        return kind
    if "recurrent_kernel" in weights:
        return _recurrent_kind(arrays)
    if "moving_mean" in weights:
        return "batch_normalization"
    told = {"embeddings": "embedding", "depthwise_kernel": "depthwise_conv2d", "alpha": "p_re_lu"}
    if weights and weights[0] in told:
        return told[weights[0]]
    if "kernel" in weights and set(weights) <= {"kernel", "bias"}:
        return {2: "dense", 3: "conv1d", 4: "conv2d", 5: "conv3d"}.get(arrays[0].ndim, kind)
    return kind


def _recurrent_kind(arrays: list[Array]) -> str:
    if len(arrays) < 2 or arrays[1].ndim != 2:
        return "recurrent layer"
    units, columns = arrays[1].shape
    return {1: "simple_rnn", 3: "gru", 4: "lstm"}.get(columns // max(units, 1), "recurrent layer")


# -- kinds -------------------------------------------------------------------------------------------------------------


def _needs(layer: _Layer, counts: tuple[int, ...]) -> list[Array]:
    if len(layer.arrays) not in counts:
        raise ValueError(f"its layer {layer.name!r} must have {counts} weights, got {len(layer.arrays)}")
    return layer.arrays


def _with_bias(layer: _Layer, weight: Array) -> dict[str, Array]:
    return {"weight": weight} | ({"bias": layer.arrays[1]} if len(layer.arrays) > 1 else {})


def _axes(array: Array, layer: _Layer, ndim: int) -> Array:
    if array.ndim != ndim:
        raise ValueError(f"the kernel of its layer {layer.name!r} must have {ndim} axes, got {array.ndim}")
    return array


def _dense(layer: _Layer, unit: _Unit) -> dict[str, Array]:
    return _with_bias(layer, _axes(_needs(layer, (1, 2))[0], layer, 2).T)


def _convolution(spatial: int) -> Callable[[_Layer, _Unit], dict[str, Array]]:
    # (…, in, out) becomes (out, in, …); of transposed ones (…, out, in) becomes (in, out, …): the same axes.
    def convert(layer: _Layer, unit: _Unit) -> dict[str, Array]:
        kernel = _axes(_needs(layer, (1, 2))[0], layer, spatial + 2)
        return _with_bias(layer, kernel.transpose(spatial + 1, spatial, *range(spatial)))

    return convert


def _depthwise(layer: _Layer, unit: _Unit) -> dict[str, Array]:
    kernel = _axes(_needs(layer, (1, 2))[0], layer, 4)
    height, width, channels, multiplier = kernel.shape
    return _with_bias(layer, kernel.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, height, width))


def _batch_norm(layer: _Layer, unit: _Unit) -> dict[str, Array]:
    arrays = _needs(layer, (2, 4))
    names = ("weight", "bias", "running_mean", "running_var")[4 - len(arrays) :]
    return dict(zip(names, arrays, strict=True))


def _norm(layer: _Layer, unit: _Unit) -> dict[str, Array]:
    return dict(zip(("weight", "bias"), _needs(layer, (1, 2)), strict=False))


def _single(reshape: bool) -> Callable[[_Layer, _Unit], dict[str, Array]]:
    return lambda layer, unit: {"weight": _needs(layer, (1,))[0].reshape(-1 if reshape else layer.arrays[0].shape)}


def _recurrent(gates: tuple[int, ...]) -> Callable[[_Layer, _Unit], dict[str, Array]]:
    """LSTM, GRU or SimpleRNN; `gates` is where Keras has the gates that torch has in order."""

    def convert(layer: _Layer, unit: _Unit) -> dict[str, Array]:
        ways = [layer.arrays]
        if layer.kind.startswith("bidirectional"):
            half = len(layer.arrays) // 2
            ways = [layer.arrays[:half], layer.arrays[half:]]
        found: dict[str, Array] = {}
        for arrays, suffix in zip(ways, (f"l{unit.layer}", f"l{unit.layer}_reverse"), strict=False):
            found |= _one_way(layer, arrays, suffix, gates)
        return found

    return convert


def _one_way(layer: _Layer, arrays: list[Array], suffix: str, gates: tuple[int, ...]) -> dict[str, Array]:
    if len(arrays) not in (2, 3) or any(one.shape[-1] % len(gates) for one in arrays):
        raise ValueError(f"its layer {layer.name!r} must have a kernel, a recurrent kernel and a bias")

    def ordered(array: Array) -> Array:
        parts = np.split(array, len(gates), axis=-1)
        return np.concatenate([parts[gate] for gate in gates], axis=-1)

    found = {f"weight_ih_{suffix}": ordered(arrays[0]).T, f"weight_hh_{suffix}": ordered(arrays[1]).T}
    if len(arrays) == 3:
        bias = arrays[2]
        if len(gates) == 3 and bias.ndim != 2:
            raise ValueError(f"its layer {layer.name!r} is a GRU with reset_after=False, which torch does not have")
        inner, recurrent = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        found |= {f"bias_ih_{suffix}": ordered(inner), f"bias_hh_{suffix}": ordered(recurrent)}
    return found


_RECURRENT = {"lstm": _recurrent((0, 1, 2, 3)), "gru": _recurrent((1, 0, 2)), "simple_rnn": _recurrent((0,))}
_KINDS: dict[str, Callable[[_Layer, _Unit], dict[str, Array]]] = {
    "dense": _dense,
    **{f"conv{n}d{end}": _convolution(n) for n in (1, 2, 3) for end in ("", "_transpose")},
    "depthwise_conv2d": _depthwise,
    "batch_normalization": _batch_norm,
    "layer_normalization": _norm,
    "group_normalization": _norm,
    "embedding": _single(reshape=False),
    "p_re_lu": _single(reshape=True),
    **_RECURRENT,
    **{f"bidirectional {name}": convert for name, convert in _RECURRENT.items()},
}
