"""Nested values: the tensors inside them, and the plain records that describe them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from torchkutils import _nested
from torchkutils._torch_versions import inside_function_transform, untransformed, vmap_sizes
from torchkutils.models.records import Collection, OtherValue, TensorValue, Value

_PLAIN = frozenset([torch.Tensor, torch.nn.Parameter])
_SCALARS = frozenset([int, float, bool, str, type(None), torch.dtype, torch.device])
# Objects of any class may lead to others without end: not more of them are looked into.
_MOST_OBJECTS = 1_000


def dtype_name(tensor: torch.Tensor) -> str:
    """The dtype of a tensor without the prefix: "float32"."""
    return str(tensor.dtype).removeprefix("torch.")


class Descriptions:
    """Values as plain records; equal tensors share one record, so that a long trace stays small.

    Attributes:
        transformed: Whether tensors may be those of `torch.vmap`, which show the shape of one example.
    """

    def __init__(self) -> None:
        self.transformed = False
        self._tensors: dict[tuple[torch.Size, torch.dtype], TensorValue] = {}
        self._collections: dict[tuple[Any, ...], Collection] = {}
        self._arguments: dict[tuple[torch.Size, torch.dtype], Collection] = {}
        self._scalars: dict[type[Any], OtherValue] = {}

    def of(self, value: Any, objects: bool = False, above: tuple[int, ...] = ()) -> Value:
        """A value as a plain record; a container that holds itself is named by its class.

        Args:
            value: Anything.
            objects: Describe an object that is no container by the tensors that it reaches, not by its class alone.
            above: `id` of each container around it.
        """
        if isinstance(value, torch.Tensor):
            return self._of_tensor(value)
        kind = type(value)
        if kind in _SCALARS:
            return self._of_scalar(kind)
        if id(value) in above or len(above) >= _nested.DEEPEST:
            return OtherValue(kind.__name__)
        held = _nested.children(value)
        if held is None:
            return self._of_object(value) if objects else OtherValue(kind.__name__)
        return self._of_container(kind.__name__, held, objects, (*above, id(value)))

    def _of_tensor(self, tensor: torch.Tensor) -> TensorValue:
        batches = vmap_sizes(tensor) if self.transformed else {}
        if batches:
            return _batched(tensor, batches)
        if type(tensor) not in _PLAIN or tensor.is_nested:
            return _unusual(tensor)
        key = (tensor.shape, tensor.dtype)
        found = self._tensors.get(key)
        if found is None:
            found = self._tensors[key] = TensorValue(tuple(tensor.shape), dtype_name(tensor))
        return found

    def _of_scalar(self, kind: type[Any]) -> OtherValue:
        found = self._scalars.get(kind)
        if found is None:
            found = self._scalars[kind] = OtherValue(kind.__name__)
        return found

    def _of_container(self, name: str, held: _nested.Children, objects: bool, above: tuple[int, ...]) -> Collection:
        keys = held.keys if held.form != "key" else [str(key) for key in held.keys]
        return self._collection(name, keys, [self.of(item, objects, above) for item in held.values])

    def _collection(self, name: str, keys: Sequence[int | str], values: list[Value]) -> Collection:
        """A collection of records; equal ones are one object where what they hold is shared too."""
        # What is stored holds the values, so no other object gets their identities.
        key = (name, *keys, *map(id, values))
        found = self._collections.get(key)
        if found is None:
            found = self._collections[key] = Collection(name, tuple(zip(keys, values, strict=True)))
        return found

    def _of_object(self, value: Any) -> Value:
        values = [self.of(tensor) for tensor in tensors_in_objects(value)]
        name = type(value).__name__
        return self._collection(name, range(len(values)), values) if values else OtherValue(name)

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Collection:
        """The arguments of a call: positional ones by position, keyword ones by name."""
        if len(args) == 1 and not kwargs:
            return self._collection("arguments", (0,), [self.of(args[0])])
        keys: list[int | str] = [*range(len(args)), *kwargs]
        return self._collection("arguments", keys, [self.of(value) for value in (*args, *kwargs.values())])

    def argument(self, tensor: torch.Tensor) -> Collection:
        """What `arguments` gives for a call with this one tensor, as most calls are."""
        if self.transformed or tensor.is_nested:
            return self.arguments((tensor,), {})
        key = (tensor.shape, tensor.dtype)
        found = self._arguments.get(key)
        if found is None:
            found = self._arguments[key] = self.arguments((tensor,), {})
        return found


def _batched(tensor: torch.Tensor, batches: dict[int, int]) -> TensorValue:
    """All examples that `torch.vmap` runs at once, the outermost batch first."""
    sizes = [batches[level] for level in sorted(batches)]
    return TensorValue((*sizes, *tensor.shape), dtype_name(tensor))


def _unusual(tensor: torch.Tensor) -> TensorValue:
    kind = "nested" if tensor.is_nested else type(tensor).__name__
    plain = kind in ("Tensor", "Parameter")
    return TensorValue(sizes_of(tensor), dtype_name(tensor), "tensor" if plain else kind)


def sizes_of(tensor: torch.Tensor) -> tuple[int | None, ...]:
    """The shape of a tensor; None where the parts of a nested one differ."""
    if not tensor.is_nested:
        return tuple(tensor.shape)
    if tensor.is_meta:
        # The lengths are values. torch makes such a tensor inside of torch.nested.nested_tensor, too.
        return (tensor.size(0), *(None,) * (tensor.dim() - 1))
    sizes: list[int | None] = [tensor.size(0)]
    for lengths in zip(*(part.shape for part in tensor.unbind()), strict=True):
        sizes.append(lengths[0] if len(set(lengths)) == 1 else None)
    return tuple(sizes)


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
                found += tensors_in_objects(leaf)
    return found


def tensors_in_objects(value: Any) -> list[torch.Tensor]:
    """The tensors that an object, which is no container, reaches through attributes; each of its objects once.

    A tensor gives itself.
    """
    found: list[torch.Tensor] = []
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
    leaves = list(_named_leaves(value, name, ()))
    found = [(path, leaf) for path, leaf in leaves if isinstance(leaf, torch.Tensor)]
    if found:
        return found
    for path, leaf in leaves:
        inside = tensors_in_objects(leaf)
        paths = [path] if len(inside) == 1 else [f"{path}[{position}]" for position in range(len(inside))]
        found += zip(paths, inside, strict=True)
    return found


def _named_leaves(value: Any, name: str, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if id(value) in above or len(above) >= _nested.DEEPEST:
        return
    held = _nested.children(value)
    if held is None:
        yield name, value
        return
    pattern = "{}[{}]" if held.form == "position" else "{}.{}"
    inside = (*above, id(value))
    for key, item in zip(held.keys, held.values, strict=True):
        yield from _named_leaves(item, pattern.format(name, key), inside)


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same value with its tensors exchanged; the same object where nothing changed or none can be exchanged."""
    return _nested.map_leaves(value, change, kind=torch.Tensor, rigid=True)


def aliased(output: Any, given: Sequence[torch.Tensor]) -> Any:
    """What a leaf gives, with a view instead of each tensor that it was given: so the two differ by identity."""
    known = set(map(id, given))

    def apart(tensor: torch.Tensor) -> torch.Tensor:
        return _view(tensor) if id(tensor) in known and not isinstance(tensor, torch.nn.Parameter) else tensor

    if not known:
        return output
    if isinstance(output, torch.Tensor):
        return apart(output)
    handed_on = False
    for leaf in _nested.leaves(output):
        if isinstance(leaf, torch.Tensor):
            handed_on = handed_on or id(leaf) in known
        elif type(leaf) not in _SCALARS:
            _alias_attributes(leaf, apart)
    return map_tensors(output, apart) if handed_on else output


def _alias_attributes(value: Any, apart: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Exchange the tensors that an object holds as attributes: in the object itself, since others may hold it too."""
    held = _nested.children(value, objects=True)
    if held is None:
        return
    for name, tensor in zip(held.keys, held.values, strict=True):
        view = apart(tensor) if isinstance(tensor, torch.Tensor) else tensor
        if view is not tensor:
            # Some classes do not allow it.
            with contextlib.suppress(AttributeError, TypeError):
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


def address_of(tensor: torch.Tensor) -> int:
    """Where the memory behind a tensor begins; 0 where there is none, or no one may know."""
    if inside_function_transform():
        tensor = untransformed(tensor)
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError, ValueError):
        return 0
