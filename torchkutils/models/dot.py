"""model_to_dot: the traced data flow as a Graphviz graph in Keras's look."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from torchkutils import _lazy
from torchkutils.models.picture.boxes import Arrow, Box
from torchkutils.models.picture.labels import Drawing, Look, escape_label, failed_text, label_of, title_of
from torchkutils.models.picture.picture_graph import PictureGraph
from torchkutils.models.records import EngineName, Mode, Run, Trace
from torchkutils.models.trace import trace_model

if TYPE_CHECKING:
    from torchkutils.models.picture.digraph import ModelDigraph

RANKDIRS = ("TB", "BT", "LR", "RL")
# More arrows than these between two boxes become one with a number.
_DRAWN_ARROWS = 3
_subgraph_numbers = itertools.count()
# What ends a frame in the DOT language.
_END = "\t}\n"


def model_to_dot(
    model: torch.nn.Module,
    show_shapes: bool = False,
    show_layer_names: bool = True,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 96,
    subgraph: bool = False,
    *,
    input_size: Any = None,
    input_data: Any = None,
    dtypes: Any = None,
    depth: int | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    show_dtype: bool = False,
    show_params: bool = False,
    show_trainable: bool = False,
    show_ops: bool = False,
    rolled: bool | None = None,
    fold: bool = False,
) -> ModelDigraph:
    """A model as a `graphviz.Digraph`, with the edges that its tensors take.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        show_shapes: Input and output shapes in each box; "?" without an input.
        show_layer_names: Names before the classes.
        rankdir: "TB", "BT", "LR" or "RL".
        expand_nested: Nested modules as clusters down to the leaves, instead of one box each.
        dpi: Dots per inch of a bitmap.
        subgraph: Give a cluster that can be put into another graph by its `subgraph` method.
        input_size, input_data, dtypes, mode, engine: As in `summarize`.
        depth: How many levels to open; beats `expand_nested`. 0 is one box.
        show_dtype, show_params, show_trainable: More facts in each box.
        show_ops: Functions between modules too; without it only those that join tensors. Comparisons that only decide
            what Python does are left out.
        rolled: None: the calls of a module share one box, which says how many, if it holds parameters; else each
            call has a box. True: always one box, and a repeated pattern of functions once with "× n". False: never.
        fold: Equal blocks that follow each other are one box, "12 × BertLayer".

    Returns:
        A `graphviz.Digraph` whose `pipe`, `render`, inline display and pydot-like `create` and `write` need no
        `dot` program where pygraphviz has a wheel. Its `caption` says what ran. More than three arrows between two
        boxes are one with a number.

    Raises:
        TypeError, ValueError: An argument that cannot be.
        Exception: What forward raised, with the graph of the part that ran as its attribute `dot`, the module that
            failed in red.

    Differs from Keras: the graph is graphviz's and not pydot's; functions that join tensors are boxes.

    >>> graph = model_to_dot(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), input_size=(1, 4))
    >>> graph.caption
    'real'
    """
    check_drawing(rankdir, dpi, depth)
    across = rankdir in ("LR", "RL")
    look = Look(show_shapes, show_layer_names, show_dtype, show_params, show_trainable, across)

    def graph_of(trace: Trace) -> ModelDigraph:
        limit = opened_depth(trace, depth, expand_nested)
        picture = PictureGraph(trace, limit, functions=show_ops, rolled=rolled, fold=fold)
        graph = draw(picture, look, rankdir=rankdir, dpi=dpi, subgraph=subgraph)
        graph.drawing = Drawing(trace, look, rankdir, show_ops, limit, rolled, fold)
        return graph

    run = Run(
        input_size=input_size,
        input_data=input_data,
        dtypes=dtypes,
        mode=mode,
        engine=engine,
        module_arguments=True,
    )
    try:
        trace = trace_model(model, run)
    except Exception as error:
        partial = getattr(error, "trace", None)
        if isinstance(partial, Trace):
            error.dot = graph_of(partial)  # type: ignore[attr-defined]
        raise
    return graph_of(trace)


def check_drawing(rankdir: str, dpi: float, depth: int | None) -> None:
    """Refuse what no picture can be drawn with.

    Raises:
        ValueError: An unknown direction, dots per inch or depth that are no numbers in range.
    """
    if rankdir not in RANKDIRS:
        raise ValueError(f"rankdir must be one of {', '.join(RANKDIRS)}; got {rankdir!r}")
    if isinstance(dpi, bool) or not isinstance(dpi, int | float) or not 0 < dpi < 10_000:
        raise ValueError(f"dpi must be a number above 0 and below 10,000, got {dpi!r}")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ValueError(f"depth must be None or an int of 0 or more, got {depth!r}")


def opened_depth(trace: Trace, depth: int | None, expand_nested: bool) -> int:
    """The depth below which modules are closed boxes."""
    if depth is not None:
        return depth
    if expand_nested:
        return max(module.depth for module in trace.modules)
    # A root whose one child does all the work is looked through.
    limit, root = 1, trace.modules[0]
    while len(root.children) == 1 and trace.modules[root.children[0]].children:
        root = trace.modules[root.children[0]]
        limit += 1
    return limit


def draw(
    picture: PictureGraph, look: Look, *, rankdir: str, dpi: float, subgraph: bool = False, tooltips: bool = True
) -> ModelDigraph:
    """The picture in the DOT language."""
    from torchkutils.models.picture.digraph import ModelDigraph

    trace = picture.trace
    # Two models in one graph must not share names of boxes.
    prefix = f"s{next(_subgraph_numbers)}_" if subgraph else ""
    # Graphviz's own default for a file is the graph's name: no slashes, no angle brackets, no quotes.
    name = re.sub(r"[^\w.-]", "_", trace.model_name) or "model"
    graph = ModelDigraph(name=f"cluster_{prefix}{name}" if subgraph else name)
    graph.model_name, graph.caption, graph.dots_per_inch = trace.model_name, str(trace.engine), dpi
    graph.attr("graph", rankdir=rankdir, dpi=str(dpi), fontname="Helvetica")
    if subgraph:
        graph.attr("graph", label=_plain(trace.model_name))
    elif trace.engine.ran == "structure":
        graph.attr("graph", label=_plain(graph.caption), fontsize="10")
    if trace.failure is not None and picture.failed_cluster == 0:
        graph.attr("graph", label=_plain(failed_text(trace.failure.error)), fontcolor="red")
    graph.attr("node", shape="record", fontname="Helvetica")
    _add_boxes(graph, picture, look, prefix, tooltips)
    for arrow in picture.arrows:
        _add_arrow(graph, arrow, prefix)
    return graph


def _add_boxes(graph: Any, picture: PictureGraph, look: Look, prefix: str, tooltips: bool) -> None:
    """Boxes and clusters; a stack stands in for recursion, since models nest deeper than Python does."""
    boxes: dict[str | None, list[Box]] = {}
    for box in picture.boxes.values():
        boxes.setdefault(box.cluster, []).append(box)
    inner: dict[str | None, list[str]] = {}
    for module, around in picture.clusters.items():
        inner.setdefault(around, []).append(module)
    stack: list[str | None] = [None]
    while stack:
        here = stack.pop()
        if here == _END:
            graph.body.append(_END)
            continue
        if here is not None:
            graph.body.extend(_cluster_head(picture, here, prefix))
            stack.append(_END)
        for box in boxes.get(here, ()):
            graph.node(
                f"{prefix}{box.key}", label=_plain_or_record(label_of(box, picture, look)), **_marks(box, tooltips)
            )
        stack.extend(reversed(inner.get(here, [])))


def _cluster_head(picture: PictureGraph, frame: str, prefix: str) -> Iterable[str]:
    module = picture.cluster_modules[frame]
    record = picture.trace.modules[module]
    failed = module == picture.failed_cluster and picture.trace.failure is not None
    text = f"{record.path}: {record.class_name}"
    if failed and picture.trace.failure is not None:
        text += f" {failed_text(picture.trace.failure.error)}"
    colours = "color=red fontcolor=red" if failed else "color=gray"
    yield f'\tsubgraph "cluster_{prefix}{frame}" {{\n'
    yield f'\tgraph [label="{escape_label(text)}" labeljust=l style=rounded {colours} fontname=Helvetica]\n'


def _marks(box: Box, tooltips: bool) -> dict[str, Any]:
    marks = {"tooltip": _plain(title_of(box, cut=False))} if tooltips else {}
    if box.untraced or box.kind in ("parameter", "buffer", "constant"):
        marks["style"] = "dashed"
    if box.kind in ("input", "output"):
        marks["style"] = "rounded"
    if box.failed:
        marks |= {"color": "red", "fontcolor": "red", "penwidth": "2"}
    return marks


def _add_arrow(graph: Any, arrow: Arrow, prefix: str) -> None:
    style = {"style": "dashed"} if arrow.guessed else {}
    ends = (f"{prefix}{arrow.source}", f"{prefix}{arrow.target}")
    if arrow.count > _DRAWN_ARROWS:
        graph.edge(*ends, label=f"×{arrow.count}", **style)
        return
    for _ in range(arrow.count):
        graph.edge(*ends, **style)


def _plain(text: str) -> Any:
    return _plain_or_record(escape_label(text))


def _plain_or_record(label: str) -> Any:
    """A label that is no HTML, whatever angle brackets stand in it."""
    return _lazy.graphviz.nohtml(label)
