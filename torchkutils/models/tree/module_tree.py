"""Every module of a model, found in one walk, with its attributes as they are at that moment."""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchkutils import _nested

_OWN_CONTAINERS = frozenset(name for name, value in torch.nn.Module().__dict__.items() if isinstance(value, dict | set))
# What can neither hold a module nor change: looked at first, since most attributes are such.
_ATOMS = frozenset([bool, int, float, str, type(None), torch.dtype, torch.device])
# Tensors are looked at by `restore`; classes are not the model's to change.
_WITHOUT_CONTENTS = (torch.Tensor, torch.nn.Module, type)
ORDINARY = frozenset([torch.Tensor, torch.nn.Parameter, torch.nn.Buffer])
# Most modules are leaves, and a list for each would keep the garbage collector busy. No one adds to it.
_NO_CHILDREN: list[int] = []
# As it is when this is imported: a forward that someone has replaced is not known.
_SEQUENTIAL_FORWARD = torch.nn.Sequential.forward


class Layout:
    """The names of a module's attributes: one for all modules of a class that have the same in the same order."""

    def __init__(self, kind: type[torch.nn.Module], names: tuple[str, ...]) -> None:
        self.scripted: bool = issubclass(kind, torch.jit.ScriptModule)
        self.names: list[str] = list(names)
        self.others: list[tuple[int, str]] = [
            (position, name) for position, name in enumerate(names) if name not in _OWN_CONTAINERS
        ]
        own = [position for position, name in enumerate(names) if name in _OWN_CONTAINERS]
        self.own: Callable[[tuple[Any, ...]], tuple[Any, ...]] = operator.itemgetter(*own) if own[1:] else _nothing


def _nothing(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return ()


class ModuleTree:
    """The modules of a model in order of definition: a parent before its children, the model at index 0.

    A module that several paths lead to has an entry for each path. Modules in plain lists, tuples and dicts are there
    too. The lists from `modules` to `children` run in parallel, one item an entry.

    Attributes:
        modules: The module of each entry.
        paths: "" for the model, else "encoder.layers.0".
        names: The last part of the path; the class's name for the model.
        depths: 0 for the model.
        parents: Index of the holder; None for the model.
        same_as: Index of the first entry of the same module; None at the first.
        children: Indexes of what a module holds; empty where `same_as` is given.
        index_of: Index of the first entry of each module, by identity.
        tensors: Each parameter and buffer once.
        buffers: Those of them that are no parameters.
        unusual: Identities of those that are no strided tensors of torch's own classes.
        holders: Index of the first holder of each tensor, by identity.
        keys: The tensor's name there.
        layouts: Names of the attributes of each distinct module, in the order of `index_of`.
        values: Their values, one module's after the other's.
        filled: The dicts and sets among them that torch itself made and that hold something.
        empty: Those that torch made and that hold nothing.
        loose: The other values that may hold something or change, each with the index of its module and its name.
        mixed: Indexes of modules with a tensor that another one holds first, or that is unusual.
        unregistered: Indexes of modules that `model.modules()` does not reach.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.modules: list[torch.nn.Module] = []
        self.paths: list[str] = []
        self.names: list[str] = []
        self.depths: list[int] = []
        self.parents: list[int | None] = []
        self.same_as: list[int | None] = []
        self.children: list[list[int]] = []
        self.index_of: dict[int, int] = {}
        self.tensors: list[torch.Tensor] = []
        self.buffers: list[torch.Tensor] = []
        self.unusual: set[int] = set()
        self.mixed: set[int] = set()
        self.holders: dict[int, int] = {}
        self.keys: dict[int, str] = {}
        self.layouts: list[Layout] = []
        self.values: list[Any] = []
        self.filled: list[Any] = []
        self.empty: list[Any] = []
        self.loose: list[tuple[Any, int, str]] = []
        self.unregistered: frozenset[int] = frozenset()
        self._known_layouts: dict[tuple[type[torch.nn.Module], tuple[str, ...]], Layout] = {}
        self._any_hidden = False
        self._walk(model)

    def distinct(self) -> list[torch.nn.Module]:
        """Each module once, in the order of its first entry."""
        return [self.modules[index] for index in self.index_of.values()]

    def tensor_name(self, tensor: torch.Tensor) -> str | None:
        """The name of a parameter or buffer at its first holder, as `state_dict()` has it; None for other tensors."""
        index = self.holders.get(id(tensor))
        if index is None:
            return None
        path, key = self.paths[index], self.keys[id(tensor)]
        return f"{path}.{key}" if path else key

    def _walk(self, model: torch.nn.Module) -> None:
        stack: list[tuple[torch.nn.Module, str, str, int, int | None]] = [(model, "", type(model).__name__, 0, None)]
        while stack:
            module, path, name, depth, parent = stack.pop()
            index = len(self.modules)
            first = self.index_of.setdefault(id(module), index)
            self.modules.append(module)
            self.paths.append(path)
            self.names.append(name)
            self.depths.append(depth)
            self.parents.append(parent)
            self.same_as.append(None if first == index else first)
            below = self._look_into(module, index) if first == index else []
            self.children.append([] if below else _NO_CHILDREN)
            if parent is not None:
                self.children[parent].append(index)
            for key, child in reversed(below):
                stack.append((child, f"{path}.{key}" if path else key, key, depth + 1, index))
        if self._any_hidden:
            registered = set(map(id, model.modules()))
            self.unregistered = frozenset(i for i, module in enumerate(self.modules) if id(module) not in registered)
            self._prefer_registered_holders()

    def _prefer_registered_holders(self) -> None:
        """A tensor of a module that `model.modules()` does not reach may be one that it does reach: it counts there."""
        for index in self.index_of.values():
            if index in self.unregistered:
                continue
            module = self.modules[index]
            for key, tensor in (*module._parameters.items(), *module._buffers.items()):
                if tensor is not None and self.holders[id(tensor)] in self.unregistered:
                    self.mixed.update((index, self.holders[id(tensor)]))
                    self.holders[id(tensor)], self.keys[id(tensor)] = index, key

    def _look_into(self, module: torch.nn.Module, index: int) -> list[tuple[str, torch.nn.Module]]:
        """Note a module's attributes and tensors; gives the modules that it holds, with their keys."""
        attributes = module.__dict__
        key = type(module), tuple(attributes)
        layout = self._known_layouts.get(key)
        if layout is None:
            layout = self._known_layouts[key] = Layout(*key)
        values = tuple(attributes.values())
        self.layouts.append(layout)
        self.values += values
        if module._parameters:
            self._note_tensors(module._parameters, index)
        if module._buffers:
            self.buffers += self._note_tensors(module._buffers, index)
        children: Any = module._modules
        below = [(key, child) for key, child in children.items() if child is not None] if children else []
        if layout.scripted:
            return below
        own = layout.own(values)
        self.filled += filter(None, own)
        self.empty += itertools.filterfalse(None, own)
        return below + self._look_into_values(layout, values, index)

    def _look_into_values(
        self, layout: Layout, values: tuple[Any, ...], index: int
    ) -> list[tuple[str, torch.nn.Module]]:
        """Note the attributes that torch knows nothing of; gives the modules in them."""
        found: list[tuple[str, torch.nn.Module]] = []
        for position, name in layout.others:
            value = values[position]
            if type(value) not in _ATOMS and not isinstance(value, _WITHOUT_CONTENTS) and not _is_stateless(value):
                self.loose.append((value, index, name))
                found += _modules_inside(name, value)
        self._any_hidden = self._any_hidden or bool(found)
        return found

    def _note_tensors(self, held: Mapping[str, torch.Tensor | None], index: int) -> list[torch.Tensor]:
        """Note what a module holds; gives what no module before it held."""
        new = []
        for key, tensor in held.items():
            if tensor is None:
                continue
            if id(tensor) in self.holders:
                self.mixed.add(index)
                continue
            self.holders[id(tensor)], self.keys[id(tensor)] = index, key
            new.append(tensor)
            if type(tensor) not in ORDINARY or tensor.layout is not torch.strided or tensor.is_nested:
                self.unusual.add(id(tensor))
                self.mixed.add(index)
        self.tensors += new
        return new


def _is_stateless(value: Any) -> bool:
    """Whether it is a function that holds nothing of its own: most attributes that can be called are."""
    if isinstance(value, types.BuiltinFunctionType):
        return isinstance(value.__self__, types.ModuleType | type | None)
    return isinstance(value, types.FunctionType) and not (value.__closure__ or value.__dict__ or value.__defaults__)


def only_calls_children(module: torch.nn.Module) -> bool:
    """Whether its forward is nothing but calls of its children, one after the other."""
    kind = type(module)
    return kind is torch.nn.Sequential and kind.forward is _SEQUENTIAL_FORWARD and "forward" not in module.__dict__


def _modules_inside(name: str, container: Any) -> list[tuple[str, torch.nn.Module]]:
    """Modules that lie where torch does not look for them: in lists, tuples, dicts and dataclasses."""
    if not _nested.of_kind(torch.nn.Module, container):
        return []
    return [(path, m) for path, m in _nested.leaves_with_paths(container, name) if isinstance(m, torch.nn.Module)]
