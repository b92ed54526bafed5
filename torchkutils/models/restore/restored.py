"""Run a model and leave no trace: whatever a forward changes is put back, on errors too."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.records import Mode
from torchkutils.models.restore.saved_containers import ContainerStates, hold, refill_changed
from torchkutils.models.restore.saved_tensors import TensorStates, lazy_like
from torchkutils.models.tree.module_tree import ModuleTree


class restored:  # noqa: N801
    """Put the model, and the state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), the contents of buffers, gradients,
    `requires_grad`, the random generators of Python, NumPy, the CPU and the accelerator, and this thread's grad mode
    and autocast. The block gets the states of parameters and buffers: whoever sees a parameter about to be written
    says so to them.

    Args:
        tree: The model, walked just before.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.tree = tree

    def __enter__(self) -> TensorStates:
        modules, tensors, process = _ModuleStates(self.tree), TensorStates(self.tree), _ProcessState()
        with ExitStack() as afterwards:
            for state in (process, tensors, modules):
                afterwards.callback(state.restore)
            tensors.take_gradients()
            modules.give_stand_ins()
            self._afterwards = afterwards.pop_all()
        return tensors

    def __exit__(self, *details: Any) -> None:
        # A generator in its place would set the traceback of an exception, which not all of them allow.
        self._afterwards.close()


@contextmanager
def in_mode(tree: ModuleTree, mode: Mode) -> Iterator[None]:
    """Every module has the training flag that forward is to see."""
    flag = mode == "train"
    others = [] if mode == "same" else [m for m in tree.distinct() if m.__dict__.get("training") is not flag]
    try:
        for module in others:
            if "training" in module.__dict__:
                # As it would be set, but for a class that lets no one set attributes.
                module.__dict__["training"] = flag
            else:
                module.training = flag
        yield
    finally:
        for module in others:
            if module.__dict__.get("training") is flag:
                module.__dict__["training"] = not flag


class _ModuleStates:
    """The classes and attributes of all modules, and what plain containers among the attributes hold.

    All of them are compared at once, since seldom is one changed; only then is each looked at.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.modules = tree.distinct()
        self.classes = list(map(type, self.modules))
        self.layouts, self.values = tree.layouts, tree.values
        # A scripted module keeps its flag where no attribute is.
        self.elsewhere = [(module, module.training) for module in self.modules if "training" not in module.__dict__]
        self.containers = ContainerStates(tree.empty, tree.filled, tree.loose)
        self.lazy = bool(tree.unusual) and any(map(is_lazy, tree.tensors))

    def give_stand_ins(self) -> None:
        """Forward gives a lazy tensor its shape in place: let it do so to another one."""
        stand_ins: dict[int, torch.Tensor] = {}
        for module in self.modules if self.lazy else ():
            dictionaries: list[dict[str, Any]] = [module._parameters, module._buffers]
            for held in dictionaries:
                for name, tensor in held.items():
                    if tensor is not None and is_lazy(tensor):
                        # A tied one stays tied.
                        made = stand_ins.get(id(tensor))
                        held[name] = stand_ins[id(tensor)] = lazy_like(tensor) if made is None else made

    def restore(self) -> None:
        """Refill what was refilled, rebind what was rebound; objects keep their identity and order."""
        self.containers.restore()
        if list(map(type, self.modules)) != self.classes:
            for module, kind in zip(self.modules, self.classes, strict=True):
                if type(module) is not kind:
                    module.__class__ = kind
        attributes = [module.__dict__ for module in self.modules]
        lengths = [len(layout.names) for layout in self.layouts]
        names = itertools.chain.from_iterable([layout.names for layout in self.layouts])
        if not hold(attributes, lengths, names, self.values):
            names = itertools.chain.from_iterable([layout.names for layout in self.layouts])
            refill_changed(attributes, lengths, list(names), self.values)
        for module, training in self.elsewhere:
            if module.training != training:
                module.training = training


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
