"""The input that a model brings along: Lightning, transformers and timm each have an attribute for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from torchkutils._random_state import random_state_kept
from torchkutils.models.records import Run

# Tensors to call forward with, and configurations with the size of one sample.
_DATA = ("example_input_array", "dummy_inputs")
_CONFIGURATIONS = ("default_cfg", "pretrained_cfg")


def own_examples(model: torch.nn.Module, run: Run) -> tuple[str, list[Run]]:
    """The name of the model's own example, and the runs to try with it on the meta device; none where there is none."""
    with random_state_kept():
        for name in _DATA:
            data = _attribute(model, name)
            if _is_data(data):
                return name, [dataclasses.replace(run, input_data=one, engine="meta") for one in _variants(data)]
        for name in _CONFIGURATIONS:
            size = _sample_size(_attribute(model, name))
            if size is not None:
                return name, [dataclasses.replace(run, input_size=(1, *size), engine="meta")]
    return "", []


def _is_data(value: Any) -> bool:
    if isinstance(value, Mapping):
        return len(value) > 0
    return isinstance(value, torch.Tensor | tuple | list)


def _variants(data: Any) -> list[Any]:
    """The example; and the example without its masks, if it has some: forward often decides by the values of masks."""
    if not isinstance(data, Mapping):
        return [data]
    without_masks = {name: value for name, value in data.items() if "mask" not in str(name)}
    return [data, without_masks] if len(without_masks) < len(data) else [data]


def _attribute(model: torch.nn.Module, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:
        # A property of a user's class that fails: the model has no example.
        return None


def _sample_size(configuration: Any) -> tuple[int, ...] | None:
    if not isinstance(configuration, Mapping):
        return None
    size = configuration.get("input_size")
    if not isinstance(size, Sequence) or set(map(type, size)) != {int}:
        return None
    return tuple(size)
