"""The modules of a tree, and what they hold, as plain records."""

from __future__ import annotations

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.module_tree import ModuleTree
from torchkutils.models.records import Module, Tensor

_ORDINARY = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


def module_records(tree: ModuleTree, *, arguments: bool = False) -> tuple[Module, ...]:
    """A record for each place of the tree.

    Args:
        tree: The modules.
        arguments: Also ask each module how it shows its arguments (`extra_repr`).
    """
    known: dict[tuple[str, torch.Size, torch.dtype, bool], Tensor] = {}
    records = []
    for place, module in enumerate(tree.modules):
        first = tree.same_as[place]
        own, buffers = (module._parameters, module._buffers) if first is None else ({}, {})
        records.append(
            Module(
                place,
                tree.paths[place],
                tree.names[place],
                type(module).__name__,
                tree.depths[place],
                tree.parents[place],
                tuple(tree.children[place]),
                tuple([_held(tree, place, key, t, known) for key, t in own.items() if t is not None]),
                tuple([_held(tree, place, key, t, known) for key, t in buffers.items() if t is not None]),
                module.extra_repr() if arguments else "",
                module.training,
                first,
                place not in tree.unregistered,
            )
        )
    return tuple(records)


def _held(
    tree: ModuleTree,
    place: int,
    name: str,
    tensor: torch.Tensor,
    known: dict[tuple[str, torch.Size, torch.dtype, bool], Tensor],
) -> Tensor:
    """A tensor's record; equal ones share it."""
    first = tree.tensor_names.get(id(tensor), (place, name))
    same_as = None if first == (place, name) else tree.full_name(*first)
    ordinary = type(tensor) in _ORDINARY and tensor.layout is torch.strided
    if same_as is not None or not ordinary or tensor.is_nested or tensor.is_quantized:
        return _tensor_record(name, tensor, same_as)
    key = (name, tensor.shape, tensor.dtype, tensor.requires_grad)
    found = known.get(key)
    if found is None:
        found = known[key] = _tensor_record(name, tensor, None)
    return found


def _tensor_record(name: str, tensor: torch.Tensor, same_as: str | None) -> Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if is_lazy(tensor):
        return Tensor(name, None, 0, 0, dtype, tensor.requires_grad, same_as, "lazy")
    elements = tensor.numel()
    size = sum(part.numel() * part.element_size() for part in _parts(tensor))
    return Tensor(name, _sizes(tensor), elements, size, dtype, tensor.requires_grad, same_as, _tensor_kind(tensor))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What holds the elements: a sparse tensor keeps its indices beside its values."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


def _sizes(tensor: torch.Tensor) -> tuple[int | None, ...]:
    if not tensor.is_nested:
        return tuple(tensor.shape)
    columns = zip(*(part.shape for part in tensor.unbind()), strict=True)
    return (tensor.size(0), *(sizes[0] if len(set(sizes)) == 1 else None for sizes in columns))


def _tensor_kind(tensor: torch.Tensor) -> str:
    """How the tensor is held, for what is other than a plain one."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if type(tensor) in _ORDINARY:
        return "tensor"
    names = {kind.__name__ for kind in type(tensor).__mro__}
    if names & {"DTensor", "ShardedTensor"}:
        return "sharded"
    modules = {kind.__module__.partition(".")[0] for kind in type(tensor).__mro__}
    return "quantised" if modules & {"torchao", "bitsandbytes"} else "tensor"
