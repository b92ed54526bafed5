"""What a word such as `package.module:factory`, `net.py:Net` or `transformers:BertConfig(num_labels=3)` names."""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.util
import pathlib
import re
import sys
import types
from collections.abc import Iterator
from typing import Any

import torch

from torchkutils._call_hints import nearest
from torchkutils.cli_usage import WrongUsage

__all__ = ["model_of"]

# An argument that is itself made by a factory: `package.module:Name(1, key="value")`.
_CALL = re.compile(r"(?P<path>[\w./-]+:[A-Za-z_][\w.]*)\((?P<arguments>.*)\)", re.DOTALL)


def model_of(options: argparse.Namespace) -> torch.nn.Module:
    """Import what the words name, from the current folder or the environment, and make the model."""
    path = options.model
    given = [_value(word) for word in options.argument]
    named = dict(_setting(words) for words in options.set)
    found = _found(path)
    if isinstance(found, torch.nn.Module):
        if given or named:
            words = [*options.argument, *options.set]
            raise WrongUsage(f"{path} is a model already, which takes no arguments, got {words}")
        return found
    model = found(*given, **named)
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{path} gave {type(model).__name__}; it must give a torch.nn.Module")
    return model


def _found(path: str) -> Any:
    """The object of a path `module:name`."""
    module_name, colon, attributes = path.rpartition(":")
    if not (module_name and colon and attributes):
        raise WrongUsage(f"{path!r} names no model; write package.module:factory or path/to/file.py:factory")
    file = pathlib.Path(module_name).resolve() if module_name.endswith(".py") else None
    with _importable_from(pathlib.Path.cwd() if file is None else file.parent):
        found: Any = importlib.import_module(module_name) if file is None else _file_module(file)
        for name in attributes.split("."):
            if not hasattr(found, name):
                kind = getattr(found, "__name__", type(found).__name__)
                raise AttributeError(f"{kind} has no attribute {name!r}{nearest(name, dir(found))}")
            found = getattr(found, name)
    return found


def _value(text: str) -> Any:
    """The value of a word: a number, a boolean, None, a list … as in Python, what a factory makes, or the word."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    call = _CALL.fullmatch(text)
    if call is not None:
        return _made(call["path"], call["arguments"])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _made(path: str, arguments: str) -> Any:
    """What a factory makes of arguments that are written as in Python."""
    try:
        written = ast.parse(f"f({arguments})", mode="eval").body
        if not isinstance(written, ast.Call):
            raise ValueError("they close a parenthesis that they did not open")
        given = [ast.literal_eval(one) for one in written.args]
        named = {str(one.arg): ast.literal_eval(one.value) for one in written.keywords if one.arg is not None}
    except (ValueError, SyntaxError) as error:
        raise WrongUsage(f"the arguments in {path}({arguments}) must be values of Python: {error}") from error
    return _found(path)(*given, **named)


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
