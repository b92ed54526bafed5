"""The registry of serialisable classes and functions, and the one order in which every name is looked up."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import inspect
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from torchkutils._call_hints import shown
from torchkutils.objects.builtin_objects import builtin_name, builtin_objects
from torchkutils.objects.keras_words import in_torch
from torchkutils.objects.recorded_arguments import call_with_config, record_arguments
from torchkutils.objects.scope import get_custom_objects

__all__ = [
    "check_names",
    "get_registered_name",
    "get_registered_object",
    "instance_of",
    "look_up",
    "register_keras_serializable",
    "registered_name",
    "unknown_name",
]

Registered = TypeVar("Registered", bound=Callable[..., Any])

_by_name: dict[str, Any] = {}
_names: dict[Any, str] = {}
_lock = threading.Lock()
_MISSING = object()


def register_keras_serializable(package: str = "Custom", name: str | None = None) -> Callable[[Registered], Registered]:
    """A decorator that makes a class or function known by `package>name`, for configs and model files.

    Args:
        package: The first half of the registered name.
        name: The second half; None means the object's own `__name__`.

    Returns:
        The decorator; it gives the class or function back. A class derived from `torch.nn.Module` that has no
        `get_config` records the arguments of each constructor call from then on, so that it can be rebuilt.

    Raises:
        TypeError: `package` or `name` is no string, or what is decorated is neither class nor function.
        ValueError: The name belongs to another object, or a class has no `get_config` and is no module, dataclass,
            named tuple or enum either. An object of the same module and qualified name (a notebook cell run again)
            replaces the older one.

    Registrations are global and survive the scope they were made in. Keras 2.3.1 has no such decorator; this is that
    of tf.keras and Keras 3.

    >>> @register_keras_serializable(package="Shop")
    ... def cheap(x):
    ...     return x
    >>> get_registered_name(cheap)
    'Shop>cheap'
    """
    for argument, value in (("package", package), ("name", name)):
        if not isinstance(value, str) and not (argument == "name" and value is None):
            raise TypeError(f"{argument} must be a string, got {value!r}; write @register_keras_serializable()")

    def register(target: Registered) -> Registered:
        if not callable(target) or not hasattr(target, "__name__"):
            raise TypeError(f"register_keras_serializable decorates a class or a function, got {target!r}")
        if inspect.isclass(target) and not hasattr(target, "get_config"):
            _make_rebuildable(target)
        _add(f"{package}>{name or target.__name__}", target)
        return target

    return register


def _make_rebuildable(kind: type) -> None:
    """Let a class without `get_config` keep what its instances are built from.

    Raises:
        ValueError: Nothing says what its instances are built from.
    """
    if issubclass(kind, torch.nn.Module):
        record_arguments(kind)
    elif not _rebuilt_from_fields(kind):
        raise ValueError(f"Cannot register a class that does not have a get_config() method, got {kind.__qualname__}")


def _rebuilt_from_fields(kind: type) -> bool:
    """Whether the instances of a class say by themselves what they are made of."""
    return issubclass(kind, enum.Enum) or dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")


def _add(registered_name: str, target: Any) -> None:
    with _lock:
        older = _by_name.get(registered_name)
        if older is not None and older is not target:
            if _identity(older) != _identity(target):
                raise ValueError(
                    f"the name {registered_name!r} is already registered for {_identity(older)}, "
                    f"got {_identity(target)}; give another package or name"
                )
            _names.pop(older, None)
        _by_name[registered_name] = target
        _names[target] = registered_name


def _identity(target: Any) -> str:
    return f"{target.__module__}.{target.__qualname__}"


def get_registered_name(obj: Any) -> str:
    """The name an object is stored under.

    Args:
        obj: A class or function.

    Returns:
        `package>name` when it is registered, its `__name__` otherwise.

    Raises:
        ValueError: It is neither registered nor has a name of its own.

    >>> get_registered_name(torch.nn.Linear)
    'Linear'
    """
    name = registered_name(obj) or builtin_name(obj) or getattr(obj, "__name__", None)
    if not isinstance(name, str):
        raise ValueError(f"obj must be a class or a function, got {obj!r}, which has no name; pass its class")
    return name


def registered_name(value: Any) -> str | None:
    """The name under which a class or function was registered, None when it was not."""
    try:
        return _names.get(value)
    except TypeError:  # it cannot be hashed
        return None


def get_registered_object(
    name: str, custom_objects: Mapping[str, Any] | None = None, module_objects: Mapping[str, Any] | None = None
) -> Any:
    """The object of that name, None when nothing has it.

    Args:
        name: As `get_registered_name` gives it, or as a scope or mapping calls it.
        custom_objects: Names that are looked at first.
        module_objects: Names that are looked at before the built-ins.

    A registered object has its package in its name: `'Custom>Net'`, as in Keras 3; `'Net'` is not it.

    Returns:
        The class or function. The order: `custom_objects`, the scope's and the global names, the registry,
        `module_objects`, then torch.nn, torch.optim and the activations and losses of torch.nn.functional.

    Raises:
        TypeError: A mapping argument is no mapping.

    >>> get_registered_object("ReLU").__name__, get_registered_object("RELU")
    ('ReLU', None)
    """
    found = look_up(name, custom_objects, module_objects, _MISSING)
    return None if found is _MISSING else found


def look_up(
    name: str,
    custom_objects: Mapping[str, Any] | None,
    module_objects: Mapping[str, Any] | None,
    default: Any = None,
) -> Any:
    """The first object of that name in the one lookup order, or the default."""
    for names in _all_names(custom_objects, module_objects):
        if name in names:
            return names[name]
    return default


def check_names(names: Any, argument: str = "custom_objects") -> None:
    """Refuse what maps no names to objects.

    Raises:
        TypeError: It is no mapping; the message shows the one that is meant, where that can be seen.
    """
    if names is None or isinstance(names, Mapping):
        return
    given = names if isinstance(names, list | tuple) else [names]
    one = next((value for value in given if hasattr(value, "__name__")), None)
    meant = "" if one is None else f"; write {{{one.__name__!r}: {one.__name__}}}"
    raise TypeError(f"{argument} must be a dict from names to objects, got {shown(names)}{meant}")


def _all_names(
    custom_objects: Mapping[str, Any] | None, module_objects: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any], ...]:
    check_names(custom_objects)
    check_names(module_objects, "module_objects")
    return custom_objects or {}, get_custom_objects(), _by_name, module_objects or {}, builtin_objects()


def unknown_name(
    name: str,
    kind: str = "object",
    custom_objects: Mapping[str, Any] | None = None,
    module_objects: Mapping[str, Any] | None = None,
) -> ValueError:
    """The error for a name that nothing has: what it may have meant, and how to make it known."""
    known = {word for names in _all_names(custom_objects, module_objects) for word in names}
    hint = _meant(name[:100], known)
    shown = repr(name) if len(name) <= 100 else repr(name[:100]) + "…"
    return ValueError(
        f"Unknown {kind}: {shown}.{hint} Make it known by custom_objects={{{shown}: …}}, "
        f"by `with custom_object_scope({{{shown}: …}})` or by the decorator register_keras_serializable."
    )


def _meant(name: str, known: set[str]) -> str:
    """The name that was meant: the same one in a package, torch's for Keras's, or one that is spelt alike."""
    last = name.rpartition(">")[2]
    packaged = sorted(word for word in known if word.rpartition(">")[2] == last)
    if packaged:
        return f" Did you mean {packaged[0]!r}?"
    in_its_place = in_torch(name)
    if in_its_place is not None:
        names, opened, note = in_its_place.partition(" (")
        return f" Did you mean {names}?{opened}{note}"
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def instance_of(kind: type, config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None) -> Any:
    """An instance from a config: by `from_config` where the class has it, else by its constructor.

    As in Keras 2.3.1, a `custom_objects` parameter of `from_config` gets the names that are visible.
    """
    from_config = getattr(kind, "from_config", None)
    if from_config is None:
        return call_with_config(kind, config)
    if "custom_objects" in inspect.signature(from_config).parameters:
        return from_config(dict(config), custom_objects={**get_custom_objects(), **(custom_objects or {})})
    return from_config(dict(config))
