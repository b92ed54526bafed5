"""A model that holds shapes only."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.restore.saved_tensors import lazy_like
from torchkutils.models.tree.example_inputs import Arguments
from torchkutils.models.tree.nested_values import map_tensors


def on_meta(model: torch.nn.Module, arguments: Arguments) -> tuple[torch.nn.Module, Arguments]:
    """A copy of the model and its arguments that holds shapes only; no weight is copied on the way."""
    stand_ins: dict[int, Any] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if is_lazy(tensor):
            stand_ins[id(tensor)] = lazy_like(tensor, "meta")
            continue
        meta: torch.Tensor = tensor.detach().to("meta")
        if isinstance(tensor, torch.nn.Parameter):
            meta = torch.nn.Parameter(meta, requires_grad=tensor.requires_grad)
        stand_ins[id(tensor)] = meta
    try:
        copied = _copied(model, stand_ins)
    except Exception as error:
        raise ValueError(
            f"engine='meta' works on a copy, and the model cannot be copied ({error}); use 'real'"
        ) from error
    args, kwargs = map_tensors(arguments, lambda tensor: tensor.detach().to("meta"))
    return copied, (args, kwargs)


def _copied(model: torch.nn.Module, stand_ins: dict[int, Any]) -> torch.nn.Module:
    """A copy around other tensors; of a model that is nested too deep for recursion from the inside out."""
    memo = dict(stand_ins)
    try:
        return copy.deepcopy(model, memo)
    except RecursionError:
        memo = dict(stand_ins)
        # Each module finds the copies of those that it holds in the memo.
        for module in reversed(list(model.modules())):
            copy.deepcopy(module, memo)
        return copy.deepcopy(model, memo)
