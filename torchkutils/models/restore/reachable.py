"""What some values reach: everything under attributes and arguments that a forward may change."""

from __future__ import annotations

import array
import enum
import functools
import io
import pathlib
import random
import re
import types
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch

from torchkutils import _nested

# What cannot change, and what is not the model's to change.
_LEFT_ALONE = (
    *(bool, int, float, complex, str, bytes, range, slice, type(None), np.generic, enum.Enum, re.Pattern),
    *(pathlib.PurePath, torch.dtype, torch.device, torch.Size, torch.nn.Module, type, types.ModuleType),
    *(types.CodeType, types.FrameType),
)
# Looked at first: vocabularies and index lists have millions of them.
_ATOMS = frozenset([bool, int, float, complex, str, bytes, type(None), range, slice])
# Classes of these modules hold threads, processes, handles or state of the whole program.
_FOREIGN = frozenset(
    [
        *("_thread", "_weakref", "asyncio", "concurrent", "contextvars", "importlib", "logging"),
        *("multiprocessing", "socket", "ssl", "subprocess", "threading", "weakref"),
    ]
)
# Of torch's own classes, those whose objects are a model's values.
_OF_TORCH = ("torch.distributions", "torch.optim", "torch.nn.utils.rnn", "torch.return_types")
# Their state is in no attribute: `saved_values` knows how to read it.
STATEFUL = (
    *(np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, np.random.BitGenerator),
    *(np.random.SeedSequence, random.Random, bytearray, array.array, io.IOBase, Iterator, types.CellType),
)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_MOST_VALUES = 1_000_000


class Held(NamedTuple):
    """A value whose state is in no attribute, and where it is held.

    Attributes:
        value: The value.
        way: Its name, or the way of what holds it, a pattern, and the key there. Most names are never asked for.
        holder: The dict or list that holds it; None for something else.
        key: Its key there.
    """

    value: Any
    way: str | tuple[Any, str, Any]
    holder: dict[Any, Any] | list[Any] | None
    key: Any

    def name(self) -> str:
        """What a reader knows it by: "stem.stream"."""
        parts, way = [], self.way
        while not isinstance(way, str):
            way, pattern, key = way
            parts.append(pattern.format(key))
        return way + "".join(reversed(parts))


class Reachable:
    """Walks values through containers and through the attributes of objects, and lists what can change.

    Modules are left out: their attributes are where a walk begins. So are objects of threads, processes, loggers and
    of torch itself. Each object is visited once; nobody asks a container for its length, which a class may forbid.

    Args:
        roots: Values, each with its name and with the attributes (or the list) that hold it.
        also: Classes of torch's that are walked nevertheless, by the beginning of their module's name.

    Attributes:
        dicts: Dicts, the attributes of objects among them.
        others: Lists, sets, deques and ordered dicts.
        slotted: Objects with slots.
        stateful: Values whose state is in no attribute.
        tensors: Tensors.
        complete: False where there was so much that the walk was ended.
    """

    complete: bool

    def __init__(self, roots: Iterable[Held], also: tuple[str, ...] = ()) -> None:
        self.dicts: list[dict[Any, Any]] = []
        self.others: list[Any] = []
        self.slotted: list[Any] = []
        self.stateful: list[Held] = []
        self.tensors: list[torch.Tensor] = []
        self.complete = True
        self._of_torch = (*_OF_TORCH, *also)
        # The values themselves are kept, so that no identity is used again.
        self._seen: dict[int, Any] = {}
        self._walk(list(roots))

    def _walk(self, stack: list[Held]) -> None:
        while stack:
            held = stack.pop()
            value = held.value
            if isinstance(value, _LEFT_ALONE) or id(value) in self._seen:
                continue
            if len(self._seen) >= _MOST_VALUES:
                self.complete = False
                return
            self._seen[id(value)] = value
            if isinstance(value, torch.Tensor):
                self.tensors.append(value)
            elif isinstance(value, STATEFUL):
                self.stateful.append(held)
                self._enter(held, stack)
            elif isinstance(value, _FUNCTIONS):
                self._enter_function(value, held.way, stack)
            elif not self._is_foreign(type(value)):
                self._enter(held, stack)

    def _is_foreign(self, kind: type) -> bool:
        module = kind.__module__ or ""
        if module.startswith("torch."):
            return not module.startswith(self._of_torch)
        return module.partition(".")[0] in _FOREIGN

    def _enter(self, held: Held, stack: list[Held]) -> None:
        """List a container or an object, and go on with what it holds."""
        value, way = held.value, held.way
        if isinstance(value, OrderedDict | list | set | deque):
            self.others.append(value)
        elif isinstance(value, dict):
            self.dicts.append(value)
        self._enter_items(value, way, stack)
        attributes = _attributes(value)
        if type(attributes) is dict:
            self.dicts.append(attributes)
            stack.extend(
                Held(content, (way, ".{}", key), attributes, key)
                for key, content in attributes.items()
                if _may_lead_on(content)
            )
        slots = slots_of(type(value))
        if slots:
            self.slotted.append(value)
            stack.extend(
                Held(getattr(value, key), (way, ".{}", key), None, None) for key in slots if hasattr(value, key)
            )

    def _enter_function(self, value: Any, way: Any, stack: list[Held]) -> None:
        """Go on with what a function was made around: its closure, its object, the arguments that it holds."""
        if isinstance(value, functools.partial):
            parts: list[tuple[str, Any]] = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        elif isinstance(value, types.FunctionType):
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            parts = [*cells, ("__defaults__", value.__defaults__), ("__kwdefaults__", value.__kwdefaults__)]
            self.dicts.append(value.__dict__)
            parts += value.__dict__.items()
        else:
            parts = [("__self__", value.__self__)]
        stack.extend(Held(part, (way, ".{}", name), None, None) for name, part in parts if _may_lead_on(part))

    def _enter_items(self, value: Any, way: Any, stack: list[Held]) -> None:
        if isinstance(value, dict):
            # By dict's own method. Mappings of other classes may load what they are asked for: their attributes do.
            stack.extend(
                Held(content, (way, "[{!r}]", key), value, key)
                for key, content in dict.items(value)
                if _may_lead_on(content)
            )
        elif isinstance(value, types.CellType):
            stack.extend(Held(content, way, None, None) for content in cell_contents(value))
        elif isinstance(value, np.ndarray) and value.dtype.hasobject and value.dtype.names is None:
            stack.extend(Held(content, (way, "[{}]", "..."), None, None) for content in value.flat)
        elif isinstance(value, tuple | list | deque | set | frozenset):
            owner = value if isinstance(value, list) else None
            stack.extend(
                Held(content, (way, "[{}]", position), owner, position)
                for position, content in enumerate(_contents(value))
                if _may_lead_on(content)
            )


def cell_contents(cell: types.CellType) -> list[Any]:
    """What a variable of a closure holds; nothing where it has no value yet."""
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
    kind: Any = next(kind for kind in (tuple, list, deque, set, frozenset) if isinstance(value, kind))
    contents: Iterator[Any] = kind.__iter__(value)
    return contents


def _may_lead_on(value: Any) -> bool:
    """Whether something that can change may be found there: not in numbers and text, nor in tuples of them."""
    kind = type(value)
    if kind is tuple:
        return not _ATOMS.issuperset(map(type, value))
    return kind not in _ATOMS


def slots_of(kind: type) -> list[str]:
    """The slots of a class and its bases, as `getattr` knows them."""
    return [name for base in kind.__mro__ for name in _nested.slots(base)]
