"""One address after another to one file: retries, resume, length and hash checked while the body streams."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH105, PTH119, PTH120
from __future__ import annotations

import http
import itertools
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Protocol, TypeVar

from torchkutils._printable import printable
from torchkutils.errors import DownloadError
from torchkutils.files import resume, web_pages
from torchkutils.files.addresses import Secrets, address_key, is_ftp, is_http, shown_url
from torchkutils.files.attempts import Deadline, FailedAttempt
from torchkutils.files.fsspec_source import FsspecAnswer
from torchkutils.files.ftp_source import FtpAnswer
from torchkutils.files.hashing import ExpectedHash, hex_digest, new_hash
from torchkutils.files.http_source import Answer, Caller, open_http
from torchkutils.files.sidecar_files import SidecarFiles, remove_whatever, sync_folder

BACKOFF_SECONDS = 0.5
"""The first pause between two attempts; each further one is twice as long."""
MAX_BACKOFF_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for a longer pause is not waited for."""
HEARTBEAT_SECONDS = 1.0
"""So often the part file is touched during a pause: processes that wait for the lock see that this one lives."""

_SMALLEST_READ = 1 << 16
_LARGEST_READ = 1 << 20
# Not the caller's generator: a download must not shift the numbers of an experiment.
_jitter = random.SystemRandom()

Result = TypeVar("Result")
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
class Request:
    """What is to be fetched: the addresses in order of preference, and how to ask them.

    Attributes:
        sources: The addresses.
        expected: What the file must hash to, None for anything.
        caller: Headers, time limits, certificates.
        retries: Attempts after the first, for each address.
        name: The file's name in the cache, which says what is wanted (a page, a compressed file).
        first_answer: An answer of the first address that was opened already, to learn the file's name.
    """

    sources: Sequence[str]
    expected: ExpectedHash | None
    caller: Caller
    retries: int
    name: str = ""
    first_answer: Answer | None = None

    @property
    def secrets(self) -> Secrets:
        """What no message may hold."""
        return Secrets(self.sources, self.caller.headers)


class _ContentRange(NamedTuple):
    """Which bytes of the whole a body is: from `start` to before `end`, of `total`; None for what it leaves open."""

    start: int | None = None
    end: int | None = None
    total: int | None = None


def _content_range(answer: Answer) -> _ContentRange:
    text = answer.headers.get("Content-Range").strip()
    match = re.fullmatch(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(?:(\d{1,18})|\*)", text, re.ASCII)
    if match is None:
        return _ContentRange()
    first, last, total = (None if number is None else int(number) for number in match.groups())
    return _ContentRange(first, None if last is None else last + 1, total)


class HashMismatch(Exception):  # noqa: N818 - the next mirror may be right
    """A whole body came, but it is not the file that was asked for."""


@dataclass
class _Part:
    """The temporary file, the hash of what it holds, and the address and tag of the version it came from."""

    file: BinaryIO
    expected: ExpectedHash | None
    received: int = 0
    total: int | None = None
    etag: str | None = None
    source: str = ""
    content_type: str = ""
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_LARGEST_READ)))

    def __post_init__(self) -> None:
        self.hash = new_hash(self.expected.algorithm) if self.expected else None

    def restart(self) -> None:
        """Forget what came: the next body is a whole one."""
        self.file.seek(0)
        self.file.truncate()
        self.received, self.total, self.etag, self.source = 0, None, None, ""
        self.hash = new_hash(self.expected.algorithm) if self.expected else None

    def go_on_with(self, note: resume.Note, source: str) -> None:
        """Take over what an earlier call left in the file."""
        while count := self.file.readinto(self.buffer):  # type: ignore[attr-defined]
            self.received += count
            if self.hash is not None:
                self.hash.update(self.buffer[:count])
        self.total, self.etag, self.source = note.total, note.etag, source

    def is_continued_by(self, named: _ContentRange, etag: str | None) -> bool:
        """Whether a body of these bytes is the missing rest of the same version."""
        same_version = etag == self.etag and (self.total is None or named.total in {None, self.total})
        return same_version and named.start == self.received

    def write(self, piece: memoryview) -> None:
        """Append a piece to file and hash."""
        start = 0
        while start < len(piece):
            start += self.file.write(piece[start:])
        if self.hash is not None:
            self.hash.update(piece)
        self.received += len(piece)

    def head(self) -> bytes:
        """The first bytes."""
        position = self.file.tell()
        self.file.seek(0)
        head = self.file.read(web_pages.HEAD_SIZE)
        self.file.seek(position)
        return head


def fetch(request: Request, path: str, report: Report) -> None:
    """Bring the requested file to `path`, whole and checked, or leave `path` as it is.

    What a failed call leaves is gone on with by the next one (`resume`).

    Raises:
        DownloadError: No source gave the file.
        ValueError: A source gave a file of another hash, and no other source had the right one.
        OSError: The disk refused the bytes.
    """
    sidecars = SidecarFiles(path)
    name = sidecars.new_part()
    keys = {address_key(source): source for source in request.sources}
    earlier = resume.take_over(sidecars, name, keys)
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    flags |= os.O_CREAT | os.O_EXCL if earlier is None else 0
    kept = False
    try:
        with open(os.open(name, flags, 0o666), "r+b", buffering=0) as file:
            part = _Part(file, request.expected)
            if earlier is not None:
                part.go_on_with(earlier, keys[earlier.source])
            try:
                _Transfer(request, part, sidecars, name, report).run()
            except BaseException as error:
                kept = _keep(part, sidecars, name, error)
                raise
            os.fsync(file.fileno())
        os.replace(name, path)
    finally:
        if not kept:
            remove_whatever(name)
            remove_whatever(sidecars.resume)
    sync_folder(os.path.dirname(path))


def _note(part: _Part, name: str, received: int | None) -> resume.Note:
    source = address_key(part.source)
    return resume.Note(os.path.basename(name), source, part.etag or "", part.total, received)


def _keep(part: _Part, sidecars: SidecarFiles, name: str, error: BaseException) -> bool:
    """Leave the part to the next call, where that can go on with it; a full disk is not filled further."""
    disk_fault = isinstance(error, OSError) and not isinstance(error, DownloadError)
    if disk_fault or part.etag is None or not part.received:
        return False
    resume.write_note(sidecars, _note(part, name, part.received))
    return True


class Attempts:
    """Tries the addresses of a request in order, each as often as it is worth it, within the time.

    Attributes:
        deadline: The moment at which all of it must be finished.
    """

    def __init__(self, request: Request, heartbeat: Callable[[], None] = lambda: None) -> None:
        self.deadline: Deadline = Deadline(request.caller.timeouts.total)
        self._request, self._heartbeat = request, heartbeat
        self._secrets = request.secrets
        self._complaints: list[str] = []
        self._count = 0

    def first_success(self, attempt: Callable[[str], Result]) -> Result:
        """What `attempt` gives for the first address for which it raises neither FailedAttempt nor HashMismatch.

        Raises:
            DownloadError: There is none.
            ValueError: There is none, and one gave a file of another hash.
        """
        status, mismatch, source = None, False, ""
        for source in self._request.sources:
            try:
                return self._from_source(source, attempt)
            except HashMismatch:
                mismatch = True
            except FailedAttempt as error:
                status = error.status
            if self.deadline.is_over:
                break
        words = "; ".join(self._complaints)
        if mismatch:
            raise ValueError(f"the hash is wrong: {words}")
        raise DownloadError(
            f"cannot fetch {words} ({self._count} request{'s' if self._count != 1 else ''} in all)",
            url=shown_url(source),
            status=status,
            attempts=self._count,
        )

    def _from_source(self, source: str, attempt: Callable[[str], Result]) -> Result:
        wrong_hashes = 0
        for tries in itertools.count(1):
            self._count += 1
            try:
                return attempt(source)
            except HashMismatch as error:
                wrong_hashes += 1
                if wrong_hashes == 1 and self._waited(tries, None):
                    continue
                self._complain(source, error, tries)
                raise
            except FailedAttempt as error:
                worth_it = error.retry and (error.wait or 0) <= MAX_RETRY_AFTER_SECONDS
                if worth_it and self._waited(tries, error.wait):
                    continue
                self._complain(source, error, tries)
                raise
        raise AssertionError("unreachable")

    def _waited(self, tries: int, asked: float | None) -> bool:
        """Wait before the next attempt; False, at once, where there is none left, or the time is over before it."""
        seconds = pause_before(tries, asked)
        if tries > self._request.retries or self.deadline.is_over:
            return False
        left = self.deadline.left()
        if left is not None and left <= seconds:
            return False
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(left, HEARTBEAT_SECONDS))
            self._heartbeat()
        return True

    def _complain(self, source: str, failed: FailedAttempt | HashMismatch, tries: int) -> None:
        words = printable(f"{shown_url(source)}: {self._secrets.hidden_in(str(failed))}")
        if isinstance(failed, FailedAttempt) or tries > 1:
            words += f" after {tries} attempt{'s' if tries > 1 else ''}"
        wait = (failed.wait or 0) if isinstance(failed, FailedAttempt) else 0
        if wait > MAX_RETRY_AFTER_SECONDS:
            words += f", and the server asks to come back in {wait:g} s only"
        self._complaints.append(words)


class _Transfer:
    """One attempt after another at one part file."""

    def __init__(self, request: Request, part: _Part, sidecars: SidecarFiles, name: str, report: Report) -> None:
        self.request, self.part, self.report = request, part, report
        self.sidecars, self.name = sidecars, name
        self.attempts = Attempts(request, self._touch)
        self.deadline = self.attempts.deadline
        self.first_answer = request.first_answer

    def _touch(self) -> None:
        """Show processes that wait for the lock that this one lives, though nothing comes."""
        os.utime(self.part.file.fileno() if os.utime in os.supports_fd else self.name)

    def run(self) -> None:
        """Bring the whole and right file into the part."""
        try:
            self.attempts.first_success(self._attempt)
        finally:
            if self.first_answer is not None:
                self.first_answer.close()

    def _attempt(self, source: str) -> None:
        """Ask once; append to the part or start it anew; raise unless the file is then whole and right."""
        body = self._opened(source)
        if body is not None:
            try:
                self._copy(body)
            finally:
                body.close()
        part = self.part
        if part.total is not None and part.received != part.total:
            raise FailedAttempt(
                f"the body ended early, got {part.received} of {part.total} bytes", retry=True, status=200
            )
        self._judge(source)

    def _judge(self, source: str) -> None:
        """Raise where the whole body is not what was asked for; then nothing of it is kept."""
        part, expected = self.part, self.request.expected
        page = web_pages.page_in_words(part.head(), part.content_type, source) if is_http(source) else None
        if part.hash is not None and expected is not None:
            digest = hex_digest(part.hash, len(expected.digest))
            if digest == expected.digest:
                return
            part.restart()
            words = f"expected {expected}, got {expected.algorithm}:{digest}"
            raise HashMismatch(f"{words}: {page}" if page else words)
        if page is not None and not web_pages.may_be_a_page(self.request.name, source):
            part.restart()
            raise FailedAttempt(page, retry=False, status=200)

    def _opened(self, source: str) -> Body | None:
        """The body to append, after a restart of the part where it is a whole one; None when nothing is missing."""
        if not is_http(source):
            self.part.restart()
            opened = FtpAnswer if is_ftp(source) else FsspecAnswer
            body: Body = opened(source, self.request.caller.timeouts, self.deadline)
            self.part.total, self.part.content_type = body.length, ""
            return body
        answer, self.first_answer = self.first_answer, None
        if answer is None:
            answer = self._asked(source)
        try:
            return self._appended(source, answer)
        except BaseException:
            answer.close()
            raise

    def _asked(self, source: str) -> Answer:
        """The answer to a request for the missing rest; for the whole, where nothing came yet or no rest is given."""
        part, caller = self.part, self.request.caller
        if part.received and part.etag is not None and part.source == source:
            rest = {"Range": f"bytes={part.received}-", "If-Range": part.etag}
            try:
                return open_http(source, caller, self.deadline, rest)
            except FailedAttempt as error:
                # Some servers take If-Range for If-Match: they have another version now.
                if error.status != http.HTTPStatus.PRECONDITION_FAILED:
                    raise
        return open_http(source, caller, self.deadline)

    def _appended(self, source: str, answer: Answer) -> Body | None:
        """What an answer means for the part: a whole body, the missing rest, nothing missing, or none of these."""
        part = self.part
        if answer.status not in {206, 416}:
            self._refuse_compressed(source, answer)
            self._start_anew(source, answer)
            return answer
        named = _content_range(answer)
        if answer.status == 416 and named.total == part.received and answer.etag in {None, part.etag}:
            answer.close()
            part.total = part.received
            return None
        if answer.status == 206 and part.is_continued_by(named, answer.etag):
            part.total = named.end if named.total is None else named.total
            part.content_type = answer.headers.get("Content-Type")
            return answer
        # Another version, or an answer to another question: never splice.
        answer.close()
        part.restart()
        return self._opened(source)

    def _start_anew(self, source: str, answer: Answer) -> None:
        """The part is this answer's from now on; with a strong tag, the next call can go on with it."""
        part = self.part
        part.restart()
        part.total, part.etag, part.source = answer.length, answer.etag, source
        part.content_type = answer.headers.get("Content-Type")
        if part.etag is not None:
            resume.write_note(self.sidecars, _note(part, self.name, None))

    def _refuse_compressed(self, source: str, answer: Answer) -> None:
        """A server that compresses although identity was asked: only a hash, or a name, tells what is meant."""
        compression = web_pages.compression_of(answer.headers.get("Content-Encoding"))
        if not compression or self.request.expected is not None:
            return
        if not web_pages.is_named_compressed(source, answer.url, self.request.name):
            raise FailedAttempt(
                f"the body comes with Content-Encoding {compression!r} although identity was asked; give file_hash, "
                "or an fname that ends like a compressed file, to accept the bytes as they are",
                retry=False,
                status=200,
            )

    def _copy(self, body: Body) -> None:
        """Append the body; small reads while data comes slowly, so that progress shows and little is lost."""
        part, report = self.part, self.report
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
                part.restart()
                raise FailedAttempt("got more bytes than were announced", retry=False, status=body.status)
            report(part.received, part.total)
            if elapsed < 0.05:
                size = min(size * 2, _LARGEST_READ)
            elif elapsed > 0.5:
                size = max(size // 2, _SMALLEST_READ)


def pause_before(attempt: int, asked: float | None) -> float:
    """Seconds to wait before the attempt of that number (1 is the first repetition)."""
    if asked is not None:
        return asked
    longest = min(MAX_BACKOFF_SECONDS, BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 20))
    return longest * _jitter.uniform(0.5, 1.0)
