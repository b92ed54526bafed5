"""plot_model: a model's picture in a file and in a notebook."""

from __future__ import annotations

import pathlib
from typing import TYPE_CHECKING, Any, Literal

import torch

from torchkutils._call_hints import hinting
from torchkutils._typing import InputDTypes, InputSize, PathLike, Rankdir
from torchkutils.models.dot import drawn
from torchkutils.models.forward.raised_errors import add_note, attach
from torchkutils.models.page import ModelPage, make_page
from torchkutils.models.picture.look import Look, PictureStyle, Splines
from torchkutils.models.picture.mermaid import mermaid_text
from torchkutils.models.picture.svg_in_cell import cell_bundle
from torchkutils.models.picture.svg_titles import rendered
from torchkutils.models.picture.torchview_drawer import torchview_graph
from torchkutils.models.records import EngineName, Mode, Run
from torchkutils.models.render import check_folder, picture_format_of, write_whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkutils.models.picture.digraph import ModelDigraph


class ModelPlot:
    """A drawn model: shows itself in a notebook, gives its DOT text, saves itself; it keeps no tensor, no module.

    Attributes:
        model_name: The model's class name.
        source: The graph in the DOT language.
        caption: What ran to find the edges.
        dpi: Dots per inch of its bitmaps.

    >>> plot = plot_model(torch.nn.Linear(2, 1), to_file=None, input_size=(1, 2))
    >>> plot.source.startswith("digraph")
    True
    """

    def __init__(self, graph: ModelDigraph) -> None:
        self.model_name: str = graph.model_name
        self.source: str = str(graph.source)
        self.caption: str = graph.caption
        self.dpi: float = graph.dots_per_inch
        self._drawing = graph.drawing

    def save(self, path: PathLike) -> None:
        """Write the picture; the ending chooses the format (svg, png, pdf, jpg, ps, dot, mmd, html; none: PNG).

        Raises:
            ValueError: An unknown ending, a picture too large for a bitmap, or .html or .mmd for torchview's graph.
            RuntimeError: Graphviz is missing, or refused the graph.
            OSError: The file cannot be written.
        """
        kind = picture_format_of(path)
        check_folder(path)
        write_whole(pathlib.Path(path), self._bytes(kind))

    def _bytes(self, kind: str) -> bytes:
        if kind == "html":
            return self.page().html.encode()
        if kind == "mmd":
            return self.to_mermaid().encode()
        return self.source.encode() if kind == "dot" else rendered(self.source, kind, dpi=self.dpi)

    def to_mermaid(self) -> str:
        """The picture in Mermaid's flowchart language, for a README: GitHub, GitLab and MkDocs draw it.

        It has the boxes, labels and arrows of the picture. Mermaid draws up to 500 arrows and 50,000 characters where
        nobody changes its limits; a text beyond that begins with a comment that says so.

        Raises:
            ValueError: The graph is torchview's.

        >>> print(plot_model(torch.nn.Linear(2, 1), to_file=None, input_size=(1, 2)).to_mermaid())
        flowchart TB
          b0(["input: Input"])
          b1["Linear: Linear"]
          b0 --> b1
        <BLANKLINE>
        """
        if self._drawing is None:
            raise ValueError("drawer='torchview' has no Mermaid text; write .svg, or use drawer='layers'")
        return mermaid_text(self._drawing)

    def page(self) -> ModelPage:
        """The model as one interactive HTML page, shown by a notebook inside the cell.

        A click opens a module in place; there are search, colours by kind or share, a table, themes, and every
        module's facts. It needs no network, and writing it no Graphviz. Its file is `page().html`, or what `save`
        writes to a path that ends in .html.

        Raises:
            ValueError: The graph is torchview's, which has no modules inside each other.
        """
        if self._drawing is None:
            raise ValueError("drawer='torchview' has no interactive page; write .svg, or use drawer='layers'")
        drawing = self._drawing
        return make_page(
            drawing.trace,
            drawing.look,
            rankdir=drawing.look.rankdir,
            functions=drawing.look.show_ops,
            depth=drawing.depth,
            rolled=drawing.look.rolled,
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **_: Any) -> dict[str, Any]:
        """What a notebook shows and stores: a picture that fits into the cell; a bitmap only for who asks for one."""
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        try:
            svg = rendered(self.source, "svg").decode()
            bundle |= cell_bundle(svg, f"The model {self.model_name}", more=self._more)
            if "image/png" in (include or ()):
                bundle["image/png"] = rendered(self.source, "png", dpi=self.dpi)
        except RuntimeError as error:
            bundle["text/plain"] = f"{self!r}: {error}"
        except ValueError:
            # Too large for a bitmap: the SVG is shown.
            return bundle
        return bundle

    @property
    def _more(self) -> str:
        """How to see all of a picture that is too large for a cell."""
        return "plot_model(…).save('model.svg')" if self._drawing is None else "plot_model(…).page()"

    def __repr__(self) -> str:
        return f"ModelPlot({self.model_name!r}, engine={self.caption!r})"


@hinting(input_shape="input_size", device="the model runs where it is: model.to(device)")
def plot_model(
    model: torch.nn.Module,
    to_file: PathLike | None = "model.png",
    show_shapes: bool = False,
    show_layer_names: bool = True,
    rankdir: Rankdir = "TB",
    expand_nested: bool = False,
    dpi: int = 96,
    *,
    input_size: InputSize | None = None,
    input_data: Any = None,
    dtypes: InputDTypes | None = None,
    depth: int | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    show_dtype: bool = False,
    show_params: bool = False,
    show_trainable: bool = False,
    show_ops: bool = False,
    drawer: Literal["layers", "torchview"] = "layers",
    rolled: bool | None = None,
    fold: bool = False,
    style: PictureStyle = "keras",
    show_layer_activations: bool = False,
    layer_range: Sequence[str] | None = None,
    splines: Splines | None = None,
    input_kwargs: Any = None,
) -> ModelPlot:
    """Draw a model as Keras does, with the edges that its tensors really take.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        to_file: Where the picture goes; its ending chooses the format. None writes nothing.
        show_shapes: Input and output shapes in each box; "?" without an input.
        show_layer_names: Names before the classes.
        rankdir: "TB", "BT", "LR" or "RL".
        expand_nested: Nested modules as clusters down to the leaves, instead of one box each.
        dpi: Dots per inch of a bitmap.
        input_size, input_data, input_kwargs, dtypes, mode, engine: As in `summarize`.
        depth: How many levels to open; beats `expand_nested`.
        show_dtype, show_params, show_trainable: More facts in each box.
        show_ops: Functions between modules too; without it only those that join tensors.
        drawer: "layers", or "torchview" for torchview's operations, drawn from a copy of the model; it has its own
            labels: of the look it takes shapes, levels, direction, dpi and splines.
        rolled: None: the calls of a module share one box, which says how many, if it holds parameters; else each
            call has a box (`relu`, `relu (2)`). True: always one box, and a repeated pattern of functions once with
            "× n". False: never.
        fold: Equal blocks that follow each other are one box, "12 × BertLayer"; the page shows them all.
        style, show_layer_activations, layer_range, splines: As in `model_to_dot`.

    Returns:
        A `ModelPlot`.

    Raises:
        TypeError, ValueError: An argument that cannot be, or a picture too large for a bitmap; nothing was written.
        OSError: `to_file` cannot be written.
        RuntimeError: Neither `dot` nor pygraphviz is there (.dot is written without them).
        Exception: What forward raised, with the partial `ModelPlot` as its attribute `plot`; it was written too.

    Differs from Keras: needs no `dot` program where pygraphviz has a wheel, shows SVG inline too, and never shrinks
    a picture that is too large for PNG without a word.

    >>> plot_model(torch.nn.ReLU(), to_file=None).caption.split(" ")[0]
    'structure'
    """
    if drawer not in ("layers", "torchview"):
        raise ValueError(f"drawer must be 'layers' or 'torchview', got {drawer!r}")
    if to_file is not None:
        _check_file(to_file, drawer)
    look, run = Look.asked_for(locals()), Run.asked_for(locals())
    if drawer == "torchview":
        return _plotted(torchview_graph(model, run, look), to_file)
    try:
        graph = drawn(model, run, look)
    except Exception as error:
        partial = getattr(error, "dot", None)
        if partial is not None:
            _attach_plot(error, partial, to_file)
        raise
    return _plotted(graph, to_file)


def _check_file(to_file: PathLike, drawer: str) -> None:
    """Refuse what could not be written, before any work."""
    if drawer == "torchview" and picture_format_of(to_file) in ("html", "mmd"):
        raise ValueError("drawer='torchview' has no interactive page and no Mermaid text; write .svg")
    picture_format_of(to_file)
    check_folder(to_file)


def _plotted(graph: ModelDigraph, to_file: PathLike | None) -> ModelPlot:
    plot = ModelPlot(graph)
    if to_file is not None:
        plot.save(to_file)
    return plot


def _attach_plot(error: Exception, graph: ModelDigraph, to_file: PathLike | None) -> None:
    """Give the model's error its picture; what goes wrong in writing it must not hide the error."""
    plot = ModelPlot(graph)
    attach(error, "plot", plot)
    if to_file is None:
        return
    try:
        plot.save(to_file)
    except (OSError, RuntimeError, ValueError) as unwritten:
        add_note(error, f"the picture of the part that ran was not written: {unwritten}")
