"""Nested values: the tensors inside them, and the plain records that describe them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from torchkutils import _nested
from torchkutils._torch_versions import inside_function_transform, untransformed, vmap_sizes
from torchkutils.models.records import Collection, OtherValue, TensorValue, Value

_PLAIN = (torch.Tensor, torch.nn.Parameter)
_SCALARS = frozenset([int, float, bool, str, type(None), torch.dtype, torch.device])
# Objects of any class may lead to others without end: so many of them are looked into.
_MOST_OBJECTS = 1_000


class Descriptions:
    """Values as plain records; equal tensors share one record, so that a long trace stays small.

    Attributes:
        transformed: Whether tensors may be those of `torch.vmap`, which show the shape of one example.
    """

    def __init__(self) -> None:
        self.transformed = False
        self._tensors: dict[tuple[torch.Size, torch.dtype], TensorValue] = {}
        self._single: dict[int, Collection] = {}
        self._scalars: dict[type[Any], OtherValue] = {}

    def of(self, value: Any, objects: bool = False, above: tuple[int, ...] = ()) -> Value:
        """A value as a plain record; a container that holds itself is named by its class.

        Args:
            value: Anything.
            objects: Describe an object that is no container by the tensors that it reaches, not by its class alone.
            above: Identities of the containers around it.
        """
        kind = type(value)
        if self.transformed and isinstance(value, torch.Tensor) and (batches := vmap_sizes(value)):
            return _batched(value, batches)
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
        return self._of_container(value, objects, above)

    def _of_container(self, value: Any, objects: bool, above: tuple[int, ...]) -> Value:
        name = type(value).__name__
        known = id(value) in above or len(above) >= _nested.DEEPEST
        held = None if known else _nested.children(value)
        if held is None:
            inside = tensors_in_objects(value) if objects and not known else []
            tensors: list[tuple[int | str, Value]] = [(index, self.of(tensor)) for index, tensor in enumerate(inside)]
            return Collection(name, tuple(tensors)) if tensors else OtherValue(name)
        keys = held.keys if held.form != "key" else [str(key) for key in held.keys]
        around = (*above, id(value))
        pairs = [(key, self.of(item, objects, around)) for key, item in zip(keys, held.values, strict=True)]
        return Collection(name, tuple(pairs))

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


def _batched(tensor: torch.Tensor, batches: dict[int, int]) -> TensorValue:
    """All examples that `torch.vmap` runs at once, the outermost batch first."""
    sizes = [batches[level] for level in sorted(batches)]
    return TensorValue((*sizes, *tensor.shape), str(tensor.dtype).removeprefix("torch."))


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
    """The tensors inside containers, from left to right; iterators are not used up, objects not looked into."""
    return _nested.of_kind(torch.Tensor, *values)


def all_tensors_of(*values: Any) -> list[torch.Tensor]:
    """The tensors inside containers, and where those hold an object of another class, inside that object.

    The order is that of `Descriptions.of` with `objects`.
    """
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif type(value) not in _SCALARS:
            for leaf in _nested.leaves(value):
                found += [leaf] if isinstance(leaf, torch.Tensor) else tensors_in_objects(leaf)
    return found


def tensors_in_objects(value: Any) -> list[torch.Tensor]:
    """The tensors that an object, which is no container, reaches through attributes; each of its objects once."""
    found: list[torch.Tensor] = []
    if type(value) in _SCALARS:
        return found
    seen: dict[int, Any] = {}
    stack = [value]
    while stack and len(seen) < _MOST_OBJECTS:
        top = stack.pop()
        if isinstance(top, torch.Tensor):
            found.append(top)
        elif type(top) not in _SCALARS and id(top) not in seen:
            held = _nested.children(top, objects=True)
            if held is not None:
                seen[id(top)] = top
                stack.extend(reversed(held.values))
    return found


def named_tensors(value: Any, name: str) -> list[tuple[str, torch.Tensor]]:
    """Tensors with the way to each: output, output[0], output.logits.

    Objects are looked into where containers hold no tensor: a cache beside the logits is no output of interest.
    """
    found = list(_named(value, name, False, ()))
    return found or list(_named(value, name, True, ()))


def _named(value: Any, name: str, objects: bool, above: tuple[int, ...]) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
    elif id(value) not in above and len(above) < _nested.DEEPEST:
        held = _nested.children(value)
        if held is None:
            inside = tensors_in_objects(value) if objects else []
            yield from ((name if len(inside) == 1 else f"{name}[{i}]", tensor) for i, tensor in enumerate(inside))
            return
        pattern = "{}[{}]" if held.form == "position" else "{}.{}"
        for key, item in zip(held.keys, held.values, strict=True):
            yield from _named(item, pattern.format(name, key), objects, (*above, id(value)))


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same value with its tensors exchanged; the same object where nothing changed or none can be exchanged."""
    return _nested.map_leaves(value, change, kind=torch.Tensor, rigid=True)


def aliased(output: Any, given: Sequence[torch.Tensor]) -> Any:
    """What a leaf gives, with a view instead of each tensor that it was given: so the two differ by identity."""
    known = {id(tensor) for tensor in given}

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        return _view(tensor) if id(tensor) in known and not isinstance(tensor, torch.nn.Parameter) else tensor

    if isinstance(output, torch.Tensor):
        return apart(output)
    for leaf in _nested.leaves(output) if known else ():
        if not isinstance(leaf, torch.Tensor) and type(leaf) not in _SCALARS:
            _alias_attributes(leaf, apart)
    return map_tensors(output, apart)


def _alias_attributes(value: Any, apart: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Exchange the tensors that an object holds as attributes: in the object itself, since others may hold it too."""
    held = _nested.children(value, objects=True)
    for name, tensor in zip(held.keys, held.values, strict=True) if held else ():
        if isinstance(tensor, torch.Tensor) and (view := apart(tensor)) is not tensor:
            with contextlib.suppress(AttributeError, TypeError):
                # Some classes allow it to nobody.
                object.__setattr__(value, name, view)


def _view(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return tensor.view_as(tensor)
    except RuntimeError:
        # Sparse and nested tensors have no views.
        return tensor if tensor.requires_grad else tensor.detach()


def storage_of(tensor: torch.Tensor) -> int:
    """A number for the memory behind a tensor; its own identity where there is no such thing."""
    if inside_function_transform():
        tensor = untransformed(tensor)
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError, ValueError):
        return id(tensor)
