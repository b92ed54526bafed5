"""A picture in the DOT language."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torchkutils import _lazy
from torchkutils.models.picture.boxes import DRAWN_ARROWS, Arrow, Box
from torchkutils.models.picture.drawing import Drawing
from torchkutils.models.picture.labels import escape_label, failed_text, frame_title, label_of, title_of
from torchkutils.models.picture.layer_kinds import PALETTE
from torchkutils.models.picture.look import Look
from torchkutils.models.picture.picture_graph import PictureGraph

if TYPE_CHECKING:
    from torchkutils.models.picture.digraph import ModelDigraph

_subgraph_numbers = itertools.count()
# With colours the boxes are closer together, so that more of a model is seen at once.
_CLOSE = {"nodesep": "0.2", "ranksep": "0.3"}
# How many spaces are as wide as a letter of a title, on average.
_SPACES_PER_LETTER = 1.9
# A longer title is as wide as several boxes.
_WIDENED = 60
# What needs no quotes in the DOT language.
_UNQUOTED = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*|-?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)").fullmatch
_KEYWORDS = frozenset(["node", "edge", "graph", "digraph", "subgraph", "strict"])
# What ends a frame in the DOT language.
_END = "\t}\n"


def draw(
    drawing: Drawing, picture: PictureGraph | None = None, *, subgraph: bool = False, tooltips: bool = True
) -> ModelDigraph:
    """A drawing, or a picture of it at another depth, as a graph.

    Raises:
        ValueError: The look's `layer_range` names no layer that is drawn.
    """
    from torchkutils.models.picture.digraph import ModelDigraph

    trace, look = drawing.trace, drawing.look
    picture = drawing.graph() if picture is None else picture
    # Two models in one graph must not share names of boxes.
    prefix = f"s{next(_subgraph_numbers)}_" if subgraph else ""
    # Graphviz's own default for a file is the graph's name: no slashes, no angle brackets, no quotes.
    name = re.sub(r"[^\w.-]", "_", trace.model_name) or "model"
    graph = ModelDigraph(name=f"cluster_{prefix}{name}" if subgraph else name)
    graph.model_name, graph.caption, graph.dots_per_inch = trace.model_name, str(trace.engine), look.dpi
    graph.drawing = drawing
    graph.attr("graph", rankdir=look.rankdir, dpi=str(look.dpi), fontname="Helvetica", **_spacing(look))
    _add_caption(graph, picture, subgraph)
    graph.attr("node", shape="record", fontname="Helvetica")
    if look.coloured:
        graph.attr("edge", arrowsize="0.7")
    _Writer(graph, picture, drawing, prefix, tooltips).write()
    return graph


def _spacing(look: Look) -> dict[str, str]:
    """How arrows run, and the distances between boxes, where they differ from Graphviz's defaults."""
    spacing = {} if look.splines is None else {"splines": look.splines}
    return spacing | _CLOSE if look.coloured else spacing


def _add_caption(graph: ModelDigraph, picture: PictureGraph, subgraph: bool) -> None:
    """The model's name for a graph inside another one; what ran, where it was no forward; why the model failed."""
    trace = picture.trace
    if subgraph:
        graph.attr("graph", label=_plain(trace.model_name))
    elif trace.engine.ran == "structure":
        graph.attr("graph", label=_plain(graph.caption), fontsize="10")
    if trace.failure is not None and picture.failed_cluster == 0:
        graph.attr("graph", label=_plain(failed_text(trace.failure.error)), fontcolor="red")


class _Writer:
    """Boxes, frames and arrows of one picture."""

    def __init__(self, graph: Any, picture: PictureGraph, drawing: Drawing, prefix: str, tooltips: bool) -> None:
        self._graph, self._picture, self._drawing = graph, picture, drawing
        self._prefix, self._tooltips = prefix, tooltips

    def write(self) -> None:
        """Boxes and frames, then arrows; a stack instead of recursion, since models nest deeper than Python."""
        boxes: dict[str | None, list[Box]] = {}
        for box in self._picture.boxes.values():
            boxes.setdefault(box.cluster, []).append(box)
        inner: dict[str | None, list[str]] = {}
        for frame, around in self._picture.clusters.items():
            inner.setdefault(around, []).append(frame)
        stack: list[str | None] = [None]
        while stack:
            here = stack.pop()
            if here == _END:
                self._graph.body.append(_END)
                continue
            if here is not None:
                self._graph.body.extend(self._frame_head(here))
                stack.append(_END)
            for box in boxes.get(here, ()):
                self._box(box)
            stack.extend(reversed(inner.get(here, [])))
        for arrow in self._picture.arrows:
            self._arrow(arrow)

    def _frame_head(self, frame: str) -> Iterable[str]:
        failed = self._picture.cluster_modules[frame] == self._picture.failed_cluster
        colours = "color=red fontcolor=red" if failed else "color=gray"
        label = escape_label(frame_title(self._picture, frame))
        if not self._drawing.look.across and len(label) <= _WIDENED:
            # One arrow enters a frame in its middle: a label twice as wide as its text leaves the middle free.
            label += " " * math.ceil(len(label) * _SPACES_PER_LETTER)
        yield f'\tsubgraph "cluster_{self._prefix}{frame}" {{\n'
        yield f'\tgraph [label="{label}" labeljust=l style=rounded {colours} fontname=Helvetica fontsize=12]\n'

    def _box(self, box: Box) -> None:
        attributes = {"label": label_of(box, self._picture, self._drawing.look, self._drawing.facts)}
        attributes |= sorted(self._marks(box).items())
        self._graph.body.append(_statement(self._name(box.key), attributes))

    def _marks(self, box: Box) -> dict[str, str]:
        marks = {"tooltip": escape_label(title_of(box, cut=False))} if self._tooltips else {}
        styles = []
        if box.untraced or box.kind in ("parameter", "buffer", "constant"):
            styles.append("dashed")
        if box.kind in ("input", "output") or self._drawing.look.coloured:
            styles.append("rounded")
        kind = self._drawing.kind_of(box)
        if kind:
            styles.append("filled")
            marks |= {"fillcolor": PALETTE[kind].fill, "fontcolor": PALETTE[kind].text, "class": kind}
        if styles:
            marks["style"] = ",".join(styles)
        if box.failed:
            marks |= {"color": "red", "penwidth": "2"} | ({} if kind else {"fontcolor": "red"})
        return marks

    def _arrow(self, arrow: Arrow) -> None:
        ends = f"{self._name(arrow.source)} -> {self._name(arrow.target)}"
        style = {"style": "dashed"} if arrow.guessed else {}
        if arrow.count > DRAWN_ARROWS:
            # Graphviz draws no label on an orthogonal arrow, only beside it.
            name = "xlabel" if self._drawing.look.splines == "ortho" else "label"
            self._graph.body.append(_statement(ends, {name: f"×{arrow.count}"} | style))
            return
        self._graph.body += [_statement(ends, style)] * arrow.count

    def _name(self, key: str) -> str:
        """A box's name; that of a function may hold anything."""
        name = self._prefix + key
        return name if name.isascii() and name.isidentifier() else f'"{escape_label(name)}"'


def _statement(subject: str, attributes: Mapping[str, str]) -> str:
    """One line of a graph. `Digraph.node` and `edge` write the same, and take several times as long."""
    if not attributes:
        return f"\t{subject}\n"
    listed = " ".join([f"{name}={_quoted(value)}" for name, value in attributes.items()])
    return f"\t{subject} [{listed}]\n"


def _quoted(text: str) -> str:
    """A name or a value, escaped already, as the DOT language takes it."""
    return text if _UNQUOTED(text) and text.lower() not in _KEYWORDS else f'"{text}"'


def _plain(text: str) -> Any:
    """A label that Graphviz does not read as HTML, even with angle brackets in it."""
    return _lazy.graphviz.nohtml(escape_label(text))
