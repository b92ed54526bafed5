"""The arguments of get_file, checked before anything is asked, made or changed."""

from __future__ import annotations

import math
import urllib.parse
from collections.abc import Iterable, Mapping

from torchkutils.files.fsspec_source import check_protocol
from torchkutils.files.hashing import ExpectedHash, check_algorithm, parse_hash
from torchkutils.files.http_source import Timeouts, quoted, split_credentials

OUR_HEADERS = {"range", "if-range", "accept-encoding"}


def checked_sources(origin: object, mirrors: Iterable[str]) -> list[str]:
    """The URLs in the order in which they are asked; ValueError for one that is none."""
    if isinstance(mirrors, (str, bytes)):
        raise ValueError(f"mirrors must be a list of URLs, got the single text {mirrors!r}")
    if not isinstance(mirrors, Iterable):
        raise ValueError(f"mirrors must be a list of URLs, () for none, got {mirrors!r}")
    return [_checked_url(origin, "origin"), *[_checked_url(mirror, "mirrors") for mirror in mirrors]]


def _checked_url(url: object, argument: str) -> str:
    if not isinstance(url, str) or not url.strip():
        raise ValueError(f"{argument} must be a URL such as 'https://host/file.zip', got {url!r}")
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in url):
        raise ValueError(f"{argument} must be a URL without control characters, got {url!r}")
    if "://" not in url:
        raise ValueError(f"{argument} must be a URL with a protocol (file:///… for a local path), got {url!r}")
    protocol = url.split("://", 1)[0].lower()
    if "::" in url or protocol not in {"http", "https"}:
        check_protocol(url, argument)
        return url
    address = quoted(url.strip())
    try:
        parts = urllib.parse.urlsplit(address)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        split_credentials(address)
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"{argument} must be a URL with a host and a valid port, got {url!r}")
    return address


def expected_hash(file_hash: str | None, md5_hash: str | None, algorithm: str) -> ExpectedHash | None:
    """What the file must hash to; `md5_hash` counts only without `file_hash`."""
    check_algorithm(algorithm)
    if file_hash is None and md5_hash is not None:
        return parse_hash(md5_hash, "md5", argument="md5_hash")
    if file_hash is None:
        return None
    return parse_hash(file_hash, algorithm)


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The caller's headers; ValueError for one that is no line of text, or that resuming needs."""
    if headers is not None and not isinstance(headers, Mapping):
        raise ValueError(f"headers must map names to texts, such as {{'Accept': '*/*'}}, or be None, got {headers!r}")
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str) or any(c in name + value for c in "\r\n\0"):
            raise ValueError(f"headers must map names to texts of one line each, got {name!r}: {value!r}")
        if name.lower() in OUR_HEADERS:
            raise ValueError(f"headers must not hold {name!r}: resuming and encoding are decided by get_file")
    return dict(headers or {})


def checked_timeout(timeout: object) -> Timeouts:
    """Seconds to connect and seconds between two arrivals of data; ValueError unless they are positive."""
    pair = timeout if isinstance(timeout, (tuple, list)) else (timeout, timeout)
    for limit in pair:
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if limit is not None and not (number and math.isfinite(limit) and limit > 0):
            raise ValueError(f"timeout must be positive seconds, (connect, read), or None to wait, got {timeout!r}")
    if len(pair) != 2:
        raise ValueError(f"timeout must be one number or the pair (connect, read), got {timeout!r}")
    return Timeouts(pair[0], pair[1])


def checked_retries(retries: object) -> int:
    """Attempts after the first; ValueError unless a whole number that is not negative."""
    if isinstance(retries, bool) or not isinstance(retries, int) or retries < 0:
        raise ValueError(f"retries must be a whole number ≥ 0, got {retries!r}")
    return retries
