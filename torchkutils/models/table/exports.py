"""A summary's rows for other programs: CSV, Markdown, LaTeX, pandas, rich."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

from torchkutils import _lazy
from torchkutils.models.table.rows import SummaryRow
from torchkutils.models.table.view import is_numeric

_MARKDOWN_NUMBERS = str.maketrans({mark: f"&#{ord(mark)};" for mark in "\\|<>`*_[]~$&"})
_LATEX_MARKS = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        **{mark: f"\\{mark}" for mark in "&%$#_{}"},
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "≥": r"$\geq$",
        "×": r"$\times$",
        "–": "--",
        "▸": r"$\triangleright$",
    }
)


def rows_as_dicts(rows: Sequence[SummaryRow]) -> list[dict[str, Any]]:
    """The rows as dicts of what JSON can hold."""
    return [{name: _as_lists(value) for name, value in dataclasses.asdict(row).items()} for row in rows]


def _as_lists(value: Any) -> Any:
    return list(map(_as_lists, value)) if isinstance(value, tuple) else value


def csv_text(rows: Sequence[SummaryRow]) -> str:
    """A line of headers and a line a row; what a field holds several of is divided by spaces."""
    buffer = io.StringIO()
    names = [field.name for field in dataclasses.fields(SummaryRow)]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_csv_field(getattr(row, name)) for name in names])
    return buffer.getvalue()


def _csv_field(value: Any) -> Any:
    if value is None:
        return ""
    if not isinstance(value, tuple):
        return value
    return " ".join([str(part).replace(" ", "") for part in value])


def data_frame(rows: Sequence[SummaryRow]) -> Any:
    """A pandas DataFrame with a row a module and the fields of `SummaryRow` as columns."""
    names = [field.name for field in dataclasses.fields(SummaryRow)]
    return _lazy.pandas.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)


def markdown_text(title: str, table: Sequence[Sequence[str]], columns: Sequence[str], totals: Sequence[str]) -> str:
    """A Markdown table; the first of `table` is the header."""
    header, *rows = [f"| {' | '.join(map(_markdown, fields))} |" for fields in table]
    rules = ["---", *["---:" if is_numeric(column) else "---" for column in columns]]
    lines = [_markdown(title), "", header, f"| {' | '.join(rules)} |", *rows, ""]
    return "\n".join([*lines, *[f"{total}  " for total in totals]])


def _markdown(text: str) -> str:
    """Text in which each character that Markdown or HTML reads as markup is written as its number."""
    return text.translate(_MARKDOWN_NUMBERS).replace("\n", " ").replace("  ", "&nbsp;&nbsp;")


def latex_text(table: Sequence[Sequence[str]], columns: Sequence[str], totals: Sequence[str]) -> str:
    """A LaTeX `tabular` that needs no package; the first of `table` is the header."""
    alignment = "".join(["l", *["r" if is_numeric(column) else "l" for column in columns]])
    header, *rows = [f"{' & '.join(map(_latex, fields))} \\\\" for fields in table]
    lines = [f"\\begin{{tabular}}{{{alignment}}}", r"\hline", header, r"\hline", *rows, r"\hline"]
    lines += [f"\\multicolumn{{{len(alignment)}}}{{l}}{{{_latex(total)}}} \\\\" for total in totals]
    return "\n".join([*lines, r"\end{tabular}"])


def _latex(text: str) -> str:
    escaped = text.translate(_LATEX_MARKS)
    words = escaped.lstrip(" ")
    indentation = len(escaped) - len(words)
    return f"\\hspace*{{{indentation // 2}em}}{words}" if indentation else words


def rich_table(
    title: str, header: Sequence[str], rows: Sequence[Sequence[str]], columns: Sequence[str], totals: Sequence[str]
) -> Any:
    """A `rich.table.Table`; no text of the model's is read as rich's markup."""
    # Only rich itself asks for this, so it is there.
    from rich.table import Table
    from rich.text import Text as text  # noqa: N813 - each piece of text is one

    table = Table(title=text(title), caption=text("\n".join(totals)), caption_justify="left", title_justify="left")
    table.add_column(text(header[0]), no_wrap=True, overflow="ellipsis")
    for name, column in zip(header[1:], columns, strict=True):
        table.add_column(text(name), justify="right" if is_numeric(column) else "left", overflow="ellipsis")
    for fields in rows:
        table.add_row(*[text(field) for field in fields])
    return table
