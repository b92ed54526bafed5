"""One address after another to one file: retries, resume, length and hash checked while the body streams."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH105, PTH120
from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from torchkutils.errors import DownloadError
from torchkutils.files.fsspec_source import FsspecAnswer
from torchkutils.files.hashing import ExpectedHash, new_hash
from torchkutils.files.http_source import Fault, Timeouts, open_http
from torchkutils.files.sidecar_files import SidecarFiles, remove_whatever, sync_folder

BACKOFF_SECONDS = 0.5
"""The first pause between two attempts; each further one is twice as long."""
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for a longer pause is not waited for."""

_SMALLEST_READ = 1 << 16
_LARGEST_READ = 1 << 20
_COMPRESSED_ENDINGS = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".br", ".z")
# Not the caller's generator: a download must not shift the numbers of an experiment.
_jitter = random.SystemRandom()

Report = Callable[[int, int | None], None]
"""Told the bytes that are on disk and the bytes expected, None while unknown."""


class Body(Protocol):
    """What a source hands out: a body to read and what is known of it."""

    status: int
    length: int | None
    etag: str | None

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""

    def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True)
class Wish:
    """What is to be fetched: the addresses in order of preference and how to ask them."""

    sources: Sequence[str]
    expected: ExpectedHash | None
    headers: Mapping[str, str]
    timeouts: Timeouts
    retries: int


class HashMismatch(Exception):  # noqa: N818 - the next mirror may be right
    """A whole body came, but it is not the wished file."""


@dataclass
class _Part:
    """The temporary file, the hash of what it holds, and the tag of the version it came from."""

    file: BinaryIO
    expected: ExpectedHash | None
    received: int = 0
    total: int | None = None
    etag: str | None = None
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_LARGEST_READ)))

    def __post_init__(self) -> None:
        self.hash = new_hash(self.expected.algorithm) if self.expected else None

    def restart(self) -> None:
        """Forget what came: the next body is a whole one."""
        self.file.seek(0)
        self.file.truncate()
        self.received, self.total, self.etag = 0, None, None
        self.hash = new_hash(self.expected.algorithm) if self.expected else None

    def write(self, piece: memoryview) -> None:
        """Append a piece to file and hash."""
        start = 0
        while start < len(piece):
            start += self.file.write(piece[start:])
        if self.hash is not None:
            self.hash.update(piece)
        self.received += len(piece)


def fetch(wish: Wish, path: str, report: Report) -> None:
    """Bring the wished file to `path`, whole and checked, or leave `path` as it is.

    Raises:
        DownloadError: No source gave the file.
        ValueError: A source gave a file of another hash, and no other source had the right one.
        OSError: The disk refused the bytes.
    """
    name = SidecarFiles(path).new_part()
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(os.open(name, flags, 0o666), "r+b", buffering=0) as file:
            _from_any_source(wish, _Part(file, wish.expected), report)
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        remove_whatever(name)
    sync_folder(os.path.dirname(path))


def _from_any_source(wish: Wish, part: _Part, report: Report) -> None:
    complaints: list[str] = []
    attempts, status, mismatch = 0, None, None
    for source in wish.sources:
        part.restart()
        for attempt in range(wish.retries + 1):
            attempts += 1
            try:
                _attempt(source, wish, part, report)
                return
            except HashMismatch as err:
                mismatch = err
                complaints.append(f"{without_password(source)}: {err}")
                break
            except Fault as fault:
                status = fault.status
                last = attempt == wish.retries or not fault.retry or (fault.wait or 0) > MAX_RETRY_AFTER_SECONDS
                if last:
                    complaints.append(_complaint(source, fault, attempt + 1))
                    break
                time.sleep(pause_before(attempt + 1, fault.wait))
    if mismatch is not None:
        raise ValueError(f"the hash is wrong: {'; '.join(complaints)}") from mismatch
    raise DownloadError(
        f"cannot fetch {'; '.join(complaints)} ({attempts} request{'s' if attempts != 1 else ''} in all)",
        url=without_password(source),
        status=status,
        attempts=attempts,
    )


def _complaint(source: str, fault: Fault, tries: int) -> str:
    words = f"{without_password(source)}: {fault} after {tries} attempt{'s' if tries > 1 else ''}"
    if (fault.wait or 0) > MAX_RETRY_AFTER_SECONDS:
        words += f", and the server asks to come back in {fault.wait:g} s only"
    return words


def pause_before(attempt: int, asked: float | None) -> float:
    """Seconds to wait before the attempt of that number (1 is the first repetition)."""
    if asked is not None:
        return asked
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 20))
    return longest * _jitter.uniform(0.5, 1.0)


def without_password(url: str) -> str:
    """The address as it may stand in a message or a log."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)


def _attempt(source: str, wish: Wish, part: _Part, report: Report) -> None:
    """Ask once; append to the part or start it anew; raise unless the file is then whole and right."""
    body = _opened(source, wish, part)
    try:
        if body is not None:
            _copy(body, part, report)
    finally:
        if body is not None:
            body.close()
    if part.total is not None and part.received != part.total:
        raise Fault(f"the body ended early, got {part.received} of {part.total} bytes", retry=True, status=200)
    if part.hash is not None and part.expected is not None and part.hash.hexdigest() != part.expected.digest:
        raise HashMismatch(f"expected {part.expected}, got {part.expected.algorithm}:{part.hash.hexdigest()}")


def _opened(source: str, wish: Wish, part: _Part) -> Body | None:
    """The body to append, after a restart of the part where it is a whole one; None when nothing is missing."""
    if not source.lower().startswith(("http://", "https://")) or "::" in source:
        part.restart()
        body: Body = FsspecAnswer(source, wish.timeouts)
        part.total = body.length
        return body
    resumes = part.received > 0 and part.etag is not None
    extra = {"Range": f"bytes={part.received}-", "If-Range": part.etag or ""} if resumes else {}
    answer = open_http(source, wish.headers, wish.timeouts, extra)
    if answer.status == 200:
        part.restart()
        _refuse_encoded(source, answer.headers.get("Content-Encoding", ""), wish, answer)
        part.total, part.etag = answer.length, answer.etag
        return answer
    content_range = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
    first, last, total = content_range.groups() if content_range else (None, None, None)
    same_version = answer.etag == part.etag and (part.total is None or total in {"*", str(part.total)})
    if answer.status == 416 and total == str(part.received) and answer.etag in {None, part.etag}:
        answer.close()
        part.total = part.received
        return None
    if answer.status == 206 and same_version and first == str(part.received) and last is not None:
        part.total = int(total) if total and total != "*" else int(last) + 1
        return answer
    # Another version, or an answer to another question: never splice.
    answer.close()
    part.restart()
    return _opened(source, wish, part)


def _refuse_encoded(source: str, encoding: str, wish: Wish, answer: Body) -> None:
    """A server that compresses although identity was asked: only a hash, or the name, tells what is meant."""
    harmless = encoding.strip().lower() in {"", "identity"}
    ending = source.lower().split("?")[0].split("#")[0].endswith(_COMPRESSED_ENDINGS)
    if not harmless and not ending and wish.expected is None:
        answer.close()
        words = f"the body comes with Content-Encoding {encoding!r} although identity was asked"
        raise Fault(f"{words}; give file_hash to accept the bytes as they are", retry=False, status=200)


def _copy(body: Body, part: _Part, report: Report) -> None:
    """Append the body; small reads while data comes slowly, so that progress shows and little is lost."""
    size = _SMALLEST_READ
    report(part.received, part.total)
    while True:
        started = time.monotonic()
        count = body.readinto(part.buffer[:size])
        if not count:
            return
        elapsed = time.monotonic() - started
        part.write(part.buffer[:count])
        if part.total is not None and part.received > part.total:
            raise Fault(f"got more than the announced {part.total} bytes", retry=False, status=body.status)
        report(part.received, part.total)
        if elapsed < 0.05:
            size = min(size * 2, _LARGEST_READ)
        elif elapsed > 0.5:
            size = max(size // 2, _SMALLEST_READ)
