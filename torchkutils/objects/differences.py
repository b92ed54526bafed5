"""In what a model differs from what its constructors build: as edits, or refused by name.

The model and a rebuilt tree are walked together, first the modules, so that each has its counterpart, then what each
module holds. A difference becomes an edit (see `edits`) that is applied to the rebuilt tree at once; what no edit can
say is refused. Two things are not part of a model: attributes that its constructor did not make, and values that
no file can hold (large tensors, tensors with a graph, optimizers, open files). They are collected, for one warning.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import types
from typing import Any

import numpy as np
import torch
from torch import nn

from torchkutils import _nested
from torchkutils.objects.builtin_objects import is_stock_class
from torchkutils.objects.config import ConfigReader, ConfigWriter, path_name
from torchkutils.objects.edits import MODULE_ATTRIBUTES, apply_edit, is_settable
from torchkutils.objects.equality import MISSING, Equality
from torchkutils.objects.parametrizations import (
    describe_hooks,
    describe_parametrizations,
    is_of_weight_norm,
    norm_hooks,
    plain_class,
)
from torchkutils.objects.plain_values import encode
from torchkutils.objects.recorded_arguments import RECORD, recorded_config
from torchkutils.objects.stock_config import is_container, stock_config
from torchkutils.objects.tree import inside

__all__ = ["Differences", "built_on"]

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith("_hooks"))
# Marks of torch.compile and of transformers, and the second list of tensors that recurrent layers keep.
_UNSEEN = {"_is_torch_compile", "_compiled_call_impl", "_is_hf_initialized", "_flat_weight_refs", "_flat_weights"}
_STATE = MODULE_ATTRIBUTES | _UNSEEN | {RECORD}
_STORED_TENSORS = 1 << 20
_TRAINING_OBJECTS = (
    torch.optim.Optimizer,
    torch.optim.lr_scheduler.LRScheduler,
    torch.amp.GradScaler,
    torch.Generator,
    torch.utils.hooks.RemovableHandle,
    np.random.Generator,
    np.random.RandomState,
    logging.Logger,
    io.IOBase,
    types.GeneratorType,
)


def built_on(device: str | None) -> contextlib.AbstractContextManager[Any]:
    """A block in which modules are built on a device; None changes nothing."""
    return torch.device(device) if device else contextlib.nullcontext()


class _GoesBackError(ValueError):
    """No file can hold the value: it is a large tensor, or one with a graph. The constructor's value is taken."""


class Differences:
    """One comparison of a model with a rebuilt tree.

    Args:
        original: The model.
        rebuilt: What its constructors build; edits are applied to it as they are found.
        writer: Writes the nodes of modules that stand in place of others.
        reader: Builds them.
        where: The path of the model in a larger one, for errors.
        device: Where they are built; None means where their constructors build.

    Attributes:
        edits: What to do to a newly built tree so that it becomes the model.
        left_out: Attributes that the constructor did not make.
        went_back: Attributes that have the constructor's value again.
    """

    def __init__(
        self,
        original: nn.Module,
        rebuilt: nn.Module,
        writer: ConfigWriter,
        reader: ConfigReader,
        where: str = "",
        device: str | None = None,
    ) -> None:
        self._device = device
        self.edits: list[dict[str, Any]] = []
        self.left_out: list[str] = []
        self.went_back: list[str] = []
        self._rebuilt, self._writer, self._reader, self._where = rebuilt, writer, reader, where
        self._pairs: dict[int, tuple[str, nn.Module, nn.Module]] = {}
        self._taken: dict[int, nn.Module] = {}
        self._counterparts: dict[int, Any] = {}
        self._pair_modules("", inside(original), rebuilt)
        pairs = list(self._pairs.values())
        for path, one, other in pairs:
            self._compare_tensors(path, one, other)
        self._equal = Equality(self._counterparts)
        for path, one, other in pairs:
            self._compare_hooks(path, one, other)
            self._compare_attributes(path, one, other)

    def _edit(self, path: str, action: str, body: Any) -> None:
        edit = {"at": path, action: body}
        self.edits.append(edit)
        with built_on(self._device):
            apply_edit(self._rebuilt, edit, self._reader)

    def _name(self, path: str) -> str:
        return path_name(".".join(filter(None, (self._where, path))))

    def _refuse(self, path: str, what: str, way: str = "") -> None:
        way = way or (
            "give its class a get_config that says it all, or keep its tensors alone: torchkutils.save_weights"
        )
        raise ValueError(f"{self._name(path)} {what}: it cannot be rebuilt as it is; {way}")

    # -- modules ------------------------------------------------------------------------------------------------------

    def _pair_modules(self, path: str, one: nn.Module, other: nn.Module) -> None:
        self._pairs[id(one)] = (path, one, other)
        self._counterparts[id(one)] = other
        self._taken[id(other)] = one
        self._parametrize(path, one, other)
        if type(one) is not type(other) and not _same_dynamic_class(type(one), type(other)):
            self._refuse(path, f"is a {type(one).__name__} but would come back as a {type(other).__name__}")
        for name, child in one._modules.items():
            self._pair_child(f"{path}.{name}" if path else name, name, child, other)
        if list(one._modules) != list(other._modules):
            self._edit(path, "children", list(one._modules))

    def _pair_child(self, path: str, name: str, child: nn.Module | None, parent: nn.Module) -> None:
        there = parent._modules.get(name)
        if child is None:
            if there is not None or name not in parent._modules:
                self._edit(path, "child", None)
            return
        child = inside(child)
        known = self._pairs.get(id(child))
        if known is not None:
            if known[2] is not there:
                self._edit(path, "child", {"same": known[0]})
            return
        if there is None or id(there) in self._taken or not self._same_kind(path, child, there):
            self._edit(path, "child", {"__module__": self._writer.node(child, self._name(path))})
            there = parent._modules[name]
        assert there is not None
        self._pair_modules(path, child, there)

    def _same_kind(self, path: str, one: nn.Module, other: nn.Module) -> bool:
        """Whether the rebuilt module is of the same class and was made by an equal constructor call."""
        kind = plain_class(one)
        if kind is not plain_class(other):
            return False
        if self._writer.wrote(one) or (is_stock_class(kind) and is_container(kind)):
            return True
        if is_stock_class(kind):
            return _equal_configs(stock_config(one, self._name(path)), stock_config(other, self._name(path)))
        first, second = recorded_config(one), recorded_config(other)
        return first is None or second is None or _equal_configs(first, second)

    def _parametrize(self, path: str, one: nn.Module, other: nn.Module) -> None:
        def node(module: nn.Module) -> Any:
            return self._writer.node(module, f"{self._name(path)}: a parametrization")

        if type(one) is not type(other) and plain_class(one) is plain_class(other):
            there = set(getattr(other, "parametrizations", ()))
            wanted = {name: told for name, told in describe_parametrizations(one, node).items() if name not in there}
            if wanted:
                self._edit(path, "parametrized", wanted)
        norms = [told for told in describe_hooks(one) if told not in describe_hooks(other)]
        if norms:
            self._edit(path, "norms", norms)

    # -- tensors ------------------------------------------------------------------------------------------------------

    def _compare_tensors(self, path: str, one: nn.Module, other: nn.Module) -> None:
        held = {**one._parameters, **one._buffers}
        same = {name: _same_tensor(one, other, name) for name in held}
        same_order = [*one._parameters] == [*other._parameters] and [*one._buffers] == [*other._buffers]
        if not same_order or not all(same.values()):
            wanted = {
                name: {"keep": True} if same[name] else self._told(path, one, name, tensor)
                for name, tensor in held.items()
            }
            self._edit(path, "tensors", wanted)
        there = {**other._parameters, **other._buffers}
        self._counterparts.update((id(tensor), there.get(name)) for name, tensor in held.items() if tensor is not None)

    def _told(self, path: str, module: nn.Module, name: str, tensor: torch.Tensor | None) -> dict[str, Any]:
        full = f"{path}.{name}" if path else name
        source = None if tensor is None else self._writer.special(tensor, full)["__tensor__"]
        if name in module._parameters:
            return {"kind": "parameter", "tensor": source}
        return {"kind": "buffer", "persistent": name not in module._non_persistent_buffers_set, "tensor": source}

    # -- hooks and attributes -----------------------------------------------------------------------------------------

    def _compare_hooks(self, path: str, one: nn.Module, other: nn.Module) -> None:
        for name in _HOOKS:
            if not self._equal(_hooks_to_compare(one, name), _hooks_to_compare(other, name)):
                self._refuse(
                    path,
                    f"has hooks ({name}) that its constructor does not make, which no file can hold",
                    "remove them before saving, with the handles that register_… gave: handle.remove()",
                )

    def _compare_attributes(self, path: str, one: nn.Module, other: nn.Module) -> None:
        first, second = vars(one), vars(other)
        computed = {hook.name for hook in norm_hooks(one)}
        for name in {**first, **second}:
            if name not in _STATE and name not in computed:
                self._compare_attribute(path, name, first.get(name, MISSING), second.get(name, MISSING), one)

    def _compare_attribute(self, path: str, name: str, value: Any, there: Any, module: nn.Module) -> None:
        if value is MISSING:
            self._edit(path, "unset", [name])
            return
        full = f"{path}.{name}" if path else name
        if there is MISSING:
            of_class = inspect.getattr_static(type(module), name, MISSING)
            if of_class is MISSING:
                self.left_out.append(full)
                return
            if not is_settable(module, name) or callable(of_class) or hasattr(type(of_class), "__get__"):
                self._refuse(path, f"has an attribute {name!r} in place of what its class defines")
            there = of_class
        if self._is_equal(value, there):
            return
        self._store_attribute(path, name, value, full)

    def _is_equal(self, value: Any, there: Any) -> bool:
        try:
            return self._equal(value, there)
        except RecursionError:
            return False

    def _store_attribute(self, path: str, name: str, value: Any, full: str) -> None:
        room = _STORED_TENSORS

        def special(one: Any, where: str) -> Any:
            nonlocal room
            if isinstance(one, nn.Module):
                raise ValueError(f"{where} holds a module of class {type(one).__name__}")
            room -= one.numel() * one.element_size()
            if one.grad_fn is not None or room < 0 or one.layout != torch.strided:
                raise _GoesBackError(where)
            return self._writer.special(one, where)

        try:
            body = encode(value, f"{self._name(path)}: attribute {name}", special)
            self._edit(path, "set", {name: body})
        except _GoesBackError:
            self.went_back.append(full)
        except ValueError as error:
            if _is_of_training(value):
                self.went_back.append(full)
                return
            if _nested.of_kind(nn.Module, value, objects=True):
                way = "keep the modules in an nn.ModuleList or nn.ModuleDict"
                self._refuse(path, f"holds modules in its attribute {name!r} that are no children of it", way)
            text = repr(value)[:60] if not callable(value) else getattr(value, "__qualname__", type(value).__name__)
            self._refuse(path, f"was changed after it was built: attribute {name!r} is {text} now ({error})")


def _hooks_to_compare(module: nn.Module, name: str) -> list[Any]:
    """The hooks of one kind, without those of torch's norms: they are described with the norms."""
    hooks = (vars(module).get(name) or {}).values()
    norms = norm_hooks(module)
    return [hook for hook in hooks if hook not in norms and not is_of_weight_norm(hook)]


def _same_dynamic_class(one: type, other: type) -> bool:
    """Whether two classes are what torch made for one parametrized class."""
    return one.__qualname__ == other.__qualname__ and one.__bases__ == other.__bases__ and "arametri" in one.__module__


def _same_tensor(one: nn.Module, other: nn.Module, name: str) -> bool:
    """Whether a rebuilt module has a tensor as the model has it; the values of those in the state dict are stored."""
    kind = "_parameters" if name in one._parameters else "_buffers"
    tensor, there = vars(one)[kind][name], vars(other)[kind].get(name, MISSING)
    persistent = name not in one._non_persistent_buffers_set
    if persistent == (name in other._non_persistent_buffers_set) or not _alike(tensor, there):
        return False
    return persistent or tensor is None or Equality()(tensor.detach(), there.detach())


def _alike(one: torch.Tensor | None, other: Any) -> bool:
    if one is None or other is None or other is MISSING:
        return one is other
    if nn.parameter.is_lazy(other) or nn.parameter.is_lazy(one):
        return nn.parameter.is_lazy(other) and nn.parameter.is_lazy(one)
    return bool(one.shape == other.shape and (one.layout == other.layout or other.is_meta))


def _equal_configs(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two constructor calls say the same; modules and tensors in them are compared elsewhere, in the tree."""
    first, second = (_nested.map_leaves(config, _class_alone, rigid=True) for config in (one, other))
    return Equality()(first, second)


def _class_alone(value: Any) -> Any:
    if isinstance(value, nn.Module):
        return plain_class(value)
    return torch.Tensor if isinstance(value, torch.Tensor) else value


def _is_of_training(value: Any) -> bool:
    """Whether a value belongs to a training loop rather than to a model: an optimizer, a generator, an open file."""
    if isinstance(value, _TRAINING_OBJECTS):
        return True
    held = _nested.children(value)
    return held is not None and any(map(_is_of_training, held.values))
