"""Every module of a model, found in one walk, with its attributes as they are at that moment."""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch

from torchkutils import _nested

Below: TypeAlias = list[tuple[str, torch.nn.Module]]
"""The modules that a module holds, each with its key there."""
Picker: TypeAlias = Callable[[tuple[Any, ...]], tuple[Any, ...]]
"""Picks some of a tuple's values."""

_OWN_CONTAINERS = frozenset(name for name, value in torch.nn.Module().__dict__.items() if isinstance(value, dict | set))
# Modules have entries of their own; classes do not belong to the model.
_WITHOUT_CONTENTS = (torch.nn.Module, type)
ORDINARY = frozenset([torch.Tensor, torch.nn.Parameter, torch.nn.Buffer])
_STRIDED = torch.strided
# Shared by all leaves, which most modules are: a list for each would make garbage collection slower. It stays empty.
_NO_CHILDREN: list[int] = []
# The original: if someone replaces it later, what forward does is not known.
_SEQUENTIAL_FORWARD = torch.nn.Sequential.forward


class Layout:
    """The names of a module's attributes: one for all modules of a class that have the same in the same order.

    Attributes:
        names: All names.
        other_names: Those that `nn.Module` itself does not define as a container.
        own: Picks the values of the containers that `nn.Module` defines from the values of all names.
        others: Picks the values of `other_names`.
        scripted: The class is a ScriptModule.
    """

    def __init__(self, kind: type[torch.nn.Module], names: tuple[str, ...]) -> None:
        self.scripted: bool = issubclass(kind, torch.jit.ScriptModule)
        self.names: list[str] = list(names)
        self.other_names: list[str] = [name for name in names if name not in _OWN_CONTAINERS]
        self.others: Picker = _picker([names.index(name) for name in self.other_names])
        self.own: Picker = _picker([names.index(name) for name in names if name in _OWN_CONTAINERS])


def _picker(positions: list[int]) -> Picker:
    """A function that picks the values at these positions."""
    if len(positions) > 1:
        return operator.itemgetter(*positions)
    # `itemgetter` gives no tuple for a single position.
    return lambda values: tuple([values[position] for position in positions])


class ModuleTree:
    """The modules of a model in order of definition: a parent before its children, the model at index 0.

    A module that several paths lead to has an entry for each path. Modules in plain lists, tuples and dicts have
    entries too. The lists from `modules` to `children` have one item for each entry.

    Attributes:
        modules: The module of each entry.
        paths: "" for the model, else "encoder.layers.0".
        names: The last part of the path; the class's name for the model.
        depths: 0 for the model.
        parents: Index of the module that holds it; None for the model.
        same_as: Index of the first entry of the same module; None at the first.
        children: Indexes of the modules that a module holds; empty where `same_as` is given.
        index_of: Index of the first entry of each module, by `id` of the module.
        tensors: Each parameter and buffer once.
        buffers: The buffers among them.
        attribute_tensors: Tensors that are plain attributes of modules.
        unusual: `id` of each tensor that is not strided, or not of one of torch's own classes.
        holders: Index of the first module that holds a tensor, and the tensor's name there, by `id` of the tensor.
        layouts: Names of the attributes of each distinct module, in the order of `index_of`.
        values: The values of these attributes, for one module after the other.
        filled: The containers of `nn.Module` among the values (`_parameters`, hooks) that hold something.
        empty: Those that hold nothing.
        loose: The other values that may change or hold something that may, each with the index of its module and its
            name.
        mixed: Indexes of modules with a tensor that another module holds first, or that is unusual.
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
        self.attribute_tensors: list[torch.Tensor] = []
        self.unusual: set[int] = set()
        self.mixed: set[int] = set()
        self.holders: dict[int, tuple[int, str]] = {}
        self.layouts: list[Layout] = []
        self.values: list[Any] = []
        self.loose: list[tuple[Any, int, str]] = []
        self.unregistered: frozenset[int] = frozenset()
        self._known_layouts: dict[tuple[type[torch.nn.Module], tuple[str, ...]], Layout] = {}
        self._own_containers: list[Any] = []
        self._any_hidden = False
        self._walk(model)
        self.filled: list[Any] = list(filter(None, self._own_containers))
        self.empty: list[Any] = list(itertools.filterfalse(None, self._own_containers))
        self._own_containers = []
        if self._any_hidden:
            self._find_unregistered()

    def distinct(self) -> list[torch.nn.Module]:
        """Each module once, in the order of its first entry."""
        return [self.modules[index] for index in self.index_of.values()]

    def tensor_name(self, tensor: torch.Tensor) -> str | None:
        """The name of a parameter or buffer at its first holder, as `state_dict()` has it; None for other tensors."""
        holder = self.holders.get(id(tensor))
        if holder is None:
            return None
        index, key = holder
        return f"{self.paths[index]}.{key}" if self.paths[index] else key

    def _walk(self, model: torch.nn.Module) -> None:
        stack: list[tuple[torch.nn.Module, str, str, int, int | None]] = [(model, "", type(model).__name__, 0, None)]
        while stack:
            module, path, name, depth, parent = stack.pop()
            index = len(self.modules)
            self.modules.append(module)
            self.paths.append(path)
            self.names.append(name)
            self.depths.append(depth)
            self.parents.append(parent)
            self.children.append(_NO_CHILDREN)
            if parent is not None:
                self.children[parent].append(index)
            first = self.index_of.setdefault(id(module), index)
            if first != index:
                self.same_as.append(first)
                continue
            self.same_as.append(None)
            below = self._look_into(module, index)
            if below:
                self.children[index] = []
                prefix = f"{path}." if path else ""
                stack += [(child, prefix + key, key, depth + 1, index) for key, child in reversed(below)]

    def _look_into(self, module: torch.nn.Module, index: int) -> Below:
        """Note a module's attributes and tensors; gives the modules that it holds."""
        attributes = module.__dict__
        values = tuple(attributes.values())
        layout = self._layout(type(module), tuple(attributes))
        self.layouts.append(layout)
        self.values += values
        if module._parameters:
            self._note_tensors(module._parameters, index)
        if module._buffers:
            self.buffers += self._note_tensors(module._buffers, index)
        below: Below = []
        if module._modules:
            below += [(key, child) for key, child in module._modules.items() if child is not None]
        if layout.scripted:
            return below
        self._own_containers += layout.own(values)
        others = layout.others(values)
        if not _nested.are_constants(others):
            below += self._look_into_values(layout.other_names, others, index)
        return below

    def _layout(self, kind: type[torch.nn.Module], names: tuple[str, ...]) -> Layout:
        layout = self._known_layouts.get((kind, names))
        if layout is None:
            layout = self._known_layouts[kind, names] = Layout(kind, names)
        return layout

    def _look_into_values(self, names: Sequence[str], values: Sequence[Any], index: int) -> Below:
        """Note the attributes that a class adds to those of `nn.Module`; gives the modules inside them."""
        found: Below = []
        for name, value in _nested.changeable(zip(names, values, strict=True)):
            if isinstance(value, torch.Tensor):
                self.attribute_tensors.append(value)
            elif not _is_stateless(value):
                self.loose.append((value, index, name))
                found += _modules_inside(name, value)
        self._any_hidden = self._any_hidden or bool(found)
        return found

    def _note_tensors(self, held: Mapping[str, torch.Tensor | None], index: int) -> list[torch.Tensor]:
        """Note the tensors that a module holds; gives those that no module before it held."""
        new = []
        for key, tensor in held.items():
            if tensor is None:
                continue
            holder = (index, key)
            if self.holders.setdefault(id(tensor), holder) is not holder:
                self.mixed.add(index)
                continue
            new.append(tensor)
            if type(tensor) not in ORDINARY or tensor.layout is not _STRIDED or tensor.is_nested:
                self.unusual.add(id(tensor))
                self.mixed.add(index)
        self.tensors += new
        return new

    def _find_unregistered(self) -> None:
        """Find what `model.modules()` does not reach. A tensor that a registered module has too counts there."""
        registered = set(map(id, self.modules[0].modules()))
        self.unregistered = frozenset(i for i, module in enumerate(self.modules) if id(module) not in registered)
        for index in self.index_of.values():
            if index not in self.unregistered:
                self._prefer_as_holder(index)

    def _prefer_as_holder(self, index: int) -> None:
        """A registered module is the holder of those of its tensors that an unregistered module held first."""
        module = self.modules[index]
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            before, _ = self.holders[id(tensor)]
            if before in self.unregistered:
                self.mixed.update((index, before))
                self.holders[id(tensor)] = (index, key)


def _is_stateless(value: Any) -> bool:
    """Whether nothing of the model is held there, as in functions without a closure, which most functions are."""
    if isinstance(value, types.BuiltinFunctionType):
        return isinstance(value.__self__, types.ModuleType | type | None)
    if isinstance(value, types.FunctionType):
        return not (value.__closure__ or value.__dict__ or value.__defaults__)
    return isinstance(value, _WITHOUT_CONTENTS)


def only_calls_children(module: torch.nn.Module) -> bool:
    """Whether its forward is nothing but calls of its children, one after the other."""
    kind = type(module)
    return kind is torch.nn.Sequential and kind.forward is _SEQUENTIAL_FORWARD and "forward" not in module.__dict__


def _modules_inside(name: str, container: Any) -> Below:
    """Modules that torch does not register: those in lists, tuples, dicts and dataclasses."""
    if type(container) is list and _nested.are_constants(container):
        # As the paddings of a convolution.
        return []
    if not _nested.of_kind(torch.nn.Module, container):
        return []
    return [(path, m) for path, m in _nested.leaves_with_paths(container, name) if isinstance(m, torch.nn.Module)]
