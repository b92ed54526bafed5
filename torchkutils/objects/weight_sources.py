"""Files of weights that others wrote, each as names, shapes and a way to read a tensor."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Set
from typing import Any, NamedTuple

import torch
from torch import nn

from torchkutils.objects.keras_weights import is_keras_file, keras_tensors
from torchkutils.objects.safetensors_file import read_safetensors_header, read_safetensors_tensor

__all__ = ["WeightSource", "foreign_source"]

# Where training libraries put a model's state dict in their checkpoints.
_NESTED = ("state_dict", "model_state_dict", "model")


class WeightSource(NamedTuple):
    """A file of weights, whatever its format.

    Attributes:
        shapes: The shape of each tensor, by key.
        read: Gives a tensor.
        check: Looks whether the file holds a tensor as it says; nothing is read.
        read_into: Fills a tensor; False where that cannot be done without a copy, and nothing was done.
        extra: Gives the extra state, by key.
        extra_keys: The keys of the extra state.
    """

    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], torch.Tensor]
    check: Callable[[str], None] = lambda key: None
    read_into: Callable[[str, torch.Tensor], bool] = lambda key, target: False
    extra: Callable[[], dict[str, Any]] = dict
    extra_keys: Set[str] = frozenset()


def foreign_source(path: str, kind: str, model: nn.Module) -> WeightSource | None:
    """The source of a file that is none of torchkutils; None for HDF5 that may be one.

    Raises:
        ValueError: The format holds no weights that can be read; it is named.
    """
    if kind == "HDF5":
        return _of_tensors(keras_tensors(path, model)) if is_keras_file(path) else None
    if kind == "a safetensors file":
        header = read_safetensors_header(path)
        return WeightSource(
            shapes={name: shape for name, (_, shape, _) in header.items()},
            read=lambda name: read_safetensors_tensor(path, *header[name]),
        )
    if kind == "a torch checkpoint":
        return _of_tensors(_checkpoint(path))
    ways = {
        "a Keras 3 archive": "unzip it and give its model.weights.h5",
        "a pickle": "a pickle runs code when it is read; torch.save(model.state_dict(), path) writes what can be read",
    }
    way = ways.get(kind, "load_weights reads files of save_model and save_weights, .safetensors, .pt and Keras's .h5")
    raise ValueError(f"it is {kind}, which holds no weights that can be read; {way}")


def _of_tensors(tensors: dict[str, torch.Tensor]) -> WeightSource:
    return WeightSource({name: tuple(one.shape) for name, one in tensors.items()}, tensors.__getitem__)


def _state_dict_in(held: Any) -> Any:
    """What lies under one of the names that trainers give a state dict in their checkpoints; else all."""
    for key in _NESTED:
        if isinstance(held, Mapping) and isinstance(held.get(key), Mapping):
            return held[key]
    return held


def _checkpoint(path: str) -> dict[str, torch.Tensor]:
    """The state dict in a file of `torch.save`.

    Raises:
        ValueError: It holds anything but tensors and plain values, or no state dict.
    """
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it is a torch checkpoint that holds more than tensors and plain values (a whole model?), which only code "
            "could restore; torch.save(model.state_dict(), path) writes what can be read"
        ) from error
    held = _state_dict_in(held)
    if not isinstance(held, Mapping) or not held:
        raise ValueError(f"it is a torch checkpoint that holds a {type(held).__name__}, not a state dict")
    tensors = {key: value for key, value in held.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if len(tensors) < len(held):
        other = next(key for key in held if key not in tensors)
        raise ValueError(f"it is a torch checkpoint with an entry {str(other)[:60]!r} that is no tensor")
    return tensors
