"""Classes and functions that a file may name: registered ones, those in scope, and exact tables of torch's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from torchkutils.objects.builtin_objects import builtin_name, builtin_objects
from torchkutils.objects.registry import look_up, registered_name
from torchkutils.objects.scope import get_custom_objects

__all__ = ["callable_tag", "class_of_name", "function_of_name", "known_object"]

# Functions of numbers to numbers that people hand to layers, beside the activations and losses that have names already.
_TORCH = (
    "abs arctan atan cos erf exp expm1 floor log log1p neg reciprocal round rsqrt sign sin sinh sqrt square "
    "sigmoid tanh relu softmax log_softmax amax amin max mean median min norm prod std sum var add mul sub div matmul "
    "cat stack maximum minimum logsumexp cumsum flatten"
)
_FUNCTIONAL = (
    "normalize interpolate pad dropout layer_norm batch_norm group_norm instance_norm rms_norm linear conv1d conv2d "
    "conv3d max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d "
    "adaptive_max_pool2d scaled_dot_product_attention one_hot"
)
_INIT = (
    "constant_ dirac_ eye_ kaiming_normal_ kaiming_uniform_ normal_ ones_ orthogonal_ sparse_ trunc_normal_ uniform_ "
    "xavier_normal_ xavier_uniform_ zeros_"
)


@functools.cache
def torch_functions() -> Mapping[str, Any]:
    """Functions of torch, torch.nn.functional and torch.nn.init by dotted name; an exact table, no path is followed."""
    owners = {
        "torch": (torch, _TORCH),
        "functional": (torch.nn.functional, _FUNCTIONAL),
        "init": (torch.nn.init, _INIT),
    }
    return {
        f"{prefix}.{name}": getattr(owner, name)
        for prefix, (owner, names) in owners.items()
        for name in names.split()
        if hasattr(owner, name)
    }


@functools.cache
def _names_of_torch_functions() -> Mapping[int, str]:
    return {id(value): name for name, value in torch_functions().items()}


def known_object(value: Any) -> str | None:
    """The name under which a class or function is registered or in scope, None where it is neither."""
    name = registered_name(value)
    if name is not None:
        return name
    return next((name for name, one in get_custom_objects().items() if one is value), None)


def callable_tag(value: Any) -> dict[str, str] | None:
    """The tagged name of a class or function that a reader finds again, None for everything else."""
    name = _name_of_callable(value) if callable(value) else None
    if name is None:
        return None
    return {"__class__" if inspect.isclass(value) else "__function__": name}


def _name_of_callable(value: Any) -> str | None:
    if inspect.isclass(value):
        return known_object(value) or builtin_name(value)
    if inspect.isroutine(value) or type(value).__name__ in ("ufunc", "ScriptFunction"):
        return known_object(value) or builtin_name(value) or _names_of_torch_functions().get(id(value))
    # Any other object that can be called is a function for us only where it has a name of its own.
    return known_object(value) if hasattr(value, "__name__") else None


def class_of_name(name: Any, custom_objects: Mapping[str, Any] | None) -> type:
    """The class of a name.

    Raises:
        ValueError: Nothing known has the name, or it is no class.
    """
    found = look_up(name, custom_objects, None) if isinstance(name, str) else None
    if not inspect.isclass(found):
        raise ValueError(
            f"{str(name)[:60]!r} is no class that is known here; register it, or name it in custom_objects"
        )
    return found


def function_of_name(name: Any, custom_objects: Mapping[str, Any] | None) -> Any:
    """The function of a name.

    Raises:
        ValueError: Nothing known has the name, or it is a class.
    """
    found = look_up(name, custom_objects, None) if isinstance(name, str) else None
    if found is None:
        found = torch_functions().get(name)
    if found is None or inspect.isclass(found):
        known = builtin_objects().keys()
        hint = "" if name not in known else ", which is a class"
        raise ValueError(f"{str(name)[:60]!r} is no function that is known here{hint}; register it")
    return found
