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

from torchkutils.cli_usage import SomeFailed, WrongUsage, complain
from torchkutils.files.cache_contents import cached_files, remove_file, remove_leftovers
from torchkutils.files.cache_folder import base_folder
from torchkutils.files.doi import doi_in
from torchkutils.files.download_options import DownloadOptions
from torchkutils.files.get_file import get_file
from torchkutils.files.hashing import parse_hash
from torchkutils.files.registry import Registry


def print_path(path: str) -> None:
    """Print a path; where the output cannot show a letter, the bytes that the file system has for it."""
    try:
        print(path)
    except UnicodeEncodeError:
        sys.stdout.flush()
        sys.stdout.buffer.write(os.fsencode(path) + b"\n")


def get(options: argparse.Namespace) -> None:
    """Fetch files and print where they lie."""
    urls = [*options.urls, *_addresses_in(options.input)]
    _check_urls(urls, options)
    _check_hash(_text_or_file(options.hash), options.hash_algorithm)
    name, where = _name_and_cache(options)
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
    single = {**common, **_options_of_one_file(options)}
    record = {key: value for key, value in common.items() if key in _REGISTRY_OPTIONS}
    calls: list[Callable[[], list[str]]] = []
    for url in urls:
        if doi_in(url) is not None:
            calls.append(functools.partial(_all_of_record, url, options, record))
        else:
            calls.append(functools.partial(_one_file, name, url, single))
    _run(calls, options.jobs)


def _check_urls(urls: list[str], options: argparse.Namespace) -> None:
    if not urls:
        raise WrongUsage("give at least one url, or --input")
    if len(urls) > 1 and (options.name or options.mirror):
        raise WrongUsage("--name and --mirror go with one url only")
    if options.output and len(urls) > 1 and not pathlib.Path(options.output).is_dir():
        raise WrongUsage("with several urls, --output must be a folder that is there")


def _options_of_one_file(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "file_hash": _text_or_file(options.hash),
        "hash_algorithm": options.hash_algorithm,
        "extract": options.extract,
        "untar": options.untar,
        "archive_format": options.archive_format.split(","),
        "allow_links": "skip" if options.skip_links else not options.no_links,
        "overwrite": options.overwrite,
        "extract_dir": options.extract_dir,
        "members": options.member or None,
        "remove_archive": options.remove_archive,
        "encoding": options.encoding,
        "mirrors": options.mirror,
        "force": options.force,
    }


def _check_hash(text: str | None, algorithm: str) -> None:
    if text is None or len(text.split("\n")) > 2:
        return  # which line is meant depends on the file's name
    try:
        parse_hash(text, algorithm)
    except ValueError as error:
        raise WrongUsage(f"--hash: {error}") from error


_REGISTRY_OPTIONS = frozenset([*inspect.signature(Registry).parameters, *DownloadOptions.__annotations__])


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


def _name_and_cache(options: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
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


def list_cache(options: argparse.Namespace) -> None:
    """Print what lies in the cache."""
    base = base_folder(options.cache_dir)
    files = list(cached_files(base))
    for file in files:
        day = datetime.datetime.fromtimestamp(file.modified).strftime("%Y-%m-%d")
        name = os.path.relpath(file.path, base)
        print_path(f"{_bytes(file.size):>10}  {day}  {name}  {file.origin}".rstrip())
    together = "1 file" if len(files) == 1 else f"{len(files)} files"
    print_path(f"{together}, {_bytes(sum(file.size for file in files))} in {base}")
    count, size = remove_leftovers(base, only_count=True)
    if count:
        print(f"{count} leftovers of ended calls, {_bytes(size)}: torchkutils cache clean removes them")


def clean_cache(options: argparse.Namespace) -> None:
    """Remove files from the cache."""
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
