"""The name of a download whose caller gave none: of the address, or of the server (Content-Disposition).

An address such as `https://host/files/6294558` does not say what its file is called. The first call asks, and writes
the name into a hidden file of the cache folder, whose name is made of the address (without credentials, and in a way
that nobody can read back). A second call, or one without network, reads it there.
"""

# Paths stay text here, as everywhere about the cache.
# ruff: noqa: PTH118
from __future__ import annotations

import contextlib
import os
import re
import urllib.parse

from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.files import cache_folder
from torchkutils.files.addresses import address_key, has_ending, is_http, last_part, shown_url
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.http_source import Answer, open_http
from torchkutils.files.sidecar_files import MARK, SidecarFiles
from torchkutils.files.transfer import Attempts, Request

_LONGEST_NAME = 255
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


def name_without_asking(fname: PathLike | None, url: str) -> str | None:
    """The name below the cache folder that a call says by itself; None where the server must be asked.

    Raises:
        ValueError: The name cannot be a file's, or the address can have none.
    """
    if fname is not None or not is_http(url):
        return cache_folder.file_name(fname, url)
    name, parts = last_part(url), urllib.parse.urlsplit(url)
    is_bare_host = parts.path in {"", "/"} and not parts.query
    if is_bare_host or (name and not is_usable_name(name)):
        raise ValueError(f"fname must be given: the last part of {shown_url(url)!r} is no file name")
    return name if has_ending(name) else None


def name_by_asking(request: Request, folder: str, *, offline: bool) -> tuple[str, Answer | None]:
    """The name that the server gives, or gave at an earlier call; with the answer, which holds the file too.

    Raises:
        DownloadError: No address answers, or the network must not be asked.
        ValueError: Neither the server nor the address gives a name.
    """
    url = request.sources[0]
    known = remembered_name(folder, url)
    if known is not None:
        return known, None
    if offline:
        # What an earlier version, or Keras, has fetched lies under the address's last part.
        return _name_of_address(url), None
    if not cache_folder.can_be_written(folder):
        return _asked(request)
    # One process asks, the others read what it wrote down.
    with only_one_process(SidecarFiles(memory_of(folder, url)), f"ask {shown_url(url)} for the file's name"):
        known = remembered_name(folder, url)
        if known is not None:
            return known, None
        name, answer = _asked(request)
        remember_name(folder, url, name)
        return name, answer


def _asked(request: Request) -> tuple[str, Answer | None]:
    attempts = Attempts(request)
    first = request.sources[0]
    opened: list[str] = []

    def attempt(source: str) -> Answer | None:
        opened[:] = [source]
        return open_http(source, request.caller, attempts.deadline) if is_http(source) else None

    answer = attempts.first_success(attempt)
    if answer is None:
        return _name_of_address(first), None
    name = disposition_name(answer.headers.get("Content-Disposition")) or _name_of_address(first)
    if opened != [first]:
        answer.close()
        return name, None
    return name, answer


def _name_of_address(url: str) -> str:
    name = last_part(url)
    if not is_usable_name(name):
        raise ValueError(
            f"fname must be given: neither the server nor the last part of {shown_url(url)!r} gives a file name"
        )
    return name


def disposition_name(value: str) -> str | None:
    """The file name in a Content-Disposition header, without its folders; None where there is none that can be used.

    >>> disposition_name('attachment; filename="a/table.xlsx"')
    'table.xlsx'
    """
    extended = re.search(r"(?:^|;)\s*filename\*\s*=\s*([\w-]+)'[^']*'([^;]*)", value, re.IGNORECASE)
    if extended is not None:
        with contextlib.suppress(LookupError, ValueError):
            name = urllib.parse.unquote(extended[2].strip().strip('"'), encoding=extended[1], errors="strict")
            if is_usable_name(last_component(name)):
                return last_component(name)
    plain = re.search(r'(?:^|;)\s*filename\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*)', value, re.IGNORECASE)
    if plain is None:
        return None
    text = plain[1].strip()
    if text.startswith('"'):
        text = re.sub(r"\\(.)", r"\1", text[1:-1]) if not re.search(r"[A-Za-z]:\\", text) else text[1:-1]
    name = last_component(_decoded(text))
    return name if is_usable_name(name) else None


def _decoded(text: str) -> str:
    """Header text, read as Latin-1, in the encoding that was meant: UTF-8, an encoded word of e-mail, or percents."""
    with contextlib.suppress(UnicodeError):
        text = text.encode("latin-1").decode("utf-8")
    if re.search(r"=\?[\w-]+\?[BbQq]\?", text):
        import email.header

        with contextlib.suppress(LookupError, ValueError):
            text = str(email.header.make_header(email.header.decode_header(text)))
    return text


def last_component(name: str) -> str:
    """What follows the last slash of either kind."""
    return re.split(r"[/\\]", name)[-1].strip()


def is_usable_name(name: str) -> bool:
    """Whether a name that a stranger chose may be a file's in the cache."""
    return cache_folder.is_plain_name(name) and name.isprintable() and len(os.fsencode(name)) <= _LONGEST_NAME


def memory_of(folder: str, url: str) -> str:
    """The path under which the name of an address is remembered."""
    return os.path.join(folder, f".{address_key(url)}{MARK}name")


def remembered_name(folder: str, url: str) -> str | None:
    """The name that the server gave for an address earlier; None where it was never asked."""
    try:
        with open(os.open(memory_of(folder, url), _FLAGS), encoding="utf-8") as file:
            name = file.read(4 * _LONGEST_NAME)
    except (OSError, ValueError):
        return None
    return name if is_usable_name(name) else None


def remember_name(folder: str, url: str, name: str) -> None:
    """Write the name down; a folder that cannot be written only costs the next call a request."""
    with contextlib.suppress(OSError), replacing(memory_of(folder, url)) as path:
        path.write_text(name, encoding="utf-8")
