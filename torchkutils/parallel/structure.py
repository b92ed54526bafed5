"""Nested arguments and outputs: taken apart into leaves and put together again."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import torch
from torch.nn.utils.rnn import PackedSequence

Leaf = tuple[str, Any]
Rebuild = Callable[[Iterator[Any]], Any]


class Structure:
    """What is left of nested containers when their leaves are taken out.

    Attributes:
        paths: Where each leaf sits, such as `args[0]['image']`.
        leaves: The leaves in the same order.
    """

    def __init__(self, value: Any, path: str) -> None:
        found: list[Leaf] = []
        self._rebuild = _open(value, path, found)
        self.paths = [where for where, _ in found]
        self.leaves = [leaf for _, leaf in found]

    def filled(self, leaves: list[Any]) -> Any:
        """The same containers around other leaves."""
        return self._rebuild(iter(leaves))


def _open(value: Any, path: str, found: list[Leaf]) -> Rebuild:
    if isinstance(value, PackedSequence):
        raise TypeError(f"{path} is a PackedSequence, which has no batch axis to cut; pack inside the model's forward")
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        make: Any = type(value)
        return _open_items(make._make, value, [f"{path}.{name}" for name in value._fields], found)
    if isinstance(value, (tuple, list)) and not isinstance(value, torch.Size):
        return _open_items(type(value), value, [f"{path}[{place}]" for place in range(len(value))], found)
    if isinstance(value, MutableMapping):
        return _open_mapping(value, path, found)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _open_dataclass(value, path, found)
    found.append((path, value))
    return next


def _open_items(make: Callable[[list[Any]], Any], value: Any, paths: list[str], found: list[Leaf]) -> Rebuild:
    parts = [_open(item, path, found) for item, path in zip(value, paths, strict=True)]
    return lambda leaves: make([part(leaves) for part in parts])


def _open_mapping(value: MutableMapping[Any, Any], path: str, found: list[Leaf]) -> Rebuild:
    parts = {key: _open(item, f"{path}[{key!r}]", found) for key, item in value.items()}

    def rebuild(leaves: Iterator[Any]) -> Any:
        if type(value) is dict:
            return {key: part(leaves) for key, part in parts.items()}
        # A copy keeps what the class holds besides its items: a default factory, the fields of a model output.
        result = copy.copy(value)
        for key, part in parts.items():
            result[key] = part(leaves)
        return result

    return rebuild


def _open_dataclass(value: Any, path: str, found: list[Leaf]) -> Rebuild:
    names = [field.name for field in dataclasses.fields(value) if hasattr(value, field.name)]
    parts = {name: _open(getattr(value, name), f"{path}.{name}", found) for name in names}

    def rebuild(leaves: Iterator[Any]) -> Any:
        result = copy.copy(value)
        for name, part in parts.items():
            object.__setattr__(result, name, part(leaves))
        return result

    return rebuild
