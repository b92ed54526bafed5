"""Keras 3's words for arguments: other names that work too, and arguments that mean nothing on torch.

The signature shows one spelling; `inspect.signature` and type checkers see that one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = ["also_called", "taken_for_keras"]


def also_called(**other_names: str) -> Callable[[Function], Function]:
    """Let a function take arguments under other names: `also_called(x="y")` takes x= for y=.

    Raises:
        TypeError: (in the call) An argument is given under both names.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for other in other_names.keys() & kwargs.keys():
                name = other_names[other]
                if name in kwargs:
                    raise TypeError(f"{function.__name__}() got {name} and {other}, which are the same; give one")
                kwargs[name] = kwargs.pop(other)
            return function(*args, **kwargs)

        return cast("Function", call)

    return decorate


def taken_for_keras(**values: tuple[Any, ...]) -> Callable[[Function], Function]:
    """Let a function take arguments of Keras 3 that decide nothing here, such as which library a data set is of.

    Args:
        **values: For each such argument the values that Keras 3 takes.

    Raises:
        ValueError: (in the call) Another value is given.
    """

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for name in values.keys() & kwargs.keys():
                value = kwargs.pop(name)
                if value not in values[name]:
                    known = ", ".join(map(repr, values[name]))
                    raise ValueError(f"{name} must be one of {known} (Keras 3's, without effect here), got {value!r}")
            return function(*args, **kwargs)

        return cast("Function", call)

    return decorate
