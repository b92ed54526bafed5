"""Layers of torch.nn whose forward is known to the letter: nothing inside them needs to be watched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchkutils.models.flops import function_flops

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
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
)

_FUNCTIONS: dict[type[nn.Module], Callable[..., Any] | None] = {
    **dict.fromkeys(_FREE),
    # Its operations are told from its class, not from the functions inside it.
    nn.MultiheadAttention: None,
    nn.Linear: nn.functional.linear,
    **dict.fromkeys(_CONVOLUTIONS, torch.conv2d),
    **dict.fromkeys(_TRANSPOSED, torch.conv_transpose2d),
}
# As they are when this is imported: a forward that someone has replaced is no longer known.
_FORWARDS = {kind: kind.forward for kind in _FUNCTIONS}


def is_stock(module: nn.Module) -> bool:
    """Whether this is such a layer, of exactly that class, with the forward that torch gave it."""
    kind = type(module)
    return _FORWARDS.get(kind) is kind.forward and "forward" not in module.__dict__ if kind in _FORWARDS else False


def writes_elsewhere(module: nn.Module) -> bool:
    """Whether its options make such a layer write to more than its own buffers."""
    own = module.__dict__
    return bool(own.get("inplace")) or own.get("max_norm") is not None


def stock_flops(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> int | None:
    """What such a layer ran, apart from what `module_flops` knows better; None when it cannot be told."""
    function = _FUNCTIONS[type(module)]
    if function is None:
        return 0
    value = args[0] if args else kwargs.get("input")
    return function_flops(function, (value, module.weight), {}, output)
