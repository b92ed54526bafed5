"""Run a model and leave no trace: whatever a forward changes is put back, on errors too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy


@contextmanager
def undisturbed(model: torch.nn.Module) -> Iterator[None]:
    """Put the model, and the random state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), the contents of buffers, gradients,
    `requires_grad`, and the random generators of Python, NumPy, the CPU and the accelerator. A parameter that the
    block writes to is the business of `Writes`, which sees the write coming.
    """
    modules = [_ModuleState(module) for module in model.modules()]
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    generators = _RandomState()
    try:
        yield
    finally:
        for state in modules:
            state.restore()
        for parameter, gradient, requires_grad in gradients:
            parameter.grad = gradient
            if parameter.requires_grad != requires_grad:
                parameter.requires_grad_(requires_grad)
        generators.restore()


class _ModuleState:
    """One module's attributes: the dictionary, the dictionaries in it, and what its buffers contain."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.module = module
        self.attributes = dict(module.__dict__)
        self.inner = {name: value.copy() for name, value in module.__dict__.items() if isinstance(value, dict | list)}
        self.buffers = [
            (buffer, buffer.detach().clone(), buffer._version)
            for buffer in module._buffers.values()
            if buffer is not None and not is_lazy(buffer)
        ]

    def restore(self) -> None:
        """Rebind what was rebound, refill what was refilled; objects keep their identity."""
        current = self.module.__dict__
        for name in [name for name in current if name not in self.attributes]:
            del current[name]
        for name, value in self.attributes.items():
            if name not in current or current[name] is not value:
                current[name] = value
            before: Any = self.inner.get(name)
            if isinstance(before, dict) and not _same_items(value, before):
                value.clear()
                value.update(before)
            elif isinstance(before, list) and not _same_list(value, before):
                value[:] = before
        with torch.no_grad():
            for buffer, content, version in self.buffers:
                if buffer._version != version or not buffer.is_meta:
                    buffer.copy_(content)


def _same_items(one: dict[Any, Any], other: dict[Any, Any]) -> bool:
    return len(one) == len(other) and all(key in one and one[key] is value for key, value in other.items())


def _same_list(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(mine is theirs for mine, theirs in zip(one, other, strict=True))


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
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def before(self, tensor: torch.Tensor) -> None:
        """A function is about to write to this tensor."""
        key = _storage(tensor)
        parameter = self.guarded.get(key)
        if parameter is not None and key not in self.copies:
            self.copies[key] = (parameter, parameter.detach().clone())

    def restore(self) -> None:
        """Put the values back that were there before the first write."""
        with torch.no_grad():
            for parameter, value in self.copies.values():
                parameter.copy_(value)


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
