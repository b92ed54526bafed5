"""What an exception that forward raised says and carries, whatever its class forbids."""

from __future__ import annotations

from typing import Any


def attach(error: BaseException, name: str, value: Any) -> None:
    """Give an exception an attribute, for classes that allow none too."""
    vars(error)[name] = value


def add_note(error: BaseException, note: str) -> None:
    """As `error.add_note`, for classes that allow no attributes too."""
    attach(error, "__notes__", [*getattr(error, "__notes__", ()), note])


def message_of(error: BaseException) -> str:
    """The text of an exception; not every class can make one."""
    try:
        return str(error)
    except Exception:
        return "its message could not be made"
