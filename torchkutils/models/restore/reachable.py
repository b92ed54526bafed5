"""All values that attributes and arguments of a model lead to, and that a forward may change."""

from __future__ import annotations

import array
import enum
import functools
import io
import pathlib
import random
import re
import sys
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from torchkutils import _nested

# What cannot change, and what is not the model's to change.
_LEFT_ALONE = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), np.generic, enum.Enum, re.Pattern),
    *(pathlib.PurePath, torch.dtype, torch.device, torch.Size, types.ModuleType),
    *(types.CodeType, types.FrameType),
)
# Classes of these modules hold threads, processes, handles or state of the whole program.
_FOREIGN = frozenset(
    [
        *("_thread", "_weakref", "asyncio", "concurrent", "contextvars", "importlib", "logging"),
        *("multiprocessing", "socket", "ssl", "subprocess", "threading", "weakref"),
    ]
)
# But not these: what they hold is the model's.
_NOT_FOREIGN = (threading.local, weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# What functools.lru_cache makes of a function.
CachedFunction: type[Any] = type(functools.lru_cache(len))
# Of torch's own classes, those whose objects are a model's values.
_OF_TORCH = ("torch.distributions", "torch.optim", "torch.nn.utils.rnn", "torch.return_types")
# Their state is in no attribute: `saved_values` knows how to read it.
STATEFUL = (
    *(np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator),
    *(np.random.SeedSequence, random.Random, bytearray, array.array, io.IOBase, Iterator, types.CellType),
    CachedFunction,
)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_MOST_VALUES = 1_000_000


class Held(NamedTuple):
    """A value that was reached, and where it is held.

    Attributes:
        value: The value.
        way: Its name; or the way of what holds it, how a key is appended to that, and the key. A name is made only
            when it is asked for.
        holder: The dict or list that holds it; None for something else.
        key: Its key there.
    """

    value: Any
    way: str | tuple[Any, str, Any]
    holder: dict[Any, Any] | list[Any] | None
    key: Any

    def name(self) -> str:
        """Its full name: "stem.stream"."""
        parts, way = [], self.way
        while not isinstance(way, str):
            way, pattern, key = way
            parts.append(pattern.format(key))
        return way + "".join(reversed(parts))


_BUILT_IN_MODULES = ("builtins", "collections", "types", "functools")
_NOT_OWN = frozenset([*sys.stdlib_module_names, "torch", "numpy", "torchkutils"]) - {"__main__"}
_INSTALLED = ("site-packages", "dist-packages")


def is_own(value: Any) -> bool:
    """Whether a class or a function is of the user's program, and of no library."""
    return _is_own_module(getattr(value, "__module__", None) or "")


@functools.lru_cache(maxsize=4096)
def _is_own_module(name: str) -> bool:
    if name.partition(".")[0] in _NOT_OWN:
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return not any(folder in file for folder in _INSTALLED)


class Reachable:
    """Walks values through containers and through the attributes of objects, and lists what can change.

    Modules are listed, not entered: their attributes are where a walk begins. Left out are objects of threads,
    processes, loggers and of torch itself. Each object is visited once; no container is asked for its length, which a
    class may forbid.

    Args:
        roots: Values, each with its name and with the attributes (or the list) that hold it.
        also: Classes of torch's that are walked nevertheless, by the beginning of their module's name.
        own_only: Objects of installed libraries are left out too.
        most: After so many values the walk ends.

    Attributes:
        dicts: Dicts, the attributes of objects among them.
        others: Lists, sets, deques and ordered dicts.
        slotted: Objects with slots.
        stateful: Values whose state is in no attribute.
        tensors: Tensors.
        modules: Modules.
        functions: Functions that are written in Python.
        classes: Classes of the user's program.
        complete: False where there was so much that the walk was ended.
    """

    complete: bool

    def __init__(
        self,
        roots: Iterable[Held],
        also: tuple[str, ...] = (),
        *,
        own_only: bool = False,
        most: int = _MOST_VALUES,
    ) -> None:
        self.dicts: list[dict[Any, Any]] = []
        self.others: list[Any] = []
        self.slotted: list[Any] = []
        self.stateful: list[Held] = []
        self.tensors: list[torch.Tensor] = []
        self.modules: list[torch.nn.Module] = []
        self.functions: list[types.FunctionType] = []
        self.classes: list[type] = []
        self.complete = True
        self._own_only, self._most = own_only, most
        self._of_torch = (*_OF_TORCH, *also)
        # What is done with the values of each class.
        self._ways: dict[type[Any], _Way] = {}
        # The values themselves are kept, so that no identity is used again.
        self._seen: dict[int, Any] = {}
        self._walk(list(roots))

    def more(self, roots: Iterable[Held]) -> None:
        """Walk further values."""
        self._walk(list(roots))

    def _walk(self, stack: list[Held]) -> None:
        while stack:
            held = stack.pop()
            value = held.value
            way = self._way(type(value))
            if way is _Way.LEAVE or id(value) in self._seen:
                continue
            if len(self._seen) >= self._most:
                self.complete = False
                return
            self._seen[id(value)] = value
            if way is _Way.TENSOR:
                self.tensors.append(value)
            elif way is _Way.MODULE:
                self.modules.append(value)
            elif way is _Way.CLASS:
                self.classes += [value] if is_own(value) else []
            elif way is _Way.FUNCTION:
                self._enter_function(value, held.way, stack)
            else:
                if way is _Way.STATEFUL:
                    self.stateful.append(held)
                self._enter(held, stack)

    def _way(self, kind: type[Any]) -> _Way:
        way = self._ways.get(kind)
        if way is None:
            way = self._ways[kind] = self._way_of(kind)
        return way

    def _way_of(self, kind: type[Any]) -> _Way:
        if issubclass(kind, _LEFT_ALONE):
            return _Way.LEAVE
        if issubclass(kind, torch.Tensor):
            return _Way.TENSOR
        if issubclass(kind, torch.nn.Module):
            return _Way.MODULE
        if issubclass(kind, type):
            return _Way.CLASS
        if issubclass(kind, STATEFUL):
            return _Way.STATEFUL
        if issubclass(kind, _FUNCTIONS):
            return _Way.FUNCTION
        return _Way.LEAVE if self._is_foreign(kind) else _Way.ENTER

    def _is_foreign(self, kind: type) -> bool:
        if issubclass(kind, _NOT_FOREIGN):
            return False
        module = kind.__module__ or ""
        if module.startswith("torch."):
            return not module.startswith(self._of_torch)
        return module.partition(".")[0] in _FOREIGN or (
            self._own_only and module not in _BUILT_IN_MODULES and not is_own(kind)
        )

    def _enter(self, held: Held, stack: list[Held]) -> None:
        """List a container or an object, and go on with what it holds."""
        value, way = held.value, held.way
        if isinstance(value, OrderedDict | list | set | deque):
            self.others.append(value)
        elif isinstance(value, dict):
            self.dicts.append(value)
        self._enter_items(value, way, stack)
        if type(value) in _BUILT_IN:
            return
        attributes = _attributes(value)
        if type(attributes) is dict:
            self.dicts.append(attributes)
            _go_on(stack, attributes.items(), (way, ".{}"), attributes)
        slots = _nested.slots_of(type(value))
        if slots:
            self.slotted.append(value)
            contents = [(name, getattr(value, name)) for name in slots if hasattr(value, name)]
            _go_on(stack, contents, (way, ".{}"), None)

    def _enter_function(self, value: Any, way: Any, stack: list[Held]) -> None:
        """Go on with what a function was made around: its closure, its object, the arguments that it holds."""
        parts: list[tuple[str, Any]] = []
        if isinstance(value, functools.partial):
            parts += [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        elif isinstance(value, types.FunctionType):
            self.functions.append(value)
            parts += zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            parts += [("__defaults__", value.__defaults__), ("__kwdefaults__", value.__kwdefaults__)]
            self.dicts.append(value.__dict__)
            parts += value.__dict__.items()
        else:
            parts.append(("__self__", value.__self__))
        _go_on(stack, parts, (way, ".{}"), None)

    def _enter_items(self, value: Any, way: Any, stack: list[Held]) -> None:
        if isinstance(value, dict):
            # By dict's own method. Mappings of other classes may load what they are asked for: their attributes do.
            _go_on(stack, dict.items(value), (way, "[{!r}]"), value)
        elif isinstance(value, CachedFunction):
            _go_on(stack, [("__wrapped__", value.__wrapped__)], (way, ".{}"), None)
        elif isinstance(value, types.CellType):
            stack.extend(Held(content, way, None, None) for content in cell_contents(value))
        elif isinstance(value, np.ndarray):
            if value.dtype.hasobject and value.dtype.names is None:
                _go_on(stack, (("...", content) for content in value.flat), (way, "[{}]"), None)
        elif isinstance(value, _SEQUENCES):
            _go_on(stack, enumerate(_contents(value)), (way, "[{}]"), value if isinstance(value, list) else None)


class _Way(enum.Enum):
    """What the walk does with a value."""

    LEAVE = enum.auto()
    TENSOR = enum.auto()
    MODULE = enum.auto()
    CLASS = enum.auto()
    FUNCTION = enum.auto()
    # Its state is noted, and what it holds is walked too.
    STATEFUL = enum.auto()
    ENTER = enum.auto()


_SEQUENCES = (tuple, list, deque, set, frozenset)
# Objects of these very classes have neither attributes nor slots.
_BUILT_IN = frozenset([tuple, list, dict, set, frozenset])


def cell_contents(cell: types.CellType) -> list[Any]:
    """The value of a variable of a closure; nothing where it has none yet."""
    try:
        return [cell.cell_contents]
    except ValueError:
        return []


def _attributes(value: Any) -> Any:
    """The attributes of an object; None where it has none, or where its class fails when it is asked."""
    try:
        return getattr(value, "__dict__", None)
    except Exception:
        return None


def _contents(value: Any) -> Iterator[Any]:
    """What a container holds, by the methods of the built-in class: those of a user's class may do anything."""
    kind: Any = next(kind for kind in _SEQUENCES if isinstance(value, kind))
    contents: Iterator[Any] = kind.__iter__(value)
    return contents


def _go_on(stack: list[Held], contents: Iterable[tuple[Any, Any]], prefix: tuple[Any, str], holder: Any) -> None:
    """Put values on the stack that can change, or that may lead to such values.

    Args:
        stack: What is still to be walked.
        contents: Keys and values.
        prefix: The path of what holds them, and the pattern by which a key is appended to it.
        holder: The dict or list in which a value can be exchanged; None where it is something else.
    """
    for key, content in _nested.changeable(contents):
        stack.append(Held(content, (*prefix, key), holder, key))
