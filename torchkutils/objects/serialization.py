"""Single objects as names and dicts, as Keras writes them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from torchkutils._keras_names import also_called, taken_for_keras
from torchkutils.objects.builtin_objects import is_stock_class
from torchkutils.objects.config import ConfigReader, ConfigWriter
from torchkutils.objects.plain_values import encode
from torchkutils.objects.recorded_arguments import recorded_config
from torchkutils.objects.registry import get_registered_name, instance_of, look_up, unknown_name
from torchkutils.objects.scope import CustomObjectScope
from torchkutils.objects.tensors import dtype_name

__all__ = ["deserialize_keras_object", "serialize_keras_object"]


def serialize_keras_object(obj: Any) -> Any:
    """An object as a name or as a dict of class name and config.

    Args:
        obj: None, a class, a named function, an object with `get_config`, or a module that can be rebuilt from plain
            values: every such class of torch.nn, and registered ones.

    Returns:
        None for None, a string for a class or function, else `{"class_name": …, "config": …}` of JSON values.

    Raises:
        ValueError: The object has no such form.

    Differs from Keras 2.3.1: torch.nn's classes need no `get_config`, a registered class is named with its package, and
    a lambda is refused instead of becoming `'<lambda>'`.

    >>> serialize_keras_object(torch.nn.Linear(2, 3))
    {'class_name': 'Linear', 'config': {'in_features': 2, 'out_features': 3, 'bias': True}}
    >>> serialize_keras_object(torch.nn.functional.relu)
    'relu'
    """
    if obj is None:
        return None
    if inspect.isclass(obj) or (callable(obj) and hasattr(obj, "__name__")):
        name = get_registered_name(obj)
        if name == "<lambda>":
            raise ValueError("obj must have a name of its own, got a lambda; use def")
        return name
    if isinstance(obj, torch.nn.Module) and (is_stock_class(type(obj)) or recorded_config(obj) is not None):
        return ConfigWriter(_inline_tensor).node(obj, type(obj).__name__)
    if hasattr(obj, "get_config"):
        writer, name = ConfigWriter(_inline_tensor), type(obj).__name__
        config = encode(obj.get_config(), f"{name}: its config", writer.special, loose=True)
        return {"class_name": get_registered_name(type(obj)), "config": config}
    raise ValueError(f"Cannot serialize {type(obj).__name__}: it has no get_config; add one, or register its class")


def _inline_tensor(tensor: torch.Tensor, where: str) -> Any:
    data = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    wide = data.detach().double() if data.is_floating_point() else data.detach()
    return {"dtype": dtype_name(tensor.dtype), "data": wide.tolist()}


def _tensor_of(body: Any) -> torch.Tensor:
    dtype = getattr(torch, str(body["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"a tensor in a config must name its dtype, got {body['dtype']!r}")
    if dtype.is_complex:
        return torch.view_as_complex(torch.tensor(body["data"], dtype=torch.float64)).to(dtype)
    return torch.tensor(body["data"], dtype=dtype)


@also_called(config="identifier")
@taken_for_keras(safe_mode=(True, False, None))
def deserialize_keras_object(
    identifier: Any,
    module_objects: Mapping[str, Any] | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    printable_module_name: str = "object",
) -> Any:
    """The object of a name, or an instance built from a dict.

    Args:
        identifier: None, a name (`'Custom>Net'` for what was registered), `{"class_name": …, "config": …}` with a
            `registered_name` that comes first where it is there, as Keras 3 writes it, or a function, which comes back
            as it is.
        module_objects: Names that are looked at before the built-ins.
        custom_objects: Names that are looked at first.
        printable_module_name: What errors call the object.

    Returns:
        None for None; for a string the class or function itself; for a dict an instance, by `cls.from_config(config)`
        where that exists, else by `cls(**config)`. The lookup order is that of `get_registered_object`.

    Raises:
        ValueError: The name is unknown, the dict malformed, the name in a dict no class, or the constructor refuses.

    Differs from Keras 2.3.1: a string that names a class gives the class and not an instance, and functions never pose
    as classes. Keras 3's names are taken too: `config` for `identifier`, and `safe_mode`, without effect, since nothing
    here is unsafe.

    >>> deserialize_keras_object({"class_name": "Linear", "config": {"in_features": 2, "out_features": 3}})
    Linear(in_features=2, out_features=3, bias=True)
    """
    if identifier is None or inspect.isfunction(identifier):
        return identifier
    names, config = _interpreted(identifier, printable_module_name)
    found = _first_known(names, custom_objects, module_objects)
    if found is None:
        raise unknown_name(names[0], printable_module_name, custom_objects, module_objects)
    if config is None:
        return found
    name = names[-1]
    if not inspect.isclass(found):
        raise ValueError(f"class_name must name a class, got {name!r}, which is a {type(found).__name__}")
    visible = {**(module_objects or {}), **(custom_objects or {}), name: found}
    with CustomObjectScope(custom_objects or {}):
        return _build(found, name, config, visible)


def _first_known(
    names: list[str], custom_objects: Mapping[str, Any] | None, module_objects: Mapping[str, Any] | None
) -> Any:
    """The object of the first name that anything has; None where nothing has any of them."""
    known = (look_up(name, custom_objects, module_objects) for name in names)
    return next((found for found in known if found is not None), None)


def _interpreted(identifier: Any, what: str) -> tuple[list[str], Mapping[str, Any] | None]:
    """The names to look for, and the config of an instance; None where the object itself is meant."""
    if isinstance(identifier, str):
        return [identifier], None
    if isinstance(identifier, Mapping):
        name, config = identifier.get("class_name"), identifier.get("config")
        # Keras 3 writes the registered name beside the class's own, and a function as a dict whose config is its name.
        if name == "function" and isinstance(config, str):
            return _names(identifier, config, without="function"), None
        if isinstance(name, str) and isinstance(config, Mapping):
            return _names(identifier, name), config
    raise ValueError(
        f"Could not interpret serialized {what}: it must be a name or a dict of class_name and "
        f"config, got {str(identifier)[:100]}"
    )


def _names(identifier: Mapping[str, Any], name: str, without: str | None = None) -> list[str]:
    registered = identifier.get("registered_name")
    return [registered, name] if isinstance(registered, str) and registered not in (name, without) else [name]


def _build(kind: type, name: str, config: Mapping[str, Any], names: Mapping[str, Any]) -> Any:
    reader = ConfigReader(_tensor_of, names)
    if issubclass(kind, torch.nn.Module) and not hasattr(kind, "get_config"):
        return reader.module({"class_name": name, "config": dict(config)})
    try:
        return instance_of(kind, {key: reader.decode(value) for key, value in config.items()}, names)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name} cannot be built from its config: {error}") from error
