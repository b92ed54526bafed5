"""A model's tensors on their way from a file into a module: checked as a whole, then read and put in place."""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
from torch import nn

from torchkutils.objects.edits import as_parameter
from torchkutils.objects.model_tensors import EXTRA
from torchkutils.objects.parametrizations import refresh
from torchkutils.objects.plain_values import decode
from torchkutils.objects.stored_file import ModelFile
from torchkutils.objects.tree import Slot, named_tree, slots_of

__all__ = ["StoredState", "assign_state"]

_SPARSE = {
    "sparse_coo": ("indices", "values"),
    "sparse_csr": ("crow", "col", "values"),
    "sparse_bsr": ("crow", "col", "values"),
    "sparse_csc": ("ccol", "row", "values"),
    "sparse_bsc": ("ccol", "row", "values"),
}


class StoredState:
    """The tensors of a file as its index describes them: stored ones, views of them, sparse ones made of parts.

    Each is read once, however often it is named.

    Args:
        file: The open file.
        dtype: What floating-point tensors are converted to; None keeps their own.
        device: Where tensors are to live; on "meta" nothing is read.
    """

    def __init__(self, file: ModelFile, dtype: torch.dtype | None = None, device: torch.device | None = None) -> None:
        self.file: ModelFile = file
        self._dtype = dtype
        self._device = device
        self._views = _part(file, "views")
        self._sparse = _part(file, "sparse")
        self._read: dict[str, torch.Tensor] = {}

    def shape(self, name: Any) -> tuple[int, ...]:
        """The shape of a tensor; nothing is read.

        Raises:
            ValueError: The file has no such tensor, or describes it badly.
        """
        return self._described(name)[0]

    def dtype(self, name: Any) -> torch.dtype:
        """The dtype in the file."""
        return self._described(name)[1]

    def _described(self, name: Any) -> tuple[tuple[int, ...], torch.dtype]:
        if isinstance(name, str) and name in self._views:
            return self._described_view(name)
        if isinstance(name, str) and name in self._sparse:
            told = self._sparse[name]
            parts = told.get("parts")
            if told.get("layout") not in _SPARSE or not isinstance(parts, dict):
                raise ValueError(f"its sparse tensor {name[:60]!r} is malformed")
            return _sizes(told, "shape"), self.file.stored(parts.get("values")).dtype
        stored = self.file.stored(name)
        return stored.shape, stored.dtype

    def _described_view(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        view = self._views[name]
        shape, stride, offset = _sizes(view, "shape"), _sizes(view, "stride"), view.get("offset")
        base = self.file.stored(view.get("of"))
        if len(shape) != len(stride) or type(offset) is not int or offset < 0:
            raise ValueError(f"its view {name[:60]!r} is malformed")
        last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
        if 0 in shape or last >= math.prod(base.shape) or math.prod(shape) > math.prod(base.shape):
            raise ValueError(f"its view {name[:60]!r} reaches past the end of {base.name[:60]!r}")
        return shape, base.dtype

    def check(self, name: str) -> None:
        """Check the data sets that a tensor is made of; nothing is read.

        Raises:
            ValueError: A data set is not what the index says.
        """
        self._described(name)
        if name in self._views:
            stored = [self._views[name]["of"]]
        elif name in self._sparse:
            stored = list(self._sparse[name]["parts"].values())
        else:
            stored = [name]
        for one in stored:
            self.file.check(one)

    def empty(self, name: Any) -> torch.Tensor:
        """A tensor on the meta device of the shape and dtype in the file."""
        shape, dtype = self._described(name)
        return torch.empty(shape, dtype=dtype, device="meta")

    def read(self, name: Any) -> torch.Tensor:
        """A tensor of the file; the same object each time.

        Raises:
            ValueError: The file has no such tensor, or describes it badly.
        """
        known = self._read.get(name) if isinstance(name, str) else None
        if known is None:
            shape, dtype = self._described(name)
            if self._device is not None and self._device.type == "meta":
                known = torch.empty(
                    shape, dtype=self._dtype if self._dtype and _is_float(dtype) else dtype, device="meta"
                )
            elif name in self._views:
                known = self._view(self._views[name])
            else:
                known = self._sparse_tensor(name) if name in self._sparse else self.file.read(name)
                if self._dtype is not None and _is_float(known.dtype):
                    known = known.to(self._dtype)
            self._read[name] = known
        return known

    def _view(self, view: dict[str, Any]) -> torch.Tensor:
        base = self.read(view["of"]).detach()
        return torch.as_strided(base, view["shape"], view["stride"], base.storage_offset() + view["offset"])

    def _sparse_tensor(self, name: str) -> torch.Tensor:
        told = self._sparse[name]
        parts = [self.file.read(str(told["parts"].get(part))) for part in _SPARSE[told["layout"]]]
        shape = list(told["shape"])
        if told["layout"] == "sparse_coo":
            indices, values = parts
            made = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
            return made._coalesced_(True) if told.get("coalesced") is True and _is_sorted(indices) else made
        outer, inner, values = parts
        layout = getattr(torch, told["layout"])
        return torch.sparse_compressed_tensor(outer, inner, values, shape, layout=layout, check_invariants=True)


def _is_sorted(indices: torch.Tensor) -> bool:
    """Whether the columns of COO indices ascend strictly, as those of a coalesced tensor do."""
    columns = indices.t().tolist()
    return all(one < other for one, other in itertools.pairwise(columns))


def _is_float(dtype: torch.dtype) -> bool:
    return dtype.is_floating_point


def _part(file: ModelFile, key: str) -> dict[str, dict[str, Any]]:
    found = file.index.get(key, {})
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise ValueError(f"its {key} are malformed")
    return found


def _sizes(told: dict[str, Any], key: str) -> tuple[int, ...]:
    sizes = told.get(key)
    if not isinstance(sizes, list) or len(sizes) > 64 or not all(type(one) is int and one >= 0 for one in sizes):
        raise ValueError(f"its {key} {str(sizes)[:60]} is malformed")
    return tuple(sizes)


def assign_state(model: nn.Module, state: StoredState) -> None:
    """Fill a rebuilt module from a file.

    Raises:
        ValueError: Names, shapes or flags of the file do not fit the module; checked before memory is allocated.
    """
    names = state.file.names
    slots = slots_of(model)
    wanted = {slot.key for slot in slots}
    if set(names) != wanted:
        differing = sorted(wanted ^ set(names))[:5]
        raise ValueError(f"its tensors are not those of its architecture: {differing} are in one of the two")
    for slot in slots:
        needed, found = tuple(slot.tensor.shape), state.shape(names[slot.key])
        if needed != found:
            raise ValueError(f"{slot.key!r} must have shape {needed} in the file, got {found}")
    flags = _checked_flags(state.file.index)
    _SlotFiller(state).fill(slots)
    _refuse_empty(model, state)
    _set_extra_state(model, state)
    refresh(model)
    _set_flags(model, slots, flags)


class _SlotFiller:
    """Sets the parameters and buffers of a module; a tensor that has several names in the file becomes one object."""

    def __init__(self, state: StoredState) -> None:
        self._state = state
        self._filled: dict[str, torch.Tensor] = {}
        self._used: dict[int, torch.Tensor] = {}

    def fill(self, slots: list[Slot]) -> None:
        for slot in slots:
            source = self._state.file.names[slot.key]
            old = slot.tensor
            new = self._filled.get(source)
            if new is None or isinstance(new, nn.Parameter) != isinstance(old, nn.Parameter):
                new = self._tensor_for(old, self._state.read(source) if new is None else new.detach())
                self._filled.setdefault(source, new)
            if new is not old:
                put(slot, new)
            self._used[id(new)] = new

    def _tensor_for(self, old: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        if old.is_meta or id(old) in self._used or value.layout != torch.strided or value.is_meta:
            return as_parameter(value) if isinstance(old, nn.Parameter) else value
        # The module's own object stays: its constructor may have kept it elsewhere too.
        old.data = value
        return old


def put(slot: Slot, tensor: torch.Tensor) -> None:
    """Make a tensor the parameter or buffer of a slot."""
    if isinstance(tensor, nn.Parameter) and isinstance(slot.owner, nn.RNNBase):
        setattr(slot.owner, slot.attribute, tensor)  # recurrent layers keep a second list, which follows setattr alone
    elif slot.attribute in slot.owner._parameters:
        slot.owner._parameters[slot.attribute] = tensor  # type: ignore[assignment]
    else:
        slot.owner._buffers[slot.attribute] = tensor


def _refuse_empty(model: nn.Module, state: StoredState) -> None:
    """Nothing may stay on the meta device that was built there."""
    if any(one.is_meta for one in state._read.values()):
        return
    for path, module in named_tree(model):
        for name, value in [*module._parameters.items(), *module._buffers.items(), *vars(module).items()]:
            if isinstance(value, torch.Tensor) and value.is_meta and name not in _computed(module):
                raise ValueError(f"{path}.{name} is not in the file".lstrip("."))


def _computed(module: nn.Module) -> set[str]:
    return {getattr(hook, "name", "") for hook in module._forward_pre_hooks.values()}


def _set_extra_state(model: nn.Module, state: StoredState) -> None:
    extra = _extra_of(state)
    for path, module in named_tree(model):
        key = f"{path}.{EXTRA}" if path else EXTRA
        if key in extra:
            module.set_extra_state(extra[key])


def _extra_of(state: StoredState) -> dict[str, Any]:
    found = state.file.index.get("extra", {})
    if not isinstance(found, dict):
        raise ValueError("its extra state is malformed")

    def special(tag: str, body: Any) -> Any:
        if tag != "__tensor__":
            raise ValueError(f"unknown value {tag!r} in its extra state")
        state.file.budget.mention()
        return state.read(body)

    return {key: decode(value, special) for key, value in found.items()}


def _checked_flags(index: dict[str, Any]) -> tuple[set[str], bool, set[str]]:
    training = index.get("training")
    frozen: Any = index.get("frozen")
    flipped: Any = index.get("flipped")
    lists = isinstance(frozen, list) and isinstance(flipped, list)
    if not lists or not isinstance(training, bool) or not all(isinstance(one, str) for one in [*frozen, *flipped]):
        raise ValueError("its flags are malformed")
    return set(frozen), training, set(flipped)


def _set_flags(model: nn.Module, slots: list[Slot], flags: tuple[set[str], bool, set[str]]) -> None:
    frozen, training, flipped = flags
    for slot in slots:
        tensor, wanted = slot.tensor, slot.key not in frozen
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad != wanted and (_can_learn(tensor) or not wanted):
            tensor.requires_grad_(wanted)
    for path, module in named_tree(model):
        module.training = training != (path in flipped)


def _can_learn(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
