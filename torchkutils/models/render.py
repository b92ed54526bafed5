"""DOT to bytes on any machine: the `dot` program where there is one, else the Graphviz inside pygraphviz."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

from torchkutils import _lazy

# Formats by the ending of a file's name; what is no picture (dot, html) is written elsewhere.
PICTURE_FORMATS = {"png": "png", "svg": "svg", "pdf": "pdf", "jpg": "jpg", "jpeg": "jpg"}
# Cairo scales a larger bitmap down without a word.
MAX_PIXELS = 32_767
INSTALL = "pip install 'pygraphviz>=2'"

_STANDARD_ERROR = threading.Lock()
# What Graphviz says of its own accord, when nothing is wrong with the picture.
_CHATTER = re.compile(rb"layout may take a long time|Fontconfig|^\s*$|Could not load|cairo", re.IGNORECASE)


def render(source: str, picture_format: str, *, dpi: float = 96) -> bytes:
    """Lay a DOT text out and draw it.

    Args:
        source: A graph in the DOT language.
        picture_format: "svg", "png", "pdf" or "jpg".
        dpi: Dots per inch that the graph asks for; a bitmap's size follows from it.

    Returns:
        The picture's bytes.

    Raises:
        ValueError: An unknown format, or a bitmap wider or higher than 32,767 pixels.
        RuntimeError: Neither `dot` nor pygraphviz is there, or Graphviz refused the graph.
    """
    if picture_format not in PICTURE_FORMATS.values():
        raise ValueError(f"format has to be one of {sorted(set(PICTURE_FORMATS.values()))}, got {picture_format!r}")
    if picture_format in ("png", "jpg"):
        _refuse_too_large(source, picture_format, dpi)
    return _graphviz(source, picture_format)


def _refuse_too_large(source: str, picture_format: str, dpi: float) -> None:
    # A small graph cannot reach the limit: its size is asked for only where that is possible.
    if source.count("\n") < 300 and dpi <= 300:
        return
    box = re.search(rb'bb="?[\d.]+,[\d.]+,([\d.]+),([\d.]+)', _graphviz(source, "dot"))
    if box is None:
        return
    width, height = (float(points) / 72 * dpi for points in box.groups())
    if max(width, height) > MAX_PIXELS:
        raise ValueError(
            f"the picture would be {width:.0f} × {height:.0f} pixels, more than {MAX_PIXELS:,} a side, as "
            f"{picture_format}; write .svg or .html, or give a smaller depth or dpi"
        )


def _graphviz(source: str, picture_format: str) -> bytes:
    program = shutil.which("dot")
    if program is not None:
        done = subprocess.run([program, f"-T{picture_format}"], input=source.encode(), capture_output=True, check=False)
        if done.returncode == 0:
            return done.stdout
        raise RuntimeError(f"Graphviz refused the graph: {done.stderr.decode(errors='replace').strip()}")
    try:
        graph = _lazy.pygraphviz.AGraph(string=source)
    except ImportError as error:
        raise RuntimeError(
            f"drawing needs Graphviz: run `{INSTALL}` (it has Graphviz inside), or install the dot program; "
            "the .dot ending and `source` work without it"
        ) from error
    with _quiet_standard_error():
        drawn: bytes = graph.draw(format=picture_format, prog="dot")
    return drawn


@contextlib.contextmanager
def _quiet_standard_error() -> Iterator[None]:
    """Keep Graphviz's chatter from the terminal; whatever else was written meanwhile, by any thread, is passed on."""
    with _STANDARD_ERROR, tempfile.TemporaryFile() as caught:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            caught.seek(0)
            for line in caught:
                if not _CHATTER.search(line):
                    os.write(kept, line)
            os.close(kept)
