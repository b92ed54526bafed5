"""model_to_dot: the traced data flow as a Graphviz graph in Keras's look."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from torchkutils import _lazy
from torchkutils.models.records import Call, Module, Node, Trace, shape_text, tensors_in
from torchkutils.models.render import PICTURE_FORMATS, render
from torchkutils.models.trace import EngineName, Mode, trace_model

if TYPE_CHECKING:
    import graphviz

RANKDIRS = ("TB", "BT", "LR", "RL")


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
) -> graphviz.Digraph:
    """A model as a `graphviz.Digraph`, with the edges that its tensors take.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        show_shapes: Input and output shapes in each box.
        show_layer_names: Names before the classes.
        rankdir: "TB", "BT", "LR" or "RL".
        expand_nested: Nested modules as clusters down to the leaves, instead of one box each.
        dpi: Dots per inch of a bitmap.
        subgraph: Give a cluster that can be put into another graph.
        input_size, input_data, dtypes, mode, engine: As in `summarize`.
        depth: How many levels to open; beats `expand_nested`.
        show_dtype, show_params, show_trainable: More lines in each box.
        show_ops: Functions between modules too; without it only those that join tensors.

    Returns:
        A `graphviz.Digraph` whose `pipe`, `render`, inline display and pydot-like `create` and `write` need no
        `dot` program where pygraphviz has a wheel. Its `caption` says what ran.

    Raises:
        TypeError, ValueError: An argument that cannot be.
        Exception: What forward raised, with the graph of the part that ran as its attribute `dot`.

    >>> graph = model_to_dot(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), input_size=(1, 4))
    >>> graph.caption
    'real'
    """
    if rankdir not in RANKDIRS:
        raise ValueError(f"rankdir has to be one of {', '.join(RANKDIRS)}; got {rankdir!r}")
    if isinstance(dpi, bool) or not isinstance(dpi, int | float) or dpi <= 0:
        raise ValueError(f"dpi has to be a number above 0, got {dpi!r}")
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ValueError(f"depth has to be None or an int of 0 or more, got {depth!r}")
    look = _Look(show_shapes, show_layer_names, show_dtype, show_params, show_trainable, show_ops)

    def graph_of(trace: Trace) -> graphviz.Digraph:
        limit = _limit(trace, depth, expand_nested)
        return _draw(_Picture(trace, limit, look), rankdir, dpi, subgraph)

    try:
        trace = trace_model(
            model, input_size=input_size, input_data=input_data, dtypes=dtypes, mode=mode, engine=engine
        )
    except Exception as error:
        partial = getattr(error, "trace", None)
        if isinstance(partial, Trace):
            error.dot = graph_of(partial)  # type: ignore[attr-defined]
        raise
    return graph_of(trace)


@dataclass(frozen=True)
class _Look:
    """What stands in a box."""

    shapes: bool
    names: bool
    dtype: bool
    params: bool
    trainable: bool
    ops: bool


def _limit(trace: Trace, depth: int | None, expand_nested: bool) -> int:
    """The deepest level that has boxes of its own."""
    if depth is not None:
        return depth
    deepest = max(module.depth for module in trace.modules)
    if expand_nested:
        return deepest
    # A root whose one child does all the work is looked through.
    limit, root = 1, trace.modules[0]
    while len(root.children) == 1 and trace.modules[root.children[0]].children:
        root = trace.modules[root.children[0]]
        limit += 1
    return limit


@dataclass
class _Box:
    """What is drawn as one record: a module, a function, an input, a parameter or an output."""

    key: str
    title: str
    class_name: str
    cluster: tuple[int, ...]
    input_text: str = "?"
    output_text: str = "?"
    dtype: str = ""
    module: Module | None = None
    calls: set[int] = field(default_factory=set)
    failed: bool = False


class _Picture:
    """The boxes of a trace at one depth, and the arrows between them."""

    def __init__(self, trace: Trace, limit: int, look: _Look) -> None:
        self.trace, self.limit, self.look = trace, limit, look
        self.boxes: dict[str, _Box] = {}
        self.box_of: dict[int, _Box | None] = {node.index: self._box(node) for node in trace.nodes}
        self.arrows = self._arrows()
        linked = {key for source, target, _ in self.arrows for key in (source, target)}
        for key in [key for key, box in self.boxes.items() if key not in linked and box.module is None]:
            del self.boxes[key]
        self._mark_failure()

    def _open(self, call: Call) -> bool:
        """Whether a call's module is drawn as a cluster, so that what is inside has boxes of its own."""
        return self.trace.modules[call.module].depth < self.limit and not call.leaf

    def _box(self, node: Node) -> _Box | None:
        inside = self.trace.enclosing(node)
        closed = next((call for call in inside if not self._open(call)), None)
        around = tuple(call.module for call in inside if self._open(call) and call.module != 0)
        if closed is not None:
            return self._module_box(closed, tuple(m for m in around if m != closed.module))
        if node.kind == "function" and not (node.joins or self.look.ops):
            return None
        if node.kind == "output" and not self._outputs_needed():
            return None
        kinds = {"input": "Input", "output": "Output", "parameter": "Parameter", "buffer": "Buffer"}
        text = shape_text(node.output)
        box = _Box(f"n{node.index}", node.name, kinds.get(node.kind, ""), around, text, text, _dtype(node.output))
        if node.kind == "function":
            box.input_text = self._function_inputs(node)
        self.boxes[box.key] = box
        return box

    @functools.cache  # noqa: B019 - lives as long as the picture
    def _outputs_needed(self) -> bool:
        outputs = [node.index for node in self.trace.nodes if node.kind == "output"]
        sources = [edge.source for edge in self.trace.edges if edge.target in outputs]
        elsewhere = {edge.source for edge in self.trace.edges if edge.target not in outputs}
        return len(outputs) > 1 or any(source in elsewhere for source in sources)

    def _function_inputs(self, node: Node) -> str:
        shapes = []
        for edge in self.trace.edges:
            if edge.target == node.index:
                found = list(tensors_in(self.trace.nodes[edge.source].output))
                if edge.tensor < len(found):
                    shapes += [str(tuple(found[edge.tensor].shape))] * edge.count
        return ", ".join(shapes) or "?"

    def _module_box(self, call: Call, around: tuple[int, ...]) -> _Box:
        module = self.trace.modules[call.module]
        key = f"m{module.index}"
        box = self.boxes.get(key)
        if box is None:
            box = _Box(key, module.path or module.name, module.class_name, around, module=module)
            box.input_text, box.output_text = shape_text(call.inputs), shape_text(call.output)
            box.dtype = _dtype(call.output)
            self.boxes[key] = box
        box.calls.add(call.index)
        return box

    def _arrows(self) -> dict[tuple[str, str, bool], int]:
        """Arrows between boxes with how many tensors take them; functions that have no box are looked through."""
        before: dict[int, list[Any]] = {}
        for edge in self.trace.edges:
            before.setdefault(edge.target, []).append(edge)
        origins: dict[int, list[_Box]] = {}
        for node in self.trace.nodes:
            box = self.box_of[node.index]
            if box is not None:
                origins[node.index] = [box]
                continue
            found: list[_Box] = []
            for edge in before.get(node.index, []):
                found += [origin for origin in origins.get(edge.source, []) if origin not in found]
            origins[node.index] = found
        arrows: dict[tuple[str, str, bool], int] = {}
        for target, edges in before.items():
            box = self.box_of[target]
            for edge in edges:
                for origin in origins.get(edge.source, []):
                    if box is not None and (origin is not box or self._calls_itself(box)):
                        if origin is box and self._same_call(edge.source, target, box):
                            continue
                        key = (origin.key, box.key, edge.guessed)
                        arrows[key] = arrows.get(key, 0) + edge.count
        return arrows

    def _calls_itself(self, box: _Box) -> bool:
        return box.module is not None and len(box.calls) > 1

    def _same_call(self, source: int, target: int, box: _Box) -> bool:
        ends = [
            {call.index for call in self.trace.enclosing(self.trace.nodes[index])} & box.calls
            for index in (source, target)
        ]
        return ends[0] == ends[1] or not ends[0]

    def _mark_failure(self) -> None:
        failure = self.trace.failure
        if failure is None:
            return
        call: Call | None = self.trace.calls[failure.call]
        while call is not None:
            box = self.boxes.get(f"m{call.module}")
            if box is not None:
                box.failed = True
                box.input_text = shape_text(call.inputs)
                return
            call = None if call.parent is None else self.trace.calls[call.parent]


def _dtype(value: Any) -> str:
    return ", ".join(dict.fromkeys(tensor.dtype for tensor in tensors_in(value)))


def escape(text: str) -> str:
    """Text as a record label takes it: nothing in it can end a field or the label.

    >>> escape("Block<2|3>")
    'Block\\\\<2\\\\|3\\\\>'
    """
    for mark in "\\{}|<>":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("\n", "\\n")


def _label(box: _Box, picture: _Picture) -> str:
    look = picture.look
    title = f"{box.title}: {box.class_name}" if look.names and box.class_name else box.title
    if not look.names and box.class_name:
        title = box.class_name
    if len(title) > 120:
        title = f"{title[:80]}…{title[-36:]}"
    if len(box.calls) > 1:
        title += f" ({len(box.calls)} calls)"
    parts = [escape(title)]
    if look.dtype and box.dtype:
        parts.append(escape(box.dtype))
    if box.module is not None and (look.params or look.trainable):
        parts += _parameter_lines(box.module, picture)
    if look.shapes or box.failed:
        parts.append(f"{{input:|output:}}|{{{{{escape(box.input_text)}}}|{{{escape(box.output_text)}}}}}")
    # Keras's label: fields above each other when the graph runs downwards, beside each other when it runs sideways.
    return "|".join(parts) if len(parts) == 1 else f"{{{'|'.join(parts)}}}"


def _parameter_lines(module: Module, picture: _Picture) -> list[str]:
    members, stack = [], [module.index]
    while stack:
        member = picture.trace.modules[stack.pop()]
        members.append(member)
        stack.extend(member.children)
    tensors = [tensor for member in members for tensor in member.parameters if tensor.same_as is None]
    lines = []
    if picture.look.params:
        lines.append(f"params: {sum(tensor.elements for tensor in tensors):,}")
    if picture.look.trainable and tensors:
        flags = {tensor.requires_grad for tensor in tensors}
        lines.append("trainable" if flags == {True} else "frozen" if flags == {False} else "partly trainable")
    return lines


def _draw(picture: _Picture, rankdir: str, dpi: float, subgraph: bool) -> graphviz.Digraph:
    caption = str(picture.trace.engine)
    name = f"cluster_{picture.trace.model_name}" if subgraph else picture.trace.model_name
    graph = _digraph_class()(name=name)
    graph.caption, graph.dpi = caption, dpi
    graph.attr("graph", rankdir=rankdir, dpi=str(dpi), concentrate="false")
    if subgraph:
        graph.attr("graph", label=picture.trace.model_name)
    elif picture.trace.engine.ran == "structure":
        graph.attr("graph", label=caption, fontsize="10")
    graph.attr("node", shape="record", fontname="Helvetica")
    tree: dict[tuple[int, ...], list[_Box]] = {}
    for box in picture.boxes.values():
        tree.setdefault(box.cluster, []).append(box)
        for length in range(len(box.cluster)):
            tree.setdefault(box.cluster[:length], [])
    _draw_cluster(graph, picture, tree, ())
    for (source, target, guessed), count in picture.arrows.items():
        for _ in range(count):
            graph.edge(source, target, **({"style": "dashed"} if guessed else {}))
    return graph


def _draw_cluster(
    graph: Any, picture: _Picture, tree: dict[tuple[int, ...], list[_Box]], around: tuple[int, ...]
) -> None:
    for box in tree.get(around, []):
        marks = {"color": "red", "fontcolor": "red", "penwidth": "2"} if box.failed else {}
        graph.node(box.key, label=_label(box, picture), **marks)
    for inner in [path for path in tree if len(path) == len(around) + 1 and path[: len(around)] == around]:
        module = picture.trace.modules[inner[-1]]
        with graph.subgraph(name=f"cluster_{module.index}") as cluster:
            cluster.attr(
                label=f"{module.path}: {module.class_name}".replace("\\", "\\\\"), style="rounded", color="gray"
            )
            _draw_cluster(cluster, picture, tree, inner)


@functools.cache
def _digraph_class() -> Any:
    """A `graphviz.Digraph` that draws itself with or without the dot program; made when graphviz is first needed."""

    class ModelDigraph(_lazy.graphviz.Digraph):  # type: ignore[misc]
        caption = ""
        dpi: float = 96

        def pipe(self, format: str | None = None, *_: Any, encoding: str | None = None, **__: Any) -> Any:
            data = self._bytes(format or self.format)
            return data.decode(encoding) if encoding else data

        def create(self, prog: str = "dot", format: str = "ps", **_: Any) -> bytes:
            """The picture's bytes, as pydot's graphs give them."""
            return self._bytes(format)

        def write(self, path: Any, prog: str = "dot", format: str = "raw", **_: Any) -> bool:
            """Write the picture, or the DOT text with format="raw"."""
            with open(path, "wb") as file:
                file.write(self._bytes("dot" if format == "raw" else format))
            return True

        def render(
            self, filename: Any = None, directory: Any = None, view: bool = False, cleanup: bool = False,
            format: str | None = None, *_: Any, outfile: Any = None, **__: Any,
        ) -> str:  # fmt: skip
            """Save the DOT text and the picture beside it; gives the picture's path."""
            source = self.save(filename, directory)
            kind = format or self.format
            target = str(outfile or f"{source}.{kind}")
            with open(target, "wb") as file:
                file.write(self._bytes(kind))
            if view:
                self._view(target, kind, False)
            return target

        def _bytes(self, kind: str) -> bytes:
            if kind in ("dot", "gv", "raw"):
                return str(self.source).encode()
            return render(self.source, PICTURE_FORMATS.get(kind, kind), dpi=self.dpi)

        def _repr_mimebundle_(self, include: Iterable[str] | None = None, exclude: Any = None, **_: Any) -> Any:
            try:
                return {"image/svg+xml": self._bytes("svg").decode()}
            except RuntimeError:
                return {"text/plain": self.source}

    return ModelDigraph
