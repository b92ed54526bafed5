"""The command line: look at a model, fetch a file, look into a model file.

    python -m torchkutils summary torch.nn:Transformer
    python -m torchkutils summary package.module:factory --input-size 1,3,224,224
    python -m torchkutils plot package.module:factory --input-size 1,3,224,224 -o model.svg
    python -m torchkutils get https://example.org/data.tar.gz --hash sha256:… --extract
    python -m torchkutils cache list
    python -m torchkutils show my_model.h5

Exit status: 0; 1 when it failed, and one line on the standard error says why; 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch

import torchkutils
from torchkutils.cli_files import SomeFailed, WrongUsage, add_cache, add_get, complain
from torchkutils.models.plot import plot_model
from torchkutils.models.summary import print_summary, summarize
from torchkutils.objects.describe import describe_model_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and give its exit status.

    Args:
        arguments: The words after the program's name; None takes them from `sys.argv`.

    Returns:
        0 when it worked, 1 when it failed. Wrong usage and `--help` end the process, as argparse does, with 2 and 0.

    >>> main(["summary", "torch.nn:Identity", "--input-size", "1,2"])
    Model: "Identity"
    ...
    0
    """
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read us has left (`| head`): keep the interpreter from complaining when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except WrongUsage as error:
        _usage_error(str(error))
    except SomeFailed:
        return 1
    except Exception as error:
        complain(error)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torchkutils", description="keras.utils for PyTorch, from the shell.")
    parser.add_argument("--version", action="version", version=f"torchkutils {torchkutils.__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="summary | plot | get | cache | show")

    summary = commands.add_parser("summary", help="print a model's layers, shapes, parameters and FLOPs")
    _add_model_arguments(summary)
    summary.add_argument("--columns", type=_words, help="names with commas between: output_shape,params,flops …")
    summary.add_argument(
        "--style", default="keras", choices=["keras", "tree"], help="Keras's layout, or a tree (keras)"
    )
    summary.add_argument("--weights", action="store_true", help="a row for each parameter")
    summary.add_argument("--json", action="store_true", help="print the summary as JSON")
    summary.set_defaults(command=_summary)

    plot = commands.add_parser("plot", help="draw a model")
    _add_model_arguments(plot)
    plot.add_argument("-o", "--output", default="model.png", help="the picture; its ending chooses the format")
    plot.add_argument("--rankdir", default="TB", choices=["TB", "BT", "LR", "RL"], help="direction (TB)")
    plot.add_argument("--dpi", type=int, default=96, help="dots per inch (96)")
    plot.add_argument("--drawer", default="layers", choices=["layers", "torchview"], help="what draws (layers)")
    for flag, text in _PLOT_FLAGS.items():
        plot.add_argument(f"--{flag}", action="store_true", help=text)
    plot.set_defaults(command=_plot)

    add_get(commands)
    add_cache(commands)

    show = commands.add_parser("show", help="print what a saved model file holds, without building the model")
    show.add_argument("file")
    show.set_defaults(command=_show)
    return parser


_PLOT_FLAGS = {
    "show-shapes": "input and output shapes",
    "show-dtype": "dtypes",
    "show-params": "parameter counts",
    "show-trainable": "trainable or not",
    "show-ops": "functions between modules too",
    "expand-nested": "nested modules as clusters",
}


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODULE:FACTORY",
        help="what makes the model: a class, a function without arguments, or a model; a file may stand for the module",
    )
    parser.add_argument(
        "--input-size",
        action="append",
        type=_size,
        default=[],
        metavar="[NAME=]1,3,224,224",
        help="shape of one input with the batch axis, None for an open dimension; repeatable",
    )
    parser.add_argument("--dtype", action="append", default=[], help="dtype of the input of the same position")
    parser.add_argument("--depth", type=int, help="how many levels of nesting to show")
    parser.add_argument("--mode", default="eval", choices=["eval", "train", "same"], help="mode of the forward (eval)")
    parser.add_argument(
        "--engine", default="auto", choices=["auto", "real", "meta", "structure"], help="how it is traced (auto)"
    )


def _size(text: str) -> tuple[str, tuple[int | None, ...]]:
    """A shape, with the name of its argument before `=` or an empty one."""
    name, _, numbers = text.rpartition("=")
    try:
        return name, tuple(None if part.strip() == "None" else int(part) for part in numbers.split(",") if part.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no shape; write it like 1,3,224,224") from None


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _input_arguments(options: argparse.Namespace) -> dict[str, Any]:
    """The keywords that say what the model is called with."""
    names = [name for name, _ in options.input_size]
    if any(names) and not all(names):
        _usage_error("name every --input-size or none of them")
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


def _usage_error(message: str) -> NoReturn:
    print(f"torchkutils: error: {message}", file=sys.stderr)
    raise SystemExit(2)


def _model(path: str) -> torch.nn.Module:
    """Import `module:factory`, from the current folder or the environment, or `file.py:factory`, and make the model."""
    module_name, colon, attributes = path.rpartition(":")
    if not (module_name and colon and attributes):
        _usage_error(f"{path!r} names no model; write package.module:factory or path/to/file.py:factory")
    file = pathlib.Path(module_name).resolve() if module_name.endswith(".py") else None
    with _importable_from(pathlib.Path.cwd() if file is None else file.parent):
        found: Any = importlib.import_module(module_name) if file is None else _file_module(file)
        for name in attributes.split("."):
            found = getattr(found, name)
        model = found if isinstance(found, torch.nn.Module) else found()
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{path} gave {type(model).__name__}; it must give a torch.nn.Module")
    return model


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


def _summary(options: argparse.Namespace) -> None:
    keywords = _input_arguments(options) | {"columns": options.columns, "weights": options.weights}
    if options.depth is None:
        keywords["depth"] = "auto"
    model = _model(options.model)
    if options.json:
        print(json.dumps(summarize(model, **keywords).to_dict(), indent=1))
    else:
        print_summary(model, style=options.style, **keywords)


def _plot(options: argparse.Namespace) -> None:
    flags = {flag.replace("-", "_"): getattr(options, flag.replace("-", "_")) for flag in _PLOT_FLAGS}
    plot_model(
        _model(options.model),
        options.output,
        rankdir=options.rankdir,
        dpi=options.dpi,
        drawer=options.drawer,
        **flags,
        **_input_arguments(options),
    )
    print(options.output)


def _show(options: argparse.Namespace) -> None:
    print(describe_model_file(options.file))
