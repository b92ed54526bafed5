"""Constructor arguments of torch.nn's own classes, read from a module as it is now."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from torchkutils import _nested
from torchkutils._torch_versions import newer_module_class
from torchkutils.objects.parametrizations import plain_class

__all__ = ["build_stock", "construction_cost", "is_container", "stock_config"]

# Where a module lives and what it computes with follow from its tensors; the rest is deprecated or private.
_FOREIGN = {"device", "dtype", "_weight", "_freeze"}
_SKIPPED = {"self", "device", "dtype", "size_average", "reduce", "_weight", "_freeze", "min_value", "max_value"}


_LONGEST_RANGE = 1000

_signature = functools.cache(inspect.signature)  # a model has many modules of few classes


def stock_config(module: nn.Module, where: str) -> dict[str, Any]:
    """The arguments that build a module of a stock class anew.

    Raises:
        ValueError: The class cannot be rebuilt from plain values; the message says why.
    """
    kind = plain_class(module)
    _refuse_unstorable(module, kind, where)
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](module)
    config = {name: getattr(module, name) for name in _argument_names(kind) if hasattr(module, name)}
    adapter = next((_ADAPTERS[owner] for owner in kind.__mro__ if owner in _ADAPTERS), None)
    if adapter is not None:
        config.update(_adapted(adapter, module, where))
    result = {}
    for name, value in config.items():
        if name == "bias" and not isinstance(value, bool):
            result[name] = value is not None
        elif not isinstance(value, nn.Parameter):
            result[name] = value
    return result


def _adapted(adapter: Callable[[Any], dict[str, Any]], module: nn.Module, where: str) -> dict[str, Any]:
    try:
        return adapter(module)
    except AttributeError as error:
        raise ValueError(
            f"{where} is a {plain_class(module).__name__} with other children than its constructor makes ({error}); "
            "register a class around it"
        ) from error


def _refuse_unstorable(module: nn.Module, kind: type, where: str) -> None:
    if isinstance(module, nn.modules.lazy.LazyModuleMixin) and module.has_uninitialized_params():
        raise ValueError(f"{where} is a {kind.__name__} without shapes yet; call the model once before saving it")
    if isinstance(module, nn.DataParallel):
        raise ValueError(f"{where} is a DataParallel, which belongs to its devices; save its .module")
    if getattr(module, "process_group", None) is not None:
        raise ValueError(f"{where} belongs to a process group, which no file can hold; convert it to BatchNorm first")


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
    attention, first, second = module.self_attn, module.linear1, module.linear2
    sizes = ((attention, "embed_dim"), (first, "in_features"), (second, "out_features"))
    return {
        "d_model": _first_number(sizes, default=1),
        "nhead": _first_number([(attention, "num_heads")], default=1),
        "dim_feedforward": _first_number([(first, "out_features"), (second, "in_features")], default=1),
        "dropout": _first_number([(module.dropout, "p")], default=0.0),
        "activation": module.activation,
        "layer_norm_eps": _first_number([(module.norm1, "eps")], default=1e-5),
        "batch_first": getattr(attention, "batch_first", False) is True,
        "bias": getattr(first, "bias", None) is not None,
    }


def _first_number(sources: Iterable[tuple[Any, str]], default: float) -> Any:
    """The first of some attributes that is a number: a child may have been replaced by one without it.

    What the constructor makes in its place does not matter then, since the child is stored as a difference.
    """
    values = (getattr(owner, name, None) for owner, name in sources)
    return next((value for value in values if isinstance(value, int | float)), default)


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

_ADAPTERS[torch.optim.swa_utils.AveragedModel] = lambda module: _averaged(module)

_CONTAINERS: dict[type, Callable[[Any], dict[str, Any]]] = {
    nn.Sequential: lambda module: {"modules": dict(module._modules)},
    nn.ModuleList: lambda module: {"modules": list(module._modules.values())},
    nn.ModuleDict: lambda module: {"modules": dict(module._modules)},
    nn.Module: lambda module: {"modules": dict(module._modules)},
    nn.ParameterList: lambda module: {"values": list(module)},
    nn.ParameterDict: lambda module: {"parameters": dict(module.items())},
}


def is_container(kind: type) -> bool:
    """Whether a class of torch.nn holds nothing but what it is given."""
    return kind in _CONTAINERS


def build_stock(kind: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    """Build a stock class from its decoded arguments.

    Raises:
        ValueError: Arguments that a file never holds: a device, a dtype, another content of a container, a long range.
    """
    if kind in _CONTAINERS:
        return _container(kind, config)
    _check_ranges(kind, config.values())
    if kind is AveragedModel:
        return _build_averaged(config)
    foreign = sorted(set(config) & _FOREIGN)
    if foreign:
        raise ValueError(f"{foreign} are no arguments that a file may give")
    return kind(**config)


def _check_ranges(kind: type, arguments: Iterable[Any]) -> None:
    """A few letters of a file stand for a range of any length, and torch's constructors make lists of what they get."""
    for values in _nested.of_kind(range, *arguments):
        if len(values) > _LONGEST_RANGE:
            raise ValueError(
                f"a range given to {kind.__name__} must have at most {_LONGEST_RANGE} numbers, got {values}"
            )


def _container(kind: type[nn.Module], config: dict[str, Any]) -> nn.Module:
    if len(config) != 1 or next(iter(config)) not in ("modules", "values", "parameters"):
        raise ValueError(f"a {kind.__name__} must have one argument, got {sorted(map(str, config))[:5]}")
    (values,) = config.values()
    if isinstance(values, range):
        _check_ranges(kind, [values])
    if isinstance(values, dict) and not all(isinstance(key, str) for key in values):
        raise ValueError(f"the keys of a {kind.__name__} must be text")
    if kind in (nn.Sequential, nn.Module):
        return _with_children(kind(), values)
    if kind is nn.ParameterList:
        return nn.ParameterList(map(_as_parameter, values))
    return _parameter_dict(values) if kind is nn.ParameterDict else kind(values)


def _with_children(module: nn.Module, children: dict[str, Any]) -> nn.Module:
    for name, child in children.items():
        module.add_module(name, child)
    return module


def _parameter_dict(values: dict[str, Any]) -> nn.Module:
    # It sets each key as an attribute: what the class has itself must not be hidden by one.
    taken = [key for key in values if hasattr(nn.ParameterDict, key) or key in vars(nn.ParameterDict())]
    if taken:
        raise ValueError(f"{taken[:3]} must not be keys of a ParameterDict, which has such attributes itself")
    return nn.ParameterDict({key: _as_parameter(one) for key, one in values.items()})


def construction_cost(kind: type[nn.Module], config: Mapping[str, Any]) -> int:
    """How many modules a constructor of torch.nn makes, before it is called.

    Raises:
        ValueError: A count is no integer.
    """
    if kind in _CONTAINERS:
        return 1
    if issubclass(kind, nn.AdaptiveLogSoftmaxWithLoss):
        cutoffs = config.get("cutoffs", ())
        return 2 + 3 * (len(cutoffs) if isinstance(cutoffs, list | tuple) else 1)
    if kind is nn.Transformer:
        layers = _count(config, "num_encoder_layers", 6) + _count(config, "num_decoder_layers", 6)
        return _LAYER_MODULES * (2 + layers)
    if kind in (nn.TransformerEncoder, nn.TransformerDecoder, AveragedModel):
        # They copy the modules that they are given, the stacks as often as they have layers.
        size = sum(len(list(one.modules())) for one in config.values() if isinstance(one, nn.Module))
        return 2 + size * _count(config, "num_layers", 1)
    return _LAYER_MODULES if issubclass(kind, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) else 1


_LAYER_MODULES = 16


def _count(config: Mapping[str, Any], key: str, default: int) -> int:
    count = config.get(key, default)
    if type(count) is not int:
        raise ValueError(f"{key} must be an integer, got {str(count)[:40]}")
    return max(count, 0)


def layer_count(config: Mapping[str, Any]) -> int:
    """The largest number of layers that a config asks for: recurrent layers make their tensors in a loop."""
    counts = [config.get(key, 0) for key in ("num_layers", "num_encoder_layers", "num_decoder_layers")]
    return max((count for count in counts if type(count) is int), default=0)


# -- AveragedModel: its averaging functions are closures over one number -----------------------------------------------

AveragedModel: Any = torch.optim.swa_utils.AveragedModel
_EMA: dict[str, Any] = {
    "ema": torch.optim.swa_utils.get_ema_avg_fn,
    "multi_ema": torch.optim.swa_utils.get_ema_multi_avg_fn,
}
_SWA: dict[str, Any] = {
    "swa": torch.optim.swa_utils.get_swa_avg_fn,
    "multi_swa": torch.optim.swa_utils.get_swa_multi_avg_fn,
}


def _averaged(module: Any) -> dict[str, Any]:
    config = {"model": module.module, "use_buffers": module.use_buffers}
    for argument in ("avg_fn", "multi_avg_fn"):
        function = getattr(module, argument)
        if function is not None:
            config[argument] = _averaging(function)
    return config


def _averaging(function: Any) -> Any:
    """One of torch's averaging functions by name, with its number; any other function as it is."""
    inner = inspect.unwrap(function)  # torch.no_grad is around it
    code = getattr(inner, "__code__", None)
    for name, make in _EMA.items():
        if code is inspect.unwrap(make()).__code__:
            return [name, inspect.getclosurevars(inner).nonlocals["decay"]]
    return next(([name] for name, make in _SWA.items() if code is inspect.unwrap(make()).__code__), function)


def _build_averaged(config: dict[str, Any]) -> nn.Module:
    functions = {}
    for argument in ("avg_fn", "multi_avg_fn"):
        told = config.get(argument)
        if isinstance(told, list) and told and told[0] in _EMA:
            functions[argument] = _EMA[told[0]](float(told[1]))
        elif isinstance(told, list) and told and told[0] in _SWA:
            functions[argument] = _SWA[told[0]]()
        elif told is not None:
            functions[argument] = told
    built: nn.Module = AveragedModel(config["model"], use_buffers=bool(config.get("use_buffers")), **functions)
    return built


def _as_parameter(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    return nn.Parameter(value, requires_grad=value.is_floating_point() or value.is_complex())
