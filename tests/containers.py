"""Every kind of container of two tensors, as users' models take and return them."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pack_sequence


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Box:
    left: Any
    right: Any
    never_set: Any = dataclasses.field(init=False)


@dataclasses.dataclass(frozen=True)
class FrozenBox:
    left: Any
    right: Any


@dataclasses.dataclass(frozen=True, slots=True)
class SlottedBox:
    left: Any
    right: Any


class Labelled(dict):
    def __init__(self, items: Any, label: str) -> None:
        super().__init__(items)
        self.label = label


class Choosy(tuple):
    def __new__(cls, left: Any, right: Any) -> Choosy:
        return super().__new__(cls, (left, right))


class Stack(list):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


class ReadOnly(Mapping):
    def __init__(self, items: Any) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)


class Holder:
    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.right = left, right


class SlottedHolder:
    __slots__ = ("__right", "left")

    def __init__(self, left: Any, right: Any) -> None:
        self.left, self.__right = left, right


def stack(a: Any, b: Any) -> Stack:
    made = Stack("s")
    made.extend([a, b])
    return made


def model_output(a: Any, b: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=a, hidden_states=(b,))


def holding_itself(a: Any, b: Any) -> list[Any]:
    value = [a, b]
    return [*value, value.append(value) or value, value]


Make = Callable[[torch.Tensor, torch.Tensor], Any]

CONTAINERS: dict[str, Make] = {
    "tuple": lambda a, b: (a, b),
    "list": lambda a, b: [a, b],
    "deque": lambda a, b: collections.deque([a, b], maxlen=5),
    "dict": lambda a, b: {"left": a, "right": b},
    "numbered": lambda a, b: {0: a, 1: b},
    "OrderedDict": lambda a, b: collections.OrderedDict(left=a, right=b),
    "defaultdict": lambda a, b: collections.defaultdict(list, left=a, right=b),
    "dict subclass": lambda a, b: Labelled({"left": a, "right": b}, "l"),
    "UserDict": lambda a, b: collections.UserDict({"left": a, "right": b}),
    "Mapping": lambda a, b: ReadOnly({"left": a, "right": b}),
    "mappingproxy": lambda a, b: types.MappingProxyType({"left": a, "right": b}),
    "namedtuple": Pair,
    "tuple subclass": Choosy,
    "list subclass": stack,
    "dataclass": Box,
    "frozen dataclass": FrozenBox,
    "slotted dataclass": SlottedBox,
    "return type": lambda a, b: torch.return_types.max((a, b)),
    "ModelOutput": model_output,
    "nested": lambda a, b: [{"x": Pair(FrozenBox((a,), [b]), None)}],
    "OrderedDict in a dataclass": lambda a, b: Box(
        collections.OrderedDict(x=a), collections.OrderedDict(x=Pair(b, None))
    ),
}
OBJECTS: dict[str, Make] = {"object": Holder, "slotted object": SlottedHolder}
PACKED: dict[str, Make] = {"PackedSequence": lambda a, b: pack_sequence([a, b], enforce_sorted=False)}
