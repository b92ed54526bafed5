"""The caller's own values in a model file, and states of schedulers: plain values with small tensors."""

from __future__ import annotations

from typing import Any

import torch

from torchkutils.objects.model_tensors import StateToStore
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.stored_file import ModelFile

__all__ = ["decoded", "metadata_document", "read_document", "state_document"]

_TENSOR_BYTES = 1 << 20


def metadata_document(value: Any, state: StateToStore) -> Any:
    """The metadata as a document; its tensors are added to `state`.

    Raises:
        ValueError: A value has no plain form, or the tensors are larger than 1 MiB together.
    """
    room = _TENSOR_BYTES

    def store(one: Any, where: str) -> Any:
        nonlocal room
        if not isinstance(one, torch.Tensor):
            raise ValueError(f"{where} must be plain, got a {type(one).__name__}")
        room -= one.numel() * one.element_size()
        if room < 0:
            raise ValueError(
                f"the tensors in metadata must take at most 1 MiB together, got more at {where}; "
                "save_weights({'name': tensor}, other_path) stores large ones"
            )
        return {"__tensor__": state.add(one.detach(), f"metadata:{where}")}

    return encode(value, "metadata", store, loose=True)


def state_document(value: Any, what: str, state: StateToStore) -> Any:
    """The state dict of an optimizer or scheduler as a document; its tensors are added to `state`."""

    def store(one: Any, where: str) -> Any:
        if not isinstance(one, torch.Tensor):
            raise ValueError(f"{where} must be plain, got a {type(one).__name__}")
        return {"__tensor__": state.add(one, where)}

    return encode(value, what, store, loose=True)


def read_document(file: ModelFile, name: str) -> Any:
    """A document of plain values and tensors; None when the file has none of that name."""
    return decoded(file, file.document(name), name)


def decoded(file: ModelFile, document: Any, name: str) -> Any:
    """The value of a document, each tensor read once."""
    tensors: dict[str, torch.Tensor] = {}

    def special(tag: str, body: Any) -> Any:
        if tag != "__tensor__" or not isinstance(body, str):
            raise ValueError(f"unknown value {str(tag)[:60]!r} in its {name}")
        file.budget.mention()
        if body not in tensors:
            tensors[body] = file.read(body)
        return tensors[body]

    return decode(document, special)
