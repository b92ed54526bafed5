"""Bodies that are not what was asked for: a web page instead of data, a compressed body where none was wanted."""

from __future__ import annotations

import html
import re
import urllib.parse

from torchkutils.files.addresses import has_ending, last_part

HEAD_SIZE = 4096
"""So many bytes of a body are looked at."""
PAGE_ENDINGS = (".html", ".htm", ".xhtml")
COMPRESSED_ENDINGS = (".gz", ".tgz", ".bz2", ".tbz", ".tbz2", ".xz", ".txz", ".zst", ".tzst", ".br", ".z", ".svgz")
_COMPRESSIONS = frozenset(
    {"gzip", "x-gzip", "compress", "x-compress", "deflate", "br", "zstd", "dcb", "dcz", "bzip2", "xz"}
)

_PAGE = re.compile(rb"<(?:!doctype\s+html|html)[\s>]", re.IGNORECASE)
# The tags by which browsers know a page (WHATWG MIME sniffing), where the server says too that it is one.
_TAG = re.compile(rb"<(?:head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|meta|link)[\s>]", re.IGNORECASE)
_TITLE = re.compile(rb"<title[^>]{0,200}>([^<]{1,300})", re.IGNORECASE)


def may_be_a_page(name: str, url: str) -> bool:
    """Whether the caller may want a web page: the name says so, or no ending says anything else."""
    in_address = last_part(url)
    if (name or in_address).lower().endswith(PAGE_ENDINGS):
        return True
    return not has_ending(name) and not has_ending(in_address)


def page_in_words(head: bytes, content_type: str, url: str) -> str | None:
    """What a body's first bytes show, if it is a web page; None if it is none.

    Args:
        head: Up to HEAD_SIZE bytes.
        content_type: The server's word for it, '' where there is none. It counts only together with the bytes:
            many servers call every download text/html.
        url: The address that gave it.
    """
    says_so = content_type.split(";")[0].strip().lower() in {"text/html", "application/xhtml+xml"}
    start = _past_comments(head)
    if not (_PAGE.match(start) or (says_so and _TAG.match(start))):
        return None
    match = _TITLE.search(head)
    title = " ".join(html.unescape(match[1].decode("utf-8", "replace")).split()) if match else ""
    title = "".join(letter for letter in title if letter.isprintable())[:80]
    words = "a web page (HTML) came instead of a file"
    if title:
        words += f", titled {title!r}"
    advice = _advice(url, title.lower())
    return f"{words}; {advice}" if advice else words


def _past_comments(head: bytes) -> bytes:
    """The bytes from the first tag on: before it there may be a byte order mark, spaces and comments."""
    left = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    while left.startswith((b"<!--", b"<?xml")):
        _, end, left = left.partition(b"-->" if left.startswith(b"<!--") else b"?>")
        if not end:
            return b""
        left = left.lstrip()
    return left


def _advice(url: str, title: str) -> str:
    parts = urllib.parse.urlsplit(url)
    host = parts.hostname or ""
    if host == "github.com" and "/blob/" in parts.path:
        return "it is GitHub's page about the file: ask for the address with /raw/ instead of /blob/"
    if host.endswith("dropbox.com"):
        return "it is Dropbox's page about the file: ask for the address with dl=1 instead of dl=0"
    if "google" in host or "google drive" in title:
        return "it is Google Drive's page about the file (a warning, or a sign-in): fetch it by its download address"
    if re.search(r"sign.?in|log.?in|authenticat|consent|captcha", title):
        return "it looks like a sign-in page: give credentials in headers, the address or netrc=True"
    if re.search(r"not found|404|error", title):
        return "it looks like an error page that came with status 200"
    return ""


def compression_of(encoding: str) -> str:
    """The compression that a Content-Encoding names; '' for none, and for words without a meaning in HTTP."""
    named = [part.strip().lower() for part in encoding.split(",")]
    return ", ".join(part for part in named if part in _COMPRESSIONS)


def is_named_compressed(*names: str) -> bool:
    """Whether one of the names or addresses says that a compressed file is what is meant."""
    plain = [re.split(r"[?#]", name.lower())[0] for name in names]
    return any(name.endswith(COMPRESSED_ENDINGS) for name in plain)
