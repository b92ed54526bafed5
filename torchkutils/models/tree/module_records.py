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
    """A record for each place of the tree.

    Args:
        tree: The modules.
        arguments: Also ask each module how it shows its arguments (`extra_repr`).
    """
    held = _HeldTensors(tree)
    records = []
    for place, module in enumerate(tree.modules):
        first = tree.same_as[place]
        records.append(
            ModuleRecord(
                place,
                tree.paths[place],
                tree.names[place],
                type(module).__name__,
                tree.depths[place],
                tree.parents[place],
                tuple(tree.children[place]),
                held.records(place, module._parameters) if first is None else (),
                held.records(place, module._buffers) if first is None else (),
                module.extra_repr() if arguments else "",
                module.training,
                first,
                place not in tree.unregistered,
            )
        )
    return tuple(records)


class _HeldTensors:
    """Records of parameters and buffers; modules that hold equal ones share them."""

    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree
        self._groups: dict[tuple[Any, ...], tuple[TensorRecord, ...]] = {}

    def records(self, place: int, held: Mapping[str, torch.Tensor | None]) -> tuple[TensorRecord, ...]:
        """Of what the module at a place holds."""
        if not held:
            return ()
        if place in self._tree.mixed:
            return tuple([self._record(place, name, tensor) for name, tensor in held.items() if tensor is not None])
        key = tuple([t if t is None else (name, t.shape, t.dtype, t.requires_grad) for name, t in held.items()])
        found = self._groups.get(key)
        if found is None:
            found = tuple([_tensor_record(name, tensor, None) for name, tensor in held.items() if tensor is not None])
            self._groups[key] = found
        return found

    def _record(self, place: int, name: str, tensor: torch.Tensor) -> TensorRecord:
        # A lazy module holds stand-ins, which the tree does not know.
        here = self._tree.holders.get(id(tensor), place) == place and self._tree.keys.get(id(tensor), name) == name
        return _tensor_record(name, tensor, None if here else self._tree.tensor_name(tensor))


def _tensor_record(name: str, tensor: torch.Tensor, same_as: str | None) -> TensorRecord:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if is_lazy(tensor):
        return TensorRecord(name, None, 0, 0, dtype, tensor.requires_grad, same_as, "lazy")
    elements = tensor.numel()
    size = sum(part.numel() * part.element_size() for part in _parts(tensor))
    return TensorRecord(
        name, sizes_of(tensor), elements, size, dtype, tensor.requires_grad, same_as, _tensor_kind(tensor)
    )


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What holds the elements: a sparse tensor keeps its indices beside its values."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


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
    names = {kind.__name__ for kind in type(tensor).__mro__}
    if names & {"DTensor", "ShardedTensor"}:
        return "sharded"
    modules = {kind.__module__.partition(".")[0] for kind in type(tensor).__mro__}
    return "quantised" if modules & {"torchao", "bitsandbytes"} else "tensor"
