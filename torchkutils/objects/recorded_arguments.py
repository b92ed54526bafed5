"""Constructor arguments of registered module classes, recorded at each call."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torchkutils import _nested
from torchkutils.objects.parametrizations import plain_class

__all__ = ["RECORD", "record_arguments", "recorded_config"]

RECORD = "_torchkutils_constructor_arguments"
"""The entry of a module's `__dict__` that holds them: there it follows the module through pickle and deepcopy."""

_POSITIONAL = "*"
_SMALL_ARRAY = 1 << 16


def record_arguments(kind: type[torch.nn.Module]) -> None:
    """Let a module class keep the arguments of every constructor call in its instances.

    Instances of classes derived from it keep nothing: their own constructors decide what is passed on.
    """
    constructor = kind.__init__
    if getattr(constructor, "_records_for", None) is kind:
        return

    @functools.wraps(constructor)
    def recording(self: torch.nn.Module, *args: Any, **kwargs: Any) -> None:
        if type(self) is kind:
            self.__dict__[RECORD] = _as_config(constructor, self, args, kwargs)
        constructor(self, *args, **kwargs)

    recording._records_for = kind  # type: ignore[attr-defined]
    kind.__init__ = recording  # type: ignore[method-assign]


def recorded_config(module: torch.nn.Module) -> dict[str, Any] | None:
    """The arguments of a module's constructor call by name, None when none were recorded for its class."""
    kind = plain_class(module)
    if getattr(kind.__init__, "_records_for", None) is not kind:
        return None
    config = module.__dict__.get(RECORD)
    return config if isinstance(config, dict) else None


def _as_config(constructor: Any, self: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    try:
        bound = inspect.signature(constructor).bind(self, *args, **kwargs)
    except TypeError:
        return {}  # the constructor itself is about to say what is wrong
    given = {_POSITIONAL: list(args), **kwargs} if _has_unnamed(bound) else _by_name(bound)
    return {name: _snapshot(value) for name, value in given.items()}


_UNNAMED = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)


def _has_unnamed(bound: inspect.BoundArguments) -> bool:
    """Whether a call gave arguments, beside the module, that have no name to give them by."""
    parameters = list(bound.signature.parameters.values())[1:]
    return any(one.kind in _UNNAMED and one.name in bound.arguments for one in parameters)


def _by_name(bound: inspect.BoundArguments) -> dict[str, Any]:
    """The arguments of a call by name, without the module; those that `**kwargs` collects stand among the others."""
    named = dict(list(bound.arguments.items())[1:])
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(parameter.name, {}))
    return named


def _snapshot(value: Any) -> Any:
    """The value as it is now, whatever the constructor does to its lists and dicts; modules and tensors themselves."""
    held = _nested.children(value)
    if held is None:
        return value.copy() if type(value) is np.ndarray and value.nbytes <= _SMALL_ARRAY else value
    if dataclasses.is_dataclass(value) or (isinstance(value, tuple) and type(value) is not tuple):
        # The constructor may change a field of a config; what it was given is what it must be given again.
        return copy.copy(value)
    if not isinstance(value, list | tuple | dict | set | frozenset):
        return value
    return _nested.rebuild(value, [_snapshot(one) for one in held.values])


def call_with_config(kind: type, config: Mapping[str, Any]) -> Any:
    """Call a class with a config that may hold unnamed arguments."""
    named = {name: value for name, value in config.items() if name != _POSITIONAL}
    return kind(*config.get(_POSITIONAL, ()), **named)
