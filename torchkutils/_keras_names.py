"""Other names under which Keras 3 takes an argument: both work, the signature shows one."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

__all__ = ["also_called"]


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
