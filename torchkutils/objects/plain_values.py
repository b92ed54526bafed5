"""Values as JSON and back: odd numbers, keys and types under tags, everything from a file within limits."""

from __future__ import annotations

import collections
import json
import math
import re
from collections.abc import Callable
from typing import Any

import torch

from torchkutils.objects.builtin_objects import builtin_function_name, builtin_objects

__all__ = ["decode", "encode", "parse_json", "write_json"]

MAX_LEVELS = 100
MAX_INTEGER = 2**31
_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

Special = Callable[[Any, str], Any]


def encode(value: Any, where: str, special: Special | None = None) -> Any:
    """A JSON value that `decode` turns back; modules and tensors are left to `special`.

    Raises:
        ValueError: The value at `where` (named) has no plain form.
    """
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float:
        return value if math.isfinite(value) else {"__float__": repr(value)}
    if type(value) is list:
        return [encode(one, f"{where}[{i}]", special) for i, one in enumerate(value)]
    if isinstance(value, tuple):
        return {"__tuple__": [encode(one, f"{where}[{i}]", special) for i, one in enumerate(value)]}
    if type(value) in (dict, collections.OrderedDict, collections.Counter, collections.defaultdict):
        return _encode_dict(value, where, special)
    if isinstance(value, torch.dtype):
        return {"__dtype__": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"__device__": str(value)}
    if special is not None and isinstance(value, (torch.nn.Module, torch.Tensor)):
        return special(value, where)
    name = builtin_function_name(value)
    if name is not None:
        return {"__function__": name}
    raise ValueError(
        f"{where} must be a plain value (numbers, text, lists, dicts, modules, tensors), got {type(value).__name__}; "
        "give its class a get_config, or save_weights alone"
    )


def _encode_dict(value: dict[Any, Any], where: str, special: Special | None) -> Any:
    if all(type(key) is str and not key.startswith("__") for key in value) and not isinstance(
        value, collections.Counter
    ):
        return {key: encode(one, f"{where}[{key!r}]", special) for key, one in value.items()}
    tag = "__counter__" if isinstance(value, collections.Counter) else "__items__"
    pairs = [[encode(key, where), encode(one, f"{where}[{key!r}]", special)] for key, one in value.items()]
    return {tag: pairs}


def decode(value: Any, special: Callable[[str, Any], Any] | None = None) -> Any:
    """The value that `encode` was given; tags it does not know go to `special`.

    Raises:
        ValueError: A tag is unknown or malformed.
    """
    if isinstance(value, list):
        return [decode(one, special) for one in value]
    if not isinstance(value, dict):
        return value
    first: tuple[str, Any] = next(iter(value.items())) if len(value) == 1 else ("", None)
    tag, body = first
    if not any(key.startswith("__") for key in value):
        return {key: decode(one, special) for key, one in value.items()}
    try:
        if tag == "__float__" and body in ("nan", "inf", "-inf"):
            return float(body)
        if tag == "__tuple__" and isinstance(body, list):
            return tuple(decode(one, special) for one in body)
        if tag in ("__items__", "__counter__"):
            pairs = {decode(key, special): decode(one, special) for key, one in body}
            return collections.Counter(pairs) if tag == "__counter__" else pairs
        if tag == "__dtype__":
            return _DTYPES[body]
        if tag == "__device__":
            return torch.device("cpu")
        if tag == "__function__" and not isinstance(builtin_objects()[body], type):
            return builtin_objects()[body]
    except (TypeError, KeyError, ValueError) as err:
        raise ValueError(f"malformed value {str(value)[:100]} in a config ({err})") from err
    if special is not None and tag:
        return special(tag, body)
    raise ValueError(f"unknown value {str(value)[:100]} in a config")


def write_json(value: Any) -> bytes:
    """Compact UTF-8 JSON.

    Raises:
        ValueError: The value is nested deeper than a reader accepts.
    """
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    _check_levels(text, "the value")
    return text.encode()


def parse_json(data: bytes, what: str, *, limit: int, bounded_integers: bool = False) -> Any:
    """Parse JSON from a stranger.

    Raises:
        ValueError: It is longer than `limit` bytes, too deep, malformed, has a key twice, or an integer beyond 2**31
            where those are bounded.
    """
    if len(data) > limit:
        raise ValueError(f"{what} must be at most {limit} bytes of JSON, got {len(data)}")
    try:
        text = data.decode()
        _check_levels(text, what)
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_int=_bounded if bounded_integers else int,
            parse_constant=_no_constant,
        )
    except (ValueError, RecursionError) as err:
        raise ValueError(f"{what} is no acceptable JSON: {err}") from err


def _check_levels(text: str, what: str) -> None:
    depth = 0
    # A text that never closes counts to the end: no position is looked at twice.
    for match in re.finditer(r'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', text, re.DOTALL):
        sign = match.group()
        depth += 1 if sign in "[{" else -1 if sign in "]}" else 0
        if depth > 4 * MAX_LEVELS:
            raise ValueError(f"{what} must be nested at most {MAX_LEVELS} levels deep")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _bounded(digits: str) -> int:
    number = int(digits) if len(digits) < 12 else MAX_INTEGER + 1
    if abs(number) > MAX_INTEGER:
        raise ValueError(f"an integer must lie within ±2**31, got {digits[:40]}")
    return number


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
