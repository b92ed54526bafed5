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
            if isinstance(data, torch.Tensor | tuple | list) or (isinstance(data, Mapping) and data):
                return name, [dataclasses.replace(run, input_data=one, engine="meta") for one in _variants(data)]
        for name in _CONFIGURATIONS:
            size = _sample_size(_attribute(model, name))
            if size is not None:
                return name, [dataclasses.replace(run, input_size=(1, *size), engine="meta")]
    return "", []


def _variants(data: Any) -> list[Any]:
    """The example, and without its masks, whose values a forward often wants to know."""
    masks = [name for name in data if "mask" in str(name)] if isinstance(data, Mapping) else []
    return [data, {name: value for name, value in data.items() if name not in masks}] if masks else [data]


def _attribute(model: torch.nn.Module, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:
        # A property of the user's that fails: the model has no example.
        return None


def _sample_size(configuration: Any) -> tuple[int, ...] | None:
    size = configuration.get("input_size") if isinstance(configuration, Mapping) else None
    if isinstance(size, Sequence) and len(size) and all(type(length) is int for length in size):
        return tuple(size)
    return None
