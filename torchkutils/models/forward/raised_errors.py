"""What an exception that forward raised says and carries, whatever its class forbids."""

from __future__ import annotations

from typing import Any


def attach(error: BaseException, name: str, value: Any) -> None:
    """Give an exception an attribute, be it frozen or not."""
    vars(error)[name] = value


def add_note(error: BaseException, note: str) -> None:
    """As `error.add_note`, be it frozen or not."""
    attach(error, "__notes__", [*getattr(error, "__notes__", ()), note])


def message_of(error: BaseException) -> str:
    """What it says, if it can."""
    try:
        return str(error)
    except Exception:
        return "its message could not be made"
