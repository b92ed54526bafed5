"""Whether a template is still made of the same things: modules, attributes, hooks, parameters, buffers."""

from __future__ import annotations

import copy
import operator
from itertools import chain
from typing import Any

from torch import Tensor, nn


class Snapshot:
    """What a template was made of at one moment.

    Attributes:
        modules: Every module it reaches, those in plain lists included.
        tensors: Every tensor it reaches.
    """

    def __init__(self, template: nn.Module) -> None:
        self.modules, self.tensors, lists = _reachable(template)
        self._attributes = [(module.__dict__, dict(module.__dict__)) for module in self.modules]
        parts = [part for module in self.modules for part in _dicts_of(module)]
        self._parts = [(part, dict(part)) for part in parts if part]
        self._empty = [part for part in parts if not part]
        self._lists = [(held, copy.copy(held)) for held in lists]
        self._holders: list[dict[str, Any]] = [
            part for module in self.modules for part in (module._parameters, module._buffers)
        ]
        self._held = list(chain.from_iterable(map(dict.values, self._holders)))
        pairs = [*self._attributes, *self._parts]
        self._live = [live for live, _ in pairs]
        self._kept = [kept for _, kept in pairs]

    def still_holds(self) -> bool:
        """Whether nothing was added, replaced or removed since."""
        # Tensors by identity: == compares values, and equal values may belong to another parameter.
        held = list(chain.from_iterable(map(dict.values, self._holders)))
        if len(held) != len(self._held) or not all(map(operator.is_, held, self._held)) or any(self._empty):
            return False
        try:
            return all(map(operator.eq, self._live, self._kept)) and all(new == old for new, old in self._lists)
        except (RuntimeError, ValueError, TypeError):
            # Two different tensors or arrays have no single truth value: one was replaced.
            return False

    def changed_modes(self) -> list[nn.Module]:
        """The modules whose `training` changed; the snapshot takes the new values over."""
        changed = []
        for module, (live, kept) in zip(self.modules, self._attributes, strict=True):
            if live.get("training") is not kept.get("training"):
                kept["training"] = live.get("training")
                changed.append(module)
        return changed


def _dicts_of(module: nn.Module) -> list[dict[Any, Any]]:
    values = module.__dict__.values()
    own = (id(module._parameters), id(module._buffers))
    return [value for value in values if isinstance(value, dict) and id(value) not in own]


def _reachable(template: nn.Module) -> tuple[list[nn.Module], list[Tensor], list[Any]]:
    """All modules, tensors, and lists that hold any, under a template."""
    modules: list[nn.Module] = []
    tensors: list[Tensor] = []
    lists: list[Any] = []
    seen: set[int] = set()
    stack: list[Any] = [template]
    while stack:
        value = stack.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            modules.append(value)
            stack.extend(reversed(list(value.__dict__.values())))
        elif isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, (list, tuple, dict)):
            items = list(value.values()) if isinstance(value, dict) else list(value)
            stack.extend(reversed(items))
            if isinstance(value, list) and any(isinstance(item, (nn.Module, Tensor)) for item in items):
                lists.append(value)
    return modules, tensors, lists
