"""The command line's part about models: `summary`, `plot` and `show`."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import json
import pathlib
import sys
import tempfile
import types
from collections.abc import Iterator
from typing import Any

import torch

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


def _model(options: argparse.Namespace) -> torch.nn.Module:
    """Import `module:factory`, from the current folder or the environment, or `file.py:factory`, and make the model."""
    path = options.model
    given = [_value(word) for word in options.argument]
    named = dict(_setting(words) for words in options.set)
    module_name, colon, attributes = path.rpartition(":")
    if not (module_name and colon and attributes):
        raise WrongUsage(f"{path!r} names no model; write package.module:factory or path/to/file.py:factory")
    file = pathlib.Path(module_name).resolve() if module_name.endswith(".py") else None
    with _importable_from(pathlib.Path.cwd() if file is None else file.parent):
        found: Any = importlib.import_module(module_name) if file is None else _file_module(file)
        for name in attributes.split("."):
            found = getattr(found, name)
        model = found
        if not isinstance(found, torch.nn.Module):
            model = found(*given, **named)
        elif given or named:
            words = [*options.argument, *options.set]
            raise WrongUsage(f"{path} is a model already, which takes no arguments, got {words}")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{path} gave {type(model).__name__}; it must give a torch.nn.Module")
    return model


def _value(text: str) -> Any:
    """What a word stands for: a number, a boolean, None, a list … as in Python, else the word itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _setting(words: str) -> tuple[str, Any]:
    name, equals, value = words.partition("=")
    if not (equals and name.isidentifier()):
        raise WrongUsage(f"--set takes NAME=VALUE, got {words!r}")
    return name, _value(value)


def _file_module(file: pathlib.Path) -> types.ModuleType:
    """The module that a Python file makes."""
    if not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    name = f"{file.stem}_file" if file.stem in sys.modules else file.stem
    spec: Any = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    # Pickle and dataclasses look a class's module up there.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def _importable_from(folder: pathlib.Path) -> Iterator[None]:
    """The console script, unlike `python -m`, does not look for modules in the current folder."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))


def summary(options: argparse.Namespace) -> None:
    """Print a model's table, or its JSON."""
    unknown = [column for column in options.columns or [] if column not in COLUMNS]
    if unknown:
        raise WrongUsage(f"--columns knows {', '.join(COLUMNS)}; got {', '.join(unknown)}")
    keywords = _input_arguments(options) | {"columns": options.columns, "weights": options.weights}
    if options.depth is None:
        keywords["depth"] = "auto"
    model = _model(options)
    if options.json:
        print(json.dumps(summarize(model, **keywords).to_dict(), indent=1))
    else:
        print_summary(model, style=options.style, **keywords)


def plot(options: argparse.Namespace) -> None:
    """Draw a model into a file, or onto standard output."""
    keywords = {flag.replace("-", "_"): getattr(options, flag.replace("-", "_")) for flag in PLOT_FLAGS}
    keywords |= {name: getattr(options, name) for name in ("rankdir", "dpi", "drawer", "style", "splines")}
    keywords |= _input_arguments(options)
    ending = options.format if options.output == "-" else pathlib.Path(options.output).suffix.lstrip(".")
    if ending and ending not in (*PICTURE_FORMATS, "dot", "html", "mmd"):
        known = ", ".join(sorted(PICTURE_FORMATS))
        raise WrongUsage(f"pictures are written as {known}, mmd, dot or html; got {ending!r}")
    model = _model(options)
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
