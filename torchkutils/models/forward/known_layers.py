"""Layers of torch.nn whose forward is known: nothing inside them needs to be seen."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn

from torchkutils._torch_versions import GLOBAL_HOOKS

Rule: TypeAlias = Callable[[nn.Module, torch.Tensor, torch.Tensor], int]


def _shape_of_weight(module: nn.Module) -> torch.Size:
    weight: Any = module._parameters.get("weight")
    if weight is None:
        # Parametrizations and older ways of weight normalisation make it anew.
        weight = module.weight
    return weight.shape  # type: ignore[no-any-return]


def _linear(module: nn.Module, value: torch.Tensor, output: torch.Tensor) -> int:
    return 2 * output.numel() * _shape_of_weight(module)[-1]


def _convolution(module: nn.Module, value: torch.Tensor, output: torch.Tensor) -> int:
    return 2 * output.numel() * math.prod(_shape_of_weight(module)[1:])


def _transposed(module: nn.Module, value: torch.Tensor, output: torch.Tensor) -> int:
    return 2 * value.numel() * math.prod(_shape_of_weight(module)[1:])


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
# No multiply-add in them; of attention `module_flops` knows how many.
_FREE = (
    *(nn.Identity, nn.Flatten, nn.Unflatten, nn.Embedding, nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm),
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid),
    *(nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.LogSigmoid, nn.GLU),
    *(nn.Softmax, nn.LogSoftmax, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ReflectionPad2d, nn.Upsample),
    nn.MultiheadAttention,
)

_RULES: dict[type[nn.Module], Rule | None] = {
    **dict.fromkeys(_FREE),
    nn.Linear: _linear,
    **dict.fromkeys(_CONVOLUTIONS, _convolution),
    **dict.fromkeys(_TRANSPOSED, _transposed),
}
# As they are when this is imported: a forward that someone has replaced is no longer known.
_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {kind: kind.forward for kind in _RULES}


def stock_forward(module: nn.Module) -> Callable[..., Any] | None:
    """The forward of a stock layer, of exactly that class, as torch gave it; None for every other module."""
    kind = type(module)
    forward = _FORWARDS.get(kind)
    if forward is None or forward is not kind.forward or "forward" in module.__dict__:
        return None
    return forward


def stock_rule(module: nn.Module) -> Rule | None:
    """How many operations such a layer runs; None where it runs none, or `module_flops` knows."""
    return _RULES[type(module)]


def runs_plainly(own: dict[str, Any]) -> bool:
    """Whether a stock layer with these attributes has no hooks and writes to nothing but its own buffers."""
    return not (own.get("inplace") or hooked(own)) and own.get("max_norm") is None


def hooked(own: dict[str, Any]) -> bool:
    """Whether `nn.Module.__call__` of a module with these attributes does more than to call forward."""
    return bool(
        own.get("_forward_hooks")
        or own.get("_forward_pre_hooks")
        or own.get("_backward_hooks")
        or own.get("_backward_pre_hooks")
        or any(GLOBAL_HOOKS)
    )
