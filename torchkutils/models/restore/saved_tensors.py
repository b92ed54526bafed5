"""What parameters and buffers are before a forward, put back after it."""

from __future__ import annotations

import array
import itertools
import operator
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter, is_lazy

from torchkutils._torch_versions import set_version_counters, untransformed
from torchkutils.models.restore.packed_contents import PackedContents, can_be_packed
from torchkutils.models.tree.module_tree import ORDINARY, ModuleTree

_requires_grad: Callable[[torch.Tensor], bool] = operator.attrgetter("requires_grad")
_gradient: Callable[[torch.Tensor], torch.Tensor | None] = operator.attrgetter("grad")
_version: Callable[[torch.Tensor], int] = operator.attrgetter("_version")
_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


class TensorStates:
    """The memory, the gradient and the flags of tensors; of buffers also what they contain.

    A parameter is copied, and its memory held, when `written` or `rebound` says that forward is about to change it.

    Args:
        tree: The model's modules; lazy tensors among theirs are left out.
        others: Tensors that attributes and arguments reach. They are copied when a write is seen, as parameters are.
    """

    tensors: list[torch.Tensor]
    addressed: list[torch.Tensor]
    requires_grad: list[bool]
    leaves: list[torch.Tensor]
    gradients: list[torch.Tensor | None]
    addresses: array.array[int]
    packed: PackedContents

    def __init__(self, tree: ModuleTree, others: list[torch.Tensor]) -> None:
        self._tree = tree
        # One list for each fact: an object for each tensor would make garbage collection slower.
        beside = _beside(tree, others)
        self.tensors = [*tree.tensors, *beside]
        # A sparse or nested tensor has no one address to compare.
        self.addressed = self.tensors
        buffers = tree.buffers
        if tree.unusual:
            self.tensors = list(itertools.filterfalse(is_lazy, self.tensors))
            self.addressed = [tensor for tensor in self.tensors if id(tensor) not in tree.unusual]
            buffers = list(itertools.filterfalse(is_lazy, buffers))
        self.requires_grad = list(map(_requires_grad, self.tensors))
        self.leaves = [t for t in self.tensors if type(t) is torch.nn.Parameter or t.is_leaf]
        self.gradients = list(map(_gradient, self.leaves))
        self.hooks: dict[int, tuple[torch.Tensor, list[tuple[Any, list[Any]]]]] = {}
        # By `id` of a tensor: another tensor on the same memory, which keeps that memory alive.
        self.memories: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._hold(itertools.chain(buffers, beside))
        if tree.unusual:
            self._hold([tensor for tensor in self.tensors if id(tensor) in tree.unusual])
        # By `id` of a tensor: what can be written to, and a copy of what was there.
        self.contents: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        # How often autograd has counted a write.
        self.versions: dict[int, tuple[torch.Tensor, int]] = {}
        self._keep_buffers(buffers)
        # Whether something was seen that may have moved a tensor, or whether that cannot be told.
        self._moved = bool(tree.unusual)
        self.addresses = _addresses(self.addressed)
        self._counts = _counts(self.tensors)
        self._by_storage: dict[int, list[torch.Tensor]] | None = None

    def _keep_buffers(self, buffers: list[torch.Tensor]) -> None:
        """Remember the contents of all buffers: of small ones at once, of others one by one."""
        small = [tensor for tensor in buffers if id(tensor) not in self._tree.unusual and can_be_packed(tensor)]
        self.packed = PackedContents(small)
        self.versions.update({id(tensor): (tensor, tensor._version) for tensor in small})
        if len(small) < len(buffers):
            for tensor in buffers:
                # Those whose version is known are packed.
                self.keep(tensor)

    def take_gradients(self) -> None:
        """Set all gradients to None until the end, so that a backward inside forward does not add to them."""
        if not set(map(type, self.gradients)) <= {type(None)}:
            for tensor in self.leaves:
                tensor.grad = None

    def keep_all(self, tensors: Sequence[torch.Tensor]) -> None:
        """Remember the contents of those of these tensors that are looked after."""
        looked_after = set(map(id, self.tensors))
        for tensor in tensors:
            if id(tensor) in looked_after:
                self.keep(tensor)

    def written_unseen(self) -> list[str]:
        """The tensors of the model that something wrote to unseen, by autograd's count; their contents are lost."""
        counts = _counts(self.tensors)
        if counts == self._counts:
            return []
        changed = map(operator.ne, counts, self._counts)
        lost = [tensor for tensor in itertools.compress(self.tensors, changed) if not self._comes_back(tensor)]
        return [self._tree.tensor_name(tensor) or "a tensor among the attributes or inputs" for tensor in lost]

    def _comes_back(self, tensor: torch.Tensor) -> bool:
        """Whether its contents are kept, or it was given other memory and gets its own back."""
        if id(tensor) in self.contents or id(tensor) in self.versions:
            return True
        _, memory = self.memories.get(id(tensor), (tensor, tensor))
        return not _has_storage(tensor) or _layout(tensor) != _layout(memory)

    def written(self, tensors: Sequence[torch.Tensor]) -> None:
        """A function is about to write to these tensors: parameters, plain attributes or views of them."""
        if self._by_storage is None:
            # Most models write to nothing that they hold: it is looked up at the first write only.
            self._by_storage = self._held_by_storage()
        for tensor in map(untransformed, tensors):
            if not _has_storage(tensor):
                continue
            for held in self._by_storage.get(_storage(tensor), ()):
                # In-place functions may change a shape too.
                self._moved = True
                self._hold([held])
                self.keep(held)

    def _held_by_storage(self) -> dict[int, list[torch.Tensor]]:
        """All tensors that the model or the arguments hold, by their storages."""
        found: dict[int, list[torch.Tensor]] = {}
        for tensor in self.tensors:
            if _has_storage(tensor):
                found.setdefault(_storage(tensor), []).append(tensor)
        return found

    def rebound(self, tensor: Any) -> None:
        """A tensor is about to be given other memory; if it is one of the model's, its memory is held."""
        if self._has(tensor):
            self._moved = True
            self._hold([tensor])

    def _has(self, tensor: Any) -> bool:
        return any(tensor is held for held in self.tensors)

    def hooked(self, tensor: torch.Tensor) -> None:
        """A hook is about to be registered with this tensor."""
        if id(tensor) in self.hooks or not self._has(tensor):
            return
        before = []
        for name in _HOOKS:
            hooks = getattr(tensor, name)
            before.append((hooks, list(hooks.items()) if hooks else []))
        self.hooks[id(tensor)] = (tensor, before)

    def _hold(self, tensors: Iterable[torch.Tensor]) -> None:
        """Keep the memory of these tensors alive, as it is now; what is held already stays."""
        for tensor in tensors:
            self.memories.setdefault(id(tensor), (tensor, tensor.detach()))

    def keep(self, tensor: torch.Tensor) -> None:
        """Remember the contents of this tensor."""
        if id(tensor) in self.contents or id(tensor) in self.versions:
            return
        if not tensor.is_inference():
            self.versions[id(tensor)] = (tensor, tensor._version)
        if not tensor.is_meta and not _is_freed(tensor):
            target = _writable(tensor)
            self.contents[id(tensor)] = (target, target.detach().clone())

    def restore(self) -> None:
        """Memory first, then what lies in it, then the flags."""
        if self._moved or _addresses(self.addressed) != self.addresses:
            self._restore_memories()
        self._restore_contents()
        if self.versions:
            held, versions = zip(*self.versions.values(), strict=True)
            set_version_counters(held, versions)
        self._restore_hooks()
        self._restore_flags()

    def _restore_contents(self) -> None:
        """Always: batch normalisation writes its running statistics, and autograd does not count these writes."""
        self.packed.restore()
        if not self.contents:
            return
        # A tensor that was made in inference mode can be written to in no other.
        with torch.inference_mode():
            for target, content in self.contents.values():
                if not _is_freed(target):
                    target.copy_(content)

    def _restore_hooks(self) -> None:
        for tensor, before in self.hooks.values():
            for name, (hooks, items) in zip(_HOOKS, before, strict=True):
                _restore_hooks_of(tensor, name, hooks, items)

    def _restore_flags(self) -> None:
        if list(map(_requires_grad, self.tensors)) != self.requires_grad:
            for tensor, requires_grad in zip(self.tensors, self.requires_grad, strict=True):
                if tensor.is_leaf and tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
        if not all(map(operator.is_, map(_gradient, self.leaves), self.gradients)):
            for tensor, gradient in zip(self.leaves, self.gradients, strict=True):
                if tensor.grad is not gradient:
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


def _restore_hooks_of(tensor: torch.Tensor, name: str, hooks: Any, items: list[Any]) -> None:
    now = getattr(tensor, name)
    if now is not None:
        # In place: torch and the handles of these hooks hold this very dict.
        now.clear()
        now.update(items)
    if now is not hooks:
        setattr(tensor, name, hooks)


def _beside(tree: ModuleTree, others: list[torch.Tensor]) -> list[torch.Tensor]:
    """The tensors of torch's own kind that are no parameters or buffers: plain attributes, and what values reach."""
    found = {id(tensor): tensor for tensor in (*tree.attribute_tensors, *others)}
    return [tensor for key, tensor in found.items() if key not in tree.holders and _is_ordinary(tensor)]


def _is_ordinary(tensor: torch.Tensor) -> bool:
    return type(tensor) in ORDINARY and not tensor.is_nested and _has_storage(tensor)


def lazy_like(tensor: torch.Tensor, device: str | None = None) -> torch.Tensor:
    """Another lazy tensor of the same kind, on its device or another one."""
    kind: Any = UninitializedParameter if isinstance(tensor, UninitializedParameter) else UninitializedBuffer
    made: torch.Tensor = kind(tensor.requires_grad, device or tensor.device, tensor.dtype)
    return made


def _layout(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _counts(tensors: list[torch.Tensor]) -> array.array[int]:
    """How often each was written to; nothing where one does not count, as those made in inference mode."""
    try:
        return array.array("Q", map(_version, tensors))
    except RuntimeError:
        return array.array("Q")


def _addresses(tensors: list[torch.Tensor]) -> array.array[int]:
    kind: Any = torch.Tensor
    return array.array("Q", map(kind.data_ptr, tensors))


def _writable(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, or the part of it that can be written to: an expanded axis shares the memory of one element."""
    if not _has_storage(tensor) or tensor.is_contiguous():
        return tensor
    return tensor.detach()[tuple([slice(None) if stride else slice(1) for stride in tensor.stride()])]


def _is_freed(tensor: torch.Tensor) -> bool:
    """Whether its memory was taken away, as fully_shard does with whole parameters; torch does not check that."""
    return _has_storage(tensor) and bool(tensor.numel()) and not tensor.untyped_storage().size()


def _has_storage(tensor: torch.Tensor) -> bool:
    return not is_lazy(tensor) and tensor.layout == torch.strided


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
