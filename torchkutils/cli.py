# PYTHON_ARGCOMPLETE_OK
"""The command line: look at a model, fetch a file, look into a model file.

    python -m torchkutils summary torch.nn:Transformer
    python -m torchkutils summary package.module:factory --input-size 1,3,224,224
    python -m torchkutils plot net.py:Net 64 --set bias=False --input-size 1,3,224,224 -o model.svg
    python -m torchkutils get https://example.org/data.tar.gz --hash sha256:… --extract
    python -m torchkutils cache list
    python -m torchkutils show my_model.h5

Exit status: 0; 1 when it failed, and one line on the standard error says why; 2 for wrong usage.

This module imports nothing heavy, so that `--help` and completion answer at once: each command's own module is imported
when it runs.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import torchkutils
from torchkutils.cli_usage import PLOT_FLAGS, SomeFailed, WrongUsage, add_cache, add_get, add_traceback, complain


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
    options = _completed(_parser()).parse_args(arguments)
    try:
        _command(options.command)(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has ended (`| head`): without this the interpreter would report it when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except WrongUsage as error:
        _usage_error(str(error))
    except SomeFailed:
        return 1
    except Exception as error:
        if options.traceback:
            raise
        complain(error)
        return 1
    return 0


def _command(path: str) -> Callable[[argparse.Namespace], None]:
    module, _, name = path.partition(":")
    command: Callable[[argparse.Namespace], None] = getattr(importlib.import_module(module), name)
    return command


def _completed(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Let the shell complete words, where argcomplete is installed and its shell function asks."""
    if "_ARGCOMPLETE" in os.environ:
        try:
            import argcomplete
        except ImportError:
            return parser
        argcomplete.autocomplete(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="torchkutils", description="keras.utils for PyTorch, from the shell.")
    parser.add_argument("--version", action="version", version=f"torchkutils {torchkutils.__version__}")
    parser.add_argument("--traceback", action="store_true", help="when it fails, show where in the code")
    commands = parser.add_subparsers(title="commands", required=True, metavar="summary | plot | get | cache | show")

    summary = commands.add_parser("summary", help="print a model's layers, shapes, parameters and FLOPs")
    _add_model_arguments(summary)
    summary.add_argument("--columns", type=_words, help="names with commas between: output_shape,params,flops …")
    summary.add_argument("--style", default="keras", choices=["keras", "tree"], help="layout (keras)")
    summary.add_argument("--weights", action="store_true", help="a row for each parameter")
    summary.add_argument("--json", action="store_true", help="print the summary as JSON")
    summary.set_defaults(command="torchkutils.cli_models:summary")

    plot = commands.add_parser("plot", help="draw a model")
    _add_model_arguments(plot)
    plot.add_argument("-o", "--output", default="model.png", help="the picture, by its ending; - is standard output")
    plot.add_argument("--format", default="svg", help="of the picture on standard output (svg)")
    plot.add_argument("--rankdir", default="TB", choices=["TB", "BT", "LR", "RL"], help="direction (TB)")
    plot.add_argument("--dpi", type=int, default=96, help="dots per inch (96)")
    plot.add_argument("--drawer", default="layers", choices=["layers", "torchview"], help="what draws (layers)")
    plot.add_argument("--style", default="keras", choices=["keras", "color"], help="look (keras)")
    splines = ["ortho", "curved", "polyline", "spline", "line"]
    plot.add_argument("--splines", default=None, choices=splines, help="how arrows run")
    for flag, text in PLOT_FLAGS.items():
        plot.add_argument(f"--{flag}", action="store_true", help=text)
    plot.set_defaults(command="torchkutils.cli_models:plot")

    add_get(commands)
    add_cache(commands)

    show = commands.add_parser("show", help="print what a saved model file holds, without building the model")
    show.add_argument("file")
    show.add_argument("--json", action="store_true", help="print it as JSON")
    show.set_defaults(command="torchkutils.cli_models:show")
    for command in (summary, plot, show):
        add_traceback(command)
    return parser


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model",
        metavar="MODULE:FACTORY",
        help="what makes the model: a class, a function or a model; the module may be the path of a file",
    )
    parser.add_argument(
        "argument",
        nargs="*",
        help="for the factory: numbers, True, None and lists as in Python, module:factory(…) for what that makes, "
        "else a word",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword argument for the factory; repeatable",
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


def _usage_error(message: str) -> NoReturn:
    print(f"torchkutils: error: {message}", file=sys.stderr)
    raise SystemExit(2)
