"""Everything that a look at a model must leave as it was, as values that can be compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy


def whole_state(model: nn.Module, *inputs: torch.Tensor) -> dict[str, Any]:
    """Attributes, hooks, flags, gradients and contents of a model and its inputs, and the state of the process."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {
        "classes": [type(module) for module in model.modules()],
        "attributes": [_attributes(module) for module in model.modules()],
        "plain tensors": [_tensor(t) for module in model.modules() for t in _plain_tensors(module)],
        "training": [module.training for module in model.modules()],
        "tensors": {name: _tensor(tensor) for name, tensor in named if not is_lazy(tensor)},
        "inputs": [_tensor(tensor) for tensor in inputs],
        "lazy": {name: id(tensor) for name, tensor in named if is_lazy(tensor)},
        "random": (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()),
        "switches": (
            torch.is_grad_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.get_autocast_dtype("cpu"),
            torch.get_default_dtype(),
            torch.backends.mha.get_fastpath_enabled(),
            torch._C._len_torch_function_stack(),
        ),
    }


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: (id(value), _inside(value)) for name, value in module.__dict__.items()}


def _plain_tensors(module: nn.Module) -> list[torch.Tensor]:
    inside = [item for value in module.__dict__.values() if isinstance(value, list | tuple) for item in value]
    return [value for value in [*module.__dict__.values(), *inside] if isinstance(value, torch.Tensor)]


def _inside(value: Any, above: tuple[int, ...] = ()) -> Any:
    """What a container holds, and what the containers in it hold."""
    if id(value) in above or not isinstance(value, dict | list | set | tuple):
        return None
    around = (*above, id(value))
    if isinstance(value, dict):
        return [(repr(key), id(item), _inside(item, around)) for key, item in value.items()]
    return [(id(item), _inside(item, around)) for item in value]


def _tensor(tensor: torch.Tensor) -> tuple[Any, ...]:
    gradient = None if not tensor.is_leaf or tensor.grad is None else (id(tensor.grad), tensor.grad.tolist())
    strided = tensor.layout == torch.strided and not tensor.is_nested
    where = (tensor.data_ptr(), tensor._version, tuple(tensor.shape), tensor.stride()) if strided else ()
    comparable = not tensor.is_nested and not tensor.is_meta and tensor.dtype != torch.bfloat16
    content = tensor.detach().to_dense().clone().numpy().tobytes() if comparable else b""
    hooks = tuple(list((held or {}).items()) for held in (tensor._backward_hooks, tensor._post_accumulate_grad_hooks))
    return id(tensor), type(tensor), tensor.requires_grad, gradient, where, content, hooks
