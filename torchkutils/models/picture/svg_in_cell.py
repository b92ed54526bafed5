"""A drawn SVG as a notebook shows it in a cell: as wide as the cell, not too high, in the notebook's own colours.

As HTML the picture has no background, and its lines and texts have the colour of the text around it (`currentColor`):
so it follows the theme of JupyterLab, VS Code or any other page. Text on a filled box keeps its colour. As an image
(`image/svg+xml`) the picture is a document of its own, and JupyterLab does not tell images its theme. The rule for
`svg:root` matches only there: it sets a background, light or dark by the reader's `prefers-color-scheme`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HIGHEST = 1_000.0
"""Pixels that a picture may be high."""
# A picture is shrunk as a whole down to this part of its size; of a higher one the beginning is shown, readable.
_SMALLEST = 0.3
_READABLE = 0.7
_NOTE_HEIGHT = 24.0
_NOTE_LETTER = 6.4
# Graphviz writes points where a page counts pixels of 96 to an inch, and counts those in points of 72.
_PIXELS = 72 / 96

# How it looks as an image of its own.
_ALONE = (
    "<style>svg:root{color:#000;background:#fff}"
    "@media (prefers-color-scheme:dark){svg:root{color:#ddd;background:#1e1e1e}}</style>\n"
)
_PROLOG = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'

_HEAD = re.compile(r'.*?<svg width="([\d.]+)pt" height="([\d.]+)pt"[^>]*>\n', re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->\n", re.DOTALL)
_BACKGROUND = re.compile(r'<polygon fill="white" stroke="none" points="[^"]*"/>\n')
_MOVED = re.compile(r'class="graph" transform="scale\(([\d.]+) [\d.]+\) rotate\(0\) translate\([-\d.]+ ([-\d.]+)\)"')
_PART = re.compile(r'<g id="(?:node|edge|clust)\d+" class="')
_LINK = re.compile(r'<g id="a_[^"]*"><a [^>]*?xlink:title="([^"]*)"[^>]*>$')
_FILLED = re.compile(r'<(?:polygon|path|ellipse) fill="(?!none"|transparent")')
_PLACES = re.compile(r' (?:points|d)="([^"]*)"')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class _Fit:
    """How much of a picture a cell shows.

    Attributes:
        width: Of what is shown, in pixels.
        height: Likewise, without the note.
        part: Of the picture's height; 1 shows all.
        note: What a reader must know; "" where all is shown in its size.
    """

    width: float
    height: float
    part: float
    note: str


def cell_bundle(svg: str, what: str, *, more: str) -> dict[str, str]:
    """The picture by MIME type: HTML, which follows the theme, and SVG for what shows no HTML; see `fitted_to_cell`."""
    fitted = fitted_to_cell(svg, what, more=more)
    return {"text/html": fitted.removeprefix(_PROLOG), "image/svg+xml": fitted}


def fitted_to_cell(svg: str, what: str, *, more: str) -> str:
    """The same picture for a notebook's cell; what Graphviz did not write comes back as it is.

    Args:
        svg: As Graphviz wrote it.
        what: What it shows, for those who hear it.
        more: How to see all of a picture that is shrunk or cut, as code.
    """
    head = _HEAD.match(svg)
    if head is None:
        return svg
    wide, high = (float(points) for points in head.groups())
    fit = _fit(wide * _PIXELS, high * _PIXELS, more)
    body = _BACKGROUND.sub("", _COMMENT.sub("", svg[head.end() :]), count=1)
    body = "\n".join(_shown(body.splitlines(), _lowest(body, high * fit.part) if fit.part < 1 else None))
    body = body.replace('"black"', '"currentColor"')
    picture = (
        f'<svg width="{fit.width:.1f}" height="{fit.height:.1f}" viewBox="0 0 {wide:.2f} {high * fit.part:.2f}" '
        f'preserveAspectRatio="xMinYMin">\n{body}\n'
    )
    width = max(fit.width, _NOTE_LETTER * len(fit.note))
    height = fit.height + (_NOTE_HEIGHT if fit.note else 0)
    return (
        f'{_PROLOG}<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(what)}" '
        f'fill="currentColor" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.1f} {height:.1f}" '
        f'style="max-width:100%;height:auto">\n{_ALONE}{picture}{_note(fit.note, height)}</svg>\n'
    )


def _fit(width: float, height: float, more: str) -> _Fit:
    if height <= HIGHEST:
        return _Fit(width, height, 1, "")
    scale = HIGHEST / height
    if scale >= _SMALLEST:
        return _Fit(width * scale, HIGHEST, 1, f"shown at {scale:.0%} of its size; {more} opens it to look around")
    part = HIGHEST / (height * _READABLE)
    return _Fit(width * _READABLE, HIGHEST, part, f"the first {part:.0%} of the picture; {more} shows all of it")


def _note(note: str, height: float) -> str:
    if not note:
        return ""
    return f'<text x="4" y="{height - 8:.0f}" font-family="sans-serif" font-size="12">{html.escape(note)}</text>\n'


def _lowest(body: str, shown: float) -> float | None:
    """The place in the graph's own coordinates below which nothing is shown."""
    moved = _MOVED.search(body)
    if moved is None:
        return None
    scale, down = map(float, moved.groups())
    return shown / scale - down


def _shown(lines: Iterable[str], lowest: float | None) -> Iterator[str]:
    """The lines of a picture, each box, frame and arrow made plain, without those that lie below."""
    part: list[str] = []
    depth = 0
    for line in lines:
        if not part and not _PART.match(line):
            yield line
            continue
        part.append(line)
        depth += line.count("<g ") - line.count("</g>")
        if depth == 0:
            if lowest is None or _top(part) <= lowest:
                yield from _plain(part)
            part = []


def _top(part: list[str]) -> float:
    """The highest place of a box, a frame or an arrow."""
    numbers = [number for line in part for places in _PLACES.findall(line) for number in _NUMBER.findall(places)[1::2]]
    return min(map(float, numbers), default=0)


def _plain(part: list[str]) -> Iterator[str]:
    """A box, frame or arrow without names of its own, which would be those of another picture in the page too.

    What Graphviz writes as a link that leads nowhere becomes a title, which a browser shows beside the pointer.
    """
    filled = any(_FILLED.match(line) for line in part) and ' class="edge' not in part[0]
    yield '<g fill="#000000">' if filled else "<g>"
    linked = 0
    for line in part[1:]:
        link = _LINK.match(line)
        if link is not None:
            linked = 2
            yield f"<title>{link[1]}</title>"
        elif linked and line in ("</a>", "</g>"):
            linked -= 1
        elif not line.startswith("<title>"):
            yield line
