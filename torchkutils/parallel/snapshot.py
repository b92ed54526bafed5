"""Whether a template is still made of the same things: modules, attributes, hooks, parameters, buffers."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_STOCK = frozenset(nn.Module().__dict__)
_HOOKS = frozenset(name for name, value in nn.Module().__dict__.items() if isinstance(value, dict) and "hook" in name)


class Snapshot:
    """What a template was made of at one moment.

    Attributes:
        modules: Every module it reaches, those in plain lists included.
        tensors: Every tensor it reaches.
    """

    def __init__(self, template: nn.Module) -> None:
        self.modules: list[nn.Module]
        self.tensors: list[Tensor]
        self.modules, self.tensors, lists = _reachable(template)
        # Looked up by name: comparing whole dictionaries would touch a dozen empty hook dictionaries a module.
        self._groups = _grouped(self.modules)
        self._modes = [module.training for module in self.modules]
        self._dicts = [module.__dict__ for module in self.modules]
        self._counts = list(map(len, self._dicts))
        self._lists = [(held, copy.copy(held)) for held in lists]
        self._contents = _Contents(self.modules)

    def still_holds(self) -> bool:
        """Whether nothing was added, replaced or removed since."""
        try:
            return self._contents.still_hold() and self._attributes_hold()
        except KeyError:
            return False
        except (RuntimeError, ValueError, TypeError):
            # Two different tensors or arrays have no single truth value: one was replaced.
            return False

    def _attributes_hold(self) -> bool:
        if any(list(map(group.get, group.held)) != group.values for group in self._groups):
            return False
        return list(map(len, self._dicts)) == self._counts and all(new == old for new, old in self._lists)

    def changed_modes(self) -> list[nn.Module]:
        """The modules whose `training` changed; the snapshot takes their modes over."""
        changed = [
            module for module, mode in zip(self.modules, self._modes, strict=True) if module.training is not mode
        ]
        if changed:
            self._modes = [module.training for module in self.modules]
            for group in self._groups:
                # The mode is the first value, and the only one that may differ without a rebuild.
                group.values = [
                    (held["training"], *before[1:]) if before else before
                    for held, before in zip(group.held, group.values, strict=True)
                ]
        return changed


class _Contents:
    """What the dictionaries of modules hold: parameters, buffers, hooks, submodules and a user's own."""

    def __init__(self, modules: list[nn.Module]) -> None:
        both = [part for module in modules for part in (module._parameters, module._buffers)]
        others = [(name, part) for module in modules for name, part in _dicts_of(module)]
        hooks = [part for name, part in others if name in _HOOKS]
        rest = [part for name, part in others if name not in _HOOKS]
        self._holders: list[dict[str, Any]] = _filled(both)
        self._held = self._now()
        self._parts = [(part, dict(part)) for part in _filled([*hooks, *rest])]
        self._empty = _empty([*both, *rest])
        self._no_hooks = _empty(hooks)
        self._hooks_made = RemovableHandle.next_id

    def _now(self) -> list[Any]:
        return list(chain.from_iterable(map(dict.values, self._holders)))

    def still_hold(self) -> bool:
        """Whether nothing was put in, replaced or taken out."""
        # Tensors by identity: == compares values, and equal values may belong to another parameter.
        held = self._now()
        if len(held) != len(self._held) or not all(map(operator.is_, held, self._held)) or any(self._empty):
            return False
        return not self._hooks_came() and all(new == old for new, old in self._parts)

    def _hooks_came(self) -> bool:
        # A module has a dozen places for hooks, nearly all empty: they are looked at once a hook was made anywhere.
        if self._hooks_made == RemovableHandle.next_id:
            return False
        if any(self._no_hooks):
            return True
        self._hooks_made = RemovableHandle.next_id
        return False


def _filled(parts: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    return [part for part in parts if part]


def _empty(parts: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    return [part for part in parts if not part]


@dataclass
class _Group:
    """Modules with attributes of the same names: one lookup for all, without a step of Python for each."""

    get: Callable[[dict[str, Any]], Any]
    held: list[dict[str, Any]] = field(default_factory=list)
    known: dict[tuple[int, ...], Any] = field(default_factory=dict)
    values: list[Any] = field(default_factory=list)

    def add(self, module: nn.Module) -> None:
        """Take in a module. Equal layers share their tuple of values: what is compared then lies in the cache."""
        self.held.append(module.__dict__)
        values = self.get(module.__dict__)
        self.values.append(self.known.setdefault(tuple(map(id, values)), values))


def _grouped(modules: list[nn.Module]) -> list[_Group]:
    groups: dict[tuple[str, ...], _Group] = {}
    for module in modules:
        names = tuple(name for name in module.__dict__ if name not in _STOCK)
        key = names if "training" in module.__dict__ else ("",)
        groups.setdefault(key, _Group(_getter_of(module))).add(module)
    return list(groups.values())


def _getter_of(module: nn.Module) -> Callable[[dict[str, Any]], Any]:
    if "training" not in module.__dict__:
        return _nothing
    # The second name, None in nearly every module, makes it a tuple whatever else there is.
    names = [name for name in module.__dict__ if name not in _STOCK]
    return operator.itemgetter("training", "_is_full_backward_hook", *names)


def _nothing(held: dict[str, Any]) -> tuple[()]:
    return ()


def _dicts_of(module: nn.Module) -> list[tuple[str, dict[Any, Any]]]:
    held = module.__dict__.items()
    return [
        (name, value) for name, value in held if isinstance(value, dict) and name not in ("_parameters", "_buffers")
    ]


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
