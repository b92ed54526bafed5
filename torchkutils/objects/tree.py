"""The tree of a model's modules, compiled children looked through."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import nn

__all__ = ["Slot", "count_paths", "inside", "named_tree", "plain_keys", "slots_of"]


def inside(module: nn.Module) -> nn.Module:
    """The module that a compiled one, or a wrapper of this package, holds; the module itself otherwise.

    DataParallel and its like are told apart only where they wrap the whole model: as a child they are a part of it.
    """
    while True:
        held = module.__dict__.get("__template__")
        held = module._modules.get("_orig_mod") if held is None else held
        if not isinstance(held, nn.Module) or held is module:
            return module
        module = held


def named_tree(root: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every module of a tree once, with the first path that leads to it; wrappers are looked through."""
    found: dict[int, tuple[str, nn.Module]] = {}
    todo = [("", inside(root))]
    while todo:
        path, module = todo.pop()
        if id(module) in found:
            continue
        found[id(module)] = (path, module)
        below = [(name, child) for name, child in module._modules.items() if child is not None]
        todo += [(f"{path}.{name}" if path else name, inside(child)) for name, child in reversed(below)]
    return list(found.values())


class Slot:
    """One parameter or buffer of a module: the module, the attribute, and its state-dict key."""

    __slots__ = ("attribute", "key", "owner")

    def __init__(self, key: str, owner: nn.Module, attribute: str) -> None:
        self.key: str = key
        self.owner: nn.Module = owner
        self.attribute: str = attribute

    @property
    def tensor(self) -> torch.Tensor:
        """The parameter or buffer itself."""
        found: torch.Tensor | None = self.owner._parameters.get(self.attribute)
        if found is None:
            found = self.owner._buffers[self.attribute]
        assert found is not None
        return found


def count_paths(model: nn.Module) -> int:
    """How many paths lead to modules of a tree: shared modules multiply them, so that nobody may walk them all.

    Raises:
        ValueError: A module holds itself.
    """
    counted: dict[int, int] = {}

    def count(module: nn.Module) -> int:
        known = counted.get(id(module))
        if known == 0:
            raise ValueError("a module must not hold itself")
        if known is None:
            counted[id(module)] = 0
            below = [inside(child) for child in module._modules.values() if child is not None]
            known = counted[id(module)] = 1 + sum(map(count, below))
        return known

    return count(inside(model))


def slots_of(model: nn.Module) -> list[Slot]:
    """Every parameter and persistent buffer, under each key that a state dict has for it, wrappers looked through."""
    return [
        Slot(prefix + name, module, name)
        for prefix, module in _paths(inside(model), "")
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None and name not in module._non_persistent_buffers_set
    ]


def _paths(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _paths(inside(child), f"{prefix}{name}.")


def plain_keys(model: nn.Module) -> Callable[[str], str]:
    """A function that takes the names of wrappers (`_orig_mod`) inside a model out of state-dict keys."""
    parts: dict[str, str] = {}

    def collect(module: nn.Module, prefix: str, plain: str) -> None:
        inner = inside(module)
        if inner is not module:
            name = next((name for name, child in module._modules.items() if child is inner), None)
            if name is not None:
                parts[f"{prefix}{name}."] = plain
                collect(inner, f"{prefix}{name}.", plain)
            return
        for name, child in module._modules.items():
            if child is not None:
                collect(child, f"{prefix}{name}.", f"{plain}{name}.")

    if any(inside(module) is not module for module in model.modules()):
        collect(model, "", "")
    wrapped = sorted(parts.items(), key=lambda item: -len(item[0]))

    def plain(key: str) -> str:
        return next((short + key[len(long) :] for long, short in wrapped if key.startswith(long)), key)

    return plain
