"""What distinguishes a model from what its constructors build, as a list of edits; a file may hold such a list.

Each edit is a dict with "at", the path of a module as `named_modules` gives it, and one action:

    {"at": "fc", "child": {"__module__": node} | {"same": path} | None}   put a module there
    {"at": "body", "children": ["0", "2"]}                     keep these children, in this order
    {"at": "temperature", "set": {"t": 4.0}}                   plain attributes
    {"at": "temperature", "unset": ["t"]}                      attributes that are gone
    {"at": "fc", "tensors": {"weight": {...} | None}}          parameters and buffers, see `_set_tensors`
    {"at": "fc", "parametrized": {"weight": [...]}}            torch's parametrizations
    {"at": "fc", "norms": [...]}                               the older weight_norm and spectral_norm
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

from torchkutils.objects.parametrizations import parametrize_again, rehook
from torchkutils.objects.recorded_arguments import RECORD
from torchkutils.objects.tree import inside

__all__ = ["apply_edit", "is_settable", "module_at"]

_ABSENT = object()
MODULE_ATTRIBUTES = frozenset([*vars(nn.Module()), RECORD])


class Builder(Protocol):
    """What an edit needs of whoever reads the file."""

    def decode(self, value: Any) -> Any:
        """A value with its modules and tensors."""

    def module(self, node: Any) -> nn.Module:
        """The module of a node."""

    def tensor(self, name: Any) -> torch.Tensor:
        """A stored tensor."""

    def allocate(self, nbytes: int) -> None:
        """Pay for memory that an edit takes."""

    def empty(self, name: Any) -> torch.Tensor:
        """A tensor of the shape and dtype of a stored one, on the meta device."""


def module_at(root: nn.Module, path: Any) -> nn.Module:
    """The module at a path, through wrappers.

    Raises:
        ValueError: There is none.
    """
    module = root
    for name in path.split(".") if isinstance(path, str) and path else ():
        child = inside(module)._modules.get(name)
        if child is None:
            raise ValueError(f"an edit names the module {path[:100]!r}, which is not there")
        module = child
    if not isinstance(path, str):
        raise ValueError("an edit must name a module by its path")
    return inside(module)


def is_settable(module: nn.Module, name: Any) -> bool:
    """Whether a file may set this attribute: one that the constructor made, or plain data of the class."""
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__") or name in MODULE_ATTRIBUTES:
        return False
    if name in vars(module):
        return True
    found = inspect.getattr_static(type(module), name, _ABSENT)
    return found is not _ABSENT and not callable(found) and not hasattr(type(found), "__get__")


def apply_edit(root: nn.Module, edit: Any, builder: Builder) -> None:
    """Apply one edit of a file to a model that was built.

    Raises:
        ValueError: The edit is malformed, or names what is not there.
    """
    if not isinstance(edit, dict) or len(edit) != 2 or "at" not in edit:
        raise ValueError(f"an edit must be a dict of 'at' and one action, got {str(edit)[:100]}")
    action = next(key for key in edit if key != "at")
    if action not in _ACTIONS:
        raise ValueError(f"unknown edit {str(action)[:60]!r}")
    try:
        _ACTIONS[action](root, edit["at"], edit[action], builder)
    except (TypeError, KeyError, AttributeError, IndexError, RuntimeError) as error:
        raise ValueError(f"the edit {str(edit)[:100]} cannot be applied: {error}") from error


def _put_child(root: nn.Module, path: Any, body: Any, builder: Builder) -> None:
    parent_path, _, name = path.rpartition(".")
    parent = module_at(root, parent_path)
    if not name or (name not in parent._modules and (hasattr(parent, name) or name in MODULE_ATTRIBUTES)):
        raise ValueError(f"{path[:100]!r} is no place for a module")
    if body is None:
        parent._modules[name] = None
    elif set(body) == {"same"}:
        parent._modules[name] = module_at(root, body["same"])
    else:
        parent._modules[name] = builder.module(body["__module__"])


def _order_children(root: nn.Module, path: Any, names: Any, builder: Builder) -> None:
    module = module_at(root, path)
    kept = {name: module._modules[name] for name in names}
    module._modules.clear()
    module._modules.update(kept)


def _set_attributes(root: nn.Module, path: Any, values: Any, builder: Builder) -> None:
    module = module_at(root, path)
    for name, value in values.items():
        if not is_settable(module, name):
            raise ValueError(f"an edit must set attributes that the constructor made, got {name[:60]!r}")
        # Not setattr: a property or a __setattr__ of the class must not run on what a file says.
        vars(module)[name] = builder.decode(value)


def _unset_attributes(root: nn.Module, path: Any, names: Any, builder: Builder) -> None:
    module = module_at(root, path)
    for name in names:
        if not is_settable(module, name):
            raise ValueError(f"an edit must remove attributes that the constructor made, got {str(name)[:60]!r}")
        vars(module).pop(name, None)


def _set_tensors(root: nn.Module, path: Any, tensors: Any, builder: Builder) -> None:
    """Parameters and buffers as the file has them, in this order; {"keep": True} is one that stays."""
    module = module_at(root, path)
    parameters, buffers = dict(module._parameters), dict(module._buffers)
    module._parameters.clear()
    module._buffers.clear()
    for name, told in tensors.items():
        free = name in parameters or name in buffers or not hasattr(module, name)
        if not free or (not name.isidentifier() and not name.isdigit()):
            raise ValueError(f"{name[:60]!r} is no name for a tensor")
        if told.get("keep"):
            if name in parameters:
                module._parameters[name] = parameters[name]
            else:
                module._buffers[name] = buffers[name]
        else:
            _set_tensor(module, name, told, builder)


def _set_tensor(module: nn.Module, name: str, told: dict[str, Any], builder: Builder) -> None:
    source = told.get("tensor")
    if told.get("kind") == "parameter":
        empty = None if source is None else builder.empty(source)
        module._parameters[name] = None if empty is None else as_parameter(empty)
        return
    persistent = bool(told.get("persistent", True))
    if source is None:
        module._buffers[name] = None
    else:
        # What is in the state dict is filled later, with the other weights.
        module._buffers[name] = builder.empty(source) if persistent else builder.tensor(source)
    if persistent:
        module._non_persistent_buffers_set.discard(name)
    else:
        module._non_persistent_buffers_set.add(name)


def as_parameter(tensor: torch.Tensor) -> nn.Parameter:
    """A parameter around a tensor; integers get no gradient."""
    return nn.Parameter(tensor, requires_grad=tensor.is_floating_point() or tensor.is_complex())


def _parametrize(root: nn.Module, path: Any, described: Any, builder: Builder) -> None:
    module = module_at(root, path)
    for name, applied in described.items():
        parametrize_again(module, name, applied, lambda body: builder.module(body["__module__"]), builder.allocate)


def _norms(root: nn.Module, path: Any, described: Any, builder: Builder) -> None:
    rehook(module_at(root, path), described)


_ACTIONS: dict[str, Callable[[nn.Module, Any, Any, Builder], None]] = {
    "child": _put_child,
    "children": _order_children,
    "set": _set_attributes,
    "unset": _unset_attributes,
    "tensors": _set_tensors,
    "parametrized": _parametrize,
    "norms": _norms,
}
