"""Names for custom objects: one live mapping, and scopes that each thread and asyncio task has to itself."""

from __future__ import annotations

import contextvars
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from types import TracebackType
from typing import Any, NamedTuple, TypeVar, cast

from torchkutils._call_hints import shown

__all__ = ["CustomObjectScope", "custom_object_scope", "get_custom_objects"]


Function = TypeVar("Function", bound=Callable[..., Any])


class _Frame(NamedTuple):
    """What one entered scope shows. Frames and their names are never changed in place, only replaced: a task that
    inherited a frame cannot edit it under its parent."""

    names: Mapping[str, Any]
    outer: _Frame | None
    scope: CustomObjectScope


_current: contextvars.ContextVar[_Frame | None] = contextvars.ContextVar("torchkutils_custom_objects", default=None)
_global_names: Mapping[str, Any] = {}
_global_lock = threading.Lock()


def _visible() -> Mapping[str, Any]:
    frame = _current.get()
    return _global_names if frame is None else frame.names


class _CustomObjects(MutableMapping[str, Any]):
    """The names that are visible here and now, whichever scope that is."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        return _visible()[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if not isinstance(name, str):
            raise TypeError(f"a custom object's name must be a string, got {name!r}")
        self._replace({name: value}, ())

    def __delitem__(self, name: str) -> None:
        if name not in _visible():
            raise KeyError(name)
        self._replace({}, (name,))

    def __iter__(self) -> Iterator[str]:
        return iter(_visible())

    def __len__(self) -> int:
        return len(_visible())

    def clear(self) -> None:
        """Forget every name that is visible here."""
        self._replace({}, tuple(_visible()))

    def copy(self) -> dict[str, Any]:
        """A plain dict of the names that are visible here."""
        return dict(_visible())

    def __repr__(self) -> str:
        return repr(dict(_visible()))

    def __reduce__(self) -> tuple[Any, ...]:
        return get_custom_objects, ()

    @staticmethod
    def _replace(new: Mapping[str, Any], gone: tuple[str, ...]) -> None:
        global _global_names
        frame = _current.get()
        if frame is not None:
            names = {name: value for name, value in {**frame.names, **new}.items() if name not in gone}
            _current.set(frame._replace(names=names))
            return
        with _global_lock:
            _global_names = {name: value for name, value in {**_global_names, **new}.items() if name not in gone}


_CUSTOM_OBJECTS = _CustomObjects()


def get_custom_objects() -> MutableMapping[str, Any]:
    """The one live mapping of the custom names that are visible here.

    Returns:
        Always the same object. What is set outside every scope is global: each thread and task sees it, but those
        inside a scope they entered before. What is set inside a scope is gone when the scope is left. Iterating goes
        over a snapshot.

    Raises:
        TypeError: (when a name is set) The name is no string.

    Differs from Keras 2.3.1: a thread or task inside a scope sees its own names and not those of others, and a name
    must be a string.

    >>> get_custom_objects() is get_custom_objects()
    True
    >>> with custom_object_scope({"twice": lambda x: 2 * x}):
    ...     get_custom_objects()["twice"](4)
    8
    >>> "twice" in get_custom_objects()
    False
    """
    return _CUSTOM_OBJECTS


def _given_by_keyword(function: Function) -> Function:
    """Let `custom_objects=`, as Keras 3 calls its one mapping, stand for the first argument."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "custom_objects" in kwargs:
            args += (kwargs.pop("custom_objects"),)
        return function(*args, **kwargs)

    return cast("Function", call)


class CustomObjectScope:
    """A `with` block in which custom objects are known by name.

    Args:
        *custom_objects: Mappings from names to classes or functions, merged over what is visible; a later one wins.
            They are read on entering.

    Raises:
        TypeError: An argument is no mapping, or one of its names is no string.

    On leaving, by an exception too, everything is as it was on entering, direct edits of `get_custom_objects()`
    included; registrations stay. A scope belongs to the thread or asyncio task that entered it, and to the tasks made
    inside it. A plain thread starts without it: `contextvars.copy_context().run(function)` carries it there. One
    instance may be entered again, inside itself too.

    Differs from Keras 2.3.1: overlapping scopes of threads and tasks neither see nor restore each other, re-entering
    leaks nothing, and a bad second mapping leaves nothing of the first.

    >>> from torchkutils import get_registered_object
    >>> with CustomObjectScope({"answer": 41}, {"answer": 42}):
    ...     get_registered_object("answer")
    42
    >>> get_registered_object("answer") is None
    True
    """

    @_given_by_keyword
    def __init__(self, *custom_objects: Mapping[str, Any]) -> None:
        for number, names in enumerate(custom_objects):
            if not isinstance(names, Mapping):
                raise TypeError(
                    f"custom_objects must be dicts from names to objects, got {shown(names)} as argument {number}"
                )
            for name in names:
                if not isinstance(name, str):
                    raise TypeError(f"custom_objects must have strings as names, got {name!r} in argument {number}")
        self.custom_objects = custom_objects

    def __enter__(self) -> CustomObjectScope:
        names = dict(_visible())
        for more in self.custom_objects:
            names.update(more)
        _current.set(_Frame(names, _current.get(), self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Scopes may be left out of order (generators), or in another task than the one that entered (async
        # generators closed by the loop): then that task has no such frame, and nothing to restore.
        frame = _current.get()
        while frame is not None and frame.scope is not self:
            frame = frame.outer
        if frame is not None:
            _current.set(frame.outer)


@_given_by_keyword
def custom_object_scope(*custom_objects: Mapping[str, Any]) -> CustomObjectScope:
    """A `CustomObjectScope` of these mappings; see there.

    Args:
        *custom_objects: Mappings from names to classes or functions; a later one wins.

    Returns:
        The scope, to be used in a `with` statement.

    Raises:
        TypeError: An argument is no mapping, or one of its names is no string.

    Differs from Keras 2.3.1: as `CustomObjectScope` does.

    >>> with custom_object_scope({"Net": dict}):
    ...     get_custom_objects()["Net"]
    <class 'dict'>
    """
    return CustomObjectScope(*custom_objects)
