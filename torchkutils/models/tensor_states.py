"""What parameters and buffers are before a forward, put back after it; copies are made of buffers only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.module_tree import ModuleTree

_PLAIN = frozenset([torch.Tensor, torch.nn.Parameter, torch.nn.Buffer])
_requires_grad: Callable[[torch.Tensor], bool] = operator.attrgetter("requires_grad")
_shape: Callable[[torch.Tensor], torch.Size] = operator.attrgetter("shape")


class TensorStates:
    """The memory, the gradient and the flags of tensors; of buffers also what they contain.

    Args:
        tensors: Each once; no lazy ones.
    """

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        # One list for each fact: an object for each tensor would keep the garbage collector busy.
        self.tensors = tensors
        self.memories = [tensor.detach() for tensor in tensors]
        self.requires_grad = list(map(_requires_grad, tensors))
        self.leaves = [tensor.is_leaf for tensor in tensors]
        self.gradients = [tensor.grad if leaf else None for tensor, leaf in zip(tensors, self.leaves, strict=True)]
        for tensor, gradient in zip(tensors, self.gradients, strict=True):
            if gradient is not None:
                # Taken away for the moment, so that a backward inside forward does not add to it.
                tensor.grad = None
        self.buffers = [t for t in tensors if not isinstance(t, torch.nn.Parameter) and not t.is_meta]
        self.contents = [buffer.detach().clone() for buffer in self.buffers]
        self.versions = tuple(buffer._version for buffer in self.buffers)
        # A sparse or nested tensor has no one address or shape to compare: it takes its memory back in any case.
        self.comparable = [t for t in tensors if type(t) in _PLAIN and t.layout == torch.strided and not t.is_nested]
        self.places = _places(self.comparable)

    def restore(self) -> None:
        """Memory first, then what lies in it, then the flags."""
        if len(self.comparable) < len(self.tensors) or _places(self.comparable) != self.places:
            self._rebind()
        if self.buffers:
            # Always: batch normalisation writes its running statistics without counting a version.
            with torch.no_grad():
                for buffer, content in zip(self.buffers, self.contents, strict=True):
                    buffer.copy_(content)
            torch._C._autograd._unsafe_set_version_counter(tuple(self.buffers), self.versions)
        flags = zip(self.tensors, self.leaves, self.requires_grad, self.gradients, strict=True)
        for tensor, leaf, requires_grad, gradient in flags:
            if leaf and tensor.is_leaf:
                if tensor.requires_grad != requires_grad:
                    tensor.requires_grad_(requires_grad)
                if tensor.grad is not gradient:
                    tensor.grad = gradient

    def _rebind(self) -> None:
        comparable = set(map(id, self.comparable))
        for tensor, memory in zip(self.tensors, self.memories, strict=True):
            if id(tensor) not in comparable or _place(tensor) != _place(memory):
                tensor.data = memory


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _places(tensors: list[torch.Tensor]) -> tuple[list[Any], ...]:
    """Where tensors lie and how: the same numbers mean the same memory, as long as someone holds the old one."""
    addresses = [tensor.data_ptr() for tensor in tensors]
    return addresses, list(map(_shape, tensors)), [tensor.stride() for tensor in tensors]


class Writes:
    """Copies of parameters, made just before forward writes to them; `restore` puts the values back."""

    def __init__(self, tree: ModuleTree) -> None:
        self.tree = tree
        self.guarded: dict[int, torch.Tensor] | None = None
        self.copies: dict[int, tuple[torch.Tensor, torch.Tensor, int]] = {}

    def before(self, tensor: torch.Tensor) -> None:
        """A function is about to write to this tensor."""
        if self.guarded is None:
            # Most models write to nothing: look their parameters up at the first write only.
            held = self.tree.tensors
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
