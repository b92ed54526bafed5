"""The modules of a tree, and what they hold, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.records import ModuleRecord, TensorRecord
from torchkutils.models.tree.module_tree import ORDINARY, ModuleTree
from torchkutils.models.tree.nested_values import sizes_of


def module_records(tree: ModuleTree, *, arguments: bool = False) -> tuple[ModuleRecord, ...]:
    """A record for each entry of the tree.

    Args:
        tree: The modules.
        arguments: Also ask each module how it shows its arguments (`extra_repr`).
    """
    held = _HeldTensors(tree)
    records = []
    for index, module in enumerate(tree.modules):
        first = tree.same_as[index]
        records.append(
            ModuleRecord(
                index,
                tree.paths[index],
                tree.names[index],
                type(module).__name__,
                tree.depths[index],
                tree.parents[index],
                tuple(tree.children[index]),
                held.records(index, module._parameters) if first is None else (),
                held.records(index, module._buffers) if first is None else (),
                module.extra_repr() if arguments else "",
                bool(getattr(module, "training", False)),
                first,
                index not in tree.unregistered,
                _packed(module) if first is None else (),
            )
        )
    return tuple(records)


class _HeldTensors:
    """Records of parameters and buffers; modules that hold equal ones share them."""

    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree
        self._groups: dict[tuple[Any, ...], tuple[TensorRecord, ...]] = {}

    def records(self, index: int, held: Mapping[str, torch.Tensor | None]) -> tuple[TensorRecord, ...]:
        """Of what the module of this index holds."""
        if not held:
            return ()
        if index in self._tree.mixed:
            return tuple([self._record(index, name, tensor) for name, tensor in held.items() if tensor is not None])
        key = tuple([t if t is None else (name, t.shape, t.dtype, t.requires_grad) for name, t in held.items()])
        found = self._groups.get(key)
        if found is None:
            found = tuple([_tensor_record(name, tensor, None) for name, tensor in held.items() if tensor is not None])
            self._groups[key] = found
        return found

    def _record(self, index: int, name: str, tensor: torch.Tensor) -> TensorRecord:
        # A lazy module holds stand-ins, which the tree does not know.
        here = self._tree.holders.get(id(tensor), index) == index and self._tree.keys.get(id(tensor), name) == name
        return _tensor_record(name, tensor, None if here else self._tree.tensor_name(tensor))


def _tensor_record(name: str, tensor: torch.Tensor, same_as: str | None) -> TensorRecord:
    dtype = _dtype_name(tensor)
    if is_lazy(tensor):
        return TensorRecord(name, None, 0, 0, dtype, tensor.requires_grad, same_as, "lazy")
    held = tuple((_dtype_name(part), part.numel() * part.element_size()) for part in _parts(tensor))
    size = sum(part_size for _, part_size in held)
    shape, elements = sizes_of(tensor), tensor.numel()
    parts = held if len(held) > 1 or held[0][0] != dtype else ()
    kind = _tensor_kind(tensor)
    if kind == "quantised":
        kind = f"quantised {_bits(tensor, held)} bit"
    return TensorRecord(name, shape, elements, size, dtype, tensor.requires_grad, same_as, kind, parts)


def _dtype_name(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """The plain tensors that hold the elements: values and indices, or what a subclass wraps (integers and scales)."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    flatten = None if type(tensor) in ORDINARY else getattr(tensor, "__tensor_flatten__", None)
    # A sharded tensor wraps this process's share, and is counted as a whole.
    if flatten is None or tensor.is_nested or _is_sharded(tensor):
        return [tensor]
    inner = [getattr(tensor, name) for name in flatten()[0]]
    found = [part for held in inner if isinstance(held, torch.Tensor) for part in _parts(held)]
    return found or [tensor]


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
    return "quantised" if libraries & {"torchao", "bitsandbytes"} else "tensor"


def _is_sharded(tensor: torch.Tensor) -> bool:
    return not {"DTensor", "ShardedTensor"}.isdisjoint(kind.__name__ for kind in type(tensor).__mro__)


def _bits(tensor: torch.Tensor, held: tuple[tuple[str, int], ...]) -> int:
    """Bits that one weight takes in the largest of the parts; scales and zero points stand in the others."""
    largest = max(size for _, size in held)
    return round(8 * largest / max(tensor.numel(), 1))


def _packed(module: Any) -> tuple[TensorRecord, ...]:
    """The weights that a quantised module of torch gives on request, in their own shapes."""
    if not type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
        return ()
    weight = getattr(module, "weight", None)
    if not callable(weight):
        return ()
    bias = module.bias() if callable(getattr(module, "bias", None)) else None
    held = {"weight": weight(), "bias": bias}
    return tuple(_tensor_record(name, tensor, None) for name, tensor in held.items() if tensor is not None)
