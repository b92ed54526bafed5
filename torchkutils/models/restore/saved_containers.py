"""What many dicts, lists, sets and objects hold, remembered and compared all at once."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any

from torchkutils._nested import slots_of
from torchkutils.models.restore.reachable import Reachable


def holds(dicts: Sequence[dict[Any, Any]], lengths: list[int], keys: Iterable[Any], values: list[Any]) -> bool:
    """Whether the dicts have these lengths and, one after the other, the same objects as keys and values."""
    return (
        list(map(dict.__len__, dicts)) == lengths
        and all(map(operator.is_, itertools.chain.from_iterable(map(dict.values, dicts)), values))
        and all(map(operator.is_, itertools.chain.from_iterable(map(dict.keys, dicts)), keys))
    )


def refill_changed(dicts: Sequence[dict[Any, Any]], lengths: list[int], keys: list[Any], values: list[Any]) -> None:
    """Give each dict that changed its keys and values back, in their order."""
    begin = 0
    for held, length in zip(dicts, lengths, strict=True):
        end = begin + length
        if not holds([held], [length], keys[begin:end], values[begin:end]):
            dict.clear(held)
            dict.update(held, zip(keys[begin:end], values[begin:end], strict=True))
        begin = end


class ContainerStates:
    """What containers and objects hold.

    One list for each fact: a copy of each container would make garbage collection slower. The methods of the built-in
    classes are used, since a user's class may have changed its own.

    Args:
        empty: Dicts and sets that hold nothing, as most of a module's own do: `clear` is all that they need.
        filled: Dicts and sets whose contents are not walked.
        reached: What the values that may change reach; None for nothing.
    """

    def __init__(self, empty: list[Any], filled: list[Any], reached: Reachable | None = None) -> None:
        self._empty = empty
        self._dicts = [held for held in filled if type(held) is dict]
        others = [held for held in filled if type(held) is not dict]
        slotted = []
        if reached is not None:
            self._dicts += reached.dicts
            others += reached.others
            slotted = reached.slotted
        self._others = [(container, _contents(container)) for container in others]
        self._slots = _slots(slotted)
        self._lengths = list(map(dict.__len__, self._dicts))
        self._keys = list(itertools.chain.from_iterable(map(dict.keys, self._dicts)))
        self._values = list(itertools.chain.from_iterable(map(dict.values, self._dicts)))

    def changed(self) -> bool:
        """Whether any of them holds something else."""
        return (
            not holds(self._dicts, self._lengths, self._keys, self._values)
            or not all(itertools.starmap(_holds_the_same, self._others))
            or any(getattr(value, name, _NEVER_SET) is not before for value, name, before in self._slots)
            or any(self._empty)
        )

    def restore(self) -> None:
        """Give the containers that changed their contents back."""
        if not holds(self._dicts, self._lengths, self._keys, self._values):
            refill_changed(self._dicts, self._lengths, self._keys, self._values)
        for container, before in self._others:
            if not _holds_the_same(container, before):
                _refill(container, before)
        for value, name, before in self._slots:
            _restore_slot(value, name, before)
        for container in filter(None, self._empty):
            container.clear()


_NEVER_SET = object()


def _slots(values: list[Any]) -> list[tuple[Any, str, Any]]:
    """Each slot of these objects: the object, the name, and what it holds."""
    found = []
    for value in values:
        for name in slots_of(type(value)):
            found.append((value, name, getattr(value, name, _NEVER_SET)))
    return found


def _restore_slot(value: Any, name: str, before: Any) -> None:
    if getattr(value, name, _NEVER_SET) is before:
        return
    if before is _NEVER_SET:
        object.__delattr__(value, name)
    else:
        object.__setattr__(value, name, before)


def _contents(container: Any) -> Any:
    if isinstance(container, OrderedDict):
        # Its order is its own, and `dict.values` does not know it.
        return list(OrderedDict.items(container))
    return set(container) if isinstance(container, set) else list(iter(container))


def _holds_the_same(container: Any, before: Any) -> bool:
    now = _contents(container)
    if isinstance(container, set):
        return bool(now == before)
    if len(now) != len(before):
        return False
    if isinstance(container, OrderedDict):
        now, before = itertools.chain.from_iterable(now), itertools.chain.from_iterable(before)
    return all(map(operator.is_, now, before))


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, OrderedDict):
        OrderedDict.clear(container)
        OrderedDict.update(container, before)
    elif isinstance(container, set):
        set.clear(container)
        set.update(container, before)
    else:
        base: Any = list if isinstance(container, list) else deque
        base.clear(container)
        base.extend(container, before)
