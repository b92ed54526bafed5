"""Values as JSON and back: what JSON lacks is written as a dict with one tag.

`encode` and `decode` are inverse: what the one writes, the other reads as an equal value of the same type. Modules and
tensors are left to the caller; functions, classes and objects are written by the name that the one lookup order finds.
"""

from __future__ import annotations

import argparse
import base64
import collections
import dataclasses
import enum
import functools
import math
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from torchkutils.objects.budget import MAX_LEVELS, dict_of_pairs
from torchkutils.objects.known_callables import callable_tag, class_of_name, function_of_name, known_object
from torchkutils.objects.libraries import config_from_library, library_config
from torchkutils.objects.registry import instance_of
from torchkutils.objects.tensors import DTYPES, dtype_name

__all__ = ["Special", "decode", "encode"]

_MEMORY_FORMATS = {str(one).removeprefix("torch."): one for one in (
    torch.contiguous_format, torch.channels_last, torch.channels_last_3d, torch.preserve_format
)}  # fmt: skip
_LAYOUTS = {str(one).removeprefix("torch."): one for one in (torch.strided, torch.sparse_coo, torch.sparse_csr)}
_NAMESPACES: dict[str, type] = {"SimpleNamespace": types.SimpleNamespace, "Namespace": argparse.Namespace}
_ARRAY_KINDS = "biufc"
_ARRAY_LIMIT = 1 << 16
_SETS: dict[str, type] = {"__set__": set, "__frozenset__": frozenset}
_SEQUENCES: dict[str, Any] = {
    "__tuple__": tuple,
    "__size__": torch.Size,
    "__deque__": collections.deque,
    **_SETS,
}

Special = Callable[[Any, str], Any]


class NotPlainError(ValueError):
    """A value has no plain form."""


def encode(value: Any, where: str, special: Special | None = None, *, loose: bool = False) -> Any:
    """A JSON value that `decode` turns back; modules and tensors are left to `special`.

    Args:
        value: Anything.
        where: What the value is, for errors.
        special: Gives the form of a module or tensor.
        loose: Write a named tuple of a class that is not registered as the tuple that it equals, and text and numbers
            of derived classes as plain ones.

    Raises:
        ValueError: The value at `where` (named) has no plain form, or is nested more than 100 levels deep.
    """
    return _Encoder(special, loose).encode(value, where, 0)


class _Encoder:
    """One run of `encode`."""

    def __init__(self, special: Special | None, loose: bool) -> None:
        self.special, self.loose = special, loose

    def encode(self, value: Any, where: str, level: int) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if level > MAX_LEVELS:
            raise NotPlainError(f"{where[:200]} must be nested at most {MAX_LEVELS} levels deep")
        simple = _SIMPLE.get(type(value))
        if simple is not None:
            return simple(value)
        container = _CONTAINERS.get(type(value))
        if container is not None:
            return container(self, value, where, level + 1)
        return self._by_kind(value, where, level + 1)

    def _by_kind(self, value: Any, where: str, level: int) -> Any:
        """The form of what is told by isinstance."""
        if isinstance(value, torch.nn.Module | torch.Tensor) and self.special is not None:
            return self.special(value, where)
        if isinstance(value, np.ndarray):
            return self._array(value, where)
        if isinstance(value, np.generic):
            return _numpy_scalar(value, where)
        if isinstance(value, pathlib.PurePath) and type(value) in (pathlib.PosixPath, pathlib.WindowsPath):
            return {"__path__": str(value)}
        if isinstance(value, functools.partial):
            return self._partial(value, where, level)
        tag = callable_tag(value)
        return tag if tag is not None else self._object(value, where, level)

    def _object(self, value: Any, where: str, level: int) -> Any:
        """An instance of a class that is registered or in scope."""
        from_library = library_config(value)
        if from_library is not None:
            return {"__library__": [from_library[0], self.dict(from_library[1], where, level)]}
        name = known_object(type(value))
        if name is None and self.loose:
            return self._as_base(value, where, level)
        if name is None:
            raise NotPlainError(_advice(value, where))
        if isinstance(value, enum.Enum):
            return {"__enum__": [name, self.encode(value.value, f"{where}.value", level)]}
        return {"__object__": [name, self._fields(_config_of(value, where), where, level)]}

    def _as_base(self, value: Any, where: str, level: int) -> Any:
        """A value of a derived class as the value of the base class that it equals."""
        bases: tuple[Any, ...] = (tuple, list, collections.OrderedDict, dict, str, bool, int, float)
        for kind in bases:
            if isinstance(value, kind) and not isinstance(value, enum.Enum):
                return self.encode(kind(value), where, level)
        raise NotPlainError(_advice(value, where))

    def _partial(self, value: Any, where: str, level: int) -> Any:
        function = self.encode(value.func, f"{where}.func", level)
        arguments = self.list(list(value.args), f"{where}.args", level)
        return {"__partial__": [function, arguments, self.dict(dict(value.keywords), f"{where}.keywords", level)]}

    def _array(self, value: Any, where: str) -> Any:
        if type(value) is not np.ndarray or value.dtype.kind not in _ARRAY_KINDS:
            raise NotPlainError(
                f"{where} must be an array of numbers, got {type(value).__name__} of {value.dtype}; tolist()"
            )
        if value.nbytes > _ARRAY_LIMIT:
            raise NotPlainError(
                f"{where} must be an array of at most {_ARRAY_LIMIT} bytes, got {value.nbytes}; make it a buffer, "
                "torch.from_numpy(array)"
            )
        data = base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()
        return {"__array__": [value.dtype.str, list(value.shape), data]}

    def list(self, value: list[Any], where: str, level: int) -> Any:
        return [self.encode(one, f"{where}[{number}]", level) for number, one in enumerate(value)]

    def sequence(self, value: Any, where: str, level: int) -> Any:
        tag = next(tag for tag, kind in _SEQUENCES.items() if type(value) is kind)
        ordered = sorted(value, key=repr) if type(value) in _SETS.values() else list(value)
        held = self.list(ordered, where, level)
        return {tag: [held, value.maxlen] if tag == "__deque__" else held}

    def dict(self, value: dict[Any, Any], where: str, level: int) -> Any:
        if all(type(key) is str and not key.startswith("__") for key in value):
            return {key: self.encode(one, f"{where}[{key!r}]", level) for key, one in value.items()}
        return {"__items__": self.pairs(value, where, level)}

    def tagged_dict(self, value: Any, where: str, level: int) -> Any:
        pairs = self.pairs(value, where, level)
        if type(value) is not collections.defaultdict:
            return {"__counter__" if type(value) is collections.Counter else "__ordered__": pairs}
        factory = value.default_factory
        if factory is not None and factory not in _FACTORIES.values():
            raise NotPlainError(
                f"{where} must have list, dict, set, int, float or str as default_factory, got {factory!r}"
            )
        return {"__defaultdict__": [None if factory is None else factory.__name__, pairs]}

    def pairs(self, value: Mapping[Any, Any], where: str, level: int) -> Any:
        return [
            [self.encode(key, where, level), self.encode(one, f"{where}[{key!r}]", level)] for key, one in value.items()
        ]

    def namespace(self, value: Any, where: str, level: int) -> Any:
        return {"__namespace__": [type(value).__name__, self._fields(vars(value), where, level)]}

    def _fields(self, held: Mapping[str, Any], where: str, level: int) -> Any:
        return {name: self.encode(one, f"{where}.{name}", level) for name, one in held.items()}


def _config_of(value: Any, where: str) -> Mapping[str, Any]:
    """What an object of a registered class is built from: its own config, or its fields.

    Raises:
        ValueError: The object does not say what it is built from.
    """
    if hasattr(value, "get_config"):
        config = value.get_config()
        if not isinstance(config, dict):
            raise NotPlainError(f"get_config of {where} must give a dict, got {type(config).__name__}")
        return config
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        fields: Mapping[str, Any] = value._asdict()
        return fields
    raise NotPlainError(_advice(value, where))


def _advice(value: Any, where: str) -> str:
    kind = type(value)
    name = f"{kind.__module__}.{kind.__qualname__}" if kind.__module__ != "builtins" else kind.__qualname__
    if callable(value) and hasattr(value, "__qualname__"):
        return (
            f"{where} must be known by name, got {value.__qualname__!r}; define it with def or class and decorate it: "
            "@register_keras_serializable()"
        )
    if isinstance(value, enum.Enum) or dataclasses.is_dataclass(value) or hasattr(value, "_asdict"):
        return f"{where} must be of a registered class, got {name}; decorate it: @register_keras_serializable()"
    return (
        f"{where} must be a plain value (numbers, text, lists, dicts, modules, tensors), got {name}; "
        "give its class get_config and from_config and decorate it with @register_keras_serializable(), "
        "or keep the tensors alone with save_weights"
    )


def _float(value: float) -> Any:
    return value if math.isfinite(value) else {"__float__": repr(value)}


def _numpy_scalar(value: Any, where: str) -> Any:
    if type(value).__module__ != "numpy" or value.dtype.kind not in _ARRAY_KINDS:
        raise NotPlainError(f"{where} must be a number, got {type(value).__name__}; .item() gives Python's own")
    return {"__numpy__": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}


def _plain_parts(tag: str, *names: str) -> Callable[[Any], Any]:
    return lambda value: {tag: [_number(getattr(value, name)) for name in names]}


def _number(value: Any) -> Any:
    if value is None or type(value) in (bool, int):
        return value
    if type(value) is float:
        return _float(value)
    raise NotPlainError(f"a slice must be made of integers, got {type(value).__name__}")


_SIMPLE: dict[type, Callable[[Any], Any]] = {
    float: _float,
    complex: _plain_parts("__complex__", "real", "imag"),
    range: _plain_parts("__range__", "start", "stop", "step"),
    slice: _plain_parts("__slice__", "start", "stop", "step"),
    bytes: lambda value: {"__bytes__": base64.b64encode(value).decode()},
    torch.dtype: lambda value: {"__dtype__": dtype_name(value)},
    torch.device: lambda value: {"__device__": str(value)},
    torch.memory_format: lambda value: {"__memory_format__": str(value).removeprefix("torch.")},
    torch.layout: lambda value: {"__layout__": str(value).removeprefix("torch.")},
    type(Ellipsis): lambda value: {"__ellipsis__": True},
}
_CONTAINERS: dict[type, Callable[[_Encoder, Any, str, int], Any]] = {
    list: _Encoder.list,
    **dict.fromkeys(_SEQUENCES.values(), _Encoder.sequence),
    dict: _Encoder.dict,
    **dict.fromkeys((collections.OrderedDict, collections.Counter, collections.defaultdict), _Encoder.tagged_dict),
    **dict.fromkeys(_NAMESPACES.values(), _Encoder.namespace),
}
_FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (list, dict, set, int, float, str)}


def decode(
    value: Any,
    special: Callable[[str, Any], Any] | None = None,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    device: torch.device | None = None,
) -> Any:
    """The value that `encode` was given; tags it does not know go to `special`.

    Args:
        value: Parsed JSON.
        special: Gives the value of a tag that is not of this module.
        custom_objects: Names that are looked at first.
        device: What a stored device becomes; None means the CPU.

    Raises:
        ValueError: A tag is unknown or malformed.
    """
    return _Decoder(special, custom_objects, device or torch.device("cpu")).decode(value)


class _Decoder:
    """One run of `decode`."""

    def __init__(self, special: Any, custom_objects: Mapping[str, Any] | None, device: torch.device) -> None:
        self.special, self.custom_objects, self.device = special, custom_objects, device

    def decode(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self.decode(one) for one in value]
        if not isinstance(value, dict):
            return value
        tag = _tag_of(value)
        if tag is None:
            return {key: self.decode(one) for key, one in value.items()}
        if tag not in _TAGS:
            if self.special is None:
                raise _unknown(value)
            return self.special(tag, value[tag])
        # No function of its own for this: each level of a file takes few frames of Python's stack.
        try:
            return _TAGS[tag](self, value[tag])
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"malformed value {str(value)[:100]} in a config ({error})") from error

    def _float(self, body: Any) -> float:
        if body not in ("nan", "inf", "-inf"):
            raise ValueError("not one of nan, inf, -inf")
        return float(body)

    def _complex(self, body: Any) -> complex:
        return complex(*[self.decode(one) for one in body])

    def _pairs(self, body: Any) -> dict[Any, Any]:
        return dict_of_pairs((self.decode(key), self.decode(one)) for key, one in _checked(body, list))

    def _defaultdict(self, body: Any) -> Any:
        factory, pairs = body
        return collections.defaultdict(None if factory is None else _FACTORIES[factory], self._pairs(pairs))

    def _sequence(self, kind: Any) -> Callable[[Any], Any]:
        return lambda body: kind([self.decode(one) for one in _checked(body, list)])

    def _set(self, kind: Any, body: Any) -> Any:
        return kind(dict_of_pairs((self.decode(one), None) for one in _checked(body, list)))

    def _partial(self, body: Any) -> Any:
        function, arguments, keywords = (self.decode(one) for one in body)
        if not callable(function) or isinstance(function, torch.nn.Module):
            raise ValueError("a partial must be of a function or class")
        return functools.partial(function, *_checked(arguments, list), **_checked(keywords, dict))

    def _namespace(self, body: Any) -> Any:
        name, held = body
        return _NAMESPACES[name](**{key: self.decode(one) for key, one in _checked(held, dict).items()})

    def _enum(self, body: Any) -> Any:
        name, value = body
        kind = class_of_name(name, self.custom_objects)
        if not issubclass(kind, enum.Enum):
            raise ValueError(f"{name!r} is no enum")
        return kind(self.decode(value))

    def _object(self, body: Any) -> Any:
        name, held = body
        kind = class_of_name(name, self.custom_objects)
        if issubclass(kind, torch.nn.Module):
            raise ValueError(f"{name!r} is a module class")
        config = {key: self.decode(one) for key, one in _checked(held, dict).items()}
        try:
            return instance_of(kind, config, self.custom_objects)
        except Exception as error:
            raise ValueError(f"{name} cannot be built from its config: {error}") from error

    def _class(self, body: Any) -> Any:
        return class_of_name(body, self.custom_objects)

    def _function(self, body: Any) -> Any:
        return function_of_name(body, self.custom_objects)


def _tag_of(value: dict[str, Any]) -> str | None:
    """The tag of a dict that stands for another value; None for a dict that is one.

    Raises:
        ValueError: It has other keys beside the tag.
    """
    tag = next((key for key in value if key.startswith("__")), None)
    if tag is not None and len(value) > 1:
        raise _unknown(value)
    return tag


def _unknown(value: dict[str, Any]) -> ValueError:
    return ValueError(f"unknown value {str(value)[:100]} in a config")


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"must be a {kind.__name__}")
    return value


def _text(value: Any) -> bytes:
    return base64.b64decode(_checked(value, str), validate=True)


def _array_of(body: Any) -> Any:
    dtype, shape, data = body
    kind = _number_dtype(dtype)
    return np.frombuffer(_text(data), kind).reshape([_checked(size, int) for size in shape]).copy()


def _number_dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str) or len(name) > 5 or name[1:2] not in _ARRAY_KINDS:
        raise ValueError("not a dtype of numbers")
    return np.dtype(name)


def _range_of(kind: Any) -> Callable[[Any, Any], Any]:
    def read(_: Any, body: Any) -> Any:
        if not isinstance(body, list) or not all(one is None or type(one) is int for one in body):
            raise TypeError("must be integers")
        return kind(*body)

    return read


_TAGS: dict[str, Callable[[_Decoder, Any], Any]] = {
    "__float__": _Decoder._float,
    "__complex__": _Decoder._complex,
    "__range__": _range_of(range),
    "__slice__": _range_of(slice),
    "__bytes__": lambda _, body: _text(body),
    "__ellipsis__": lambda _, body: ...,
    "__dtype__": lambda _, body: DTYPES[body],
    "__device__": lambda reader, body: reader.device,
    "__memory_format__": lambda _, body: _MEMORY_FORMATS[body],
    "__layout__": lambda _, body: _LAYOUTS[body],
    "__path__": lambda _, body: pathlib.Path(_checked(body, str)),
    "__numpy__": lambda _, body: np.frombuffer(_text(body[1]), _number_dtype(body[0]))[0],
    "__array__": lambda _, body: _array_of(body),
    "__tuple__": lambda reader, body: reader._sequence(tuple)(body),
    "__size__": lambda reader, body: reader._sequence(torch.Size)(body),
    "__deque__": lambda reader, body: collections.deque(reader.decode(_checked(body[0], list)), body[1]),
    "__set__": lambda reader, body: reader._set(set, body),
    "__frozenset__": lambda reader, body: reader._set(frozenset, body),
    "__items__": _Decoder._pairs,
    "__ordered__": lambda reader, body: collections.OrderedDict(reader._pairs(body)),
    "__counter__": lambda reader, body: collections.Counter(reader._pairs(body)),
    "__defaultdict__": _Decoder._defaultdict,
    "__namespace__": _Decoder._namespace,
    "__partial__": _Decoder._partial,
    "__enum__": _Decoder._enum,
    "__object__": _Decoder._object,
    "__library__": lambda reader, body: config_from_library(body[0], reader.decode(body[1])),
    "__class__": _Decoder._class,
    "__function__": _Decoder._function,
}
