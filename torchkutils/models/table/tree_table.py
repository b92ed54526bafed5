"""A summary as a tree: one line a module, fitted to a width."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

from torchkutils.models.table.cells import failed_mark, field, label_of, marks_of, scaled, share
from torchkutils.models.table.tree_lines import TreeLine
from torchkutils.models.table.view import COLUMNS, is_numeric

_GAP = "  "
# Shorter than those of Keras's layout.
_HEADERS = {"params": "Params", "share": "%"}
# How far names and shapes are cut at first, and how far at most.
_NARROW, _NARROWEST = 28, 14


def tree_columns(columns: tuple[str, ...] | None, ran: bool) -> tuple[str, ...]:
    """The columns that were asked for; else those whose values are known: without a forward no shape is."""
    if columns is not None:
        return columns
    return ("output_shape", "params", "share", "macs") if ran else ("params", "share")


def tree_label(line: TreeLine) -> str:
    """The name and class; of equal siblings how many there are and what each holds."""
    row = line.rows[0]
    closed = "▸ " if line.closed else ""
    if len(line.rows) > 1:
        each = f", each {scaled(line.each)}" if line.each else ""
        names = f"{row.name}–{line.rows[-1].name}"
        return f"{closed}{names}: {len(line.rows)} × {row.class_name}{each}{marks_of(row)}"
    label = label_of(row) if line.level else row.class_name + failed_mark(row)
    return f"{closed}{label}{marks_of(row)}"


def tree_field(line: TreeLine, column: str, total_params: int) -> str:
    """One field; numbers of equal siblings are their sum. What counts nothing beside the rows below it stays empty."""
    write = _FIELDS.get(column)
    if write is not None:
        return write(line)
    if column == "share":
        return share(line.params, total_params) if line.params != 0 else ""
    return field(line.rows[0], column, total_params)


def _params(line: TreeLine) -> str:
    if line.params is None:
        return "?"
    return _unless_below(line, line.params, f"{line.params:,}")


def _unless_below(line: TreeLine, number: int, text: str) -> str:
    """A text; where the line counts nothing itself, and has others below it, nothing."""
    return "" if line.opens and not number else text


def _output_bytes(line: TreeLine) -> str:
    if not line.rows[0].calls:
        return ""
    return scaled(sum(row.output_bytes for row in line.rows), "B")


def _output_shape(line: TreeLine) -> str:
    """A list of modules is never called itself, but those in it are."""
    row = line.rows[0]
    if row.calls or row.shared_with is not None or row.class_name == "Parameter":
        return row.output_shapes
    return "" if row.ran else "not called"


def _macs(line: TreeLine) -> str:
    return _work(line, sum(row.flops for row in line.rows) // 2)


def _flops(line: TreeLine) -> str:
    return _work(line, sum(row.flops for row in line.rows))


def _work(line: TreeLine, number: int) -> str:
    row = line.rows[0]
    if not row.calls and not (row.ran and row.hidden):
        return ""
    return f"{'' if row.flops_known else '≥ '}{scaled(number)}"


# By the name of a column: those that differ from the fields of a single row.
_FIELDS: dict[str, Callable[[TreeLine], str]] = {
    "params": _params,
    "trainable": lambda line: _unless_below(line, line.trainable, f"{line.trainable:,}"),
    "bytes": lambda line: _unless_below(line, line.bytes, scaled(line.bytes, "B")),
    "output_bytes": _output_bytes,
    "output_shape": _output_shape,
    "macs": _macs,
    "flops": _flops,
    "connected_to": lambda line: ", ".join(line.inbound),
}


def tree_text(
    title: str,
    lines: Sequence[TreeLine],
    columns: Sequence[str],
    footer: Sequence[str],
    *,
    total_params: int,
    width: int,
) -> list[str]:
    """The lines of text: title, header, tree, footer, each at most `width` wide where numbers allow it."""
    header = tree_header(columns)
    cells = [
        [line.prefix + tree_label(line), *[tree_field(line, column, total_params) for column in columns]]
        for line in lines
    ]
    right = [False, *map(is_numeric, columns)]
    widths = _fitted([header, *cells], right, width)
    rule = "─" * (sum(widths) + len(_GAP) * (len(widths) - 1))
    text = [*_wrapped(title, width), rule, _row(header, widths, right), rule]
    text += [_row(row, widths, right) for row in cells]
    text.append(rule)
    for part in footer:
        text += _wrapped(part, width)
    return text


def tree_header(columns: Sequence[str]) -> list[str]:
    """The headers: the name of a line, and those of the columns."""
    return ["Layer (type)", *[_HEADERS.get(column, COLUMNS[column][0]) for column in columns]]


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, _NARROWEST), subsequent_indent="  ") or [""]


def _fitted(rows: Sequence[Sequence[str]], right: Sequence[bool], width: int) -> list[int]:
    """The width of each column; where all would be too wide, shapes and then names are shortened, numbers never."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(right))]
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    texts = [column for column, is_number in enumerate(right) if column and not is_number]
    for columns, narrowest in ((texts, _NARROW), ([0], _NARROW), (texts, _NARROWEST), ([0], _NARROWEST)):
        for column in sorted(columns, key=widths.__getitem__, reverse=True):
            given = max(min(excess, widths[column] - narrowest), 0)
            widths[column] -= given
            excess -= given
    return widths


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool]) -> str:
    fields = []
    for cell, width, on_the_right in zip(cells, widths, right, strict=True):
        text = _cut(cell, width)
        fields.append(text.rjust(width) if on_the_right else text.ljust(width))
    return _GAP.join(fields).rstrip()


def _cut(text: str, width: int) -> str:
    """What is too long loses its middle: names differ at their ends."""
    if len(text) <= width:
        return text
    kept = width - 1
    tail = kept // 3
    return f"{text[: kept - tail]}…{text[len(text) - tail :]}"
