"""Files of FTP servers, read by ftplib with a limit on what a server may say and on the time it takes."""

from __future__ import annotations

import ftplib
import socket
import urllib.parse
from typing import Any

from torchkutils.files.attempts import Deadline, FailedAttempt, Timeouts, server_faults
from torchkutils.files.http_wire import Wire

MAX_LINES = 2000
"""Most lines that a server may say in one connection."""


class _Client(ftplib.FTP):
    """ftplib's client; by itself it would listen without end to a server that talks slowly or much."""

    def __init__(self, deadline: Deadline, read_limit: float | None) -> None:
        self._deadline, self._read_limit = deadline, read_limit
        self._lines_heard = 0
        self._wire: Wire | None = None
        super().__init__()

    def getline(self) -> str:
        self._lines_heard += 1
        if self._lines_heard > MAX_LINES:
            raise FailedAttempt(f"the server said more than {MAX_LINES} lines", retry=False)
        if self._wire is None:
            if self.sock is None:
                raise EOFError
            self._wire = Wire(self.sock, self._read_limit, self._deadline)
        line = self._wire.line(self.maxline, Deadline(self._read_limit, "the time limit for a line of the server"))
        return line.decode(self.encoding, "replace")


class FtpAnswer:
    """The body of a file of an FTP server; has what an HTTP answer has.

    Raises:
        FailedAttempt: The server is not there, refuses the login, or has no such file.
    """

    status = 200
    etag: str | None = None

    def __init__(self, url: str, timeouts: Timeouts, deadline: Deadline) -> None:
        self._deadline, self._limit = deadline, timeouts.read
        self._sock: socket.socket | None = None
        self._client = _Client(deadline, timeouts.read)
        try:
            with server_faults():
                self._open(url, timeouts)
        except FailedAttempt:
            self._client.close()
            raise

    def _open(self, url: str, timeouts: Timeouts) -> None:
        parts = urllib.parse.urlsplit(url)
        path = urllib.parse.unquote(parts.path.removeprefix("/"))
        if "\r" in path or "\n" in path or not path:
            raise FailedAttempt("the address names no file of an FTP server", retry=False)
        try:
            self._client.connect(
                urllib.parse.unquote(parts.hostname or ""),
                parts.port or ftplib.FTP_PORT,
                timeout=self._deadline.left(timeouts.connect) or 1e6,
            )
            user = urllib.parse.unquote(parts.username or "anonymous")
            self._client.login(user, urllib.parse.unquote(parts.password or ""))
            self._client.voidcmd("TYPE I")
            self.length: int | None = self._size(path)
            self._sock = self._client.transfercmd(f"RETR {path}")
        except ftplib.error_perm as error:
            raise _refusal(error) from None
        self._sock.settimeout(self._deadline.left(self._limit))

    def _size(self, path: str) -> int | None:
        """The file's bytes; None where the server does not tell them."""
        try:
            size = self._client.size(path)
        except (ftplib.error_perm, ValueError):
            return None
        return size if size is not None and size >= 0 else None

    def readinto(self, buffer: memoryview) -> int:
        """Fill the buffer as far as data comes; 0 at the end, once the server has said that it was the end."""
        if self._sock is None:
            return 0
        with server_faults():
            self._sock.settimeout(self._deadline.left(self._limit))
            count = self._sock.recv_into(buffer)
            if not count:
                self._sock.close()
                self._sock = None
                self._client.voidresp()
            return count

    def close(self) -> None:
        """Drop the connection."""
        if self._sock is not None:
            self._sock.close()
        self._client.close()


def _refusal(error: Any) -> FailedAttempt:
    code = str(error)[:3]
    words = {"530": "the login is refused", "550": "no such file, or it may not be read"}.get(code, "refused")
    return FailedAttempt(f"FTP {code}: {words}", retry=False)
