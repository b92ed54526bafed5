"""Addresses that are not http: local files, memory, object stores, chains; read through fsspec."""

from __future__ import annotations

import os
import urllib.parse
import urllib.request
from typing import Any

from torchkutils import _lazy
from torchkutils.files.http_source import Fault, Timeouts

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
        except ImportError as err:
            package = driver_package(protocol, err)
            raise ImportError(
                f"{argument} {url!r} needs the package {package!r} for {protocol}:// addresses: pip install {package}"
            ) from err
        except ValueError as err:
            raise ValueError(
                f"{argument} must be a URL with a known protocol (http, https, or one that fsspec knows), got {url!r}"
            ) from err


def driver_package(protocol: str, err: ImportError) -> str:
    """The package to install for a protocol: the root of its driver's class, else the module that is missing."""
    from fsspec.registry import known_implementations

    root = str(known_implementations.get(protocol, {}).get("class", "fsspec")).split(".")[0]
    if root != "fsspec":
        return root
    cause: BaseException | None = err
    while cause is not None:
        if isinstance(cause, ImportError) and cause.name:
            return cause.name.split(".")[0]
        cause = cause.__cause__
    return f"fsspec[{protocol}]"


class FsspecAnswer:
    """The body of a file that fsspec opened; has what an HTTP answer has."""

    status = 200
    etag: str | None = None

    def __init__(self, url: str, timeouts: Timeouts) -> None:
        try:
            system, path = _lazy.fsspec.core.url_to_fs(url, **_options(url, timeouts))
            if url.startswith("file://") and not system.exists(path):
                # Path.as_uri() percent-encodes; fsspec takes the text as it stands.
                path = urllib.request.url2pathname(urllib.parse.urlsplit(url).path)
            # A chain closes its archive when its file system goes.
            self._system = system
            info = system.info(path)
            if info.get("type") == "directory":
                raise IsADirectoryError(f"{path} is a folder")
            size = info.get("size")
            self.length: int | None = int(size) if size is not None else None
            self._file: Any = system.open(path, "rb")
        except Exception as err:
            raise _fault(err) from err

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""
        try:
            return int(self._file.readinto(buffer))
        except Exception as err:
            raise _fault(err) from err

    def close(self) -> None:
        """Close the remote file."""
        self._file.close()


def _options(url: str, timeouts: Timeouts) -> dict[str, Any]:
    """Time limits for an http address inside a chain: fsspec's own total of 5 minutes ends large files."""
    options: dict[str, Any] = {}
    chained = {link.split("://", 1)[0] for link in url.split("::")}
    for protocol in chained & {"http", "https"}:
        import aiohttp

        limits = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, sock_read=timeouts.read)
        options[protocol] = {"client_kwargs": {"timeout": limits, "trust_env": True}}
    return options


def _fault(err: Exception) -> Fault:
    status = getattr(err, "status", None)
    number = status if isinstance(status, int) else None
    words = (
        f"{type(err).__name__}: {err}" if not isinstance(err, OSError) or err.errno is None else os.strerror(err.errno)
    )
    lasting = isinstance(err, (*LASTING_ERRORS, ValueError, ImportError, TypeError))
    return Fault(f"{words} ({err})" if str(err) not in words else words, retry=not lasting, status=number)
