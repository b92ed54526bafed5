"""For the documentation: the docstrings' own conventions as reStructuredText, which Sphinx reads.

Sections (`Args:`, `Returns:`, …) become field lists, single backticks become literals or links to public names, and a
paragraph that begins with "Differs from Keras" gets a frame.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence

FIELDS = {
    "Args": "param {}",
    "Attributes": "ivar {}",
    "Raises": "raises {}",
    "Warns": "raises {}",
    "Returns": "returns",
    "Yields": "returns",
}
"""The sections that the docstrings have, each with the field that an entry of it becomes."""

_ENTRY = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):(?: |$)(.*)", re.DOTALL)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_DIFFERENCE = re.compile(r"(Differs from Keras[^:\n]*): (.+)", re.DOTALL)


def as_rst(docstring: str, default_of: Callable[[str], str | None], link_to: Callable[[str], str | None]) -> str:
    """A docstring as reStructuredText.

    Args:
        docstring: The text, with the indentation of the source removed.
        default_of: Gives an argument's default as code, or None where it has none.
        link_to: Gives the reference for a name in backticks, or None where there is no page for it.
    """
    return "\n\n".join(_block_as_rst(block, default_of, link_to) for block in _blocks(docstring)) + "\n"


def defaults(signature: inspect.Signature) -> Callable[[str], str | None]:
    """What `as_rst` takes as `default_of`, for a function of this signature."""

    def default_of(name: str) -> str | None:
        parameter = signature.parameters.get(name.lstrip("*"))
        return None if parameter is None or parameter.default is parameter.empty else repr(parameter.default)

    return default_of


def _blocks(docstring: str) -> Iterator[str]:
    """The paragraphs; a section is one, and so is an example with what it prints."""
    for paragraph in re.split(r"\n\s*\n(?=\S)", docstring.strip()):
        yield paragraph.rstrip()


def _block_as_rst(block: str, default_of: Callable[[str], str | None], link_to: Callable[[str], str | None]) -> str:
    if block.startswith(">>> "):
        return block
    head, _, body = block.partition("\n")
    if head.removesuffix(":") in FIELDS and head.endswith(":"):
        section, entries = head.removesuffix(":"), _entries(_inline(textwrap.dedent(body), link_to))
        return "\n".join(_fields(section, entries, default_of))
    difference = _DIFFERENCE.fullmatch(block)
    if difference:
        text = _inline(difference[2], link_to)
        return f".. admonition:: {difference[1]}\n   :class: note\n\n{textwrap.indent(_capital(text), '   ')}"
    return _inline(block, link_to)


def _entries(body: str) -> list[str]:
    """What stands in a section, one entry each; the further lines of an entry are indented."""
    return re.split(r"\n(?=\S)", body)


def _fields(section: str, entries: Sequence[str], default_of: Callable[[str], str | None]) -> Iterator[str]:
    field = FIELDS[section]
    if "{}" not in field:
        yield f":{field}: " + _hanging("\n".join(entries))
        return
    for entry in entries:
        parts = _ENTRY.fullmatch(entry)
        if parts is None:
            raise ValueError(f"an entry of {section} must begin with a name and a colon, got {entry!r}")
        names = [parts[1]] if field.startswith("raises") else parts[1].split(", ")
        for name in names:
            default = default_of(name) if section == "Args" else None
            text = parts[2] if default is None else f"{parts[2]}\n*Default:* ``{default}``."
            yield f":{field.format(name.replace('*', chr(92) + '*'))}: " + _hanging(text)


def _hanging(text: str) -> str:
    """Text for behind a field's name: each line after the first is indented alike."""
    return textwrap.indent("\n".join(line.strip() for line in text.splitlines()), "    ").lstrip()


def _inline(text: str, link_to: Callable[[str], str | None]) -> str:
    def literal(found: re.Match[str]) -> str:
        name = " ".join(found[1].split())
        return link_to(name) or f"``{name}``"

    return _INLINE.sub(literal, text)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
