"""What the parts of the command line share, without an import of anything heavy: words, and how a command ends."""

from __future__ import annotations

import argparse
import sys
from typing import Any

PLOT_FLAGS = {
    "show-shapes": "input and output shapes",
    "show-dtype": "dtypes",
    "show-params": "parameter counts",
    "show-trainable": "trainable or not",
    "show-ops": "functions between modules too",
    "show-layer-activations": "activations that modules hold",
    "fold": "equal blocks as one box",
    "expand-nested": "nested modules as clusters",
}


class WrongUsage(Exception):  # noqa: N818 - ends the process with status 2, as argparse does
    """The words of the command do not go together."""


class SomeFailed(Exception):  # noqa: N818 - each failure was told in a line of its own
    """Some of several files could not be fetched."""


def add_traceback(parser: argparse.ArgumentParser) -> None:
    """Add `--traceback`, which may come before the command too."""
    parser.add_argument(
        "--traceback", action="store_true", default=argparse.SUPPRESS, help="when it fails, show where in the code"
    )


def add_get(commands: Any) -> None:
    """Add the command `get`."""
    get = commands.add_parser("get", help="download files into the cache and print their paths")
    get.add_argument("urls", nargs="*", metavar="url", help="addresses; doi:10.… fetches all files of a record")
    get.add_argument("-i", "--input", help="a file with one address a line; - is standard input")
    get.add_argument("-o", "--output", help="where to put the file: a path, or a folder that is there")
    get.add_argument("--name", help="the file's name in the cache (the URL's last part, or what the server says)")
    get.add_argument("--hash", help="expected hash: sha256:…, hexadecimal digits, or @FILE with lines of sha256sum")
    get.add_argument("--hash-algorithm", default="auto", help="what plain digits are of (by their number)")
    get.add_argument(
        "--header", action="append", default=[], help="'Name: value', or @FILE with such lines; repeatable"
    )
    get.add_argument("--netrc", action="store_true", help="read logins from ~/.netrc")
    get.add_argument("--ca-bundle", help="certificates that https servers are checked against")
    get.add_argument("--timeout", type=_timeout, default=(10, 30), help="seconds: connect,read or connect,read,total")
    get.add_argument("--retries", type=int, default=3, help="attempts after the first (3)")
    get.add_argument("--mirror", action="append", default=[], help="another address of the same file; repeatable")
    get.add_argument("--jobs", type=int, default=4, help="how many files at a time (4)")
    get.add_argument("--extract", action="store_true", help="extract the archive beside it")
    get.add_argument("--untar", action="store_true", help="extract a tar, and print the path that Keras gives for it")
    get.add_argument("--archive-format", default="auto", help="auto, tar, zip, gz, bz2, xz …, with commas between")
    get.add_argument("--extract-dir", help="extract to this folder, relative to the archive's, and print it")
    get.add_argument("--member", action="append", default=[], help="extract only this path or pattern; repeatable")
    get.add_argument("--remove-archive", action="store_true", help="remove the archive once it is extracted")
    get.add_argument("--overwrite", action="store_true", help="members replace different files that are there")
    get.add_argument("--encoding", help="encoding of member names that the archive does not tell, such as cp932")
    get.add_argument("--no-links", action="store_true", help="refuse archives that hold links")
    get.add_argument("--skip-links", action="store_true", help="leave links of archives out")
    get.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    get.add_argument("--cache-subdir", default="datasets", help="folder below the base (datasets)")
    get.add_argument("--force", action="store_true", help="download even if it is there")
    get.add_argument("--offline", action="store_true", help="never use the network (TORCHKUTILS_OFFLINE=1)")
    get.add_argument("--quiet", action="store_true", help="no progress bar (TORCHKUTILS_QUIET=1)")
    add_traceback(get)
    get.set_defaults(command="torchkutils.cli_files:get")


def add_cache(commands: Any) -> None:
    """Add the commands `cache list` and `cache clean`."""
    cache = commands.add_parser("cache", help="list what lies in the cache, or clean it")
    actions = cache.add_subparsers(title="actions", required=True, metavar="list | clean")

    listed = actions.add_parser("list", help="print each file's size, date, path and address")
    listed.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    listed.set_defaults(command="torchkutils.cli_files:list_cache")

    clean = actions.add_parser(
        "clean", help="remove what ended calls left, and files by name or age; members of archives stay"
    )
    clean.add_argument("names", nargs="*", metavar="name", help="files to remove, as `cache list` prints them")
    clean.add_argument("--older-than", type=float, metavar="DAYS", help="remove the files that are older")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clean.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    clean.set_defaults(command="torchkutils.cli_files:clean_cache")


def complain(error: BaseException) -> None:
    """Write one line to standard error; where that is closed or cannot show a letter, nothing more happens."""
    notes = [f"({note})" for note in getattr(error, "__notes__", [])]
    reason = " ".join(" ".join([str(error), *notes]).split())
    words = f"torchkutils: {type(error).__name__}: {reason}\n"
    try:
        if sys.stderr is not None:
            sys.stderr.write(words)
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _timeout(text: str) -> tuple[float, ...]:
    try:
        limits = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time limit; write it like 10,30 or 10,30,600") from None
    return limits * 2 if len(limits) == 1 else limits
