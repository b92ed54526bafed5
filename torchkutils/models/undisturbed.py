"""Run a model and leave no trace: whatever a forward changes is put back, on errors too."""

from __future__ import annotations

import operator
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from torchkutils.models.module_tree import CONTAINERS, HOLDING, ModuleTree
from torchkutils.models.tensor_states import TensorStates


@contextmanager
def undisturbed(tree: ModuleTree) -> Iterator[None]:
    """Put the model, and the state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), the contents of buffers, gradients,
    `requires_grad`, the random generators of Python, NumPy, the CPU and the accelerator, and this thread's grad mode
    and autocast. A parameter that the block writes to is the business of `Writes`, which sees the write coming.

    Args:
        tree: The model, walked just before.
    """
    modules = _ModuleStates(tree)
    tensors = TensorStates([tensor for tensor in tree.tensors if not is_lazy(tensor)])
    modules.give_stand_ins()
    process = _ProcessState()
    try:
        yield
    finally:
        modules.restore()
        tensors.restore()
        process.restore()


class _ModuleStates:
    """The classes and attributes of all modules, and what plain containers among the attributes hold."""

    def __init__(self, tree: ModuleTree) -> None:
        self.modules = tree.distinct()
        self.classes = list(map(type, self.modules))
        self.layouts, self.values = tree.layouts, tree.values
        # A scripted module keeps its flag where no attribute is.
        self.elsewhere = [(module, module.training) for module in self.modules if "training" not in module.__dict__]
        self.filled: dict[int, tuple[Any, Any]] = {}
        self.empty: list[Any] = []
        for layout, values in zip(self.layouts, self.values, strict=True):
            for container in () if layout.own is None else layout.own(values):
                if not container:
                    # Most of a module's own dictionaries are empty: no copy is needed to empty them again.
                    self.empty.append(container)
                elif isinstance(container, CONTAINERS):
                    self.filled[id(container)] = (container, container.copy())
        for container in tree.loose:
            self._remember(container)

    def _remember(self, container: Any) -> None:
        """Take note of a container and of those inside it, at any depth."""
        stack = [container]
        while stack:
            top = stack.pop()
            if not top:
                if not isinstance(top, tuple):
                    self.empty.append(top)
                continue
            if isinstance(top, CONTAINERS):
                if id(top) in self.filled:
                    continue
                self.filled[id(top)] = (top, top.copy())
            stack.extend(item for item in (top.values() if isinstance(top, dict) else top) if isinstance(item, HOLDING))

    def give_stand_ins(self) -> None:
        """Forward gives a lazy tensor its shape in place: let it do so to another one."""
        for module in self.modules:
            if hasattr(type(module), "_infer_parameters"):
                _stand_in(module)

    def restore(self) -> None:
        """Refill what was refilled, rebind what was rebound; objects keep their identity and order."""
        for container, before in self.filled.values():
            if not _holds_the_same(container, before):
                _refill(container, before)
        for container in self.empty:
            if container:
                container.clear()
        if list(map(type, self.modules)) != self.classes:
            for module, kind in zip(self.modules, self.classes, strict=True):
                if type(module) is not kind:
                    module.__class__ = kind
        for module, layout, values in zip(self.modules, self.layouts, self.values, strict=True):
            current = module.__dict__
            same = len(current) == len(values) and all(map(operator.is_, current.values(), values))
            if not same or list(current) != layout.names:
                current.clear()
                current.update(zip(layout.names, values, strict=True))
        for module, training in self.elsewhere:
            if module.training != training:
                module.training = training


def _stand_in(module: torch.nn.Module) -> None:
    parameter_class: Any = UninitializedParameter
    buffer_class: Any = UninitializedBuffer
    dictionaries: list[dict[str, Any]] = [module._parameters, module._buffers]
    for held in dictionaries:
        for name, tensor in list(held.items()):
            if isinstance(tensor, UninitializedParameter):
                held[name] = parameter_class(tensor.requires_grad, tensor.device, tensor.dtype)
            elif tensor is not None and is_lazy(tensor):
                held[name] = buffer_class(False, tensor.device, tensor.dtype)


def _holds_the_same(container: Any, before: Any) -> bool:
    """Whether a container holds the same objects in the same order."""
    if len(container) != len(before):
        return False
    if isinstance(container, dict):
        same = all(map(operator.is_, container, before))
        return same and all(map(operator.is_, container.values(), before.values()))
    if isinstance(container, set):
        return bool(container == before)
    return all(map(operator.is_, container, before))


def _refill(container: Any, before: Any) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(before)
    else:
        container.extend(before)


class _ProcessState:
    """The generators that a forward may draw from, and what it may switch for this thread."""

    def __init__(self) -> None:
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.cpu = torch.get_rng_state()
        self.accelerators: list[tuple[int, torch.Tensor]] = []
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self.accelerators = [(i, torch.cuda.get_rng_state(i)) for i in range(torch.cuda.device_count())]
        self.mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        self.grad = torch.is_grad_enabled()
        self.autocast = {
            kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST_DEVICES
        }
        self.autocast_cache = torch.is_autocast_cache_enabled()

    def restore(self) -> None:
        """Set each of them back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.cpu)
        for index, state in self.accelerators:
            torch.cuda.set_rng_state(state, index)
        if self.mps is not None:
            torch.mps.set_rng_state(self.mps)
        torch.set_grad_enabled(self.grad)
        for kind, (enabled, dtype) in self.autocast.items():
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)


_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
