"""Attributes, notes, message and traceback of an exception of forward, whose class may forbid each of them."""

from __future__ import annotations

import pathlib
from types import TracebackType
from typing import Any

# This folder, and `trace` beside it, are what runs between a model's own frames.
_OWN_FRAMES = str(pathlib.Path(__file__).parent.parent)


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


def traceback_of_model(error: BaseException) -> TracebackType | None:
    """The traceback of an exception without the frames of a look: those of the model and of what it called are left."""
    entries = []
    entry = error.__traceback__
    while entry is not None:
        if not entry.tb_frame.f_code.co_filename.startswith(_OWN_FRAMES):
            entries.append(entry)
        entry = entry.tb_next
    rebuilt: TracebackType | None = None
    for entry in reversed(entries):
        rebuilt = TracebackType(rebuilt, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return rebuilt
