"""A model's tensors on their way into a file and back into a module: names, ties, flags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from torchkutils.objects.stored_file import ModelFile
from torchkutils.objects.tensors import checked_tensor, stored_dtype

__all__ = ["StateToStore", "assign_state", "copy_into", "read_state", "template_of"]


def template_of(model: nn.Module) -> nn.Module:
    """The model inside its wrappers: several devices, DistributedDataParallel, compiled.

    Raises:
        TypeError: `model` is no module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    wrappers = [nn.DataParallel, nn.parallel.DistributedDataParallel]
    while True:
        inner = model.__dict__.get("__template__", getattr(model, "__template__", None))
        if not isinstance(inner, nn.Module):
            inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, tuple(wrappers)):
            inner = model.module
        if not isinstance(inner, nn.Module) or inner is model:
            return model
        model = inner


class StateToStore:
    """The tensors that go into a file; one that has several names is stored once."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[str, str] = {}
        self._stored: dict[Any, str] = {}
        self._model = model
        for name, value in model.state_dict(keep_vars=True).items():
            if not isinstance(value, torch.Tensor):
                raise ValueError(f"{name} is extra state of type {type(value).__name__}, which cannot be stored")
            self._names[name] = self.add(value, name)

    def add(self, value: torch.Tensor, name: str) -> str:
        """Store a tensor; gives the name under which it, or the one it shares all its memory with, is stored."""
        tensor = checked_tensor(value, name)
        key: Any = id(value)
        if tensor.numel() and tensor is value:
            key = (tensor.device, tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        known = self._stored.setdefault(key, name)
        if known == name:
            self.tensors[name] = tensor
        return known

    def argument(self, tensor: torch.Tensor, where: str) -> str:
        """Store a tensor that is a constructor argument."""
        return self.add(tensor, f"argument:{where}")

    def read_argument(self, name: str) -> torch.Tensor:
        """A stored tensor as a constructor gets it; on the meta device while modules are built there."""
        tensor = self.tensors[name].detach()
        return tensor.clone().to(torch.empty(0).device)

    def index(self) -> dict[str, Any]:
        """What the file's index says besides where the tensors lie."""
        frozen = [n for n, p in self._model.named_parameters(remove_duplicate=False) if not p.requires_grad]
        modes = {n: m.training for n, m in self._model.named_modules(remove_duplicate=False)}
        flipped = [n for n, training in modes.items() if training != self._model.training]
        return {"names": self._names, "frozen": frozen, "training": self._model.training, "flipped": flipped}


def assign_state(model: nn.Module, file: ModelFile) -> None:
    """Fill a rebuilt module from a file.

    Raises:
        ValueError: Names, shapes or flags of the file do not fit the module; checked before memory is allocated.
    """
    names = file.index.get("names")
    wanted = model.state_dict(keep_vars=True)
    if not isinstance(names, dict) or set(names) != set(wanted):
        differing = sorted(set(wanted) ^ set(names if isinstance(names, dict) else ()))
        raise ValueError(f"its tensors are not those of its architecture: {differing[:5]} stand in one of both")
    for name, tensor in wanted.items():
        stored = file.tensors.get(names[name]) if isinstance(names[name], str) else None
        if stored is None or stored.shape != tuple(tensor.shape):
            found = None if stored is None else stored.shape
            raise ValueError(f"{name!r} must have shape {tuple(tensor.shape)} in the file, got {found}")
    made: dict[str, torch.Tensor] = {}
    for name in wanted:
        made[names[name]] = _place(model, name, made.get(names[name]), file, names[name])
    left = [n for n, t in [*model.named_parameters(), *model.named_buffers()] if t.is_meta]
    if left:
        raise ValueError(f"{left[:5]} are not in the file")
    _set_flags(model, file.index)


def _place(model: nn.Module, name: str, tied: torch.Tensor | None, file: ModelFile, source: str) -> torch.Tensor:
    path, _, attribute = name.rpartition(".")
    owner = model.get_submodule(path)
    old: torch.Tensor | None = owner._parameters.get(attribute)
    if old is None:
        old = owner.get_buffer(attribute)
    if tied is not None and type(tied) is type(old):
        new: torch.Tensor = tied
    else:
        value = file.read(source) if tied is None else tied.detach()
        if not isinstance(old, nn.Parameter):
            new = value
        elif old.is_meta:
            new = nn.Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())
        else:
            # The module's own object stays: its constructor may have kept it elsewhere too.
            old.data = value
            new = old
    if isinstance(new, nn.Parameter):
        setattr(owner, attribute, new)  # recurrent layers keep a second list, which follows setattr alone
    else:
        owner._buffers[attribute] = new
    return new


def _set_flags(model: nn.Module, index: dict[str, Any]) -> None:
    frozen, flipped, training = index.get("frozen"), index.get("flipped"), index.get("training")
    if not isinstance(frozen, list) or not isinstance(flipped, list) or not isinstance(training, bool):
        raise ValueError("its flags are malformed")
    for name, parameter in model.named_parameters(remove_duplicate=False):
        wanted = name not in set(frozen)
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
    others = set(map(str, flipped))
    for name, module in model.named_modules(remove_duplicate=False):
        module.training = training != (name in others)


def read_state(file: ModelFile, wanted: Mapping[str, torch.Tensor], *, strict: bool) -> dict[str, torch.Tensor]:
    """The tensors of a file for a state dict, by name, in its order.

    Raises:
        ValueError: Names (with `strict`) or shapes differ.
    """
    names = dict(file.index.get("names", {}))
    missing, surplus = [n for n in wanted if n not in names], [n for n in names if n not in wanted]
    if strict and (missing or surplus):
        raise ValueError(
            f"the names must be the model's: missing in the file {missing[:5]}, not in the model {surplus[:5]}; "
            "strict=False loads what both have"
        )
    both = [name for name in wanted if name in names]
    for name in both:
        found = file.tensors[names[name]].shape if names[name] in file.tensors else None
        if found != tuple(wanted[name].shape):
            raise ValueError(f"{name!r} must have shape {tuple(wanted[name].shape)}, the file has {found}")
    return {name: file.read(names[name]) for name in both}


def copy_into(target: torch.Tensor, value: torch.Tensor) -> None:
    """Write a tensor that was read into one of the model."""
    plain = target.device.type == "cpu" and target.dtype == value.dtype and target.is_contiguous()
    if plain and not target.is_conj() and not target.is_neg() and type(target.data) is torch.Tensor:
        # One thread copies as fast as memory takes it; waking torch's threads costs more than a small tensor.
        bits = stored_dtype(value.dtype)
        np.copyto(target.data.view(bits).numpy(), value.view(bits).numpy())
        torch.autograd.graph.increment_version(target)
    else:
        target.copy_(value)
