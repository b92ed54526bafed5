"""Titles of frames in a drawn SVG, moved to where no arrow crosses them; Graphviz places them before its arrows."""

from __future__ import annotations

import html
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torchkutils.models.render import is_dense, render

# A frame as Graphviz writes it: its title, its border, and the text on it.
_FRAME = re.compile(
    r'(<g id="\w+" class="cluster">\s*<title>([^<]*)</title>\s*(?:<g [^>]*><a [^>]*>\s*)?'
    r'<(?:path|polygon) [^>]*?(?: d| points)="([^"]*)"/>\s*)'
    r'<text xml:space="preserve" text-anchor="\w+" x="[-\d.]+" y="([-\d.]+)"([^>]*)font-size="([\d.]+)"([^>]*)>'
    r"([^<]*)</text>"
)
_EDGE = re.compile(r'<g id="\w+" class="edge">(.*?)</g>', re.DOTALL)
_LINE = re.compile(r'<(path|polygon) [^>]*?(?: d| points)="([^"]*)"')
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_TRAILING = re.compile("(?: |&#160;)+$")
# Parts of its size that a title may have where there is no free position at full size.
_SMALLER = (1.0, 0.9, 0.8, 0.75)
# Between a frame and its title, in points.
_MARGIN = 8.0
# Between a title and an arrow.
_GAP = 4.0
# How wide a space is, in sizes of the font.
_SPACE = 0.3
_NARROW = " fijlrtI.,:;'|!()[]/"
_WIDE = "mwMW@%"
# Letters up to here are as wide as Latin ones.
_LATIN = 0x24F
# A Bézier curve is followed in so many steps.
_STEPS = 8
# Arrows are looked up by their height, in strips of so many points.
_STRIP = 60.0


class Piece(NamedTuple):
    """A straight piece of an arrow, by its box."""

    left: float
    right: float
    top: float
    bottom: float


def rendered(source: str, picture_format: str, *, dpi: float = 96) -> bytes:
    """As `render`, with the titles of frames moved out of the way of arrows.

    Other formats than SVG are laid out twice for it where there are frames: the second time with spaces before a title.

    Raises:
        ValueError, RuntimeError: As `render`.
    """
    if picture_format == "svg":
        return with_free_titles(render(source, "svg", dpi=dpi).decode()).encode()
    if "\tsubgraph " in source and not is_dense(source):
        source = _with_spaces(source, render(source, "svg", dpi=dpi).decode())
    return render(source, picture_format, dpi=dpi)


class _Title(NamedTuple):
    """A frame's title in an SVG: what stands before and behind it, and where it is free of arrows.

    Attributes:
        frame: The frame's name in the graph.
        head: The frame, up to the title's text.
        label: The title, without the spaces behind it.
        spaces: How many these are.
        left: Where Graphviz begins the label.
        position: Where nothing crosses the title; None where there is no such position.
        part: Of its size, for this position.
        size: Of the font.
        attributes: Of the text, before and behind its size.
    """

    frame: str
    head: str
    label: str
    spaces: int
    left: float
    position: float | None
    part: float
    size: float
    attributes: tuple[str, str]


def with_free_titles(svg: str) -> str:
    """The same picture with each frame's title as far left as no arrow crosses it, smaller where it must be.

    Where everything is crossed, it stands at the left. A title's label may end in spaces, which make its frame wide
    enough for a title beside an arrow.
    """
    if 'class="cluster"' not in svg:
        return svg
    arrows = _Arrows(svg)

    def moved(frame: re.Match[str]) -> str:
        title = _title(frame, arrows, _SMALLER)
        position, part = (title.left, 1.0) if title.position is None else (title.position, title.part)
        before, after = title.attributes
        return (
            f'{title.head}<text xml:space="preserve" text-anchor="start" x="{position:.2f}"{before}'
            f'font-size="{part * title.size:.2f}"{after}>{title.label}</text>'
        )

    return _FRAME.sub(moved, svg)


def _title(frame: re.Match[str], arrows: _Arrows, sizes: Sequence[float]) -> _Title:
    """Where a frame's title has a position, at the largest of the sizes that has one."""
    head, name, border, y, before, size, after, text = frame.groups()
    label = _TRAILING.sub("", text)
    spaces = len(text[len(label) :].replace("&#160;", " "))
    width = _width(html.unescape(label))
    sides = [float(number) for number in _NUMBER.findall(border)[::2]]
    left, right = min(sides) + _MARGIN, max(sides) - _MARGIN
    position, part = None, 1.0
    for part in sizes:
        height = part * float(size)
        across = arrows.crossing(float(y) - height, float(y) + 0.3 * height)
        position = _free_position(across, left, right, width * height)
        if position is not None:
            break
    attributes = (f' y="{y}"{before}', after)
    return _Title(html.unescape(name), head, label, spaces, left, position, part, float(size), attributes)


def _with_spaces(source: str, svg: str) -> str:
    """The same graph with as many of the spaces behind a title before it as move it out of the way.

    A label keeps its width by that, and with it the layout stays what it was.
    """
    arrows = _Arrows(svg)
    for frame in _FRAME.finditer(svg):
        title = _title(frame, arrows, (1.0,))
        if title.position is None or not title.spaces:
            continue
        moved = min(title.spaces, round((title.position - title.left) / (_SPACE * title.size)))
        line = re.compile(rf'(\tsubgraph "?{re.escape(title.frame)}"? {{\n\tgraph \[label=")([^"]*?)( {{{moved}}})(" )')
        source = line.sub(lambda found: f"{found[1]}{found[3]}{found[2]}{found[4]}", source, count=1)
    return source


def _width(text: str) -> float:
    """How wide a text is in Helvetica and the fonts of its measure, in sizes of the font; other scripts are square."""
    narrow, wide = sum(map(text.count, _NARROW)), sum(map(text.count, _WIDE))
    capitals = sum(mark.isupper() for mark in text) - sum(map(text.count, "IMW"))
    foreign = sum(ord(mark) > _LATIN for mark in text)
    others = len(text) - narrow - wide - capitals - foreign
    return 0.28 * narrow + 0.9 * wide + 0.72 * capitals + foreign + 0.56 * others


def _free_position(crossing: list[tuple[float, float]], left: float, right: float, width: float) -> float | None:
    """The leftmost position between two borders that is free of what crosses; None where there is none."""
    position = left
    for begin, end in crossing:
        if end > position and begin < position + width:
            position = end
    return position if position + width <= right + _GAP else None


class _Arrows:
    """The arrows of a picture, by their height."""

    def __init__(self, svg: str) -> None:
        self._strips: dict[int, list[Piece]] = {}
        for piece in _pieces(svg):
            for strip in range(int(piece.top // _STRIP), int(piece.bottom // _STRIP) + 1):
                self._strips.setdefault(strip, []).append(piece)

    def crossing(self, top: float, bottom: float) -> list[tuple[float, float]]:
        """What arrows take of the width between two heights, from left to right."""
        strips = range(int(top // _STRIP), int(bottom // _STRIP) + 1)
        near = {piece for strip in strips for piece in self._strips.get(strip, ())}
        return sorted(
            (piece.left - _GAP, piece.right + _GAP) for piece in near if piece.top <= bottom and piece.bottom >= top
        )


def _pieces(svg: str) -> Iterator[Piece]:
    """The arrows of a picture, curves as short straight pieces, heads as they are."""
    for edge in _EDGE.findall(svg):
        for kind, numbers in _LINE.findall(edge):
            flat = [float(number) for number in _NUMBER.findall(numbers)]
            points = list(zip(flat[::2], flat[1::2], strict=True))
            if kind == "polygon":
                yield _box(points)
                continue
            for start in range(0, len(points) - 3, 3):
                curve = [_on_curve(points[start : start + 4], step / _STEPS) for step in range(_STEPS + 1)]
                for one, other in itertools.pairwise(curve):
                    yield _box([one, other])


def _on_curve(points: list[tuple[float, float]], part: float) -> tuple[float, float]:
    """A point of a cubic Bézier curve."""
    rest = 1 - part
    weights = (rest**3, 3 * rest**2 * part, 3 * rest * part**2, part**3)
    x = sum(weight * point[0] for weight, point in zip(weights, points, strict=True))
    y = sum(weight * point[1] for weight, point in zip(weights, points, strict=True))
    return x, y


def _box(points: list[tuple[float, float]]) -> Piece:
    across, down = [x for x, _ in points], [y for _, y in points]
    return Piece(min(across), max(across), min(down), max(down))
