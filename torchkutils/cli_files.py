"""The command line's part about files: `get`, `cache list` and `cache clean`."""

from __future__ import annotations

import argparse
import concurrent.futures
import datetime
import functools
import inspect
import os
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

from torchkutils.files.cache_contents import cached_files, remove_file, remove_leftovers
from torchkutils.files.cache_folder import base_folder
from torchkutils.files.doi import doi_in
from torchkutils.files.get_file import get_file
from torchkutils.files.registry import Registry


class WrongUsage(Exception):  # noqa: N818 - ends the process with status 2, as argparse does
    """The words of the command do not go together."""


class SomeFailed(Exception):  # noqa: N818 - each failure was told in a line of its own
    """Some of several files could not be fetched."""


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
    get.add_argument("--no-links", action="store_true", help="refuse archives that hold links")
    get.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    get.add_argument("--cache-subdir", default="datasets", help="folder below the base (datasets)")
    get.add_argument("--force", action="store_true", help="download even if it is there")
    get.add_argument("--offline", action="store_true", help="never use the network (TORCHKUTILS_OFFLINE=1)")
    get.add_argument("--quiet", action="store_true", help="no progress bar (TORCHKUTILS_QUIET=1)")
    get.set_defaults(command=_get)


def add_cache(commands: Any) -> None:
    """Add the commands `cache list` and `cache clean`."""
    cache = commands.add_parser("cache", help="list what lies in the cache, or clean it")
    actions = cache.add_subparsers(title="actions", required=True, metavar="list | clean")

    listed = actions.add_parser("list", help="print each file's size, date, path and address")
    listed.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    listed.set_defaults(command=_list)

    clean = actions.add_parser(
        "clean", help="remove what ended calls left, and files by name or age; members of archives stay"
    )
    clean.add_argument("names", nargs="*", metavar="name", help="files to remove, as `cache list` prints them")
    clean.add_argument("--older-than", type=float, metavar="DAYS", help="remove the files that are older")
    clean.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    clean.add_argument("--cache-dir", help="base folder ($TORCHKUTILS_HOME, $KERAS_HOME, ~/.keras)")
    clean.set_defaults(command=_clean)


def print_path(path: str) -> None:
    """Print a path; where the output cannot show a letter, the bytes that the file system has for it."""
    try:
        print(path)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def complain(error: BaseException) -> None:
    """One line on standard error; one that is closed or cannot show a letter is no reason to end otherwise."""
    notes = [f"({note})" for note in getattr(error, "__notes__", [])]
    reason = " ".join(" ".join([str(error), *notes]).split())
    words = f"torchkutils: {type(error).__name__}: {reason}\n"
    try:
        if sys.stderr is not None:
            sys.stderr.write(words)
            sys.stderr.flush()
    except (OSError, ValueError):
        pass


def _get(options: argparse.Namespace) -> None:
    urls = [*options.urls, *_addresses_in(options.input)]
    if not urls:
        raise WrongUsage("give at least one url, or --input")
    if len(urls) > 1 and (options.name or options.mirror):
        raise WrongUsage("--name and --mirror go with one url only")
    if options.output and len(urls) > 1 and not pathlib.Path(options.output).is_dir():
        raise WrongUsage("with several urls, --output must be a folder that is there")
    name, where = _place(options)
    common = {
        **where,
        "headers": _headers(options.header),
        "verify": options.ca_bundle or True,
        "netrc": options.netrc,
        "timeout": options.timeout,
        "retries": options.retries,
        "offline": options.offline,
        "progress": not options.quiet,
    }
    single = {
        **common,
        "file_hash": _text_or_file(options.hash),
        "hash_algorithm": options.hash_algorithm,
        "extract": options.extract,
        "untar": options.untar,
        "archive_format": options.archive_format.split(","),
        "allow_links": not options.no_links,
        "mirrors": options.mirror,
        "force": options.force,
    }
    calls: list[Callable[[], list[str]]] = []
    for url in urls:
        if doi_in(url) is not None:
            record = {key: value for key, value in common.items() if key in _REGISTRY_OPTIONS}
            calls.append(functools.partial(_all_of_record, url, options, record))
        else:
            calls.append(functools.partial(_one_file, name, url, single))
    _run(calls, options.jobs)


_REGISTRY_OPTIONS = frozenset(inspect.signature(Registry).parameters)


def _one_file(name: str | None, url: str, options: dict[str, Any]) -> list[str]:
    return [get_file(name, url, **options)]


def _all_of_record(url: str, options: argparse.Namespace, record: dict[str, Any]) -> list[str]:
    registry = Registry(url, **record)
    fetched = registry.fetch_all(jobs=options.jobs, extract=options.extract, force=options.force)
    return list(fetched.values())


def _run(calls: list[Callable[[], list[str]]], jobs: int) -> None:
    """Make the calls, several at a time, and print what each gives; all are made, whatever one of them raises."""
    if len(calls) == 1:
        for path in calls[0]():
            print_path(path)
        return
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(max(1, jobs)) as pool:
        for task in [pool.submit(call) for call in calls]:
            try:
                paths = task.result()
            except Exception as error:
                complain(error)
                failed += 1
                continue
            for path in paths:
                print_path(path)
    if failed:
        raise SomeFailed


def _place(options: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    """The file's name, and the cache that it goes to."""
    if options.output is None:
        return options.name, {"cache_dir": options.cache_dir, "cache_subdir": options.cache_subdir}
    output = os.path.abspath(options.output)  # noqa: PTH100 - get_file joins texts
    if pathlib.Path(output).is_dir():
        return options.name, {"cache_subdir": output}
    if options.name:
        raise WrongUsage("--name and an --output that is no folder both name the file: give one of them")
    return output, {}


def _addresses_in(path: str | None) -> list[str]:
    if path is None:
        return []
    text = sys.stdin.read() if path == "-" else pathlib.Path(path).read_text(encoding="utf-8")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _text_or_file(text: str | None) -> str | None:
    """The text, or what the file holds that it names by `@`."""
    if text is None or not text.startswith("@"):
        return text
    return pathlib.Path(text[1:]).read_text(encoding="utf-8")


def _headers(given: list[str]) -> dict[str, str]:
    headers = {}
    for text in given:
        for line in (_text_or_file(text) or "").splitlines():
            name, colon, value = line.partition(":")
            if line.strip() and not colon:
                raise WrongUsage("--header must be 'Name: value', or @FILE with such lines")
            if line.strip():
                headers[name.strip()] = value.strip()
    return headers


def _timeout(text: str) -> tuple[float, ...]:
    try:
        limits = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no time limit; write it like 10,30 or 10,30,600") from None
    return limits * 2 if len(limits) == 1 else limits


def _list(options: argparse.Namespace) -> None:
    base = base_folder(options.cache_dir)
    files = list(cached_files(base))
    for file in files:
        day = datetime.datetime.fromtimestamp(file.modified).strftime("%Y-%m-%d")
        name = os.path.relpath(file.path, base)
        print_path(f"{_bytes(file.size):>10}  {day}  {name}  {file.origin}".rstrip())
    print_path(f"{len(files)} files, {_bytes(sum(file.size for file in files))} in {base}")
    count, size = remove_leftovers(base, only_count=True)
    if count:
        print(f"{count} leftovers of ended calls, {_bytes(size)}: torchkutils cache clean removes them")


def _clean(options: argparse.Namespace) -> None:
    base = base_folder(options.cache_dir)
    named = [os.path.normpath(name) for name in options.names]
    known = {os.path.relpath(file.path, base): file for file in cached_files(base)}
    missing = [name for name in named if name not in known]
    if missing:
        raise ValueError(f"{missing[0]!r} is none of the cache's files; torchkutils cache list prints them")
    old = time.time() - 86400 * options.older_than if options.older_than is not None else float("-inf")
    for name, file in known.items():
        if name in named or file.modified < old:
            if not options.dry_run:
                remove_file(file.path)
            print_path(f"removed {name}, {_bytes(file.size)}")
    count, size = remove_leftovers(base, only_count=options.dry_run)
    print(f"removed {count} leftovers of ended calls, {_bytes(size)}")


def _bytes(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
