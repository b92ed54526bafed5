"""Text for Graphviz's record labels: nothing that a model calls itself can end a field, a label or the graph."""

from __future__ import annotations

from dataclasses import dataclass

from torchkutils.models.picture.boxes import Box
from torchkutils.models.picture.picture_graph import PictureGraph, subtree
from torchkutils.models.records import Trace
from torchkutils.models.tree.totals import held_in

# A longer name would make one box wider than the rest of the picture; its tooltip has all of it.
LONGEST_TITLE = 120
_LONGEST_ERROR = 160


def escape_record(text: str) -> str:
    """Text as one field of a record label shows it, character for character.

    >>> escape_record("Blk<2,3>|{x}")
    'Blk\\\\<2,3\\\\>\\\\|\\\\{x\\\\}'
    """
    text = escape_label(text)
    for mark in "{}|<>":
        text = text.replace(mark, f"\\{mark}")
    # Records drop spaces at the ends and merge those in a row.
    return text.replace("  ", "\\ \\ ")


def escape_label(text: str) -> str:
    """Text as a plain label shows it: no escape sequences, no entities, no line breaks, no control characters."""
    clean = "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)
    return clean.replace("&", "&amp;").replace("\\", "\\\\").replace('"', "&quot;")


def title_of(box: Box, *, names: bool = True, cut: bool = True) -> str:
    """`name: Class` with the number of calls, shortened in the middle."""
    title = box.title
    if box.class_name:
        title = f"{box.title}: {box.class_name}" if names else box.class_name
    if cut and len(title) > LONGEST_TITLE:
        title = f"{title[: LONGEST_TITLE - 41]}…{title[-40:]}"
    if box.folded > 1:
        return f"{box.folded} × {box.class_name} ({box.title} … {box.until})"
    if len(box.calls) < 2:
        return title
    return f"{title} × {len(box.calls)}" if box.repeated else f"{title} ({len(box.calls)} calls)"


@dataclass(frozen=True)
class Look:
    """What stands in a box.

    Attributes:
        shapes: Input and output shapes; a box that failed always shows them.
        names: The name before the class.
        dtype: The dtypes of what it gives.
        params: How many parameters it holds, those below it among them.
        trainable: Whether they require a gradient.
        across: The graph runs from left to right or back, where Graphviz turns records by a right angle.
    """

    shapes: bool = False
    names: bool = True
    dtype: bool = False
    params: bool = False
    trainable: bool = False
    across: bool = False


@dataclass(frozen=True)
class Drawing:
    """What a graph was drawn from: enough to draw it again at other depths.

    Attributes:
        trace: What ran.
        look: What stands in a box.
        rankdir: The direction of the arrows.
        functions: Whether functions between modules have boxes.
        depth: Down to which modules are open.
        rolled: As in `PictureGraph`.
        fold: Likewise.
    """

    trace: Trace
    look: Look
    rankdir: str
    functions: bool
    depth: int
    rolled: bool | None = None
    fold: bool = False


def label_of(box: Box, graph: PictureGraph, look: Look) -> str:
    """The record label of a box."""
    lines = [title_of(box, names=look.names)]
    facts = [box.dtype] if look.dtype and box.dtype else []
    facts += parameter_facts(box, graph, params=look.params, trainable=look.trainable)
    if facts:
        lines.append(" · ".join(facts))
    if box.failed:
        failure = graph.trace.failure
        lines.append(failed_text("" if failure is None else failure.error))
    label = "\\n".join(escape_record(line) for line in lines)
    if look.shapes or box.failed:
        outputs = "none" if box.failed else box.outputs
        label += f"|{{input:|output:}}|{{{{{escape_record(box.inputs)}}}|{{{escape_record(outputs)}}}}}"
        return f"{{{label}}}" if look.across else label
    return label


def failed_text(error: str) -> str:
    """What forward raised, on one line that does not make the picture wider than it is.

    >>> failed_text("ValueError: two\\nlines")
    'FAILED: ValueError: two lines'
    """
    line = " ".join(error.split())
    return f"FAILED: {line[:_LONGEST_ERROR]}{'…' if len(line) > _LONGEST_ERROR else ''}"


def parameter_facts(box: Box, graph: PictureGraph, *, params: bool, trainable: bool) -> list[str]:
    """How many parameters a module holds and whether they are trained."""
    if box.module is None or not (params or trainable):
        return []
    facts = []
    if params:
        below = held_in(graph.trace, box.module)
        facts.append("params: ?" if below.lazy else f"params: {below.elements:,}")
    held = [tensor for member in subtree(graph.trace, box.module) for tensor in member.parameters]
    if trainable and held:
        flags = {tensor.requires_grad for tensor in held}
        facts.append("partly trainable" if len(flags) > 1 else "trainable" if flags == {True} else "frozen")
    return facts
