"""What many dicts, lists and sets hold, remembered and compared all at once."""

from __future__ import annotations

import itertools
import operator
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any

from torchkutils.models.tree.module_tree import CONTAINERS, HOLDING

_SEQUENCES = (list, deque)


def hold(dicts: Sequence[dict[Any, Any]], lengths: list[int], keys: Iterable[Any], values: list[Any]) -> bool:
    """Whether the dicts have these lengths and, one behind the other, the same objects as keys and values."""
    return (
        list(map(len, dicts)) == lengths
        and all(map(operator.is_, itertools.chain.from_iterable(map(dict.values, dicts)), values))
        and all(map(operator.is_, itertools.chain.from_iterable(dicts), keys))
    )


def refill_changed(dicts: Sequence[dict[Any, Any]], lengths: list[int], keys: list[Any], values: list[Any]) -> None:
    """Give each dict that changed its keys and values back, in their order."""
    begin = 0
    for held, length in zip(dicts, lengths, strict=True):
        end = begin + length
        if not hold([held], [length], keys[begin:end], values[begin:end]):
            held.clear()
            held.update(zip(keys[begin:end], values[begin:end], strict=True))
        begin = end


class ContainerStates:
    """What containers hold, at any depth.

    One list for each fact: a copy of each container would keep the garbage collector busy.

    Args:
        empty: Dicts and sets that hold nothing. Most of a module's own do: no copy is needed to empty them again.
        flat: Such that hold no containers.
        nested: Dicts, lists, sets, deques, and tuples that may hold such.
    """

    def __init__(self, empty: list[Any], flat: list[Any], nested: list[Any]) -> None:
        self._empty, self._also_empty = empty, list[Any]()
        self._dicts: dict[int, dict[Any, Any]] = {}
        self._others: dict[int, tuple[Any, Any]] = {}
        for container in flat:
            if type(container) is dict:
                self._dicts[id(container)] = container
            else:
                self._remember(container)
        for container in nested:
            self._remember(container)
        dicts = self._dicts.values()
        self._lengths = list(map(len, dicts))
        self._keys = list(itertools.chain.from_iterable(dicts))
        self._values = list(itertools.chain.from_iterable(map(dict.values, dicts)))

    def _remember(self, container: Any) -> None:
        stack = [container]
        while stack:
            top = stack.pop()
            if not top:
                if not isinstance(top, tuple):
                    self._also_empty.append(top)
                continue
            if id(top) in self._dicts or id(top) in self._others:
                continue
            inside: Any = top.values() if isinstance(top, dict) else top
            if isinstance(top, OrderedDict):
                # Its order is its own, and `dict.values` does not know it.
                self._others[id(top)] = (top, list(top.items()))
            elif isinstance(top, dict):
                self._dicts[id(top)] = top
            elif isinstance(top, CONTAINERS):
                self._others[id(top)] = (top, top.copy())
            for item in inside:
                if isinstance(item, HOLDING):
                    stack.append(item)

    def restore(self) -> None:
        """Refill what was refilled."""
        dicts = list(self._dicts.values())
        if not hold(dicts, self._lengths, self._keys, self._values):
            refill_changed(dicts, self._lengths, self._keys, self._values)
        for container, before in self._others.values():
            if not _holds_the_same(container, before):
                container.clear()
                (container.extend if isinstance(container, _SEQUENCES) else container.update)(before)
        for once_empty in (self._empty, self._also_empty):
            for container in filter(None, once_empty):
                container.clear()


def _holds_the_same(container: Any, before: Any) -> bool:
    if isinstance(container, set):
        return bool(container == before)
    if isinstance(container, OrderedDict):
        chain = itertools.chain.from_iterable
        return len(container) == len(before) and all(map(operator.is_, chain(container.items()), chain(before)))
    return len(container) == len(before) and all(map(operator.is_, container, before))
