"""Constructor arguments of torch.nn's own classes, read from a module as it is now."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchkutils._torch_versions import newer_module_class

__all__ = ["stock_config"]

# Where a module lives and what it computes with follow from its tensors; the rest is deprecated or private.
_SKIPPED = {"self", "device", "dtype", "size_average", "reduce", "_weight", "_freeze", "min_value", "max_value"}


_signature = functools.cache(inspect.signature)  # a model has many modules of few classes


def stock_config(module: nn.Module, where: str) -> dict[str, Any]:
    """The arguments that build a module of a stock class anew.

    Raises:
        ValueError: The class cannot be rebuilt from plain values; the message says why.
    """
    kind = type(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(f"{where} is a {kind.__name__} without shapes yet; call the model once before saving it")
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](module)
    if isinstance(module, nn.DataParallel):
        raise ValueError(f"{where} is a DataParallel, which belongs to its devices; save its .module")
    if getattr(module, "process_group", None) is not None:
        raise ValueError(f"{where} belongs to a process group, which no file can hold; convert it to BatchNorm first")
    config = {name: getattr(module, name) for name in _argument_names(kind) if hasattr(module, name)}
    for owner in kind.__mro__:
        if owner in _ADAPTERS:
            config.update(_ADAPTERS[owner](module))
            break
    result = {}
    for name, value in config.items():
        if name == "bias" and not isinstance(value, bool):
            result[name] = value is not None
        elif not isinstance(value, nn.Parameter):
            result[name] = value
    return result


def _argument_names(kind: type) -> list[str]:
    if issubclass(kind, nn.RNNBase):
        names = [*_signature(nn.RNNBase.__init__).parameters]
        names = [name for name in names if kind is nn.RNNBase or name != "mode"]
        if kind is nn.RNN:
            names.append("nonlinearity")
        if kind in (nn.RNN, nn.GRU):
            names.remove("proj_size")
    else:
        parameters = _signature(kind.__init__).parameters.values()
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return [name for name in names if name not in _SKIPPED]


def _attention(module: Any) -> dict[str, Any]:
    return {"bias": module.in_proj_bias is not None, "add_bias_kv": module.bias_k is not None}


def _transformer_layer(module: Any) -> dict[str, Any]:
    return {
        "d_model": module.self_attn.embed_dim,
        "nhead": module.self_attn.num_heads,
        "dim_feedforward": module.linear1.out_features,
        "dropout": module.dropout.p,
        "activation": module.activation,
        "layer_norm_eps": module.norm1.eps,
        "batch_first": module.self_attn.batch_first,
        "bias": module.linear1.bias is not None,
    }


def _transformer_stack(module: Any) -> dict[str, Any]:
    key = "encoder_layer" if isinstance(module, nn.TransformerEncoder) else "decoder_layer"
    if not len(module.layers):
        raise ValueError(f"a {type(module).__name__} without layers cannot be rebuilt; give it at least one")
    return {key: module.layers[0], "num_layers": module.num_layers}


def _transformer(module: Any) -> dict[str, Any]:
    layers = [getattr(part, "layers", None) for part in (module.encoder, module.decoder)]
    if not all(isinstance(one, nn.ModuleList) and len(one) for one in layers):
        raise ValueError("a Transformer with a custom encoder or decoder cannot be rebuilt; register a class around it")
    config = _transformer_layer(layers[0][0])  # type: ignore[index]
    counts = {"num_encoder_layers": len(layers[0]), "num_decoder_layers": len(layers[1])}  # type: ignore[arg-type]
    return {**config, **counts, "norm_first": layers[0][0].norm_first}  # type: ignore[index]


_ADAPTERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.MultiheadAttention: _attention,
    nn.TransformerEncoderLayer: _transformer_layer,
    nn.TransformerDecoderLayer: _transformer_layer,
    nn.TransformerEncoder: _transformer_stack,
    nn.TransformerDecoder: _transformer_stack,
    nn.Transformer: _transformer,
    nn.AdaptiveLogSoftmaxWithLoss: lambda module: {"cutoffs": module.cutoffs[:-1]},
    nn.PairwiseDistance: lambda module: {"p": module.norm},
    nn.RNNCellBase: lambda m: (
        {"num_chunks": m.weight_ih.shape[0] // max(m.hidden_size, 1)} if type(m) is nn.RNNCellBase else {}
    ),
}

_FUSED_LOSS = newer_module_class("LinearCrossEntropyLoss")
if _FUSED_LOSS is not None:
    _ADAPTERS[_FUSED_LOSS] = lambda module: {
        "in_features": module.linear.in_features,
        "bias": module.linear.bias is not None,
    }

_CONTAINERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.Sequential: lambda module: {"modules": dict(module._modules)},
    nn.ModuleList: lambda module: {"modules": list(module._modules.values())},
    nn.ModuleDict: lambda module: {"modules": dict(module._modules)},
    nn.Module: lambda module: {"modules": dict(module._modules)},
    nn.ParameterList: lambda module: {"values": list(module)},
    nn.ParameterDict: lambda module: {"parameters": dict(module.items())},
}


def build_stock(kind: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    """Build a stock class from its decoded arguments."""
    if kind in (nn.Sequential, nn.Module):
        module = kind()
        for name, child in config["modules"].items():
            module.add_module(name, child)
        return module
    if kind in (nn.ParameterList, nn.ParameterDict):
        (values,) = config.values()
        pairs = values.items() if isinstance(values, dict) else enumerate(values)
        wrapped = {key: _as_parameter(one) for key, one in pairs}
        return kind(wrapped if kind is nn.ParameterDict else list(wrapped.values()))
    return kind(**config)


def _as_parameter(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return nn.Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())
