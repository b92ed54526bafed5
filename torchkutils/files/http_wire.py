"""One HTTP/1.1 request over a connection of its own, read with a limit on everything that a server can send.

The standard library's http.client, and urllib3 on top of it, reads `100 Continue` answers and trailers without end and
takes a length that is no number for none; httpx waits without end behind `100 Continue`; none of them knows a limit on
the whole. So framing is read here:

    status line and headers   at most HEAD_BYTES and HEAD_LINES, whole within the read time limit
    1xx answers               at most INTERIM_ANSWERS, each within the read time limit
    Content-Length            one number; two different ones, or no number, is an error, never "until it closes"
    Transfer-Encoding         `chunked` and nothing else; lines between chunks never outweigh the body for long
    neither                   until the connection closes; under TLS only by a proper close
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field

from torchkutils._printable import printable
from torchkutils.files.attempts import Deadline, FailedAttempt

HEAD_BYTES = 1 << 18
"""Most bytes of one answer's status line and headers, and of its trailers."""
HEAD_LINES = 400
"""Most header lines of one answer, and most trailer lines."""
INTERIM_ANSWERS = 20
"""Most 1xx answers before the real one."""
LINE_BYTES = 1 << 14
"""Most bytes of the line before a chunk."""
_RECEIVED = 1 << 16


class Headers:
    """The headers of an answer; names in any case, repeated ones kept apart."""

    def __init__(self) -> None:
        self._values: dict[str, list[str]] = {}

    def add(self, name: str, value: str) -> None:
        """Add one line."""
        self._values.setdefault(name.lower(), []).append(value)

    def get(self, name: str, default: str = "") -> str:
        """All values of a name, with commas between."""
        values = self._values.get(name.lower())
        return default if values is None else ", ".join(values)

    def every(self, name: str) -> list[str]:
        """The values of a name, line by line."""
        return self._values.get(name.lower(), [])


@dataclass
class Head:
    """What comes before a body: status and headers."""

    version: str
    status: int
    headers: Headers = field(default_factory=Headers)


class Wire:
    """Bytes from a socket: lines with a limit, and bodies straight into the reader's buffer."""

    def __init__(self, sock: socket.socket, read_limit: float | None, deadline: Deadline) -> None:
        self._sock = sock
        self._read_limit = read_limit
        self._deadline = deadline
        self._ahead = bytearray()
        self._taken = 0

    def send(self, data: bytes) -> None:
        """Send a request's head."""
        self._sock.settimeout(self._deadline.left(self._read_limit))
        self._sock.sendall(data)

    def readinto(self, view: memoryview) -> int:
        """Bytes that came already, else those of one arrival; 0 when the connection is closed."""
        ahead = len(self._ahead) - self._taken
        if ahead:
            count = min(ahead, len(view))
            view[:count] = self._ahead[self._taken : self._taken + count]
            self._taken += count
            return count
        self._sock.settimeout(self._deadline.left(self._read_limit))
        try:
            return self._sock.recv_into(view)
        except TimeoutError:
            self._deadline.raise_if_reached()
            raise

    @property
    def has_ahead(self) -> bool:
        """Whether bytes lie here that came together with earlier ones."""
        return self._taken < len(self._ahead)

    def line(self, limit: int, within: Deadline) -> bytes:
        """The next line without its end.

        Raises:
            FailedAttempt: It is longer than `limit`, too slow, or the connection closed in it.
        """
        searched = self._taken
        while (end := self._ahead.find(b"\n", searched)) < 0:
            searched = len(self._ahead)
            if searched - self._taken > limit:
                raise FailedAttempt(f"the server sent a line of more than {limit} bytes", retry=False)
            if self._taken:
                del self._ahead[: self._taken]
                searched -= self._taken
                self._taken = 0
            self._sock.settimeout(within.left(self._deadline.left(self._read_limit)))
            try:
                piece = self._sock.recv(_RECEIVED)
            except TimeoutError:
                self._deadline.raise_if_reached()
                raise
            if not piece:
                raise FailedAttempt("the connection was closed in the middle of an answer", retry=True)
            self._ahead += piece
        line = bytes(self._ahead[self._taken : end])
        self._taken = end + 1
        if len(line) > limit:
            raise FailedAttempt(f"the server sent a line of more than {limit} bytes", retry=False)
        return line.removesuffix(b"\r")

    def close(self) -> None:
        """Drop the connection."""
        self._sock.close()

    def head(self) -> Head:
        """The status line and headers of the real answer, past those that only announce it."""
        for _ in range(INTERIM_ANSWERS + 1):
            head = self._one_head(Deadline(self._read_limit, "the time limit for an answer's head"))
            if head.status >= 200 or head.status == 101:
                return head
        raise FailedAttempt(
            f"more than {INTERIM_ANSWERS} answers that only announce one (HTTP {head.status})", retry=True
        )

    def _one_head(self, within: Deadline) -> Head:
        line = self.line(HEAD_BYTES, within)
        match = re.match(rb"HTTP/(\d\.\d) (\d{3})(?: |$)", line)
        if match is None:
            words = printable(line[:40].decode("latin-1"))
            raise FailedAttempt(f"BadStatusLine: no HTTP answer came, but {words!r}", retry=True)
        head = Head(match[1].decode(), int(match[2]))
        for name, value in self.fields(within):
            head.headers.add(name, value)
        return head

    def fields(self, within: Deadline) -> list[tuple[str, str]]:
        """Header or trailer lines up to the empty one; what is none is left out."""
        found: list[tuple[str, str]] = []
        left, lines = HEAD_BYTES, 0
        while line := self.line(left, within):
            left -= len(line) + 1
            lines += 1
            if lines > HEAD_LINES or left <= 0:
                raise FailedAttempt(
                    f"an answer with more than {HEAD_LINES} header lines or {HEAD_BYTES} bytes of them", retry=False
                )
            text = line.decode("latin-1")
            if text[0] in " \t" and found:
                found[-1] = (found[-1][0], f"{found[-1][1]} {text.strip()}")
            elif ":" in text:
                name, _, value = text.partition(":")
                found.append((name.strip(), value.strip(" \t")))
        return found


class Body:
    """The body of an answer, by whichever framing its headers say."""

    def __init__(self, wire: Wire, head: Head) -> None:
        self._wire = wire
        self._chunked = is_chunked(head)
        self.length: int | None = None if self._chunked else declared_length(head)
        self._left: int | None = 0 if self._chunked else self.length
        self._received = 0
        self._between = 0
        self._first = True
        self._ended = False
        self._broken: FailedAttempt | None = None

    def readinto(self, view: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end."""
        if self._chunked:
            return self._read_chunks(view)
        if self._left is not None and not self._left:
            return 0
        count = self._received_into(view if self._left is None else view[: self._left])
        if self._left is not None:
            self._left -= count
        return count

    def _received_into(self, view: memoryview) -> int:
        try:
            return self._wire.readinto(view)
        except ssl.SSLEOFError:
            raise FailedAttempt("the connection broke off, without the end that TLS demands", retry=True) from None

    def _read_chunks(self, view: memoryview) -> int:
        """As many chunks as came together: one by one they would be written in tiny pieces."""
        filled = 0
        while filled < len(view) and not self._ended:
            if filled and (self._broken or not self._wire.has_ahead):
                break
            try:
                filled += self._read_chunk(view[filled:])
            except FailedAttempt as error:
                # What came before the break need not be asked for again by a resume: it is handed out first.
                if not filled or self._broken:
                    raise
                self._broken = error
        return filled

    def _read_chunk(self, view: memoryview) -> int:
        if self._broken is not None:
            raise self._broken
        if not self._left:
            self._left = self._next_chunk_size()
            if not self._left:
                self._wire.fields(Deadline(30.0, "the time limit for trailers"))
                self._ended = True
                return 0
        count = self._wire.readinto(view[: self._left])
        if not count:
            raise FailedAttempt("the body broke off in the middle of a chunk", retry=True, status=200)
        self._left -= count
        self._received += count
        return count

    def _next_chunk_size(self) -> int:
        within = Deadline(None)
        end = b"" if self._first else self._wire.line(LINE_BYTES, within)
        line = self._wire.line(LINE_BYTES, within)
        self._first = False
        size = re.fullmatch(rb"\s*([0-9A-Fa-f]{1,15})\s*(?:;.*)?", line)
        if end or size is None:
            raise FailedAttempt("the body is no sequence of chunks, as was announced", retry=True, status=200)
        self._between += max(0, len(line) - 20)
        if self._between > HEAD_BYTES + self._received:
            raise FailedAttempt("the lines between the chunks are longer than the chunks", retry=False, status=200)
        return int(size[1], 16)


def is_chunked(head: Head) -> bool:
    """Whether the body comes in chunks.

    Raises:
        FailedAttempt: It is coded in any other way too.
    """
    codings = [part.strip().lower() for part in head.headers.get("Transfer-Encoding").split(",") if part.strip()]
    if codings in ([], ["identity"]):
        return False
    if codings != ["chunked"]:
        shown = ", ".join(codings)[:60]
        raise FailedAttempt(f"the body is sent with Transfer-Encoding {shown!r}, not as it is", retry=False, status=200)
    return True


def declared_length(head: Head) -> int | None:
    """The bytes that Content-Length announces, None without one.

    Raises:
        FailedAttempt: It is no number, or there are two different ones.
    """
    texts = {part.strip() for part in head.headers.get("Content-Length").split(",")}
    if texts == {""}:
        return None
    if len(texts) != 1 or not re.fullmatch(r"[0-9]{1,18}", next(iter(texts)), re.ASCII):
        shown = ", ".join(sorted(texts))[:60]
        raise FailedAttempt(
            f"the answer's Content-Length is {shown!r}, not one number", retry=False, status=head.status
        )
    return int(next(iter(texts)))


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The bytes of a request without a body."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")
