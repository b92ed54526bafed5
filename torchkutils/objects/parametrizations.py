"""weight_norm, spectral_norm, orthogonal and parametrizations of registered classes: what they are, and put on anew."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

__all__ = ["describe_hooks", "describe_parametrizations", "parametrize_again", "plain_class", "refresh", "rehook"]


def plain_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module, without the one that torch makes for a parametrized module."""
    return parametrize.type_before_parametrizations(module)


def describe_parametrizations(module: nn.Module, node: Callable[[nn.Module], Any]) -> dict[str, Any]:
    """Each parametrized tensor of a module with what is applied to it, in order.

    Args:
        module: A module.
        node: Writes a parametrization of a class that torch does not make itself.
    """
    if not parametrize.is_parametrized(module):
        return {}
    held: Any = module.parametrizations
    return {name: [_described(one, node) for one in applied] for name, applied in held.items()}


def _described(one: Any, node: Callable[[nn.Module], Any]) -> Any:
    kind = type(one).__name__ if type(one).__module__ == parametrizations.__name__ else ""
    if kind == "_WeightNorm":
        return ["weight_norm", one.dim]
    if kind == "_SpectralNorm":
        return ["spectral_norm", getattr(one, "n_power_iterations", 1), one.eps, one.dim]
    if kind == "_Orthogonal":
        return ["orthogonal", one.orthogonal_map.name, hasattr(one, "base")]
    return {"__module__": node(one)}


def parametrize_again(
    module: nn.Module, name: str, applied: Any, build: Callable[[Any], nn.Module], pay: Callable[[int], None]
) -> None:
    """Apply to a tensor what `describe_parametrizations` found.

    Args:
        module: The module.
        name: Its tensor.
        applied: The description.
        build: Builds a parametrization of a class that torch does not have itself.
        pay: Is told how many bytes are allocated where a parametrization must look at values.

    Raises:
        ValueError: The description is malformed.
    """
    if name not in module._parameters and name not in module._buffers:
        raise ValueError(f"a parametrization must be of a tensor of its module, got {str(name)[:60]!r}")
    for one in applied:
        if isinstance(one, dict):
            parametrize.register_parametrization(module, name, build(one), unsafe=True)
        elif isinstance(one, list) and len(one) == _LENGTHS.get(str(one[0] if one else "")):
            _apply_own(module, name, one, pay)
        else:
            raise ValueError(f"unknown parametrization {str(one)[:60]}")


_LENGTHS = {"weight_norm": 2, "spectral_norm": 4, "orthogonal": 3}


def _apply_own(module: nn.Module, name: str, told: list[Any], pay: Callable[[int], None]) -> None:
    """Apply a parametrization that torch has itself."""
    kind, *arguments = told
    if kind == "weight_norm":
        parametrizations.weight_norm(module, name, dim=arguments[0])
    elif kind == "spectral_norm":
        rounds, eps, dim = arguments
        if not isinstance(rounds, int) or rounds > 100:
            raise ValueError("spectral_norm must have at most 100 power iterations")
        parametrizations.spectral_norm(module, name, rounds, eps, dim)
    else:
        _real_values(module, name, pay)
        with torch.device("cpu"):
            parametrizations.orthogonal(module, name, arguments[0], use_trivialization=bool(arguments[1]))


def _real_values(module: nn.Module, name: str, pay: Callable[[int], None]) -> None:
    """Give a tensor on the meta device values: `orthogonal` factorises them."""
    tensor = module._parameters[name]
    if tensor is None or not tensor.is_meta or tensor.ndim < 2:
        return
    pay(tensor.numel() * tensor.element_size())
    rows = tensor.shape[-2]
    values = torch.eye(rows, tensor.shape[-1], dtype=tensor.dtype, device="cpu").expand(tensor.shape).clone()
    module._parameters[name] = nn.Parameter(values)


# -- the older weight_norm and spectral_norm: a forward pre-hook that computes a plain attribute -----------------------


def norm_hooks(module: nn.Module) -> list[Any]:
    """The hooks of torch's older weight_norm and spectral_norm on a module."""
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]


def is_of_weight_norm(hook: Any) -> bool:
    """Whether a hook is the one by which torch's `weight_norm` reads older state dicts.

    It stays on the module when the parametrization is removed, and does nothing in a forward.
    """
    return getattr(getattr(hook, "hook", hook), "__module__", None) == parametrizations.__name__


def describe_hooks(module: nn.Module) -> list[Any]:
    """What `rehook` needs to put them on anew."""
    found = []
    for hook in norm_hooks(module):
        if isinstance(hook, WeightNorm):
            found.append(["weight_norm", hook.name, hook.dim])
        else:
            found.append(["spectral_norm", hook.name, hook.n_power_iterations, hook.eps, hook.dim])
    return found


def rehook(module: nn.Module, described: Any) -> None:
    """Put an older weight_norm or spectral_norm on a module.

    Raises:
        ValueError: The description is malformed.
    """
    for one in described:
        kind, name, *arguments = one
        if name not in module._parameters:
            raise ValueError(f"a norm must be of a parameter of its module, got {str(name)[:60]!r}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            if kind == "weight_norm" and len(arguments) == 1:
                torch.nn.utils.weight_norm(module, name, arguments[0])
            elif kind == "spectral_norm" and len(arguments) == 3 and isinstance(arguments[0], int):
                torch.nn.utils.spectral_norm(module, name, min(arguments[0], 100), arguments[1], arguments[2])
            else:
                raise ValueError(f"unknown norm {str(one)[:60]}")


def refresh(model: nn.Module) -> None:
    """Compute the plain attributes of the older norms from the tensors that were loaded."""
    for module in model.modules():
        for hook in norm_hooks(module):
            if isinstance(hook, SpectralNorm):
                setattr(module, hook.name, hook.compute_weight(module, do_power_iteration=False))
            else:
                setattr(module, hook.name, hook.compute_weight(module))
