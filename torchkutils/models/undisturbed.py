"""Run a model and leave no trace: whatever a forward changes is put back, on errors too."""

from __future__ import annotations

import collections
import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedParameter, is_lazy


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put the model, and the random state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), the contents of buffers, gradients,
    `requires_grad`, and the random generators of Python, NumPy, the CPU and the accelerator. A parameter that the
    block writes to is the business of `Writes`, which sees the write coming.
    """
    modules = [_ModuleState(module) for module in model.modules()]
    tensors = [
        _TensorState(tensor) for tensor in itertools.chain(model.parameters(), model.buffers()) if not is_lazy(tensor)
    ]
    generators = _RandomState()
    try:
        yield
    finally:
        for module in modules:
            module.restore()
        for tensor in tensors:
            tensor.restore()
        generators.restore()


class _TensorState:
    """A parameter or buffer: its memory, its gradient and, for a buffer, what it contains."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        self.memory = tensor.data
        self.requires_grad = tensor.requires_grad
        self.version = tensor._version
        buffer = not isinstance(tensor, torch.nn.Parameter) and not tensor.is_meta
        self.content = tensor.detach().clone() if buffer else None
        # Taken away for the moment, so that a backward inside forward does not add to it.
        self.gradient = tensor.grad if tensor.is_leaf else None
        if self.gradient is not None:
            tensor.grad = None

    def restore(self) -> None:
        """Memory first, then what lies in it, then the flags."""
        tensor = self.tensor
        rebound = tensor.data_ptr() != self.memory.data_ptr() or tensor.shape != self.memory.shape
        if rebound or tensor.dtype != self.memory.dtype or tensor.device != self.memory.device:
            tensor.data = self.memory
        if self.content is not None and tensor._version != self.version:
            with torch.no_grad():
                tensor.copy_(self.content)
            torch._C._autograd._unsafe_set_version_counter((tensor,), (self.version,))
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            tensor.grad = self.gradient


class _ModuleState:
    """One module's class and attributes, with what plain containers among them hold, at any depth."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.training = module.training
        self.attributes = dict(module.__dict__)
        self.inner: dict[int, tuple[Any, Any]] = {}
        for value in self.attributes.values():
            _remember(value, self.inner)
        for name, parameter in module._parameters.items() if isinstance(module, LazyModuleMixin) else ():
            if parameter is not None and is_lazy(parameter):
                # Forward gives a lazy parameter its shape in place: let it do so to a stand-in.
                module._parameters[name] = UninitializedParameter(
                    parameter.requires_grad, parameter.device, parameter.dtype
                )

    def restore(self) -> None:
        """Rebind what was rebound, refill what was refilled; objects keep their identity and order."""
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        for container, before in self.inner.values():
            _refill(container, before)
        current = self.module.__dict__
        if list(current) != list(self.attributes) or any(current[k] is not v for k, v in self.attributes.items()):
            current.clear()
            current.update(self.attributes)
        if self.module.training != self.training:
            self.module.training = self.training


_CONTAINERS = (dict, list, set, collections.deque)


def _remember(value: Any, found: dict[int, tuple[Any, Any]]) -> None:
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, _CONTAINERS) and id(top) not in found:
            found[id(top)] = (top, top.copy())
            stack.extend(top.values() if isinstance(top, dict) else top)
        elif isinstance(top, tuple):
            stack.extend(item for item in top if isinstance(item, tuple | dict | list | set | collections.deque))


def _refill(container: Any, before: Any) -> None:
    if isinstance(container, dict):
        same = list(container) == list(before) and all(container[key] is before[key] for key in before)
    elif isinstance(container, set):
        same = container == before
    else:
        same = len(container) == len(before) and all(a is b for a, b in zip(container, before, strict=True))
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
        self.guarded = {_storage(parameter): parameter for parameter in model.parameters() if _has_storage(parameter)}
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def before(self, tensor: torch.Tensor) -> None:
        """A function is about to write to this tensor."""
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
