"""What a forward writes to plain attributes: it stays in the replica, and a warning says so once."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

_STOCK = frozenset(nn.Module().__dict__)
_WATCHED_CALLS = 3
"""Forwards that are compared after each build of the replicas; most of what a forward writes, it writes each time."""


class WrittenAttributes:
    """Looks after the first forwards what they changed in a replica."""

    def __init__(self) -> None:
        self._warned = False
        self._generation = -1
        self._left = 0
        self._before: list[tuple[nn.Module, str, Any, int]] = []
        self._counts: list[int] = []
        self._modules: list[nn.Module] = []

    def look_before(self, replica: nn.Module, generation: int) -> None:
        """Note the attributes of a replica, unless enough forwards were looked at."""
        if generation != self._generation:
            self._generation, self._left = generation, _WATCHED_CALLS
        self._modules = list(replica.modules()) if self._left and not self._warned else []
        self._left -= bool(self._modules)
        self._before = list(_plain_attributes(self._modules))

    def warn_after(self, template: nn.Module) -> None:
        """Warn of the attributes that the forward wrote since, by name."""
        if not self._modules:
            return
        before = {(id(module), name): (value, length) for module, name, value, length in self._before}
        names = {id(module): name for name, module in self._modules[0].named_modules()}
        written = [
            f"{names.get(id(module), '?')}.{name}".removeprefix(".")
            for module, name, value, length in _plain_attributes(self._modules)
            if not _is_as_before(before.get((id(module), name)), value, length)
        ]
        self._modules, self._before = [], []
        if written:
            self._warned = True
            warnings.warn(
                f"the forward of {type(template).__name__} writes {', '.join(written)}: that stays in the replicas, "
                "and the model keeps its own; return it, or register a buffer (the first replica's comes back)",
                stacklevel=6,
            )


def _plain_attributes(modules: Sequence[nn.Module]) -> Iterator[tuple[nn.Module, str, Any, int]]:
    for module in modules:
        for name, value in module.__dict__.items():
            if name not in _STOCK:
                yield module, name, value, len(value) if isinstance(value, list | dict | set) else 0


def _is_as_before(before: tuple[Any, int] | None, value: Any, length: int) -> bool:
    if before is None:
        return False
    return before[1] == length and (before[0] is value or _equal_plain(before[0], value))


def _equal_plain(one: Any, other: Any) -> bool:
    return type(one) is type(other) and isinstance(one, int | float | str | bool | tuple) and bool(one == other)
