"""Put a model back as it was before a forward: whatever forward changes is restored, on errors too."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from torchkutils._random_state import RandomState
from torchkutils.models.records import Mode
from torchkutils.models.restore.program_state import ProgramState
from torchkutils.models.restore.reachable import Held, Reachable
from torchkutils.models.restore.saved_containers import ContainerStates, holds, refill_changed
from torchkutils.models.restore.saved_shards import ShardStates
from torchkutils.models.restore.saved_tensors import TensorStates, lazy_like
from torchkutils.models.restore.saved_values import ValueStates
from torchkutils.models.tree.module_tree import ModuleTree


class restored:  # noqa: N801
    """Put the model, and the state of the process, back as they were, however the block ends.

    Restored are every module's attributes (training flag and hooks among them), what they reach through containers
    and through objects of any class, the contents of buffers, gradients, `requires_grad`, the random generators of
    Python, NumPy, the CPU and the accelerator, and this thread's grad mode and autocast. Modules among the values are
    restored as the model is. A parameter is copied when `tensors.written` is told that forward is about to write to it.

    Args:
        tree: The model, walked just before.
        arguments: What forward is going to be given, restored in the same way.

    Attributes:
        tensors: The states of parameters and buffers; the recorder tells them of writes.
        lost: What was seen to change and could not be put back, when the block has ended.
        left: What changed in the program around the model, and is not put back.
    """

    def __init__(self, tree: ModuleTree, arguments: Any = ()) -> None:
        self.tree = tree
        self.lost: list[str] = []
        self.left: list[str] = []
        self._arguments = arguments

    def __enter__(self) -> restored:
        tree = self.tree
        shards = ShardStates(tree.distinct())
        trees, reached = [tree], Reachable([*_attributes(tree), Held(self._arguments, "the input", None, None)])
        _add_trees(trees, reached)
        modules = itertools.chain.from_iterable(one.distinct() for one in trees)
        self._program = ProgramState(modules, [*_hooks(tree), *reached.functions, *reached.classes])
        reached.modules += self._program.modules
        _add_trees(trees, reached)
        if not reached.complete:
            self.lost.append("attributes beyond the first million objects (not remembered)")
        states = [_ModuleStates(one) for one in trees]
        containers, values = ContainerStates([], [], reached), ValueStates(reached.stateful)
        process = _ProcessState()
        others = [tensor for one in trees[1:] for tensor in one.tensors]
        self.tensors: TensorStates = TensorStates(tree, [*reached.tensors, *others])
        for one in trees[1:]:
            self.tensors.keep_all(one.buffers)
        beside = shards.containers()
        with ExitStack() as afterwards:
            # The last one is the first to be restored: shards by the live modules, then what those held.
            afterwards.callback(lambda: self.left.extend(self._program.changed()))
            afterwards.callback(process.restore)
            afterwards.callback(self._restore_tensors)
            afterwards.callback(lambda: self.lost.extend(values.lost))
            afterwards.callback(values.restore)
            afterwards.callback(containers.restore)
            for state in states:
                afterwards.callback(state.restore)
            afterwards.callback(beside.restore)
            afterwards.callback(shards.restore)
            self.tensors.take_gradients()
            states[0].replace_lazy_tensors()
            self._afterwards = afterwards.pop_all()
        return self

    def _restore_tensors(self) -> None:
        names = self.tensors.written_unseen()
        self.tensors.restore()
        self.lost += names

    def __exit__(self, *details: Any) -> None:
        # A generator in place of this class would set the traceback of an exception, which not all of them allow.
        self._afterwards.close()


def _add_trees(trees: list[ModuleTree], reached: Reachable) -> None:
    """Walk the modules that values reach and that are no part of those trees."""
    if not reached.modules:
        # As in most models: the walk above knows all of them.
        return
    known = set(itertools.chain.from_iterable(tree.index_of for tree in trees))
    met = 0
    while met < len(reached.modules):
        module = reached.modules[met]
        met += 1
        if id(module) not in known:
            trees.append(ModuleTree(module))
            known.update(trees[-1].index_of)
            reached.more(_attributes(trees[-1]))


def _attributes(tree: ModuleTree) -> list[Held]:
    """The attributes that may change, with their names; hooks among them, which are functions with a state."""
    paths, modules = tree.paths, tree.modules
    found = []
    for value, index, name in tree.loose:
        path = f"{paths[index]}.{name}" if paths[index] else name
        found.append(Held(value, path, modules[index].__dict__, name))
    return found


def _hooks(tree: ModuleTree) -> list[Any]:
    """The functions that are called before and after forward."""
    found: list[Any] = []
    for hooks in tree.filled:
        if type(hooks) is OrderedDict:
            found += filter(_is_function, hooks.values())
    return found


def _is_function(hook: Any) -> bool:
    return isinstance(hook, FunctionType)


@contextmanager
def in_mode(tree: ModuleTree, mode: Mode) -> Iterator[None]:
    """Every module has the training flag that forward is to see."""
    flag = mode == "train"
    others = []
    if mode != "same":
        others = [module for module in tree.distinct() if module.__dict__.get("training") is not flag]
    try:
        for module in others:
            _set_training(module, flag)
        yield
    finally:
        for module in others:
            if module.__dict__.get("training") is flag:
                module.__dict__["training"] = not flag


def _set_training(module: torch.nn.Module, flag: bool) -> None:
    if "training" in module.__dict__:
        # Not by an assignment, which a class may forbid.
        module.__dict__["training"] = flag
    elif hasattr(module, "training"):
        # A script keeps its flag elsewhere; a frozen one has none.
        module.training = flag


class _ModuleStates:
    """The classes and attributes of all modules.

    All of them are compared at once, since seldom is one changed; only then is each looked at.
    """

    def __init__(self, tree: ModuleTree) -> None:
        self.modules = tree.distinct()
        self.classes = list(map(type, self.modules))
        self.layouts, self.values = tree.layouts, tree.values
        self.flags_of_scripts = [
            (module, module.training)
            for module in self.modules
            if "training" not in module.__dict__ and hasattr(module, "training")
        ]
        self.containers = ContainerStates(tree.empty, tree.filled)
        self.lazy = bool(tree.unusual) and any(map(is_lazy, tree.tensors))

    def replace_lazy_tensors(self) -> None:
        """Forward gives a lazy tensor its shape in place: it gets other lazy tensors, which are dropped afterwards."""
        if not self.lazy:
            return
        replaced: dict[int, torch.Tensor] = {}
        for module in self.modules:
            for held in (module._parameters, module._buffers):
                _replace_lazy(held, replaced)

    def restore(self) -> None:
        """Refill what was refilled, rebind what was rebound; objects keep their identity and order."""
        self.containers.restore()
        if list(map(type, self.modules)) != self.classes:
            for module, kind in zip(self.modules, self.classes, strict=True):
                if type(module) is not kind:
                    module.__class__ = kind
        self._restore_attributes()
        for module, training in self.flags_of_scripts:
            if module.training != training:
                module.training = training

    def _restore_attributes(self) -> None:
        attributes = [module.__dict__ for module in self.modules]
        lengths = [len(layout.names) for layout in self.layouts]
        if not holds(attributes, lengths, self._names(), self.values):
            refill_changed(attributes, lengths, list(self._names()), self.values)

    def _names(self) -> Iterator[str]:
        return itertools.chain.from_iterable([layout.names for layout in self.layouts])


def _replace_lazy(held: dict[str, Any], replaced: dict[int, torch.Tensor]) -> None:
    for name, tensor in held.items():
        if tensor is None or not is_lazy(tensor):
            continue
        # A tied tensor stays tied: it was replaced before.
        if id(tensor) not in replaced:
            replaced[id(tensor)] = lazy_like(tensor)
        held[name] = replaced[id(tensor)]


class _ProcessState:
    """The generators that a forward may draw from, and what it may switch for this thread."""

    def __init__(self) -> None:
        self.random = RandomState()
        self.grad = torch.is_grad_enabled()
        self.autocast = [
            (kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in _AUTOCAST_DEVICES
        ]
        self.autocast_cache = torch.is_autocast_cache_enabled()
        self.dtype, self.threads = torch.get_default_dtype(), torch.get_num_threads()

    def restore(self) -> None:
        """Set each of them back."""
        self.random.restore()
        torch.set_grad_enabled(self.grad)
        for kind, enabled, dtype in self.autocast:
            torch.set_autocast_enabled(kind, enabled)
            torch.set_autocast_dtype(kind, dtype)
        torch.set_autocast_cache_enabled(self.autocast_cache)
        if torch.get_default_dtype() != self.dtype:
            torch.set_default_dtype(self.dtype)
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)


_AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
