"""Whether a rebuilt module is the one that was saved: classes, tensors, attributes and hooks, module by module."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from torchkutils.objects.builtin_objects import builtin_function_name, is_stock_class
from torchkutils.objects.recorded_arguments import RECORD, recorded_config

__all__ = ["refuse_difference"]

_HOOKS = tuple(name for name in vars(nn.Module()) if name.endswith(("_hooks", "_hooks_with_kwargs")))
# torch.compile leaves its mark on the module it wraps.
_STATE = {"_is_torch_compile", "training", "_parameters", "_buffers", "_modules", RECORD, *vars(nn.Module())}


def refuse_difference(original: nn.Module, rebuilt: nn.Module, where: str = "model") -> None:
    """Raise for the first difference that a reloaded module would have.

    Raises:
        ValueError: Naming the module's path and what differs.
    """
    _compare(original, rebuilt, where, set())


def _compare(original: nn.Module, rebuilt: nn.Module, where: str, seen: set[tuple[int, int]]) -> None:
    if (id(original), id(rebuilt)) in seen:
        return
    seen.add((id(original), id(rebuilt)))
    if type(original) is not type(rebuilt) and not _same_dynamic_class(type(original), type(rebuilt)):
        _refuse(where, f"is a {type(original).__name__} but would come back as a {type(rebuilt).__name__}")
    for name in _HOOKS:
        if len(vars(original).get(name, ())) != len(vars(rebuilt).get(name, ())):
            _refuse(where, f"has hooks ({name}), which no file can hold; remove them before saving")
    for kind in ("_parameters", "_buffers"):
        _compare_tensors(vars(original)[kind], vars(rebuilt)[kind], where)
    if original._non_persistent_buffers_set != rebuilt._non_persistent_buffers_set:
        _refuse(where, "has other non-persistent buffers than a new one")
    if is_stock_class(type(original)) or recorded_config(original) is not None:
        _compare_attributes(vars(original), vars(rebuilt), where)
    if list(original._modules) != list(rebuilt._modules):
        _refuse(where, f"has the modules {list(original._modules)} but would come back with {list(rebuilt._modules)}")
    for name, child in original._modules.items():
        other = rebuilt._modules[name]
        if (child is None) != (other is None):
            _refuse(f"{where}.{name}", "is None in one of both")
        if child is not None and other is not None:
            _compare(child, other, f"{where}.{name}", seen)


def _same_dynamic_class(one: type, other: type) -> bool:
    return one.__qualname__ == other.__qualname__ and one.__bases__ == other.__bases__ and "arametri" in one.__module__


def _compare_tensors(original: dict[str, Any], rebuilt: dict[str, Any], where: str) -> None:
    for name in {**original, **rebuilt}:
        one, other = original.get(name), rebuilt.get(name)
        if (one is None) != (other is None):
            _refuse(where, f"has the tensor {name!r} only {'now' if other is None else 'when new'}")
        if one is not None and other is not None and one.shape != other.shape:
            _refuse(where, f"has {name!r} of shape {tuple(one.shape)}, a new one has {tuple(other.shape)}")


def _compare_attributes(original: dict[str, Any], rebuilt: dict[str, Any], where: str) -> None:
    for name in {**original, **rebuilt}:
        if name in _STATE or name.startswith("_flat_weight"):
            continue
        missing = name not in original or name not in rebuilt
        if missing or not _equal(original[name], rebuilt[name]):
            state = "is missing in one of both" if missing else f"is {str(original[name])[:60]} now"
            _refuse(where, f"was changed after it was built: attribute {name!r} {state}")


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if isinstance(one, nn.Module) or isinstance(other, nn.Module):
        return type(one) is type(other)
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.shape == other.shape and one.dtype == other.dtype
        return same and (one.is_meta or other.is_meta or bool(torch.equal(one.cpu(), other.cpu())))
    if inspect.isroutine(one) and inspect.isroutine(other):
        codes = getattr(one, "__code__", one), getattr(other, "__code__", other)
        name = builtin_function_name(one)
        return codes[0] == codes[1] or (name is not None and name == builtin_function_name(other))
    if type(one) is not type(other):
        return bool(isinstance(one, (int, float)) and isinstance(other, (int, float)) and one == other)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(_equal(one[key], other[key]) for key in one)
    if isinstance(one, float):
        return one == other or (one != one and other != other)
    plain_identity: Any = object.__eq__
    if type(one).__eq__ is plain_identity:
        return _equal(getattr(one, "__dict__", None), getattr(other, "__dict__", None))
    return bool(one == other)


def _refuse(where: str, what: str) -> None:
    raise ValueError(
        f"{where} {what}: it cannot be rebuilt as it is; give its class a get_config that says it all, "
        "or keep its tensors alone with save_weights"
    )
