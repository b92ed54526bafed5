"""Graphviz's drawing in a process of its own, run as a script: `python graphviz_process.py FOLDER FORMAT DPI LIMIT`.

It reads DOT from the standard input and writes the picture to the standard output. A process of its own, because
Graphviz and Fontconfig write to the standard error of the process that they run in, are not safe between threads and
end the process on some faults. It imports nothing of torchkutils: that would load torch.

Exit status 3 means a bitmap over the limit; the standard output then has `width height`.
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import IO, Any

TOO_LARGE = 3


def draw(source: IO[bytes], picture_format: str, dpi: float, limit: int) -> tuple[int, bytes]:
    """Exit status, and the picture or the size of what would be too large; `source` is an open file with the DOT."""
    library = _library()
    graph = library.agread(source, None)
    context = library.gvContextWithBuiltins()
    if library.gvLayout(context, graph, b"dot"):
        raise ValueError("Graphviz could not lay the graph out")
    if picture_format in ("png", "jpg"):
        size = pixels(_rendered(library, context, graph, b"dot"), dpi)
        if size is not None and max(size) > limit:
            return TOO_LARGE, f"{size[0]:.0f} {size[1]:.0f}".encode()
    return 0, _rendered(library, context, graph, picture_format.encode())


def _library() -> Any:
    """pygraphviz's functions of Graphviz itself; its own classes take as long to import as many graphs to draw."""
    if "pygraphviz" not in sys.modules and sys.platform != "win32" and __name__ == "__main__":
        # A package that is empty but for its folder: on Windows it must find its libraries first.
        empty = types.ModuleType("pygraphviz")
        empty.__path__ = [f"{sys.argv[1]}{os.sep}pygraphviz"]
        sys.modules["pygraphviz"] = empty
        try:
            return importlib.import_module("pygraphviz.graphviz")
        except (ImportError, AttributeError):
            # Another release may need what its package sets up.
            del sys.modules["pygraphviz"]
    return importlib.import_module("pygraphviz.graphviz")


def pixels(laid_out: bytes, dpi: float) -> tuple[float, float] | None:
    """Width and height of a bitmap of a graph that was written as DOT with its layout."""
    # Imported here: only bitmaps need it, and starting is a good part of drawing a small graph.
    import re

    box = re.search(rb'bb="?(-?[\d.e+]+),(-?[\d.e+]+),(-?[\d.e+]+),(-?[\d.e+]+)', laid_out)
    if box is None:
        return None
    left, bottom, right, top = (float(points) for points in box.groups())
    # Graphviz leaves a margin of four points on each side.
    width, height = right - left + 8, top - bottom + 8
    return width / 72 * dpi, height / 72 * dpi


def _rendered(library: Any, context: Any, graph: Any, picture_format: bytes) -> bytes:
    error, data = library.gvRenderData(context, graph, picture_format)
    if error:
        raise ValueError(f"Graphviz could not write {picture_format.decode()}")
    return bytes(data) if not isinstance(data, str) else data.encode()


if __name__ == "__main__":
    sys.path.append(sys.argv[1])
    status: int
    output: bytes
    status, output = draw(sys.stdin.buffer, sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()
    # Freeing a large graph node by node takes longer than leaving it to the system.
    os._exit(status)
