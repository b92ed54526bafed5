"""Nested values: the one module that knows what holds what, and how to make it anew around other contents.

A *container* is a tuple, list, deque, set, mapping, named tuple, one of torch's return types, a `PackedSequence`, a
dataclass, or, where the caller asks for `objects`, any object with attributes. Everything else is a *leaf*: tensors,
modules, arrays, numbers, strings, functions, classes, iterators (which a walk would use up), `torch.Size`.

The one depth rule: what lies deeper than `DEEPEST` levels, and a container inside itself, counts as a leaf.
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import enum
import itertools
import operator
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence, Set
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import torch

DEEPEST = 100

Form: TypeAlias = Literal["position", "key", "field"]

# The types that most values have: looked up first, since values are walked in every call of a module.
_PLAIN_LEAVES = frozenset(
    [int, float, complex, bool, str, bytes, type(None), torch.dtype, torch.device, torch.Size, slice, range]
)
_PLAIN_CONTAINERS = frozenset([tuple, list, dict, set, frozenset, collections.OrderedDict, collections.deque])
_LEAVES = (
    *(torch.Tensor, torch.nn.Module, torch.Size, torch.Generator, np.ndarray, np.generic, str, bytes, bytearray),
    *(type, enum.Enum, types.ModuleType, types.FunctionType, types.MethodType, types.BuiltinFunctionType),
    *(Iterator, range, memoryview),
)


class Children(NamedTuple):
    """What a container holds.

    Attributes:
        form: How its contents are reached: "position" (`value[0]`), "key" (`value['x']`), "field" (`value.x`).
        keys: Positions, keys or names.
        values: The contents, in the same order.
    """

    form: Form
    keys: Sequence[Any]
    values: list[Any]

    def paths(self, path: str) -> list[str]:
        """The way to each of the contents, below the path of the container."""
        pattern = _PATTERNS[self.form]
        return [pattern.format(path, key) for key in self.keys]


_PATTERNS: dict[Form, str] = {"position": "{}[{}]", "key": "{}[{!r}]", "field": "{}.{}"}


def is_constant(value: Any) -> bool:
    """Whether a value is a number, a text or their like, or a tuple of these: nothing in it can change."""
    kind = type(value)
    return are_constants(value) if kind is tuple else kind in _PLAIN_LEAVES


def are_constants(values: Iterable[Any]) -> bool:
    """Whether all of these values are numbers, texts and their like; tuples of them are not."""
    return _PLAIN_LEAVES.issuperset(map(type, values))


def changeable(items: Iterable[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """The pairs of a key and a value whose value `is_constant` does not accept."""
    return [item for item in items if type(item[1]) not in _PLAIN_LEAVES and not is_constant(item[1])]


def children(value: Any, *, objects: bool = False) -> Children | None:
    """What a container holds; None for a leaf, and for an object whose class fails when it is asked.

    Args:
        value: Anything.
        objects: Objects of any class count as containers of their attributes.
    """
    kind = type(value)
    read = _READERS.get(kind)
    if read is not None:
        return read(value)
    if kind in _PLAIN_LEAVES or isinstance(value, _LEAVES):
        return None
    try:
        return _contents(value, objects)
    except Exception:
        return None


def _contents(value: Any, objects: bool) -> Children | None:
    if isinstance(value, Mapping):
        return _by_key(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return Children("field", value._fields, list(value))
    if isinstance(value, tuple | list | collections.deque | Set):
        return _by_position(value)
    return _by_field(value, objects)


def _by_position(value: Any) -> Children:
    # Not by `len`, which a class may forbid, and which `list` asks for too.
    contents = [*iter(value)]
    return Children("position", range(len(contents)), contents)


def _by_key(value: Mapping[Any, Any]) -> Children:
    return Children("key", [*iter(value)], [*iter(value.values())])


_READERS: dict[type[Any], Callable[[Any], Children]] = {
    **dict.fromkeys(_PLAIN_CONTAINERS, _by_position),
    **dict.fromkeys([dict, collections.OrderedDict], _by_key),
}


def _by_field(value: Any, objects: bool) -> Children | None:
    """The fields of a dataclass, or the attributes of an object; those that were never set are left out."""
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:
        names = _attribute_names(value) if objects else []
        if not names:
            return None
    names = [name for name in names if hasattr(value, name)]
    return Children("field", names, [getattr(value, name) for name in names])


def _attribute_names(value: Any) -> list[str]:
    """The names in an object's `__dict__`, and the slots of its class and bases."""
    return [*getattr(value, "__dict__", ()), *slots_of(type(value))]


def slots_of(kind: type) -> list[str]:
    """The slots of a class and its bases, by the names that `getattr` knows."""
    return list(itertools.chain.from_iterable(map(slots, kind.__mro__)))


def slots(kind: type) -> list[str]:
    """The slots that a class itself has, by the names that `getattr` knows."""
    declared = kind.__dict__.get("__slots__", ())
    names = [declared] if isinstance(declared, str) else list(declared)
    return [_mangled(kind, name) for name in names if name not in ("__dict__", "__weakref__")]


def _mangled(kind: type, name: str) -> str:
    private = name.startswith("__") and not name.endswith("__")
    return f"_{kind.__name__.lstrip('_')}{name}" if private else name


def rebuild(value: Any, contents: Sequence[Any]) -> Any:
    """A container of the same class around other contents, in the order of `children`.

    No constructor of a user's class runs: the container is copied (`copy.copy`) and its contents are exchanged, so
    that what the class holds besides them is kept.

    Raises:
        TypeError: The class allows no other contents (a mapping without a way to write).
    """
    kind = type(value)
    if kind is dict or kind is collections.OrderedDict:
        return kind(zip(value, contents, strict=True))
    if kind in _PLAIN_CONTAINERS and kind is not collections.deque:
        return kind(contents)
    if isinstance(value, Mapping):
        return _rebuilt_mapping(value, contents)
    if isinstance(value, tuple):
        return _rebuilt_tuple(value, contents)
    if isinstance(value, list | collections.deque):
        return _rebuilt_list(value, contents)
    if isinstance(value, Set):
        return _called(kind, value, list(contents))
    held = children(value, objects=True)
    made = copy.copy(value)
    for name, content in zip(held.keys if held else (), contents, strict=True):
        # A frozen dataclass refuses assignment, `object.__setattr__` does not.
        object.__setattr__(made, name, content)
    return made


def _rebuilt_mapping(value: Mapping[Any, Any], contents: Sequence[Any]) -> Any:
    if not isinstance(value, MutableMapping):
        return _called(type(value), value, dict(zip(value, contents, strict=True)))
    made = copy.copy(value)
    for key, content in zip(list(value), contents, strict=True):
        made[key] = content
    return made


def _rebuilt_tuple(value: tuple[Any, ...], contents: Sequence[Any]) -> Any:
    if hasattr(value, "n_fields"):
        # torch's return types are made from a sequence, and their memory may not be made by tuple itself.
        return type(value)(contents)
    made = tuple.__new__(type(value), contents)
    if hasattr(value, "__dict__"):
        made.__dict__.update(value.__dict__)
    return made


def _rebuilt_list(value: Any, contents: Sequence[Any]) -> Any:
    made = copy.copy(value)
    # The base class's methods: a user's class may have narrowed its own.
    base: Any = list if isinstance(value, list) else collections.deque
    base.clear(made)
    base.extend(made, contents)
    return made


def _called(kind: Any, value: Any, contents: Any) -> Any:
    try:
        return kind(contents)
    except Exception as error:
        raise TypeError(f"a {type(value).__name__} cannot be made anew with other contents: {error}") from error


def leaves(value: Any, *, objects: bool = False) -> Iterator[Any]:
    """The leaves of a value, from left to right, as often as they occur."""
    return _leaves(value, objects, ())


def _leaves(value: Any, objects: bool, above: tuple[int, ...]) -> Iterator[Any]:
    held = None if _too_deep(value, above) else children(value, objects=objects)
    if held is None:
        yield value
        return
    inside = (*above, id(value))
    for content in held.values:
        yield from _leaves(content, objects, inside)


def leaves_with_paths(value: Any, path: str, *, objects: bool = False) -> Iterator[tuple[str, Any]]:
    """The leaves with the way to each: `args[0]['image']`, `output.logits`."""
    yield from _walk(value, path, objects, ())


def _walk(value: Any, path: str, objects: bool, above: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    held = None if _too_deep(value, above) else children(value, objects=objects)
    if held is None:
        yield path, value
        return
    inside = (*above, id(value))
    for where, content in zip(held.paths(path), held.values, strict=True):
        yield from _walk(content, where, objects, inside)


def _too_deep(value: Any, above: tuple[int, ...]) -> bool:
    return len(above) >= DEEPEST or id(value) in above


def of_kind(kind: type[Any], *values: Any, objects: bool = False) -> list[Any]:
    """The leaves of one class (`torch.Tensor`), from left to right, as often as they occur."""
    found: list[Any] = []
    for value in values:
        # Nearly every value on the way of a call is a leaf or a flat tuple of leaves.
        if isinstance(value, kind):
            found.append(value)
        elif type(value) not in _PLAIN_LEAVES:
            _collect(value, kind, found, objects, ())
    return found


def _collect(value: Any, kind: type[Any], found: list[Any], objects: bool, above: tuple[int, ...]) -> None:
    held = None if _too_deep(value, above) else children(value, objects=objects)
    if held is None:
        return
    inside = (*above, id(value))
    for content in held.values:
        if isinstance(content, kind):
            found.append(content)
        elif type(content) not in _PLAIN_LEAVES:
            _collect(content, kind, found, objects, inside)


def map_leaves(
    value: Any, change: Callable[[Any], Any], *, kind: type[Any] = object, objects: bool = False, rigid: bool = False
) -> Any:
    """The same value with its leaves exchanged; the same objects wherever nothing changed.

    A container that occurs several times is made once, and occurs as often in the result.

    Args:
        value: Anything.
        change: Gives the new leaf, or the leaf that it got.
        kind: Leaves of other classes stay.
        objects: As in `children`.
        rigid: A container that cannot be made anew stays as it is, instead of a TypeError.
    """
    return _Mapped(change, kind, objects, rigid).of(value, ())


class _Mapped:
    """One run of `map_leaves`: containers that were met before are not made twice."""

    def __init__(self, change: Callable[[Any], Any], kind: type[Any], objects: bool, rigid: bool) -> None:
        self.change, self.kind, self.objects, self.rigid = change, kind, objects, rigid
        # The containers are held too, so that no identity is given to another object meanwhile.
        self.made: dict[int, tuple[Any, Any]] = {}

    def of(self, value: Any, above: tuple[int, ...]) -> Any:
        if self.kind is not object and isinstance(value, self.kind):
            return self.change(value)
        if id(value) in self.made:
            return self.made[id(value)][1]
        held = None if _too_deep(value, above) else children(value, objects=self.objects)
        if held is not None:
            return self._of_container(value, held, (*above, id(value)))
        return self.change(value) if self.kind is object else value

    def _of_container(self, value: Any, held: Children, inside: tuple[int, ...]) -> Any:
        contents = [self.of(content, inside) for content in held.values]
        made = value
        if not all(map(operator.is_, contents, held.values)):
            made = self._rebuilt(value, contents)
        self.made[id(value)] = value, made
        return made

    def _rebuilt(self, value: Any, contents: list[Any]) -> Any:
        try:
            return rebuild(value, contents)
        except TypeError:
            if self.rigid:
                return value
            raise
