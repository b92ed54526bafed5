"""The module that a caller gave, or a message that says what was given instead of one."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch


def given_model(model: Any) -> torch.nn.Module:
    """The module that was given; that of an exported program.

    Raises:
        TypeError: It is something else; the message says what to give instead.
    """
    if isinstance(model, torch.nn.Module):
        if not hasattr(model, "_modules"):
            raise TypeError(f"model is no module yet: __init__ of {type(model).__name__} must call super().__init__()")
        return model
    if _is_exported(model):
        made: torch.nn.Module = model.module()
        return made
    raise TypeError(f"model must be a torch.nn.Module, got {_instead(model)}")


def _is_exported(model: Any) -> bool:
    kind = type(model)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.export")


def _instead(model: Any) -> str:
    """What was given, and what to do about it."""
    name = type(model).__name__
    if inspect.isclass(model):
        return f"the class {model.__name__}; give an instance of it: {model.__name__}(...)"
    if isinstance(model, Mapping):
        if _holds_tensor(model):
            return (
                f"a state dict ({name} with {len(model)} entries); build the model, call load_state_dict, and give it"
            )
        return f"{name}; {_held_in(model) or 'of a checkpoint, give the model that its weights were loaded into'}"
    if isinstance(model, list | tuple) and any(isinstance(item, torch.nn.Module) for item in model):
        return f"a {name} of {len(model)} values; give one module, or torch.nn.Sequential(*modules)"
    if isinstance(model, str | os.PathLike):
        return f"{name} {os.fspath(model)!r}; give the model that was loaded from it (load_model, torch.load)"
    if inspect.isroutine(model):
        return f"the function {getattr(model, '__name__', name)}; give the module that it returns"
    held = _held_in(getattr(model, "__dict__", {}))
    return f"{name}; {held}" if held else name


def _held_in(values: Any) -> str:
    """Where a module lies in a checkpoint or in an object that holds one."""
    for key, value in dict(values).items():
        if isinstance(value, torch.nn.Module):
            return f"it holds a module under {key!r}: give that"
    return ""


def _holds_tensor(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in mapping.values())
