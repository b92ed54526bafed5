"""The model among what people hand over in its place."""

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
        return f"{name}; of a checkpoint, give the model that its weights were loaded into"
    if isinstance(model, str | os.PathLike):
        return f"{name} {os.fspath(model)!r}; give the model that was loaded from it (load_model, torch.load)"
    if inspect.isroutine(model):
        return f"the function {getattr(model, '__name__', name)}; give the module that it returns"
    return name


def _holds_tensor(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) for value in mapping.values())
