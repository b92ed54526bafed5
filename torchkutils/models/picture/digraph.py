"""A `graphviz.Digraph` that draws itself without the `dot` program; imported by the functions that draw."""

from __future__ import annotations

import functools
import os
import pathlib
from typing import Any

from torchkutils import _lazy
from torchkutils._typing import PathLike
from torchkutils.models.picture.drawing import Drawing
from torchkutils.models.picture.mermaid import mermaid_text
from torchkutils.models.picture.svg_in_cell import cell_bundle
from torchkutils.models.picture.svg_titles import rendered
from torchkutils.models.render import PICTURE_FORMATS, picture_format_of, write_whole

_TEXT_FORMATS = ("dot", "gv", "raw")


class ModelDigraph(_lazy.graphviz.Digraph):  # type: ignore[misc]
    """A model's graph: `graphviz.Digraph` with another way to its pictures, and pydot's `create` and `write`.

    Attributes:
        model_name: The model's class name.
        caption: What ran to find the edges.
        dots_per_inch: Of its bitmaps.
        drawing: What it was drawn from; None for torchview's.
    """

    model_name: str = ""
    caption: str = ""
    dots_per_inch: float = 96
    drawing: Drawing | None = None

    def pipe(
        self, format: str | None = None, *_: Any, engine: str | None = None, encoding: str | None = None, **__: Any
    ) -> Any:
        """The picture's bytes, or text with an `encoding`.

        Raises:
            ValueError: An unknown format, another engine than dot, or a bitmap that would be too large.
            RuntimeError: Graphviz is missing, or refused the graph.
        """
        if (engine or self.engine) != "dot":
            raise ValueError(f"engine must be 'dot', got {engine or self.engine!r}")
        data = self._bytes(format or self.format)
        return data.decode(encoding) if encoding else data

    def create(
        self, prog: str | list[str] | tuple[str, ...] = "dot", format: str = "ps", encoding: str | None = None
    ) -> bytes:
        """The picture's bytes, as pydot's graphs give them; `encoding` is pydot's and not needed.

        Raises:
            ValueError: An unknown format, another program than dot, or a bitmap that would be too large.
            RuntimeError: Graphviz is missing, or refused the graph.
        """
        if (prog[0] if isinstance(prog, list | tuple) else prog) != "dot":
            raise ValueError(f"prog must be 'dot', got {prog!r}")
        return self._bytes(format)

    def write(
        self,
        path: PathLike,
        prog: str | list[str] | tuple[str, ...] = "dot",
        format: str = "raw",
        encoding: str | None = None,
    ) -> bool:
        """Write the picture, or the DOT text with `format="raw"`, as pydot's graphs do.

        Raises:
            ValueError, RuntimeError: As `create`.
            OSError: The file cannot be written.
        """
        write_whole(pathlib.Path(path), self.create(prog, format, encoding))
        return True

    def render(
        self,
        filename: PathLike | None = None,
        directory: PathLike | None = None,
        view: bool = False,
        cleanup: bool = False,
        format: str | None = None,
        *_: Any,
        outfile: PathLike | None = None,
        **__: Any,
    ) -> str:
        """Save the DOT text and the picture beside it, as `graphviz.Digraph.render` does; gives the picture's path.

        Raises:
            ValueError, RuntimeError: As `pipe`; no file is left.
            OSError: A file cannot be written.
        """
        kind = format or (self.format if outfile is None else picture_format_of(outfile))
        data = self._bytes(kind)
        if outfile is not None and filename is None:
            filename = pathlib.Path(outfile).with_suffix(".gv")
        source = self.save(filename, directory=directory)
        target = os.fspath(outfile) if outfile is not None else f"{source}.{kind}"
        write_whole(pathlib.Path(target), data)
        if cleanup:
            pathlib.Path(source).unlink()
        if view:
            self._view(target, kind, False)
        return target

    def to_mermaid(self) -> str:
        """The graph in Mermaid's language, as `ModelPlot.to_mermaid`.

        Raises:
            ValueError: The graph is torchview's.
        """
        if self.drawing is None:
            raise ValueError("drawer='torchview' has no Mermaid text; use drawer='layers'")
        return mermaid_text(self.drawing)

    def __getattr__(self, name: str) -> Any:
        """pydot's `create_svg()`, `write_png(path)` and the like."""
        action, _, kind = name.partition("_")
        if action in ("create", "write") and kind in (*PICTURE_FORMATS, *_TEXT_FORMATS):
            return functools.partial(self.create if action == "create" else self.write, format=kind)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def copy(self) -> Any:
        """A copy that can be added to without changing this graph."""
        copied = super().copy()
        for name in ("model_name", "caption", "dots_per_inch", "drawing"):
            setattr(copied, name, getattr(self, name))
        return copied

    def _bytes(self, kind: str) -> bytes:
        if kind in _TEXT_FORMATS:
            return str(self.source).encode()
        if kind == "mmd":
            return self.to_mermaid().encode()
        return rendered(self.source, PICTURE_FORMATS.get(kind, kind), dpi=self.dots_per_inch)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model_name!r}, engine={self.caption!r})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None, **_: Any) -> dict[str, Any]:
        try:
            svg = self._bytes("svg").decode()
        except RuntimeError as error:
            return {"text/plain": f"{error}\n\n{self.source}"}
        shown = cell_bundle(svg, f"The model {self.model_name}", more="plot_model(…).page()")
        return {"text/plain": repr(self), **shown}
