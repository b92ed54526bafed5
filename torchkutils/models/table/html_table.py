"""A summary as HTML for notebooks: levels that fold without a script, light and dark."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

_OPEN_UP_TO = 60
_LIGHT = "--tk-text:#1f2328;--tk-back:#ffffff;--tk-rule:#d0d7de;--tk-hover:#f3f5f7;--tk-faint:#59636e;--tk-bad:#b3261e"
_DARK = "--tk-text:#e6edf3;--tk-back:#111111;--tk-rule:#3d444d;--tk-hover:#22272e;--tk-faint:#9198a1;--tk-bad:#ff8a80"
# What the pages around say of their theme: JupyterLab; VS Code; Colab; Sphinx, Furo, marimo; Bootstrap.
_LIGHT_PAGES = (
    'body[data-jp-theme-light="true"]',
    "body.vscode-light",
    "body.vscode-high-contrast-light",
    'html[theme="light"]',
    '[data-theme="light"]',
    '[data-bs-theme="light"]',
)
_DARK_PAGES = (
    'body[data-jp-theme-light="false"]',
    "body.vscode-dark",
    "body.vscode-high-contrast:not(.vscode-high-contrast-light)",
    'html[theme="dark"]',
    '[data-theme="dark"]',
    '[data-bs-theme="dark"]',
)


def _under(pages: Sequence[str], colours: str) -> str:
    return f"{','.join(f'{page} .tk-summary' for page in pages)}{{{colours}}}"


_THEMES = f"{_under(_LIGHT_PAGES, _LIGHT)}\n{_under(_DARK_PAGES, _DARK)}"
_STYLE = f"""
.tk-summary{{{_LIGHT};color:var(--tk-text);background:var(--tk-back);overflow-x:auto;padding:.5em;
font:13px/1.6 ui-monospace,Menlo,Consolas,"DejaVu Sans Mono",monospace}}
@media (prefers-color-scheme:dark){{.tk-summary{{{_DARK}}}}}
{_THEMES}
.tk-summary .tk-row{{display:grid;min-width:max-content;border-bottom:1px solid var(--tk-rule);list-style:none}}
.tk-summary .tk-head{{font-weight:600;border-bottom-width:2px}}
.tk-summary .tk-row>span{{white-space:pre;padding-right:2ch}}
.tk-summary .tk-number{{text-align:right}}
.tk-summary summary.tk-row{{cursor:pointer}}
.tk-summary summary.tk-row::-webkit-details-marker{{display:none}}
.tk-summary .tk-row>span:first-child::before{{content:"  "}}
.tk-summary summary.tk-row>span:first-child::before{{content:"▸ "}}
.tk-summary details[open]>summary.tk-row>span:first-child::before{{content:"▾ "}}
.tk-summary .tk-row:hover{{background:var(--tk-hover)}}
.tk-summary .tk-failed{{color:var(--tk-bad);font-weight:600}}
.tk-summary .tk-totals{{color:var(--tk-faint);padding-top:.5em}}
"""


@dataclass(frozen=True)
class Entry:
    """A row of the table.

    Attributes:
        level: 0 for the outermost; rows of higher levels that follow fold into it.
        cells: Text of each column, the first one without indentation; several lines are divided by a newline.
        failed: Whether the row is marked.
    """

    level: int
    cells: tuple[str, ...]
    failed: bool = False


def html_table(
    title: str, header: Sequence[str], entries: Sequence[Entry], totals: Sequence[str], numeric: Sequence[bool]
) -> str:
    """A self-contained fragment; every text is escaped, rows with others below them fold."""
    columns = [_width(header, entries, number) for number in range(len(header))]
    grid = f"grid-template-columns:{' '.join(f'{width}ch' for width in columns)}"
    pieces = [f'<div class="tk-summary"><style>{_STYLE}</style><div>{html.escape(title)}</div>']
    pieces.append(f'<div class="tk-row tk-head" style="{grid}">{_cells(header, numeric, 0)}</div>')
    unfolded: list[int] = []
    for number, entry in enumerate(entries):
        while unfolded and unfolded[-1] >= entry.level:
            unfolded.pop()
            pieces.append("</details>")
        failed = " tk-failed" if entry.failed else ""
        style = f'class="tk-row{failed}" style="{grid}"'
        text = _cells(entry.cells, numeric, entry.level)
        if _folds(entries, number):
            opened = " open" if len(entries) <= _OPEN_UP_TO or _failure_below(entries, number) else ""
            pieces.append(f"<details{opened}><summary {style}>{text}</summary>")
            unfolded.append(entry.level)
        else:
            pieces.append(f"<div {style}>{text}</div>")
    pieces.append("</details>" * len(unfolded))
    pieces.append(f'<div class="tk-totals">{"<br>".join(map(html.escape, totals))}</div></div>')
    return "".join(pieces)


def _folds(entries: Sequence[Entry], number: int) -> bool:
    """Whether the next entry lies below this one."""
    return number + 1 < len(entries) and entries[number + 1].level > entries[number].level


def _failure_below(entries: Sequence[Entry], number: int) -> bool:
    for entry in entries[number + 1 :]:
        if entry.level <= entries[number].level:
            return False
        if entry.failed:
            return True
    return False


def _width(header: Sequence[str], entries: Sequence[Entry], column: int) -> int:
    """Characters that the column needs: the fold mark, the indentation and a gap to its neighbour included."""
    lengths = [len(header[column])]
    for entry in entries:
        indentation = 0 if column else 2 * entry.level
        lengths += [indentation + len(line) for line in entry.cells[column].split("\n")]
    return max(lengths) + (2 if column else 4)


def _cells(cells: Sequence[str], numeric: Sequence[bool], level: int) -> str:
    texts = []
    for number, (cell, right) in enumerate(zip(cells, numeric, strict=True)):
        indent = f' style="padding-left:{2 * level}ch"' if number == 0 and level else ""
        number_class = ' class="tk-number"' if right else ""
        texts.append(f"<span{indent}{number_class}>{html.escape(cell)}</span>")
    return "".join(texts)
