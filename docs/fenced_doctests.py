"""For the documentation: doctests in docstrings become fenced code, wherever they stand."""

from __future__ import annotations

import re
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*\n?)+", re.MULTILINE)


class FencedDoctests(griffe.Extension):
    """Wraps each block of `>>>` lines, with what it prints, in a fence."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each class, function and module that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _DOCTEST.sub(_fenced, obj.docstring.value)


def _fenced(block: re.Match[str]) -> str:
    return f"\n```pycon\n{block.group().rstrip()}\n```\n"
