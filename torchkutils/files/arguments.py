"""The arguments of get_file, checked before anything is asked, made or changed."""

from __future__ import annotations

import math
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping

from torchkutils.files.addresses import ascii_url, is_ftp, is_http, shown_url
from torchkutils.files.attempts import Timeouts
from torchkutils.files.fsspec_source import check_protocol
from torchkutils.files.hashing import ExpectedHash, check_algorithm, parse_hash

OUR_HEADERS = {"range", "if-range", "accept-encoding", "connection", "content-length", "transfer-encoding"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)
# No control characters, which would begin another header, and no spaces around: a server would cut them off.
_VALUE = re.compile(r"(?! )[\t\x20-\x7e\xa0-\xff]*(?<! )")


def checked_sources(origin: object, mirrors: Iterable[str], fname: object = None) -> list[str]:
    """The URLs in the order in which they are asked; ValueError for one that is none, or that was given as `fname`."""
    if isinstance(fname, str) and "://" in fname and "://" not in str(origin):
        way = "get_file(origin=…)" if origin is None else "get_file(fname, origin)"
        raise ValueError(
            f"origin must be a URL, got {shown_url(origin)!r}, and fname holds one: {shown_url(fname)!r}; write {way}"
        )
    if isinstance(mirrors, (str, bytes)):
        raise ValueError(f"mirrors must be a list of URLs, got the single text {shown_url(mirrors)!r}")
    if not isinstance(mirrors, Iterable):
        raise ValueError(f"mirrors must be a list of URLs, () for none, got {shown_url(mirrors)}")
    return [checked_url(origin, "origin"), *[checked_url(mirror, "mirrors") for mirror in mirrors]]


def checked_url(url: object, argument: str) -> str:
    """The URL as it is asked for; ValueError, which shows no secret of it, for what is none."""
    if not isinstance(url, str) or not url.strip():
        raise _no_url(argument, "such as 'https://host/file.zip'", url)
    if not url.isprintable() and any(ord(letter) < 32 or ord(letter) == 127 for letter in url):
        raise _no_url(argument, "without control characters", url)
    if "://" not in url:
        raise _no_url(argument, "with a protocol (file:///… for a local path)", url)
    if not (is_http(url) or is_ftp(url)):
        check_protocol(url, argument)
        return url
    address = _usable(url)
    if address is None:
        raise _no_url(argument, "with a host and a valid port", url)
    return address


def _no_url(argument: str, words: str, url: object) -> ValueError:
    return ValueError(f"{argument} must be a URL {words}, got {'None' if url is None else repr(shown_url(url))}")


def _usable(url: str) -> str | None:
    """The address in ASCII; None where it cannot be taken apart."""
    try:
        address = ascii_url(url)
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError:
        return None
    return address if parts.hostname and (port is None or port > 0) else None


def expected_hash(
    file_hash: str | None, md5_hash: str | None, algorithm: str, name: str | None = None
) -> ExpectedHash | None:
    """What the file must hash to; `md5_hash` counts only without `file_hash`, `name` chooses among several lines."""
    check_algorithm(algorithm)
    if file_hash is None and md5_hash is not None:
        return parse_hash(md5_hash, "md5", argument="md5_hash")
    if file_hash is None:
        return None
    return parse_hash(file_hash, algorithm, name=name)


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's headers; ValueError, which shows no value, for one that cannot be sent or that resuming needs."""
    if headers is not None and not isinstance(headers, Mapping):
        raise ValueError(
            f"headers must map names to texts, such as {{'Accept': '*/*'}}, or be None, got {type(headers).__name__}"
        )
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ValueError(f"headers must map names to texts, got {type(name).__name__} to {type(value).__name__}")
        if not _TOKEN.fullmatch(name):
            raise ValueError("headers must map names to texts, and one name is empty or holds what no name may hold")
        if not _VALUE.fullmatch(value):
            raise ValueError(
                f"headers must map names to texts of one line each in Latin-1, and the value of {name!r} (not shown "
                "here) is none; a token that was read from a file may need strip()"
            )
        if name.lower() in OUR_HEADERS:
            raise ValueError(f"headers must not hold {name!r}: resuming and encoding are decided by get_file")
    return dict(headers or {})


def checked_timeout(timeout: object) -> Timeouts:
    """Seconds to connect, between two arrivals of data and in all; ValueError unless they are positive."""
    limits = tuple(timeout) if isinstance(timeout, (tuple, list)) else (timeout, timeout)
    for limit in limits:
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and not (number and math.isfinite(limit) and limit > 0):
            raise ValueError(
                f"timeout must be positive seconds, (connect, read), (connect, read, total), or None to wait, got "
                f"{timeout!r}"
            )
    if len(limits) not in {2, 3}:
        raise ValueError(f"timeout must be one number, (connect, read) or (connect, read, total), got {timeout!r}")
    return Timeouts(*limits)


def checked_retries(retries: object) -> int:
    """Attempts after the first; ValueError unless a whole number that is not negative."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number ≥ 0, got {retries!r}")
    return retries


def switch_of(variable: str) -> bool:
    """Whether an environment variable switches something on: any text but those that say no."""
    return os.environ.get(variable, "").strip().lower() not in {"", "0", "false", "no", "off"}


def check_paths(**paths: object) -> None:
    """ValueError unless each is a text or a path; None will do for all but cache_subdir."""
    for argument, path in paths.items():
        if not isinstance(path, (str, os.PathLike)) and (path is not None or argument == "cache_subdir"):
            raise ValueError(f"{argument} must be a text or a pathlib.Path, got {path!r}")


def check_switches(**switches: object) -> None:
    """ValueError unless each is True or False."""
    for argument, switch in switches.items():
        if not isinstance(switch, bool):
            raise ValueError(f"{argument} must be True or False, got {switch!r}")
