"""plot_model: a model's picture in a file and in a notebook."""

from __future__ import annotations

import os
import pathlib
import tempfile
from typing import Any, Literal

import torch

from torchkutils._typing import PathLike
from torchkutils.models.dot import model_to_dot
from torchkutils.models.render import PICTURE_FORMATS, render
from torchkutils.models.trace import EngineName, Mode


class ModelPlot:
    """A drawn model: shows itself in a notebook, gives its DOT text, saves itself.

    Attributes:
        source: The graph in the DOT language.
        caption: What ran to find the edges.

    >>> plot = plot_model(torch.nn.Linear(2, 1), to_file=None, input_size=(1, 2))
    >>> plot.source.startswith("digraph")
    True
    """

    def __init__(self, source: str, caption: str, dpi: float) -> None:
        self.source = source
        self.caption = caption
        self.dpi = dpi

    def save(self, path: PathLike) -> None:
        """Write the picture; the ending chooses the format (svg, png, pdf, jpg, dot; none: PNG).

        Raises:
            ValueError: An unknown ending, or a picture too large for a bitmap.
            NotImplementedError: The ending .html.
            RuntimeError: Graphviz is missing, or refused the graph.
            OSError: The file cannot be written.
        """
        kind = format_of(path)
        data = self.source.encode() if kind == "dot" else render(self.source, kind, dpi=self.dpi)
        _write_whole(pathlib.Path(path), data)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        try:
            bundle["image/svg+xml"] = render(self.source, "svg").decode()
            bundle["image/png"] = render(self.source, "png", dpi=self.dpi)
        except (RuntimeError, ValueError):
            # Without Graphviz, or too large for a bitmap: what there is so far is shown.
            return bundle
        return bundle

    def __repr__(self) -> str:
        return f"ModelPlot({self.caption!r}, {self.source.count(chr(10))} lines of DOT)"


def plot_model(
    model: torch.nn.Module,
    to_file: PathLike | None = "model.png",
    show_shapes: bool = False,
    show_layer_names: bool = True,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 96,
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
    drawer: Literal["layers", "torchview"] = "layers",
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
        input_size, input_data, dtypes, mode, engine: As in `summarize`.
        depth: How many levels to open; beats `expand_nested`.
        show_dtype, show_params, show_trainable: More lines in each box.
        show_ops: Functions between modules too; without it only those that join tensors.
        drawer: "layers", or "torchview" for torchview's operations.

    Returns:
        A `ModelPlot`.

    Raises:
        TypeError, ValueError: An argument that cannot be; nothing was written.
        RuntimeError: Neither `dot` nor pygraphviz is there.
        Exception: What forward raised, with the partial `ModelPlot` as its attribute `plot`.

    Differs from Keras: needs no `dot` program where pygraphviz has a wheel, and shows SVG inline too.

    >>> plot_model(torch.nn.ReLU(), to_file=None).caption
    'structure (order of definition): no input was given'
    """
    if to_file is not None:
        format_of(to_file)
        folder = pathlib.Path(to_file).absolute().parent
        if not folder.is_dir():
            raise FileNotFoundError(f"to_file lies in {folder}, which is no folder; make it first")
    if drawer == "torchview":
        raise NotImplementedError("drawer='torchview' is not there yet; use drawer='layers'")
    if drawer != "layers":
        raise ValueError(f"drawer has to be 'layers' or 'torchview', got {drawer!r}")

    def plot_of(graph: Any) -> ModelPlot:
        plot = ModelPlot(graph.source, graph.caption, dpi)
        if to_file is not None:
            plot.save(to_file)
        return plot

    try:
        graph = model_to_dot(
            model,
            show_shapes,
            show_layer_names,
            rankdir,
            expand_nested,
            dpi,
            input_size=input_size,
            input_data=input_data,
            dtypes=dtypes,
            depth=depth,
            mode=mode,
            engine=engine,
            show_dtype=show_dtype,
            show_params=show_params,
            show_trainable=show_trainable,
            show_ops=show_ops,
        )
    except Exception as error:
        partial = getattr(error, "dot", None)
        if partial is not None:
            error.plot = plot_of(partial)  # type: ignore[attr-defined]
        raise
    return plot_of(graph)


def format_of(path: PathLike) -> str:
    """The format that a file's ending asks for; PNG without one.

    Raises:
        ValueError: An ending that no picture has.
        NotImplementedError: The ending .html.
    """
    ending = pathlib.Path(path).suffix.lower().removeprefix(".")
    if ending in ("", "dot", "gv"):
        return "dot" if ending else "png"
    if ending == "html":
        raise NotImplementedError("to_file ends in .html: the interactive page is not there yet; write .svg")
    if ending not in PICTURE_FORMATS:
        raise ValueError(f"to_file ends in .{ending}; it has to be one of .dot, .{', .'.join(PICTURE_FORMATS)}")
    return PICTURE_FORMATS[ending]


def _write_whole(path: pathlib.Path, data: bytes) -> None:
    """The file appears whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        pathlib.Path(temporary).chmod(0o666 & ~umask)
        pathlib.Path(temporary).replace(path)
    except BaseException:
        pathlib.Path(temporary).unlink()
        raise
