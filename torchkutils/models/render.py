"""DOT to bytes on any machine: the `dot` program where there is one, else the Graphviz inside pygraphviz."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

from torchkutils._call_hints import meant, shown
from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.models import graphviz_process

# Formats by the ending of a file's name; what is no picture (dot, mmd, html) is written elsewhere.
PICTURE_FORMATS = {"png": "png", "svg": "svg", "pdf": "pdf", "jpg": "jpg", "jpeg": "jpg", "ps": "ps"}
_TEXT_ENDINGS = {"dot": "dot", "gv": "dot", "mmd": "mmd", "mermaid": "mmd"}
# Cairo scales a larger bitmap down without a word.
MAX_PIXELS = 32_767
INSTALL = "pip install 'pygraphviz>=2'"

DEADLINE_SECONDS = 20.0
"""After so long a layout is given up for a plainer one."""
PLAIN_DEADLINE_SECONDS = 120.0
# dot's time grows with the crossings that it tries to avoid: beyond this it is not worth a try.
_DENSE_EDGES = 400
_DENSE_RATIO = 3
# Few rounds of the network simplex and of the search for crossings, and straight lines.
_PLAIN = "nslimit=0.1 nslimit1=0.1 mclimit=0.01 splines=line"
# A way to draw arrows that was asked for, in the graph's own attributes.
_SPLINES = re.compile(r"^(\tgraph \[dpi=[^\]]*?) splines=\w+", re.MULTILINE)
PLAIN_NOTE = "laid out plainly, with straight lines: too many arrows for dot's own layout"


def render(source: str, picture_format: str, *, dpi: float = 96) -> bytes:
    """Lay a DOT text out and draw it.

    Graphviz runs in a process of its own either way: its messages do not appear in the user's terminal, its crashes do
    not end the user's program, and other threads go on.

    Args:
        source: A graph in the DOT language.
        picture_format: "svg", "png", "pdf", "jpg" or "ps".
        dpi: Dots per inch that the graph asks for; a bitmap's size follows from it.

    Returns:
        The picture's bytes.

    Raises:
        ValueError: An unknown format, or a bitmap wider or higher than 32,767 pixels.
        RuntimeError: Neither `dot` nor pygraphviz is there, Graphviz refused the graph, or no layout was found in time.

    A graph with very many arrows, or one that takes longer than `DEADLINE_SECONDS`, is laid out plainly, and its
    label says so.
    """
    if picture_format not in PICTURE_FORMATS.values():
        raise ValueError(f"format must be one of {', '.join(sorted(PICTURE_FORMATS))}; got {picture_format!r}")
    if not is_dense(source):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return _drawn(source, picture_format, dpi, DEADLINE_SECONDS)
    try:
        return _drawn(laid_out_plainly(source), picture_format, dpi, PLAIN_DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"Graphviz found no layout within {PLAIN_DEADLINE_SECONDS:.0f} s; give a smaller depth, or write .dot"
        ) from None


def is_dense(source: str) -> bool:
    """Whether a graph has so many arrows beside its boxes that dot's own layout would take minutes."""
    edges = source.count(" -> ")
    return edges > _DENSE_EDGES and edges > _DENSE_RATIO * (source.count("[label=") - source.count("graph [label="))


def laid_out_plainly(source: str) -> str:
    """The same graph with settings that end soon; a graph without a label gets one that says so."""
    head, brace, rest = _SPLINES.sub(r"\1", source, count=1).partition("{")
    unlabelled = "\tgraph [label=" not in source and "bb=" not in source
    note = f' label="{PLAIN_NOTE}" fontsize=10' if unlabelled else ""
    return f"{head}{brace}\n\tgraph [{_PLAIN}{note}]{rest}"


def _drawn(source: str, picture_format: str, dpi: float, seconds: float) -> bytes:
    """Draw, or raise subprocess.TimeoutExpired."""
    program = shutil.which("dot")
    if program is not None:
        return _by_program(program, source, picture_format, dpi, seconds)
    return _by_pygraphviz(source, picture_format, dpi, seconds)


def _by_program(program: str, source: str, picture_format: str, dpi: float, seconds: float) -> bytes:
    if picture_format in ("png", "jpg"):
        size = graphviz_process.pixels(_checked(_run([program, "-Tdot"], source, seconds)), dpi)
        if size is not None and max(size) > MAX_PIXELS:
            raise _too_large(*size, picture_format)
    return _checked(_run([program, f"-T{picture_format}"], source, seconds))


def _by_pygraphviz(source: str, picture_format: str, dpi: float, seconds: float) -> bytes:
    found = importlib.util.find_spec("pygraphviz")
    if found is None or found.origin is None:
        raise RuntimeError(
            f"drawing needs Graphviz: run `{INSTALL}` (it has Graphviz inside), or install the dot program; "
            "the .dot ending and `source` work without it"
        )
    if not sys.executable:
        # Python inside another program: there is no interpreter to start, so it is drawn here.
        with tempfile.TemporaryFile() as file:
            file.write(source.encode(errors="replace"))
            file.seek(0)
            status, data = graphviz_process.draw(file, picture_format, dpi, MAX_PIXELS)
    else:
        folder = str(pathlib.Path(found.origin).parent.parent)
        script = [graphviz_process.__file__, folder, picture_format, str(dpi), str(MAX_PIXELS)]
        # -I and -S: neither the user's settings nor site-packages' start-up files have a say, and it starts faster.
        done = _run([sys.executable, "-I", "-S", *script], source, seconds)
        status = done.returncode
        data = done.stdout if status == graphviz_process.TOO_LARGE else _checked(done)
    if status == graphviz_process.TOO_LARGE:
        width, height = map(float, data.split())
        raise _too_large(width, height, picture_format)
    return data


def _run(command: list[str], source: str, seconds: float) -> subprocess.CompletedProcess[bytes]:
    flags = getattr(subprocess, "CREATE_NO_WINDOW", 0)
    text = source.encode(errors="replace")
    return subprocess.run(command, input=text, capture_output=True, check=False, creationflags=flags, timeout=seconds)


def _checked(done: subprocess.CompletedProcess[bytes]) -> bytes:
    if done.returncode == 0 and done.stdout:
        return done.stdout
    said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    reason = said[-1] if said else f"it ended with status {done.returncode}"
    raise RuntimeError(f"Graphviz refused the graph: {reason}; save it as .dot to look at its text")


def _too_large(width: float, height: float, picture_format: str) -> ValueError:
    return ValueError(
        f"the picture would be {width:,.0f} × {height:,.0f} pixels, more than {MAX_PIXELS:,} a side, as "
        f"{picture_format}; write .svg or .html, or give a smaller depth or dpi"
    )


def picture_format_of(path: PathLike) -> str:
    """The format that a file's ending asks for; PNG without an ending.

    It is "dot", "html", "mmd" (Mermaid) or one of `PICTURE_FORMATS`.

    Raises:
        ValueError: An ending that no picture has.
        TypeError: It is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"to_file must be a path or None, got {shown(path)}{meant(path)}")
    ending = pathlib.Path(path).suffix.lower().removeprefix(".")
    if ending in ("", "html"):
        return ending or "png"
    if ending in _TEXT_ENDINGS:
        return _TEXT_ENDINGS[ending]
    if ending not in PICTURE_FORMATS:
        known = ["dot", "html", *PICTURE_FORMATS, "mmd"]
        raise ValueError(f"to_file ends in .{ending}; it must be one of .{', .'.join(known)}")
    return PICTURE_FORMATS[ending]


def check_folder(path: PathLike) -> None:
    """Refuse a file that could not be written, before any work.

    Raises:
        FileNotFoundError: The folder is missing.
        IsADirectoryError: The file is a folder.
        PermissionError: The folder cannot be written.
    """
    target = pathlib.Path(path).absolute()
    if target.is_dir():
        raise IsADirectoryError(f"to_file is a folder: {target}; name a file in it")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"to_file lies in {target.parent}, which is no folder; make it first")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"to_file lies in {target.parent}, which cannot be written; choose another folder")


def write_whole(path: pathlib.Path, data: bytes) -> None:
    """Write a file that appears whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)
