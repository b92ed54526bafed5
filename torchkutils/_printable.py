"""Texts that strangers wrote, without what a terminal would obey."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str, instead: str = "?") -> str:
    """The text with another letter for each one that cannot be printed, such as line ends and escape sequences."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else instead for letter in text)
