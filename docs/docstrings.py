"""For the documentation: how the docstrings' own conventions are shown."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_DOCTEST = re.compile(r"(?:^[ ]*>>> .*\n?(?:^[ ]*\S.*\n?)*\n?)+", re.MULTILINE)
_DIFFERENCE = re.compile(r"^(Differs from Keras[^:\n]*): (.+?)(?=\n\n|\Z)", re.MULTILINE | re.DOTALL)


class HouseDocstrings(griffe.Extension):
    """Fences each block of `>>>` lines with what it prints, and frames what differs from Keras."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called once for each class, function and module that has been read."""
        if obj.docstring is not None:
            obj.docstring.value = _DIFFERENCE.sub(_framed, _DOCTEST.sub(_fenced, obj.docstring.value))


def _fenced(block: re.Match[str]) -> str:
    return f"\n```pycon\n{block.group().rstrip()}\n```\n"


def _framed(paragraph: re.Match[str]) -> str:
    text = paragraph.group(2)
    return f'!!! note "{paragraph.group(1)}"\n\n{textwrap.indent(text[0].upper() + text[1:], "    ")}\n'
