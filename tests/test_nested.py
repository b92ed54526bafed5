"""The one walker of nested values: every kind of container × what the package does with it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.containers import CONTAINERS, OBJECTS, PACKED, FrozenBox, Holder, Make, Pair, ReadOnly
from torchkutils import _nested

A, B = torch.zeros(2), torch.ones(3)
WALKED = CONTAINERS | PACKED


def tensors(value: Any, **how: bool) -> list[int]:
    return [id(tensor) for tensor in _nested.of_kind(torch.Tensor, value, **how)]


@pytest.mark.parametrize("make", WALKED.values(), ids=WALKED)
def test_a_container_is_walked_and_made_anew(make: Make) -> None:
    value = make(A, B)
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


@pytest.mark.parametrize("make", (WALKED | OBJECTS).values(), ids=WALKED | OBJECTS)
def test_what_did_not_change_is_the_same_object(make: Make) -> None:
    value = make(A, B)
    assert _nested.map_leaves(value, lambda leaf: leaf, objects=True) is value


@pytest.mark.parametrize("make", OBJECTS.values(), ids=OBJECTS)
def test_an_object_is_opened_only_when_asked(make: Make) -> None:
    value = make(A, B)
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
