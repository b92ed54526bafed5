"""A picture in Mermaid's flowchart language, which GitHub, GitLab and MkDocs draw inside a README."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torchkutils.models.picture.boxes import DRAWN_ARROWS, Arrow, Box
from torchkutils.models.picture.drawing import Drawing
from torchkutils.models.picture.labels import frame_title, lines_of, printable, shapes_of
from torchkutils.models.picture.layer_kinds import PALETTE
from torchkutils.models.picture.picture_graph import PictureGraph

# Mermaid's own limits where nobody changes them, as on GitHub.
MOST_ARROWS = 500
LONGEST_TEXT = 50_000
# What ends a frame.
_END = "end"


def mermaid_text(drawing: Drawing) -> str:
    """A drawing as a flowchart; where it is over Mermaid's limits, its first line is a comment that says so."""
    picture = drawing.graph()
    text = "\n".join(_lines(drawing, picture)) + "\n"
    arrows = text.count("--> ") + text.count("-.-> ") + text.count("-->|") + text.count("-.->|")
    if arrows <= MOST_ARROWS and len(text) <= LONGEST_TEXT:
        return text
    return (
        f"%% {arrows:,} arrows, {len(text):,} characters: Mermaid draws up to {MOST_ARROWS} arrows and "
        f"{LONGEST_TEXT:,} characters; give a smaller depth or fold=True\n{text}"
    )


def _lines(drawing: Drawing, picture: PictureGraph) -> Iterator[str]:
    yield f"flowchart {drawing.look.rankdir}"
    # Keys hold names of functions, which may be words of Mermaid's own.
    names = {key: f"b{number}" for number, key in enumerate(picture.boxes)}
    yield from _boxes(drawing, picture, names)
    for arrow in picture.arrows:
        yield from _arrows(arrow, names)
    yield from _classes(drawing, picture, names)


def _boxes(drawing: Drawing, picture: PictureGraph, names: dict[str, str]) -> Iterator[str]:
    """Boxes inside their frames; a stack instead of recursion, since models nest deeper than Python."""
    inner: dict[str | None, list[str]] = {}
    for frame, around in picture.clusters.items():
        inner.setdefault(around, []).append(frame)
    boxes: dict[str | None, list[Box]] = {}
    for box in picture.boxes.values():
        boxes.setdefault(box.cluster, []).append(box)
    numbers = {frame: number for number, frame in enumerate(picture.clusters)}
    depth = 1
    stack: list[str | None] = [None]
    while stack:
        here = stack.pop()
        if here == _END:
            depth -= 1
            yield f"{'  ' * depth}end"
            continue
        if here is not None:
            yield f'{"  " * depth}subgraph f{numbers[here]}["{escaped(frame_title(picture, here))}"]'
            depth += 1
            stack.append(_END)
        for box in boxes.get(here, ()):
            yield f"{'  ' * depth}{names[box.key]}{_shape(box, drawing, picture)}"
        stack.extend(reversed(inner.get(here, [])))


def _shape(box: Box, drawing: Drawing, picture: PictureGraph) -> str:
    lines = lines_of(box, picture, drawing.look, drawing.facts)
    shapes = shapes_of(box, drawing.look)
    if shapes is not None:
        lines += [f"input: {shapes[0]}", f"output: {shapes[1]}"]
    label = f'"{"<br/>".join(map(escaped, lines))}"'
    return f"([{label}])" if box.kind in ("input", "output") else f"[{label}]"


def _arrows(arrow: Arrow, names: dict[str, str]) -> Iterator[str]:
    line = "-.->" if arrow.guessed else "-->"
    source, target = names[arrow.source], names[arrow.target]
    if arrow.count > DRAWN_ARROWS:
        yield f'  {source} {line}|"×{arrow.count}"| {target}'
        return
    for _ in range(arrow.count):
        yield f"  {source} {line} {target}"


def _classes(drawing: Drawing, picture: PictureGraph, names: dict[str, str]) -> Iterator[str]:
    """Which boxes are dashed, red, or have the colour of a kind, and how that looks."""
    members: dict[str, list[str]] = {}
    styles = {"dashed": "stroke-dasharray:5", "failed": "stroke:#ff0000,stroke-width:2px"}
    for key, box in picture.boxes.items():
        kind = drawing.kind_of(box)
        if kind:
            members.setdefault(kind, []).append(names[key])
            styles[kind] = f"fill:{PALETTE[kind].fill},color:{PALETTE[kind].text},stroke:#333333"
        if box.untraced or box.kind in ("parameter", "buffer", "constant"):
            members.setdefault("dashed", []).append(names[key])
        if box.failed:
            members.setdefault("failed", []).append(names[key])
    for name, boxes in members.items():
        yield f"  classDef {name} {styles[name]}"
        yield f"  class {','.join(boxes)} {name}"


def escaped(text: str) -> str:
    """Text inside a quoted label, character for character: no markup, no entity, no end of the label.

    >>> escaped('say "<b>" & #1;')
    'say #quot;#lt;b#gt;#quot; #amp; #35;1#59;'
    """
    return _ICON.sub(r"\1#58;", printable(text).translate(_ENTITIES))


# "fa:fa-car" is an icon of Font Awesome.
_ICON = re.compile(r"(fa[a-z]?):(?=fa-)")


# Entities are written with a number sign; backticks begin Markdown, asterisks its emphasis, two dollar signs a formula.
_ENTITIES = str.maketrans(
    {
        "#": "#35;",
        ";": "#59;",
        "&": "#amp;",
        '"': "#quot;",
        "<": "#lt;",
        ">": "#gt;",
        "`": "#96;",
        "\\": "#92;",
        "*": "#42;",
        "$": "#36;",
        "[": "#91;",
        "]": "#93;",
        "{": "#123;",
        "}": "#125;",
        "|": "#124;",
    }
)
