"""What a caller may have meant by an argument that is none: the way out that a message ends with."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import pathlib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = ["explained", "hinting", "is_shape", "meant", "nearest", "shown"]


def is_shape(value: Any) -> bool:
    """Whether a value can only be meant as sizes: a tuple, list or Size of ints and None."""
    if not isinstance(value, tuple | list) or not len(value):
        return False
    return all(size is None or type(size) is int for size in value)


def meant(value: Any) -> str:
    """ "; did you mean input_size=(1, 2)?" for a shape, the same with input_data for a tensor or array, else ""."""
    if is_shape(value):
        return f"; did you mean input_size={tuple(value)}?"
    if isinstance(value, torch.Tensor) or type(value).__name__ == "ndarray":
        return "; did you mean input_data=?"
    return ""


def shown(value: Any) -> str:
    """A value in a message: a tensor or an array by its shape, anything else cut to a line."""
    if isinstance(value, torch.Tensor) or type(value).__name__ == "ndarray":
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def nearest(name: str, known: Iterable[Any]) -> str:
    """ "; did you mean 'float32'?" where a known name is spelt alike, else ""."""
    # NumPy 1's dictionary of dtypes has numbers and types among its names.
    names = [one for one in known if isinstance(one, str)]
    close = difflib.get_close_matches(name[:100], names, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def rectangular(values: Any, argument: str) -> npt.NDArray[Any]:
    """The values as an array.

    Raises:
        ValueError: They are nested lists of unequal lengths.
    """
    try:
        return np.asarray(values)
    except ValueError as error:
        if "inhomogeneous" not in str(error):
            raise
        raise ValueError(
            f"{argument} must be rectangular, got lists of unequal lengths: {shown(values)}; pad_sequences evens them"
        ) from None


def explained(value: Any, argument: str) -> str:
    """What was given where a module or an object belongs, and what to do about it."""
    if inspect.isclass(value):
        return f"the class {value.__name__}; give an instance of it: {value.__name__}(...)"
    if isinstance(value, str | os.PathLike) and pathlib.PurePath(value).suffix:
        return f"the path {os.fspath(value)[:100]!r}; {argument} and path are the other way round"
    return shown(value) if isinstance(value, str) else type(value).__name__


def hinting(**words: str) -> Callable[[Function], Function]:
    """Let a call with too many positional arguments, or with a name that is none, say what was meant.

    Args:
        **words: For names that people try: the name that is meant, or a sentence that says what to do.

    Raises:
        TypeError: (in the call) As Python raises it, with a hint.
    """

    def decorate(function: Function) -> Function:
        parameters = inspect.signature(function).parameters
        names = frozenset(parameters)
        positional = sum(one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) for one in parameters.values())

        def _hint(unknown: str) -> str:
            word = words.get(unknown)
            if word is None:
                return nearest(unknown, names)
            return f"; did you mean {word!r}?" if word in names else f"; {word}"

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(args) > positional:
                hint = meant(args[positional]) or f"; give {shown(args[positional])} by its name"
                plural = "" if positional == 1 else "s"
                raise TypeError(
                    f"{function.__name__}() takes {positional} positional argument{plural}, got {len(args)}{hint}"
                )
            if not names.issuperset(kwargs):
                unknown = next(name for name in kwargs if name not in names)
                raise TypeError(f"{function.__name__}() has no argument {unknown!r}{_hint(unknown)}")
            return function(*args, **kwargs)

        return cast("Function", call)

    return decorate
