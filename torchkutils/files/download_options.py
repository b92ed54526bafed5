"""The options of a download that `get_file` and `Registry` have in common."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Literal, TypedDict

from torchkutils._typing import PathLike
from torchkutils.files import arguments, certificates
from torchkutils.files.http_source import Caller

# The defaults that both use.
TIMEOUT: float | tuple[float | None, ...] | None = (10, 30)
RETRIES = 3


class DownloadOptions(TypedDict, total=False):
    """Arguments of `get_file` that hold for all files of a registry; each has the default that it has there."""

    cache_dir: PathLike | None
    cache_subdir: PathLike
    verify: bool | PathLike | ssl.SSLContext
    netrc: bool
    timeout: float | tuple[float | None, ...] | None
    retries: int
    offline: bool
    progress: bool


class FileOptions(DownloadOptions, total=False):
    """Arguments of `get_file` for one file of a registry, but for its name, address and hash."""

    extract: bool
    archive_format: str | Iterable[str] | None
    force: bool
    mirrors: Iterable[str]
    headers: Mapping[str, str] | None
    allow_links: bool | Literal["skip"]
    overwrite: bool
    extract_dir: PathLike | None
    members: str | Iterable[str] | None
    remove_archive: bool
    encoding: str | None


def checked_caller(
    headers: Mapping[str, str] | None,
    timeout: float | tuple[float | None, ...] | None,
    verify: bool | PathLike | ssl.SSLContext,
    netrc: bool,
) -> Caller:
    """Who asks the servers, and how.

    Raises:
        ValueError: A header that cannot be sent, a timeout that is none, certificates that cannot be read.
    """
    return Caller(
        arguments.checked_headers(headers),
        arguments.checked_timeout(timeout),
        certificates.checked_verify(verify),
        netrc,
    )
