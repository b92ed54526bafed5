"""Addresses that are not http: local files, memory, object stores, chains; read through fsspec."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request
from typing import Any

from torchkutils import _lazy
from torchkutils.files.addresses import shown_url, split_credentials
from torchkutils.files.attempts import Deadline, FailedAttempt, Timeouts

LASTING_ERRORS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


def check_protocol(url: str, argument: str) -> None:
    """Refuse an address that fsspec knows nothing of, or whose driver is not installed.

    Raises:
        ValueError: The protocol is unknown.
        ImportError: Its driver package is missing; the message says how to install it.
    """
    for link in url.split("::"):
        protocol = link.split("://", 1)[0]
        try:
            _lazy.fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            package = driver_package(protocol, error)
            raise ImportError(
                f"{argument} {shown_url(url)!r} needs the package {package!r} for {protocol}:// addresses: "
                f"pip install {package}"
            ) from error
        except ValueError:
            known = False
        else:
            known = True
        if not known:
            raise ValueError(
                f"{argument} must be a URL with a known protocol (http, https, ftp, or one that fsspec knows), got "
                f"{shown_url(url)!r}"
            )


def driver_package(protocol: str, error: ImportError) -> str:
    """The package to install for a protocol: the root of its driver's class, else the module that is missing."""
    from fsspec.registry import known_implementations

    root = str(known_implementations.get(protocol, {}).get("class", "fsspec")).split(".")[0]
    if root != "fsspec":
        return root
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return cause.name.split(".")[0]
        cause = cause.__cause__
    return f"fsspec[{protocol}]"


class FsspecAnswer:
    """The body of a file that fsspec opened; has what an HTTP answer has."""

    status = 200
    etag: str | None = None

    def __init__(self, url: str, timeouts: Timeouts, deadline: Deadline) -> None:
        self._deadline = deadline
        try:
            plain, options = _options(url, timeouts)
            system, path = _lazy.fsspec.core.url_to_fs(plain, **options)
            if url.startswith("file://") and not system.exists(path):
                # Path.as_uri() percent-encodes; fsspec takes the text as it is.
                path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
            # A chain closes its archive when its file system goes.
            self._system = system
            info = system.info(path)
            if info.get("type") == "directory":
                raise IsADirectoryError(f"{path} is a folder")
            size = info.get("size")
            self.length: int | None = int(size) if size is not None else None
            self._file: Any = system.open(path, "rb")
        except Exception as error:
            raise _failed(error) from error

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""
        self._deadline.left()
        try:
            return int(self._file.readinto(buffer))
        except Exception as error:
            raise _failed(error) from error

    def close(self) -> None:
        """Close the remote file."""
        self._file.close()


def _options(url: str, timeouts: Timeouts) -> tuple[str, dict[str, Any]]:
    """The chain without the logins of its http addresses, which fsspec would log, and the options that hold them.

    fsspec's own total of 5 minutes would end large files: there are time limits here too.
    """
    links = url.split("::")
    options: dict[str, Any] = {}
    for number, link in enumerate(links):
        protocol = link.split("://", 1)[0].lower()
        if protocol not in {"http", "https"}:
            continue
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.read)
        client: dict[str, Any] = {"timeout": limits, "trust_env": True}
        links[number], login = split_credentials(link)
        if login is not None:
            client["auth"] = aiohttp.BasicAuth.decode(login, "utf-8")
        options[protocol] = {"client_kwargs": client}
    return "::".join(links), options


def _failed(error: Exception) -> FailedAttempt:
    if isinstance(error, FailedAttempt):
        return error
    status = getattr(error, "status", None)
    number = status if isinstance(status, int) else None
    known = isinstance(error, OSError) and error.errno is not None
    words = os.strerror(error.errno) if known else f"{type(error).__name__}: {error}"  # type: ignore[attr-defined]
    lasting = isinstance(error, (*LASTING_ERRORS, ValueError, ImportError, TypeError))
    return FailedAttempt(words if str(error) in words else f"{words} ({error})", retry=not lasting, status=number)
