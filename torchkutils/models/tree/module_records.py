"""The modules of a tree, and the tensors that they hold, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.records import ModuleRecord, TensorRecord
from torchkutils.models.tree.module_tree import ORDINARY, ModuleTree
from torchkutils.models.tree.nested_values import dtype_name, sizes_of

Parts: TypeAlias = tuple[tuple[str, int], ...]
"""Dtype and bytes of each plain tensor that holds elements of one tensor."""

_QUANTISED_MODULES = ("torch.ao.nn.", "torch.nn.quantized")
_QUANTISING_LIBRARIES = frozenset(["torchao", "bitsandbytes"])
_SHARDED = frozenset(["DTensor", "ShardedTensor"])


def module_records(tree: ModuleTree, *, arguments: bool = False) -> tuple[ModuleRecord, ...]:
    """A record for each entry of the tree.

    Args:
        tree: The modules.
        arguments: Also ask each module how it shows its arguments (`extra_repr`).
    """
    held = _HeldTensors(tree)
    quantised = {kind for kind in set(map(type, tree.modules)) if kind.__module__.startswith(_QUANTISED_MODULES)}
    records = []
    for index, module in enumerate(tree.modules):
        parameters: tuple[TensorRecord, ...] = ()
        buffers: tuple[TensorRecord, ...] = ()
        packed: tuple[TensorRecord, ...] = ()
        # A module that several paths lead to has its tensors at the first one.
        if tree.same_as[index] is None:
            parameters = held.records(index, module._parameters)
            buffers = held.records(index, module._buffers)
            packed = _packed(module) if type(module) in quantised else ()
        records.append(
            ModuleRecord(
                index,
                tree.paths[index],
                tree.names[index],
                type(module).__name__,
                tree.depths[index],
                tree.parents[index],
                tuple(tree.children[index]),
                parameters,
                buffers,
                module.extra_repr() if arguments else "",
                bool(getattr(module, "training", False)),
                tree.same_as[index],
                index not in tree.unregistered,
                packed,
            )
        )
    return tuple(records)


class _HeldTensors:
    """Records of parameters and buffers; modules that hold equal ones share them."""

    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree
        self._groups: dict[tuple[Any, ...], tuple[TensorRecord, ...]] = {}

    def records(self, index: int, held: Mapping[str, torch.Tensor | None]) -> tuple[TensorRecord, ...]:
        """The records of the tensors that the module of this index holds."""
        if not held:
            return ()
        if index in self._tree.mixed:
            return tuple([self._record(index, name, tensor) for name, tensor in held.items() if tensor is not None])
        key = tuple([t if t is None else (name, t.shape, t.dtype, t.requires_grad) for name, t in held.items()])
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = _tensor_records(held)
        return found

    def _record(self, index: int, name: str, tensor: torch.Tensor) -> TensorRecord:
        here = (index, name)
        # A lazy module holds other tensors while forward runs; the tree does not know them.
        first = self._tree.holders.get(id(tensor), here)
        return _tensor_record(name, tensor, None if first == here else self._tree.tensor_name(tensor))


def _tensor_records(held: Mapping[str, torch.Tensor | None]) -> tuple[TensorRecord, ...]:
    return tuple([_tensor_record(name, tensor) for name, tensor in held.items() if tensor is not None])


def _tensor_record(name: str, tensor: torch.Tensor, same_as: str | None = None) -> TensorRecord:
    dtype = dtype_name(tensor)
    if is_lazy(tensor):
        return TensorRecord(name, None, 0, 0, dtype, tensor.requires_grad, same_as, "lazy")
    parts: Parts = tuple([(dtype_name(part), part.numel() * part.element_size()) for part in _parts(tensor)])
    size = sum([part_size for _, part_size in parts])
    kind = _tensor_kind(tensor)
    if kind == "quantised":
        kind = f"quantised {_bits(tensor, parts)} bit"
    if parts == ((dtype, size),):
        # One plain tensor: there is no more to say.
        parts = ()
    return TensorRecord(name, sizes_of(tensor), tensor.numel(), size, dtype, tensor.requires_grad, same_as, kind, parts)


_PARTS_OF_LAYOUT: dict[torch.layout, Callable[[torch.Tensor], list[torch.Tensor]]] = {
    torch.sparse_coo: lambda tensor: [tensor._indices(), tensor._values()],
    torch.sparse_csr: lambda tensor: [tensor.crow_indices(), tensor.col_indices(), tensor.values()],
    torch.sparse_bsr: lambda tensor: [tensor.crow_indices(), tensor.col_indices(), tensor.values()],
    torch.sparse_csc: lambda tensor: [tensor.ccol_indices(), tensor.row_indices(), tensor.values()],
    torch.sparse_bsc: lambda tensor: [tensor.ccol_indices(), tensor.row_indices(), tensor.values()],
}


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that hold the elements: values and indices, or what a subclass wraps (integers and scales)."""
    read = _PARTS_OF_LAYOUT.get(tensor.layout)
    if read is not None:
        return read(tensor)
    # A sharded tensor wraps the part of this process, and is counted as a whole.
    if type(tensor) in ORDINARY or tensor.is_nested or _is_sharded(tensor):
        return [tensor]
    return _wrapped_parts(tensor) or [tensor]


def _wrapped_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The parts of the tensors that a tensor subclass says it wraps; none where it says nothing."""
    flatten = getattr(tensor, "__tensor_flatten__", None)
    names: Iterable[str] = () if flatten is None else flatten()[0]
    parts: list[torch.Tensor] = []
    for name in names:
        inner = getattr(tensor, name)
        if isinstance(inner, torch.Tensor):
            parts += _parts(inner)
    return parts


def _tensor_kind(tensor: torch.Tensor) -> str:
    """How the tensor is held, for what is other than a plain one."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if type(tensor) in ORDINARY:
        return "tensor"
    if _is_sharded(tensor):
        return "sharded"
    libraries = {kind.__module__.partition(".")[0] for kind in type(tensor).__mro__}
    return "tensor" if _QUANTISING_LIBRARIES.isdisjoint(libraries) else "quantised"


def _is_sharded(tensor: torch.Tensor) -> bool:
    return not _SHARDED.isdisjoint([kind.__name__ for kind in type(tensor).__mro__])


def _bits(tensor: torch.Tensor, parts: Parts) -> int:
    """Bits for each weight in the largest of the parts; the other parts are scales and zero points."""
    largest = max(size for _, size in parts)
    return round(8 * largest / max(tensor.numel(), 1))


def _packed(module: Any) -> tuple[TensorRecord, ...]:
    """The weights of a quantised module of torch, which are no parameters: the module gives them when it is asked."""
    held = {}
    for name in ("weight", "bias"):
        give = getattr(module, name, None)
        if callable(give):
            held[name] = give()
    return _tensor_records(held) if "weight" in held else ()
