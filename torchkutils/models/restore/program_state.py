"""State of the program itself that a model's own code reaches: attributes of classes, global names, closures.

It is watched, not restored: it belongs to the program, other threads may use it, and it may be what a user's hook
collects. A summary's notes name what forward changed of it. Only a user's own program is looked at, not torch and no
installed library: there, code is much and counters are few. What a script, a thread or C code does is not seen.
"""

from __future__ import annotations

import functools
import itertools
import operator
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from torchkutils import _nested
from torchkutils.models.restore.reachable import CachedFunction, Held, Reachable, cell_contents, is_own
from torchkutils.models.restore.saved_containers import ContainerStates
from torchkutils.models.restore.saved_values import ValueStates

# A program of more functions and classes than these is looked at in part, and so is a value that holds more.
_MOST_SCANNED = 1_000
_MOST_VALUES = 50_000
_NEVER_SET = object()
_version: Callable[[torch.Tensor], int] = operator.attrgetter("_version")


class ProgramState:
    """What the code of some modules' classes, and some functions beside, reach by name.

    Args:
        modules: Each module once.
        beside: Functions and classes beside their own: hooks, and what attributes hold.

    Attributes:
        modules: Modules that are reached so.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], beside: Iterable[Any]) -> None:
        self.modules: list[torch.nn.Module] = []
        self._watched: dict[tuple[int, str], _Watched] = {}
        # The attributes of classes: others may be added.
        self._attributes: dict[type, frozenset[str]] = {}
        self._stack: list[Any] = [*beside, *set(map(type, modules))]
        self._scan()

    def changed(self) -> list[str]:
        """The names of what is another value now, or holds other contents."""
        found = [watched.name for watched in self._watched.values() if watched.changed()]
        for kind, before in self._attributes.items():
            found += [f"{_short(kind)}.{name}" for name in _attributes(kind) if name not in before]
        return found

    def _scan(self) -> None:
        seen: set[Any] = set()
        while self._stack and len(seen) < _MOST_SCANNED:
            top = self._stack.pop()
            if top in seen:
                continue
            seen.add(top)
            if isinstance(top, type):
                for kind in filter(is_own, top.__mro__):
                    self._scan_class(kind)
            elif is_own(top):
                self._scan_function(top)

    def _scan_class(self, kind: type) -> None:
        if kind in self._attributes:
            return
        held = _attributes(kind)
        self._attributes[kind] = frozenset(held)
        for name, value in vars(kind).items():
            self._stack += _functions_of(value)
            if name in held:
                read = functools.partial(vars(kind).get, name, _NEVER_SET)
                self._watch((id(kind), name), f"{_short(kind)}.{name}", value, read)

    def _scan_function(self, function: types.FunctionType) -> None:
        """Watch what the names in a function's code stand for."""
        names = function.__globals__
        for name in _names_in(function.__code__):
            if name in names:
                read = functools.partial(names.get, name, _NEVER_SET)
                self._watch((id(names), name), f"the global name {name}", names[name], read)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            for value in cell_contents(cell):
                read = functools.partial(_content, cell)
                self._watch((id(cell), ""), f"the variable {name} around {function.__name__}", value, read)
        for place in ("__defaults__", "__kwdefaults__", "__dict__"):
            read = functools.partial(getattr, function, place)
            if read():
                self._watch((id(function), place), f"what the function {function.__name__} holds", read(), read)

    def _watch(self, key: tuple[int, str], name: str, value: Any, read: Callable[[], Any]) -> None:
        if key in self._watched or isinstance(value, types.ModuleType):
            return
        self._stack += [value] if isinstance(value, type) else _functions_of(value)
        if isinstance(value, torch.nn.Module):
            self.modules.append(value)
        self._watched[key] = _Watched(name, value, read)


class _Watched:
    """A value behind a name.

    Args:
        name: How a note calls it.
        value: What it is.
        read: Gives what it is at another time.
    """

    __slots__ = ("_containers", "_read", "_tensors", "_value", "_values", "_versions", "name")

    def __init__(self, name: str, value: Any, read: Callable[[], Any]) -> None:
        self.name: str = name
        self._value, self._read = value, read
        self._containers: ContainerStates | None = None
        if _nested.is_constant(value) or isinstance(value, types.FunctionType | type | torch.nn.Module):
            return
        reached = Reachable([Held(value, name, None, None)], own_only=True, most=_MOST_VALUES)
        self._containers = ContainerStates([], [], reached)
        self._values: ValueStates = ValueStates(reached.stateful)
        self._tensors: list[torch.Tensor] = list(itertools.filterfalse(torch.Tensor.is_inference, reached.tensors))
        self._versions: list[int] = list(map(_version, self._tensors))

    def changed(self) -> bool:
        """Whether it is another value, or holds other contents."""
        if self._read() is not self._value:
            return True
        if self._containers is None:
            return False
        return (
            self._containers.changed() or self._values.changed() or list(map(_version, self._tensors)) != self._versions
        )


def _short(kind: type) -> str:
    """A class's name without that of the function that it was defined in."""
    return kind.__qualname__.rpartition("<locals>.")[2]


def _attributes(kind: type) -> dict[str, Any]:
    """What a class holds that is no method."""
    return {
        name: value
        for name, value in vars(kind).items()
        if not (name.startswith("__") and name.endswith("__")) and not isinstance(value, _METHODS)
    }


_METHODS = (types.FunctionType, classmethod, staticmethod, property, functools.cached_property)
_GETTERS = ("fget", "fset", "func", "__wrapped__", "__func__")


def _functions_of(value: Any) -> list[types.FunctionType]:
    """A function, or those that a property, a class method or a cache is made around."""
    if isinstance(value, types.FunctionType):
        return [value]
    if not isinstance(value, (*_METHODS, CachedFunction, types.MethodType)):
        return []
    inner = [getattr(value, name, None) for name in _GETTERS]
    return [function for function in inner if isinstance(function, types.FunctionType)]


def _content(cell: types.CellType) -> Any:
    return next(iter(cell_contents(cell)), _NEVER_SET)


@functools.lru_cache(maxsize=4096)
def _names_in(code: types.CodeType) -> tuple[str, ...]:
    """The names that some code uses, inside its inner functions too."""
    return tuple(dict.fromkeys(itertools.chain.from_iterable(inner.co_names for inner in _codes(code))))


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)
