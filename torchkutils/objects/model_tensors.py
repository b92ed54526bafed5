"""A model's tensors on their way into a file: names, ties, views of one memory, sparse parts, flags.

The tensors are taken from the tree of modules, not from `state_dict()`: a class may leave parts out of its state dict
or rename them, and the model needs all of them.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import nn

from torchkutils.objects.plain_values import encode
from torchkutils.objects.tensors import checked_tensor
from torchkutils.objects.tree import inside, named_tree, slots_of

__all__ = ["EXTRA", "StateToStore", "has_extra_state"]

EXTRA = "_extra_state"


def has_extra_state(module: nn.Module) -> bool:
    """Whether a class keeps state beside its tensors."""
    return type(module).get_extra_state is not nn.Module.get_extra_state


class StateToStore:
    """The tensors that go into a file; one that has several names is stored once.

    Attributes:
        tensors: What is written, by name.
        names: The keys of the model's state, each with the name of its tensor.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.names: dict[str, str] = {}
        self.values: dict[str, torch.Tensor] = {}
        self._known: dict[int, str] = {}
        self._sparse: dict[str, Any] = {}
        self._views: dict[str, Any] = {}
        self._extra: dict[str, Any] = {}
        self._flags: dict[str, Any] = {"frozen": [], "training": True, "flipped": []}

    def add_model(self, model: nn.Module) -> None:
        """Add a model's parameters, buffers, extra state and flags."""
        slots = slots_of(model)
        for slot in slots:
            self.names[slot.key] = self.add(slot.tensor, slot.key)
        modules = named_tree(model)
        for path, module in modules:
            if has_extra_state(module):
                self.add_extra(f"{path}.{EXTRA}" if path else EXTRA, module.get_extra_state())
        self._flags = {
            "frozen": [slot.key for slot in slots if _is_frozen(slot.tensor)],
            "training": inside(model).training,
            "flipped": [path for path, module in modules if module.training != inside(model).training],
        }

    def add_extra(self, key: str, value: Any) -> None:
        """Add what `get_extra_state` of a module gave.

        Raises:
            ValueError: It is no plain value.
        """
        self._extra[key] = encode(value, f"the extra state {key}", lambda one, where: self._of_extra(one, where))

    def _of_extra(self, value: Any, where: str) -> Any:
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{where} must be plain, got a {type(value).__name__}")
        return {"__tensor__": self.add(value, f"extra:{where}")}

    def add(self, value: torch.Tensor, name: str) -> str:
        """Store a tensor; gives the name under which it is stored."""
        known = self._known.get(id(value))
        if known is not None:
            return known
        if name in self.values:
            name = next(
                f"{name}#{number}" for number in range(2, len(self.values) + 3) if f"{name}#{number}" not in self.values
            )
        tensor = checked_tensor(value, name)
        self._known[id(value)] = name
        self.values[name] = tensor
        if tensor.layout == torch.strided:
            self.tensors[name] = tensor
        else:
            self._sparse[name] = self._sparse_parts(tensor.detach(), name)
        return name

    def _sparse_parts(self, tensor: torch.Tensor, name: str) -> dict[str, Any]:
        layout = str(tensor.layout).removeprefix("torch.")
        if tensor.layout == torch.sparse_coo:
            parts = {"indices": tensor._indices(), "values": tensor._values()}
        elif tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
            parts = {"crow": tensor.crow_indices(), "col": tensor.col_indices(), "values": tensor.values()}
        elif tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
            parts = {"ccol": tensor.ccol_indices(), "row": tensor.row_indices(), "values": tensor.values()}
        else:
            raise ValueError(f"{name} has layout {tensor.layout}, which cannot be stored; make it dense first")
        stored = {part: self.add(one, f"{name}:{part}") for part, one in parts.items()}
        coalesced = tensor.layout == torch.sparse_coo and tensor.is_coalesced()
        return {"layout": layout, "shape": list(tensor.shape), "parts": stored, "coalesced": coalesced}

    def argument(self, tensor: torch.Tensor, where: str) -> str:
        """Store a tensor that is a constructor argument or an attribute."""
        return self.add(tensor, f"argument:{where}")

    def read_argument(self, name: str) -> torch.Tensor:
        """A stored tensor as a constructor gets it; on the meta device while modules are built there."""
        tensor = self.values[name].detach()
        return tensor if tensor.layout != torch.strided else tensor.clone()

    def empty_argument(self, name: str) -> torch.Tensor:
        """A tensor on the meta device like a stored one."""
        tensor = self.values[name]
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(one.numel() * one.element_size() for one in self.tensors.values())

    def snapshot(self) -> list[dict[Any, Any]]:
        """What was added so far."""
        return [dict(held) for held in (self.tensors, self.names, self.values, self._known, self._sparse)]

    def restore(self, snapshot: list[dict[Any, Any]]) -> None:
        """Forget what was added since."""
        self.tensors, self.names, self.values, self._known, self._sparse = map(dict, snapshot)

    def find_views(self) -> None:
        """Find tensors that are different objects over one memory: one is stored, the others as views of it.

        Raises:
            ValueError: They see the memory as different dtypes.
        """
        groups: dict[Any, list[str]] = defaultdict(list)
        for name, tensor in self.tensors.items():
            if tensor.numel() and not tensor.is_meta:
                groups[tensor.device, tensor.untyped_storage().data_ptr()].append(name)
        for names in groups.values():
            for overlapping in _overlapping(names, self.tensors) if len(names) > 1 else ():
                self._share(overlapping)

    def _share(self, names: list[str]) -> None:
        members = [self.tensors[name] for name in names]
        if len({one.dtype for one in members}) > 1 or any(one.is_conj() or one.is_neg() for one in members):
            raise ValueError(f"{names[:5]} share memory in different dtypes; clone() all but one before saving")
        start, end = min(one.data_ptr() for one in members), max(_end(one) for one in members)
        whole = self._whole(names, start, end)
        for name, one in zip(names, members, strict=True):
            if name != whole:
                offset = (one.data_ptr() - start) // one.element_size()
                shape, stride = list(one.shape), list(one.stride())
                self._views[name] = {"of": whole, "shape": shape, "stride": stride, "offset": offset}
                del self.tensors[name]

    def _whole(self, names: list[str], start: int, end: int) -> str:
        """The name of the tensor that covers the shared memory; one is made where none does."""
        for name in names:
            if _covers(self.tensors[name], start, end):
                return name
        made = f"memory:{names[0]}"
        self.tensors[made] = _flat_memory([self.tensors[name] for name in names], end - start)
        return made

    def index(self) -> dict[str, Any]:
        """What the file's index says besides where the tensors lie."""
        found = {"names": self.names, **self._flags}
        parts = {"views": self._views, "sparse": self._sparse, "extra": self._extra}
        return found | {key: value for key, value in parts.items() if value}


def _flat_memory(members: list[torch.Tensor], nbytes: int) -> torch.Tensor:
    """The memory that several tensors see, as one flat tensor."""
    first = min(members, key=lambda one: one.data_ptr())
    return torch.as_strided(first.detach(), (nbytes // first.element_size(),), (1,), first.storage_offset())


def _is_frozen(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) and not tensor.requires_grad


def _end(tensor: torch.Tensor) -> int:
    """The address behind the last element."""
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr() + (last + 1) * tensor.element_size()


def _covers(tensor: torch.Tensor, start: int, end: int) -> bool:
    return tensor.is_contiguous() and tensor.data_ptr() == start and _end(tensor) == end


def _overlapping(names: list[str], tensors: dict[str, torch.Tensor]) -> list[list[str]]:
    """Groups of names whose memory overlaps."""
    groups: list[list[str]] = []
    reached = -1
    for name in sorted(names, key=lambda one: tensors[one].data_ptr()):
        if groups and tensors[name].data_ptr() < reached:
            groups[-1].append(name)
        else:
            groups.append([name])
        reached = max(reached, _end(tensors[name]))
    return [sorted(group, key=names.index) for group in groups if len(group) > 1]
