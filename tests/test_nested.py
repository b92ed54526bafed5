"""The one walker of nested values: every kind of container × what the package does with it."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import pytest
import torch
from torch.nn.utils.rnn import pack_padded_sequence

from torchkutils import _nested


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


A, B = torch.zeros(2), torch.ones(3)


def stack() -> Stack:
    made = Stack("s")
    made.extend([A, B])
    return made


def model_output() -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=A, hidden_states=(B,))


CONTAINERS = {
    "tuple": lambda: (A, B),
    "list": lambda: [A, B],
    "deque": lambda: collections.deque([A, B], maxlen=5),
    "dict": lambda: {"left": A, "right": B},
    "numbered": lambda: {0: A, 1: B},
    "OrderedDict": lambda: collections.OrderedDict(left=A, right=B),
    "defaultdict": lambda: collections.defaultdict(list, left=A, right=B),
    "dict subclass": lambda: Labelled({"left": A, "right": B}, "l"),
    "UserDict": lambda: collections.UserDict({"left": A, "right": B}),
    "Mapping": lambda: ReadOnly({"left": A, "right": B}),
    "mappingproxy": lambda: types.MappingProxyType({"left": A, "right": B}),
    "namedtuple": lambda: Pair(A, B),
    "tuple subclass": lambda: Choosy(A, B),
    "list subclass": stack,
    "dataclass": lambda: Box(A, B),
    "frozen dataclass": lambda: FrozenBox(A, B),
    "slotted dataclass": lambda: SlottedBox(A, B),
    "return type": lambda: torch.return_types.max((A, B)),
    "PackedSequence": lambda: pack_padded_sequence(torch.rand(4, 2, 3), torch.tensor([4, 2])),
    "ModelOutput": model_output,
    "nested": lambda: [{"x": Pair(FrozenBox((A,), [B]), None)}],
}
OBJECTS = {"object": lambda: Holder(A, B), "slotted object": lambda: SlottedHolder(A, B)}


def tensors(value: Any, **how: bool) -> list[int]:
    return [id(tensor) for tensor in _nested.of_kind(torch.Tensor, value, **how)]


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_is_walked_and_made_anew(make: Any) -> None:
    value = make()
    found = _nested.of_kind(torch.Tensor, value)
    assert len(found) >= 2
    assert tensors(value) == [id(leaf) for leaf in _nested.leaves(value) if isinstance(leaf, torch.Tensor)]
    twins = {id(tensor): tensor.clone() for tensor in found}
    made = _nested.map_leaves(value, lambda tensor: twins[id(tensor)], kind=torch.Tensor)
    assert type(made) is type(value)
    assert tensors(made) == [id(twins[id(tensor)]) for tensor in found]
    assert tensors(value) == [id(tensor) for tensor in found], "the value itself did not change"
    extra = {"label", "name", "default_factory", "maxlen"}
    for name in extra & set(dir(value)):
        assert getattr(made, name) == getattr(value, name)


@pytest.mark.parametrize("make", [*CONTAINERS.values(), *OBJECTS.values()], ids=[*CONTAINERS, *OBJECTS])
def test_what_did_not_change_is_the_same_object(make: Any) -> None:
    value = make()
    assert _nested.map_leaves(value, lambda leaf: leaf, objects=True) is value


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_an_object_is_opened_only_when_asked(make: Any) -> None:
    value = make()
    assert tensors(value) == []
    assert sorted(tensors(value, objects=True)) == sorted([id(A), id(B)])
    made = _nested.map_leaves(value, torch.neg, kind=torch.Tensor, objects=True)
    assert type(made) is type(value)
    assert made is not value
    assert sorted(tensors(value, objects=True)) == sorted([id(A), id(B)])
    assert [leaf.tolist() for leaf in _nested.leaves(made, objects=True)] != [[0.0, 0.0], [1.0, 1.0, 1.0]]


@pytest.mark.parametrize(
    "leaf",
    [
        A, torch.Size([2]), "text", b"bytes", 3, None, torch.nn.Linear(1, 1), torch.nn.ModuleList(), iter([1]),
        (x for x in []), Holder, print, range(3), torch.float32,
    ],
    ids=lambda leaf: type(leaf).__name__,
)  # fmt: skip
def test_a_leaf_holds_nothing(leaf: Any) -> None:
    assert _nested.children(leaf, objects=True) is None


def test_iterators_are_not_used_up() -> None:
    numbers = iter([A, B])
    assert tensors([numbers]) == []
    assert next(numbers) is A


def test_paths_are_written_as_python_reaches_them() -> None:
    value = [{"x": Pair(FrozenBox((A,), {0: B}), None)}]
    paths = [path for path, _ in _nested.leaves_with_paths(value, "args")]
    assert paths == ["args[0]['x'].left.left[0]", "args[0]['x'].left.right[0]", "args[0]['x'].right"]


def test_what_holds_itself_ends() -> None:
    value: list[Any] = [A]
    value.append(value)
    value.append(value)
    assert tensors(value) == [id(A)]
    made = _nested.map_leaves(value, torch.neg, kind=torch.Tensor)
    assert made is not value
    assert len(made) == 3


def test_depth_has_one_limit() -> None:
    deep: Any = A
    for _ in range(_nested.DEEPEST):
        deep = [deep]
    assert tensors(deep) == [id(A)]
    assert tensors([deep]) == []
    assert _nested.map_leaves([deep], torch.neg, kind=torch.Tensor) == [deep]


def test_what_is_shared_stays_shared() -> None:
    inner = [A]
    made = _nested.map_leaves({"x": inner, "y": (inner, B)}, torch.neg, kind=torch.Tensor)
    assert made["x"] is made["y"][0]


def test_a_container_that_cannot_be_made_anew_is_named() -> None:
    class Fixed(ReadOnly):
        def __init__(self) -> None:
            super().__init__({"x": A})

    with pytest.raises(TypeError, match="a Fixed cannot be made anew with other contents"):
        _nested.map_leaves([Fixed()], torch.neg, kind=torch.Tensor)
    value = [Fixed()]
    assert _nested.map_leaves(value, torch.neg, kind=torch.Tensor, rigid=True) is value
