"""Whether two values are equal for whoever computes with them: tensors by value, callables by what they would do."""

from __future__ import annotations

import functools
import inspect
import sys
import threading
import types
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from torchkutils import _nested
from torchkutils.objects.builtin_objects import builtin_function_name
from torchkutils.objects.libraries import config_of

__all__ = ["MISSING", "Equality"]

MISSING = object()
_NUMBERS = (bool, int, float)
_WITHOUT_STATE = (type(threading.Lock()), type(threading.RLock()), RemovableHandle, threading.local)
_MODULE_INTERNALS = frozenset(
    [name for name in vars(nn.Module()) if name not in ("_parameters", "_buffers", "_modules", "training")]
)


class Equality:
    """Compares values of two model trees; `counterparts` says which object of the second belongs to one of the first.

    Args:
        counterparts: From the identity of a module or registered tensor of the first tree to its counterpart in the
            second. Their own contents are compared elsewhere: here they are equal if they are counterparts.
    """

    def __init__(self, counterparts: Mapping[int, Any] | None = None) -> None:
        self.counterparts: Mapping[int, Any] | dict[int, Any] = counterparts or {}
        # Pairs that are being compared, with the objects: an identity must not be given to another one meanwhile.
        self._pairs: dict[tuple[int, int], tuple[Any, Any, bool]] = {}

    def __call__(self, one: Any, other: Any) -> bool:
        """Whether the values are equal; what cannot be compared is not."""
        if id(one) in self.counterparts:
            return self.counterparts[id(one)] is other
        if one is other:
            return True
        if isinstance(one, _NUMBERS) and isinstance(other, _NUMBERS):
            return one == other or (one != one and other != other)
        key = (id(one), id(other))
        if key not in self._pairs:
            # A pair that is met inside itself counts as equal: the rest of it decides.
            self._pairs[key] = (one, other, True)
            self._pairs[key] = (one, other, self._different_objects(one, other))
        return self._pairs[key][2]

    def _different_objects(self, one: Any, other: Any) -> bool:
        if inspect.isroutine(one) and inspect.isroutine(other):
            return self._routines(one, other)
        if type(one) is not type(other):
            return False
        for kinds, compare in _COMPARISONS:
            if isinstance(one, kinds):
                return bool(compare(self, one, other))
        return self._objects(one, other)

    def all(self, some: Any, others: Any) -> bool:
        """Whether two sequences have the same length and equal items."""
        some, others = list(some), list(others)
        return len(some) == len(others) and all(map(self, some, others))

    def _routines(self, one: Any, other: Any) -> bool:
        if type(one) is not type(other):
            name = builtin_function_name(one)
            return name is not None and name == builtin_function_name(other)
        if isinstance(one, types.MethodType):
            return self(one.__func__, other.__func__) and self(one.__self__, other.__self__)
        if isinstance(one, types.FunctionType):
            return self._functions(one, other)
        if isinstance(getattr(one, "__self__", None), types.ModuleType | type(None)):
            name = builtin_function_name(one)
            return name is not None and name == builtin_function_name(other)
        # A built-in method of an object: `"text".upper`, `some_list.append`.
        return one.__name__ == other.__name__ and self(one.__self__, other.__self__)

    def _functions(self, one: Any, other: Any) -> bool:
        name = builtin_function_name(one)
        if name is not None and name == builtin_function_name(other):
            return True
        return (
            one.__code__ == other.__code__
            and one.__globals__ is other.__globals__
            and self.all(map(_content, one.__closure__ or ()), map(_content, other.__closure__ or ()))
            and self(one.__defaults__, other.__defaults__)
            and self(one.__kwdefaults__, other.__kwdefaults__)
            and self(_plain(one.__dict__), _plain(other.__dict__))
        )

    def _mappings(self, one: Any, other: Any) -> bool:
        return self.all(one.keys(), other.keys()) and self.all(one.values(), other.values()) and self._extra(one, other)

    def _sequences(self, one: Any, other: Any) -> bool:
        return self.all(one, other) and self._extra(one, other)

    def _extra(self, one: Any, other: Any) -> bool:
        """What a subclass of a container holds beside its contents."""
        return self(getattr(one, "__dict__", None), getattr(other, "__dict__", None)) and self(
            getattr(one, "default_factory", None), getattr(other, "default_factory", None)
        )

    def _partials(self, one: Any, other: Any) -> bool:
        return self((one.func, one.args, one.keywords), (other.func, other.args, other.keywords))

    def _tensors(self, one: Any, other: Any) -> bool:
        same = one.shape == other.shape and one.dtype == other.dtype and one.layout == other.layout
        if not same or one.requires_grad != other.requires_grad or one.is_meta != other.is_meta:
            return False
        return one.is_meta or same_values(one, other)

    def _modules(self, one: nn.Module, other: nn.Module) -> bool:
        """Modules that are in no tree (in a plain list): nothing stores them, so all of them must be equal."""
        first, second = _visible(one), _visible(other)
        return self(first, second)

    def _objects(self, one: Any, other: Any) -> bool:
        own: Any = type(one).__eq__
        if own is not object.__eq__ and type(one).__module__.partition(".")[0] in sys.stdlib_module_names:
            return _true(lambda: one == other)  # a date, a path, a pattern: attributes may be caches
        told = config_of(one)
        if told is not None:
            return self(told, config_of(other))
        held, others = _nested.children(one, objects=True), _nested.children(other, objects=True)
        if (held is None) != (others is None):
            return False
        if held is not None and others is not None:
            same = list(held.keys) == list(others.keys) and self.all(held.values, others.values)
            return same and (not _has_hidden_state(type(one)) or self._states(one, other))
        if own is not object.__eq__:
            return _true(lambda: one == other)
        return self._states(one, other)

    def _states(self, one: Any, other: Any) -> bool:
        """Objects without attributes and without an equality of their own: compared by what pickle would keep."""
        try:
            first, second = one.__reduce_ex__(2), other.__reduce_ex__(2)
        except Exception:  # whatever a class of a user or of C raises here
            return False
        if isinstance(first, str) or isinstance(second, str):
            return bool(first == second)
        return self.all(first[:3], second[:3]) and len(first) == len(second)


def _has_hidden_state(kind: type) -> bool:
    """Whether a class says by itself what pickle keeps of it: then its attributes do not tell all (random.Random)."""
    names = ("__reduce__", "__reduce_ex__", "__getstate__")
    return any(getattr(kind, name, None) is not getattr(object, name, None) for name in names)


def _visible(module: nn.Module) -> dict[str, Any]:
    kept = {name: value for name, value in vars(module).items() if name not in _MODULE_INTERNALS}
    return kept | {"hooks": [list(vars(module).get(name) or ()) for name in ("_forward_hooks", "_forward_pre_hooks")]}


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if name != "__wrapped__"}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty cell
        return MISSING


def _true(compare: Callable[[], Any]) -> bool:
    try:
        return bool(compare())
    except Exception:  # whatever a user's __eq__ raises
        return False


def same_values(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors of one shape, dtype and layout hold the same values, NaN equal to NaN."""
    first, second = one.detach().cpu(), other.detach().cpu()
    if first.layout != torch.strided:
        first, second = first.to_dense(), second.to_dense()
    if first.is_quantized or torch.equal(first, second):
        return torch.equal(first, second)
    if first.is_floating_point() or first.is_complex():
        # equal knows no NaN; float8 has no comparison at all.
        wide = torch.complex128 if first.is_complex() else torch.float64
        return torch.equal(torch.nan_to_num(first.to(wide), 1e300), torch.nan_to_num(second.to(wide), 1e300)) and bool(
            torch.equal(first.to(wide).isnan(), second.to(wide).isnan())
        )
    return False


def _arrays(equal: Equality, one: Any, other: Any) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if one.dtype.hasobject:
        return equal.all(one.ravel().tolist(), other.ravel().tolist())
    return np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(other).tobytes()


_COMPARISONS: tuple[tuple[Any, Callable[[Equality, Any, Any], bool]], ...] = (
    ((str, bytes, type(None), type, types.ModuleType), lambda _, one, other: one == other),
    (torch.device, lambda *_: True),  # where a model lives is not part of it
    (torch.Tensor, Equality._tensors),
    (nn.Module, Equality._modules),
    ((np.ndarray, np.generic), _arrays),
    (functools.partial, Equality._partials),
    (torch.Generator, lambda _, one, other: torch.equal(one.get_state(), other.get_state())),
    (_WITHOUT_STATE, lambda *_: True),
    (weakref.ref, lambda equal, one, other: equal(one(), other())),
    (Mapping, Equality._mappings),
    ((list, tuple, deque), Equality._sequences),
    (Set, lambda equal, one, other: one == other and equal._extra(one, other)),
)
