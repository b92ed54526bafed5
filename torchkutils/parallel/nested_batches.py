"""Arguments and outputs of a forward as nested values: `torchkutils._nested`, and objects that hold tensors."""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from torchkutils._nested import DEEPEST, Children, children, of_kind, slots_of


def contents(value: Any, path: str) -> Children | None:
    """What a container holds; None for a leaf. An object of any class that holds tensors is a container too.

    Raises:
        TypeError: A PackedSequence, which has no batch axis.
    """
    # The order in a set differs between processes: it is one value.
    if isinstance(value, Tensor | Set) or value is None:
        return None
    if isinstance(value, PackedSequence):
        raise TypeError(f"{path} is a PackedSequence, which has no batch axis to cut; pack inside the model's forward")
    held = children(value)
    if held is None and is_object_with_tensors(value):
        return children(value, objects=True)
    return held


def check_not_nested(tensor: Tensor, path: str) -> None:
    """Refuse a tensor of torch.nested: it has no shape to cut or join by.

    Raises:
        TypeError: It is one.
    """
    if tensor.is_nested:
        raise TypeError(
            f"{path} is a nested tensor, which cannot be cut and merged; use a padded tensor, or make it in forward "
            "and unbind what forward returns"
        )


def is_object_with_tensors(value: Any) -> bool:
    """Whether a value is an object of a user's class (no container) with tensors among its attributes."""
    has_attributes = hasattr(value, "__dict__") or bool(slots_of(type(value)))
    return has_attributes and children(value) is None and bool(of_kind(Tensor, value, objects=True))


def walk(value: Any, path: str, above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The leaves with the way to each, from left to right; a container inside itself is a leaf."""
    held = contents(value, path) if len(above) < DEEPEST and id(value) not in above else None
    if held is None:
        yield path, value
        return
    inside = (*above, id(value))
    for where, content in zip(held.paths(path), held.values, strict=True):
        yield from walk(content, where, inside)


def holds_tensors(value: Any) -> bool:
    """Whether there is a tensor anywhere inside."""
    return any(isinstance(leaf, Tensor) for _, leaf in walk(value, ""))


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device; anything else as it is."""
    return to_device(value, device) if isinstance(value, Tensor) else value


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device. What comes to the CPU is there when this returns: the caller may read it at once."""
    return tensor.to(device, non_blocking=device.type != "cpu")
