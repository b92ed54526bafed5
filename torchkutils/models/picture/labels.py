"""Text for Graphviz's record labels: nothing that a model calls itself can end a field, a label or the graph."""

from __future__ import annotations

from torchkutils.models.picture.boxes import Box
from torchkutils.models.picture.layer_kinds import LayerFacts
from torchkutils.models.picture.look import Look
from torchkutils.models.picture.picture_graph import PictureGraph, subtree
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
    return printable(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', "&quot;")


def printable(text: str) -> str:
    """Text on one line, each character that has no shape replaced."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else "\N{REPLACEMENT CHARACTER}" for mark in text)


def title_of(box: Box, *, names: bool = True, cut: bool = True, inside: str = "") -> str:
    """`name: Class` with the number of calls, shortened in the middle; the name as seen from inside a module."""
    name = name_inside(box.title, inside)
    if box.folded > 1:
        return f"{box.folded} × {box.class_name} ({name} … {name_inside(box.until, inside)})"
    title = name
    if box.class_name:
        title = f"{name}: {box.class_name}" if names else box.class_name
    if cut and len(title) > LONGEST_TITLE:
        title = f"{title[: LONGEST_TITLE - 41]}…{title[-40:]}"
    if len(box.calls) < 2:
        return title
    return f"{title} × {len(box.calls)}" if box.repeated else f"{title} ({len(box.calls)} calls)"


def name_inside(path: str, module: str) -> str:
    """A path without the path of the module whose frame is around it: the frame says that part already.

    >>> name_inside("encoder.layer.0.output", "encoder.layer.0")
    'output'
    """
    rest = path.removeprefix(module)
    if not module or rest == path:
        return path
    if rest.startswith("["):
        return rest
    return rest[1:] if rest.startswith(".") else path


def frame_title(graph: PictureGraph, frame: str) -> str:
    """`name: Class` of an open module, and why it failed."""
    module = graph.cluster_modules[frame]
    record, failure = graph.trace.modules[module], graph.trace.failure
    title = f"{name_inside(record.path, graph.inside_path(graph.clusters[frame]))}: {record.class_name}"
    if failure is not None and module == graph.failed_cluster:
        return f"{title} {failed_text(failure.error)}"
    return title


def lines_of(box: Box, graph: PictureGraph, look: Look, facts: LayerFacts) -> list[str]:
    """What a box says above its shapes: its title, facts on request, and why it failed."""
    lines = [title_of(box, names=look.show_layer_names, inside=graph.inside_path(box.cluster))]
    shown = [box.dtype] if look.show_dtype and box.dtype else []
    shown += parameter_facts(box, graph, params=look.show_params, trainable=look.show_trainable)
    if shown:
        lines.append(" · ".join(shown))
    if look.show_layer_activations and box.module is not None:
        activation = facts.activations.get(graph.trace.modules[box.module].path)
        lines += [f"activation: {activation}"] if activation else []
    if box.failed:
        failure = graph.trace.failure
        lines.append(failed_text("" if failure is None else failure.error))
    return lines


def shapes_of(box: Box, look: Look) -> tuple[str, str] | None:
    """Input and output shapes where a box shows them."""
    if not (look.show_shapes or box.failed):
        return None
    return box.inputs, "none" if box.failed else box.outputs


def label_of(box: Box, graph: PictureGraph, look: Look, facts: LayerFacts) -> str:
    """The record label of a box."""
    label = "\\n".join(escape_record(line) for line in lines_of(box, graph, look, facts))
    shapes = shapes_of(box, look)
    if shapes is None:
        return label
    inputs, outputs = map(escape_record, shapes)
    label += f"|{{input:|output:}}|{{{{{inputs}}}|{{{outputs}}}}}"
    return f"{{{label}}}" if look.across else label


def failed_text(error: str) -> str:
    """What forward raised, on one line that does not make the picture wider than it is.

    >>> failed_text("ValueError: two\\nlines")
    'FAILED: ValueError: two lines'
    """
    line = " ".join(error.split())
    return f"FAILED: {line[:_LONGEST_ERROR]}{'…' if len(line) > _LONGEST_ERROR else ''}"


def parameter_facts(box: Box, graph: PictureGraph, *, params: bool, trainable: bool) -> list[str]:
    """How many parameters a module holds and whether they are trained."""
    facts: list[str] = []
    if box.module is None:
        return facts
    if params:
        below = held_in(graph.trace, box.module)
        facts.append("params: ?" if below.lazy else f"params: {below.elements:,}")
    if trainable:
        members = subtree(graph.trace, box.module)
        flags = frozenset(tensor.requires_grad for member in members for tensor in member.parameters)
        facts += _TRAINED[flags]
    return facts


# By what `requires_grad` is among the parameters of a module; one without parameters says nothing.
_TRAINED: dict[frozenset[bool], list[str]] = {
    frozenset(): [],
    frozenset([True]): ["trainable"],
    frozenset([False]): ["frozen"],
    frozenset([True, False]): ["partly trainable"],
}
