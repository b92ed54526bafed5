"""The command line's part about models: `summary`, `plot` and `show`."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile
from typing import Any

from torchkutils.cli_factories import model_of
from torchkutils.cli_usage import PLOT_FLAGS, WrongUsage
from torchkutils.models.plot import plot_model
from torchkutils.models.render import PICTURE_FORMATS
from torchkutils.models.summary import print_summary, summarize
from torchkutils.models.table.view import COLUMNS
from torchkutils.objects.describe import describe_model_file, model_file_contents


def _input_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords that say what the model is called with."""
    names = [name for name, _ in options.input_size]
    if any(names) and not all(names):
        raise WrongUsage("name every --input-size or none of them")
    sizes: Any = [size for _, size in options.input_size]
    dtypes: Any = options.dtype or None
    if any(names):
        sizes = dict(options.input_size)
        dtypes = dict(zip(names, options.dtype, strict=False)) or None
    return {
        "input_size": sizes or None,
        "dtypes": dtypes,
        "depth": options.depth,
        "mode": options.mode,
        "engine": options.engine,
    }


def summary(options: argparse.Namespace) -> None:
    """Print a model's table, or its JSON."""
    unknown = [column for column in options.columns or [] if column not in COLUMNS]
    if unknown:
        raise WrongUsage(f"--columns knows {', '.join(COLUMNS)}; got {', '.join(unknown)}")
    keywords = _input_arguments(options) | {"columns": options.columns, "weights": options.weights}
    if options.depth is None:
        keywords["depth"] = "auto"
    model = model_of(options)
    if options.json:
        print(json.dumps(summarize(model, **keywords).to_dict(), indent=1))
    else:
        print_summary(model, print_fn=_print_line, style=options.style, **keywords)


def _print_line(line: str) -> None:
    """Print a line of a table; notes go where messages go, so that a pipe gets the table alone."""
    print(line, file=sys.stderr if line.startswith("Note: ") else sys.stdout)


def plot(options: argparse.Namespace) -> None:
    """Draw a model into a file, or onto standard output."""
    keywords = {flag.replace("-", "_"): getattr(options, flag.replace("-", "_")) for flag in PLOT_FLAGS}
    keywords |= {name: getattr(options, name) for name in ("rankdir", "dpi", "drawer", "style", "splines")}
    keywords |= _input_arguments(options)
    ending = options.format if options.output == "-" else pathlib.Path(options.output).suffix.lstrip(".")
    if ending and ending not in (*PICTURE_FORMATS, "dot", "html", "mmd"):
        known = ", ".join(sorted(PICTURE_FORMATS))
        raise WrongUsage(f"pictures are written as {known}, mmd, dot or html; got {ending!r}")
    model = model_of(options)
    if options.output != "-":
        plot_model(model, options.output, **keywords)
        print(options.output)
        return
    # What a folder of our own holds is whole before a byte of it is written.
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder) / f"model.{options.format}"
        plot_model(model, picture, **keywords)
        sys.stdout.flush()
        sys.stdout.buffer.write(picture.read_bytes())


def show(options: argparse.Namespace) -> None:
    """Print what a model file holds."""
    if options.json:
        print(json.dumps(model_file_contents(options.file), indent=1))
    else:
        print(describe_model_file(options.file))
