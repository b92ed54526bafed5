"""What some values reach: everything under attributes and arguments that a forward may change."""

from __future__ import annotations

import array
import enum
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
    *(types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.CodeType, types.FrameType),
)
# Classes of these modules hold threads, processes, handles or state of the whole program.
_FOREIGN = frozenset(
    [
        *("_thread", "_weakref", "asyncio", "concurrent", "contextvars", "functools", "importlib", "logging"),
        *("multiprocessing", "queue", "socket", "ssl", "subprocess", "threading", "weakref"),
    ]
)
# Of torch's own classes, those whose objects are a model's values.
_OF_TORCH = ("torch.distributions", "torch.optim", "torch.nn.utils.rnn", "torch.return_types")
# Their state is in no attribute: `saved_values` knows how to read it.
STATEFUL = (
    *(np.ndarray, torch.Generator, np.random.Generator, np.random.RandomState, random.Random, bytearray),
    *(array.array, io.IOBase, Iterator),
)
_MOST_VALUES = 1_000_000


class Held(NamedTuple):
    """A value whose state is in no attribute, and where it is held.

    Attributes:
        value: The value.
        name: What a reader knows it by: "stem.stream".
        holder: The dict or list that holds it; None for something else.
        key: Its key there.
    """

    value: Any
    name: str
    holder: dict[Any, Any] | list[Any] | None
    key: Any


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
                if not isinstance(value, np.ndarray):
                    self._enter(held, stack)
            elif not self._is_foreign(type(value)):
                self._enter(held, stack)

    def _is_foreign(self, kind: type) -> bool:
        module = kind.__module__ or ""
        if module.startswith("torch."):
            return not module.startswith(self._of_torch)
        return module.partition(".")[0] in _FOREIGN

    def _enter(self, held: Held, stack: list[Held]) -> None:
        """List a container or an object, and go on with what it holds."""
        value, name = held.value, held.name
        if isinstance(value, OrderedDict | list | set | deque):
            self.others.append(value)
        elif isinstance(value, dict):
            self.dicts.append(value)
        self._enter_items(value, name, stack)
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            self.dicts.append(attributes)
            stack.extend(Held(content, f"{name}.{key}", attributes, key) for key, content in attributes.items())
        slots = slots_of(type(value))
        if slots:
            self.slotted.append(value)
            stack.extend(Held(getattr(value, key), name, None, None) for key in slots if hasattr(value, key))

    def _enter_items(self, value: Any, name: str, stack: list[Held]) -> None:
        if isinstance(value, dict):
            # By dict's own method. Mappings of other classes may load what they are asked for: their attributes do.
            stack.extend(Held(content, f"{name}[{key!r}]", value, key) for key, content in dict.items(value))
        elif isinstance(value, tuple | list | deque | set | frozenset):
            owner = value if isinstance(value, list) else None
            # Most items are numbers or text, and lists may be long.
            stack.extend(
                Held(content, f"{name}[{position}]", owner, position)
                for position, content in enumerate(iter(value))
                if not isinstance(content, _LEFT_ALONE)
            )


def slots_of(kind: type) -> list[str]:
    """The slots of a class and its bases, as `getattr` knows them."""
    return [name for base in kind.__mro__ for name in _nested.slots(base)]
