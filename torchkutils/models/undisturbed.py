"""Run a model and leave no trace: whatever a forward changes is put back, on errors too."""

from __future__ import annotations

import collections
import itertools
import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put the model, and the random state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), the contents of buffers, gradients,
    `requires_grad`, and the random generators of Python, NumPy, the CPU and the accelerator. A parameter that the
    block writes to is the business of `Writes`, which sees the write coming.
    """
    everything = all_modules(model)
    containers = _Containers()
    modules = [_ModuleState(module, containers) for module in everything]
    tensors = _TensorStates([tensor for tensor in _tensors(everything) if not is_lazy(tensor)])
    generators = _RandomState()
    try:
        yield
    finally:
        containers.restore()
        for module in modules:
            module.restore()
        tensors.restore()
        generators.restore()


def all_modules(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Each module once, those in plain lists and dicts included; no recursion, however deep they nest."""
    found: dict[int, torch.nn.Module] = {}
    stack = [model]
    while stack:
        module = stack.pop()
        if id(module) not in found:
            found[id(module)] = module
            stack.extend(child for child in module._modules.values() if child is not None)
            if not isinstance(module, torch.jit.ScriptModule):
                stack.extend(child for _, child in in_plain_containers(module))
    return list(found.values())


def _tensors(modules: list[torch.nn.Module]) -> list[torch.Tensor]:
    held = (t for m in modules for t in itertools.chain(m._parameters.values(), m._buffers.values()) if t is not None)
    return list({id(tensor): tensor for tensor in held}.values())


def in_plain_containers(module: torch.nn.Module) -> list[tuple[str, torch.nn.Module]]:
    """Modules that a module keeps where torch does not look: in its lists, tuples and dicts."""
    found: list[tuple[str, torch.nn.Module]] = []
    for name, value in module.__dict__.items():
        if name in _OWN_DICTIONARIES or not isinstance(value, list | tuple | dict):
            continue
        stack: list[tuple[str, Any, int]] = [(name, value, 0)]
        while stack:
            where, top, level = stack.pop()
            if isinstance(top, torch.nn.Module):
                found.append((where, top))
            elif isinstance(top, list | tuple | dict) and level < 4:
                items = top.items() if isinstance(top, dict) else enumerate(top)
                stack.extend(reversed([(f"{where}[{key!r}]", item, level + 1) for key, item in items]))
    return found


_OWN_DICTIONARIES = frozenset(torch.nn.Module().__dict__)


class _TensorStates:
    """Parameters and buffers: their memory, their gradients and, of buffers, what they contain."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        # One list for each fact: an object for each tensor would keep the garbage collector busy.
        self.tensors = tensors
        self.memories = [tensor.data for tensor in tensors]
        self.requires_grad = [tensor.requires_grad for tensor in tensors]
        self.contents: dict[int, tuple[torch.Tensor, int]] = {}
        self.gradients: dict[int, torch.Tensor] = {}
        for index, tensor in enumerate(tensors):
            if not isinstance(tensor, torch.nn.Parameter) and not tensor.is_meta:
                self.contents[index] = tensor.detach().clone(), tensor._version
            gradient = tensor.grad if tensor.is_leaf else None
            if gradient is not None:
                # Taken away for the moment, so that a backward inside forward does not add to it.
                self.gradients[index] = gradient
                tensor.grad = None

    def restore(self) -> None:
        """Memory first, then what lies in it, then the flags."""
        for index, (tensor, memory) in enumerate(zip(self.tensors, self.memories, strict=True)):
            # A sparse or nested tensor has no one address or shape to compare: it takes its memory back in any case.
            rebound = tensor.is_nested or tensor.layout is not torch.strided
            rebound = rebound or tensor.data_ptr() != memory.data_ptr() or tensor.shape != memory.shape
            if rebound or tensor.dtype != memory.dtype or tensor.device != memory.device:
                tensor.data = memory
            if index in self.contents:
                content, version = self.contents[index]
                # Always: batch normalisation writes its running statistics without counting a version.
                with torch.no_grad():
                    tensor.copy_(content)
                torch._C._autograd._unsafe_set_version_counter((tensor,), (version,))
            if tensor.is_leaf:
                if tensor.requires_grad != self.requires_grad[index]:
                    tensor.requires_grad_(self.requires_grad[index])
                gradient = self.gradients.get(index)
                if tensor.grad is not gradient:
                    tensor.grad = gradient


class _ModuleState:
    """One module's class and attributes."""

    __slots__ = ("attributes", "kind", "module", "training")

    def __init__(self, module: torch.nn.Module, containers: _Containers) -> None:
        self.module = module
        self.kind = type(module)
        self.training = module.training
        self.attributes = module.__dict__.copy()
        for value in self.attributes.values():
            if type(value) not in _HOLD_NOTHING and isinstance(value, _HOLDING):
                containers.remember(value)
        if hasattr(self.kind, "_infer_parameters"):
            _stand_in(module)

    def restore(self) -> None:
        """Rebind what was rebound; objects keep their identity and order."""
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        current = self.module.__dict__
        if not _same_items(current, self.attributes):
            current.clear()
            current.update(self.attributes)
        if self.module.training != self.training:
            self.module.training = self.training


def _stand_in(module: torch.nn.Module) -> None:
    """Forward gives a lazy tensor its shape in place: let it do so to another one."""
    parameter_class: Any = UninitializedParameter
    buffer_class: Any = UninitializedBuffer
    dictionaries: list[dict[str, Any]] = [module._parameters, module._buffers]
    for held in dictionaries:
        for name, tensor in list(held.items()):
            if isinstance(tensor, UninitializedParameter):
                held[name] = parameter_class(tensor.requires_grad, tensor.device, tensor.dtype)
            elif tensor is not None and is_lazy(tensor):
                held[name] = buffer_class(False, tensor.device, tensor.dtype)


_CONTAINERS = (dict, list, set, collections.deque)
_HOLDING = (tuple, *_CONTAINERS)
_HOLD_NOTHING = frozenset([bool, int, float, str, type(None)])


class _Containers:
    """What containers among attributes hold, at any depth."""

    def __init__(self) -> None:
        self.filled: dict[int, tuple[Any, Any]] = {}
        # Most of a module's own dictionaries are empty: no copy is needed to empty them again.
        self.empty: list[Any] = []

    def remember(self, value: Any) -> None:
        """Take note of a container and of those inside it."""
        if not value:
            if not isinstance(value, tuple):
                self.empty.append(value)
            return
        stack = [value]
        while stack:
            top = stack.pop()
            if isinstance(top, _CONTAINERS):
                if id(top) in self.filled:
                    continue
                self.filled[id(top)] = (top, top.copy())
            for item in top.values() if isinstance(top, dict) else top:
                if isinstance(item, _HOLDING):
                    if item:
                        stack.append(item)
                    elif not isinstance(item, tuple):
                        self.empty.append(item)

    def restore(self) -> None:
        """Refill what was refilled."""
        for container, before in self.filled.values():
            _refill(container, before)
        for container in self.empty:
            if container:
                container.clear()


def _same_items(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    """Whether two dictionaries hold the same objects in the same order."""
    if len(one) != len(other):
        return False
    return all(map(operator.is_, one, other)) and all(map(operator.is_, one.values(), other.values()))


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, dict):
        same = _same_items(container, before)
    elif isinstance(container, set):
        same = container == before
    else:
        same = len(container) == len(before) and all(map(operator.is_, container, before))
    if not same:
        container.clear()
        if isinstance(container, dict | set):
            container.update(before)
        else:
            container.extend(before)


class _RandomState:
    """The generators that a forward may draw from."""

    def __init__(self) -> None:
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.cpu = torch.get_rng_state()
        self.accelerators: list[tuple[int, torch.Tensor]] = []
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self.accelerators = [(i, torch.cuda.get_rng_state(i)) for i in range(torch.cuda.device_count())]
        self.mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        """Set each generator back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for index, state in self.accelerators:
            torch.cuda.set_rng_state(state, index)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)


class Writes:
    """Copies of parameters, made just before forward writes to them; `restore` puts the values back."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        self.guarded: dict[int, torch.Tensor] | None = None
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def before(self, tensor: torch.Tensor) -> None:
        """A function is about to write to this tensor."""
        if self.guarded is None:
            # Most models write to nothing: look their parameters up at the first write only.
            held = _tensors(all_modules(self.model))
            self.guarded = {_storage(t): t for t in held if isinstance(t, torch.nn.Parameter) and _has_storage(t)}
        key = _storage(tensor)
        parameter = self.guarded.get(key)
        if parameter is not None and key not in self.copies:
            self.copies[key] = (parameter, parameter.detach().clone(), parameter._version)

    def restore(self) -> None:
        """Put the values back that were there before the first write."""
        with torch.no_grad():
            for parameter, value, version in self.copies.values():
                parameter.copy_(value)
                torch._C._autograd._unsafe_set_version_counter((parameter,), (version,))


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
