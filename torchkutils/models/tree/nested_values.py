"""Nested values: the tensors inside them, and what they look like as plain records."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from torchkutils.models.records import Collection, OtherValue, TensorValue, Value

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_SCALARS = frozenset([int, float, bool, str, type(None), torch.dtype, torch.device])
_DEEPEST = 20


class Descriptions:
    """Values as plain records; equal tensors share one record, so that a long trace stays small."""

    def __init__(self) -> None:
        self._tensors: dict[tuple[torch.Size, torch.dtype], TensorValue] = {}
        self._single: dict[int, Collection] = {}
        self._scalars: dict[type[Any], OtherValue] = {}

    def of(self, value: Any, depth: int = 0) -> Value:
        """A value as a plain record; what lies too deep, as in a list that holds itself, by the name of its class."""
        kind = type(value)
        if kind in _PLAIN and not value.is_nested:
            key = (value.shape, value.dtype)
            found = self._tensors.get(key)
            if found is None:
                found = self._tensors[key] = TensorValue(tuple(key[0]), str(key[1]).removeprefix("torch."))
            return found
        if kind in _SCALARS:
            return self._scalars.get(kind) or self._scalars.setdefault(kind, OtherValue(kind.__name__))
        if isinstance(value, torch.Tensor):
            return _unusual(value)
        pairs = None if depth > _DEEPEST else _pairs(value)
        if pairs is None:
            return OtherValue(type(value).__name__)
        return Collection(type(value).__name__, tuple([(key, self.of(item, depth + 1)) for key, item in pairs]))

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Collection:
        """The arguments of a call: positional ones by position, keyword ones by name."""
        if len(args) == 1 and not kwargs:
            # `_tensors` keeps the shared records alive, so their identity is a safe key.
            value = self.of(args[0])
            found = self._single.get(id(value))
            if found is None:
                found = Collection("arguments", ((0, value),))
                if type(args[0]) in _PLAIN and value.kind == "tensor":  # type: ignore[union-attr]
                    self._single[id(value)] = found
            return found
        positional: list[tuple[int | str, Value]] = [(position, self.of(value)) for position, value in enumerate(args)]
        named: list[tuple[int | str, Value]] = [(name, self.of(value)) for name, value in kwargs.items()]
        return Collection("arguments", tuple(positional + named))


def _unusual(tensor: torch.Tensor) -> TensorValue:
    kind = "nested" if tensor.is_nested else type(tensor).__name__
    plain = kind in ("Tensor", "Parameter")
    return TensorValue(sizes_of(tensor), str(tensor.dtype).removeprefix("torch."), "tensor" if plain else kind)


def sizes_of(tensor: torch.Tensor) -> tuple[int | None, ...]:
    """The shape of a tensor; None where the parts of a nested one differ."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    columns = zip(*(part.shape for part in tensor.unbind()), strict=True)
    return (tensor.size(0), *(sizes[0] if len(set(sizes)) == 1 else None for sizes in columns))


def tensors_of(*values: Any) -> list[torch.Tensor]:
    """The tensors inside tuples, lists, mappings and dataclasses, from left to right; iterators stay untouched."""
    found: list[torch.Tensor] = []
    for value in values:
        _collect(value, found, 0)
    return found


def _pairs(value: Any) -> Iterable[tuple[int | str, Any]] | None:
    """What a tuple, list, mapping or dataclass holds, by position, key or field; None for anything else."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, tuple | list):
        return zip(getattr(value, "_fields", range(len(value))), value, strict=True)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    return None


def _collect(value: Any, found: list[torch.Tensor], depth: int) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif type(value) not in _SCALARS and depth <= _DEEPEST:
        if isinstance(value, tuple | list):
            for item in value:
                _collect(item, found, depth + 1)
        else:
            for _, item in _pairs(value) or ():
                _collect(item, found, depth + 1)


def named_tensors(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors with the way to each: output, output[0], output.logits."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif depth <= _DEEPEST:
        positions = isinstance(value, tuple | list)
        for position, (key, item) in enumerate(_pairs(value) or ()):
            yield from named_tensors(item, f"{name}[{position}]" if positions else f"{name}.{key}", depth + 1)


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same value with tensors replaced; the same object when nothing changed or it is no plain collection."""
    return map_leaves(value, torch.Tensor, change, 0)


def map_leaves(value: Any, kind: type[Any], change: Callable[[Any], Any], depth: int = 0) -> Any:
    """The same value with what is of a kind replaced; the same object where nothing is."""
    if isinstance(value, kind):
        return change(value)
    if depth > _DEEPEST:
        return value
    named = isinstance(value, tuple) and hasattr(value, "_make")
    if named or type(value) in (tuple, list):
        items = [map_leaves(item, kind, change, depth + 1) for item in value]
        make: Any = type(value)._make if named else type(value)
        return value if all(map(operator.is_, items, value)) else make(items)
    if type(value) is dict:
        changed = {key: map_leaves(item, kind, change, depth + 1) for key, item in value.items()}
        return value if all(map(operator.is_, changed.values(), value.values())) else changed
    return value


def aliased(output: Any, given: Sequence[torch.Tensor]) -> Any:
    """What a leaf gives, with a view in the place of each tensor that it was given."""
    known = {id(tensor) for tensor in given}

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        return _view(tensor) if id(tensor) in known and not isinstance(tensor, torch.nn.Parameter) else tensor

    return map_tensors(output, apart)


def _view(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return tensor.view_as(tensor)
    except RuntimeError:
        # Sparse and nested tensors have no views.
        return tensor if tensor.requires_grad else tensor.detach()


def storage_of(tensor: torch.Tensor) -> int:
    """A number for the memory behind a tensor; its own identity where there is no such thing."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):
        return id(tensor)
