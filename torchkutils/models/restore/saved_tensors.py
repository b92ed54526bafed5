"""What parameters and buffers are before a forward, put back after it."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from torchkutils._torch_versions import set_version_counters, untransformed
from torchkutils.models.tree.module_tree import ORDINARY, ModuleTree

_requires_grad: Callable[[torch.Tensor], bool] = operator.attrgetter("requires_grad")
_gradient: Callable[[torch.Tensor], torch.Tensor | None] = operator.attrgetter("grad")
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class TensorStates:
    """The memory, the gradient and the flags of tensors; of buffers also what they contain.

    A parameter is copied, and its memory held, when `written` or `rebound` says that forward is about to change it.

    Args:
        tree: The model's modules; lazy tensors among theirs are left out.
        others: Tensors that attributes and arguments reach. Copied at the first write that is seen, as parameters are.
    """

    leaves: list[torch.Tensor]

    def __init__(self, tree: ModuleTree, others: list[torch.Tensor]) -> None:
        tensors = [t for t in tree.tensors if not is_lazy(t)] if tree.unusual else tree.tensors
        beside = _beside(tree, others)
        # One list for each fact: an object for each tensor would keep the garbage collector busy.
        self.tensors = tensors = [*tensors, *beside]
        self.requires_grad: list[bool] = list(map(_requires_grad, tensors))
        self.leaves = [t for t in tensors if type(t) is torch.nn.Parameter or t.is_leaf]
        self.gradients: list[torch.Tensor | None] = list(map(_gradient, self.leaves))
        # What can be written to, what lay in it, and the counter of its writes where it has one.
        self.contents: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.hooks: dict[int, tuple[torch.Tensor, list[tuple[Any, list[Any]]]]] = {}
        self.versions: dict[int, tuple[torch.Tensor, int]] = {}
        self.memories: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # Whether something was seen that may have moved a tensor, or whether that cannot be told.
        self._moved = bool(tree.unusual)
        self._keep_buffers(tree)
        # A sparse or nested tensor has no one address to compare: it takes its memory back in any case.
        self.addressed: list[torch.Tensor] = (
            [t for t in tensors if id(t) not in tree.unusual] if tree.unusual else tensors
        )
        self.addresses: list[int] = _addresses(self.addressed)
        for tensor in beside:
            self._hold(tensor)
        self._by_storage: dict[int, list[torch.Tensor]] | None = None

    def _keep_buffers(self, tree: ModuleTree) -> None:
        for tensor in tree.buffers:
            if not is_lazy(tensor):
                self._hold(tensor)
                self.keep(tensor)
        for tensor in self.tensors if tree.unusual else ():
            if id(tensor) in tree.unusual:
                self._hold(tensor)

    def take_gradients(self) -> None:
        """Set all gradients to None until the end, so that a backward inside forward does not add to them."""
        if any(gradient is not None for gradient in self.gradients):
            for tensor in self.leaves:
                tensor.grad = None

    def written(self, tensor: torch.Tensor) -> None:
        """A function is about to write to this tensor, which may be a parameter, a plain attribute or a view of one."""
        tensor = untransformed(tensor)
        if self._by_storage is None:
            # Most models write to nothing: look up what they hold at the first write only.
            self._by_storage = {}
            for held in self.tensors:
                if _has_storage(held):
                    self._by_storage.setdefault(_storage(held), []).append(held)
        for held in self._by_storage.get(_storage(tensor), ()) if _has_storage(tensor) else ():
            # In-place functions may change a shape too.
            self._moved = True
            self._hold(held)
            self.keep(held)

    def rebound(self, tensor: Any) -> None:
        """A tensor is about to be given other memory; if it is one of the model's, its memory is held."""
        if any(tensor is held for held in self.tensors):
            self._moved = True
            self._hold(tensor)

    def hooked(self, tensor: torch.Tensor) -> None:
        """A hook is about to be registered with this tensor."""
        if id(tensor) not in self.hooks and any(tensor is held for held in self.tensors):
            before = [getattr(tensor, name) for name in _HOOKS]
            self.hooks[id(tensor)] = (tensor, [(hooks, list(hooks.items()) if hooks else []) for hooks in before])

    def _hold(self, tensor: torch.Tensor) -> None:
        if id(tensor) not in self.memories:
            self.memories[id(tensor)] = (tensor, tensor.detach())

    def keep(self, tensor: torch.Tensor) -> None:
        """Remember what lies in this tensor."""
        if id(tensor) in self.contents or id(tensor) in self.versions:
            return
        if not tensor.is_inference():
            self.versions[id(tensor)] = (tensor, tensor._version)
        if tensor.is_meta or _is_freed(tensor):
            return
        target = tensor
        if _has_storage(tensor) and not tensor.is_contiguous():
            # An expanded axis lies in the memory of one element, and only that can be written to.
            target = tensor.detach()[tuple([slice(None, None if stride else 1) for stride in tensor.stride()])]
        self.contents[id(tensor)] = (target, target.detach().clone())

    def restore(self) -> None:
        """Memory first, then what lies in it, then the flags."""
        if self._moved or _addresses(self.addressed) != self.addresses:
            self._restore_memories()
        if self.contents:
            # Always: batch normalisation writes its running statistics without counting a version. What was made in
            # inference mode can be written to in no other.
            with torch.inference_mode():
                for target, content in self.contents.values():
                    if not _is_freed(target):
                        target.copy_(content)
        if self.versions:
            held, versions = zip(*self.versions.values(), strict=True)
            set_version_counters(held, versions)
        self._restore_hooks()
        self._restore_flags()

    def _restore_hooks(self) -> None:
        for tensor, before in self.hooks.values():
            for name, (hooks, items) in zip(_HOOKS, before, strict=True):
                # In place: torch and the handles of these hooks hold this very dict.
                now = getattr(tensor, name)
                if now is not None:
                    now.clear()
                    now.update(items)
                if now is not hooks:
                    setattr(tensor, name, hooks)

    def _restore_flags(self) -> None:
        if list(map(_requires_grad, self.tensors)) != self.requires_grad:
            for tensor, requires_grad in zip(self.tensors, self.requires_grad, strict=True):
                if tensor.is_leaf and tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
        for tensor, now, gradient in zip(self.leaves, map(_gradient, self.leaves), self.gradients, strict=True):
            if now is not gradient:
                tensor.grad = gradient

    def _restore_memories(self) -> None:
        addressed = set(map(id, self.addressed))
        for tensor, memory in self.memories.values():
            if id(tensor) not in addressed or _layout(tensor) != _layout(memory):
                tensor.data = memory
        if _addresses(self.addressed) != self.addresses:
            warnings.warn(
                "forward gave a parameter other memory in a way that could not be seen: that parameter stays changed",
                RuntimeWarning,
                stacklevel=2,
            )


def _beside(tree: ModuleTree, others: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of torch's own kind that are no parameters or buffers: plain attributes, and what values reach."""
    found = {}
    for value in (*tree.values, *others):
        # Of the attributes of modules most are no tensors, and their classes tell soonest.
        if type(value) in ORDINARY and id(value) not in tree.holders and not (is_lazy(value) or value.is_nested):
            found[id(value)] = value
    return [tensor for tensor in found.values() if tensor.layout is torch.strided]


def lazy_like(tensor: torch.Tensor, device: str | None = None) -> torch.Tensor:
    """Another lazy tensor of the same kind, on its device or another one."""
    kind: Any = UninitializedParameter if isinstance(tensor, UninitializedParameter) else UninitializedBuffer
    made: torch.Tensor = kind(tensor.requires_grad, device or tensor.device, tensor.dtype)
    return made


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _addresses(tensors: list[torch.Tensor]) -> list[int]:
    kind: Any = torch.Tensor
    return list(map(kind.data_ptr, tensors))


def _is_freed(tensor: torch.Tensor) -> bool:
    """Whether someone has taken its memory away, as fully_shard does with whole parameters; torch does not check."""
    return _has_storage(tensor) and bool(tensor.numel()) and not tensor.untyped_storage().size()


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
