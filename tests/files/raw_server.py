"""A server on 127.0.0.1 that writes whatever bytes a test wants, with TLS where asked, and remembers what came."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

CERTIFICATE = pathlib.Path(__file__).parent / "data" / "localhost.pem"
Behaviour = Callable[[socket.socket, "RawServer"], None]


class RawServer:
    """Calls `behave(connection, server)` in a thread for each connection, once a request's head has come."""

    def __init__(self, behave: Behaviour, *, host: str = "127.0.0.1", tls: bool = False, greets: bool = False) -> None:
        self.behave, self.greets = behave, greets
        self.heads: list[str] = []
        self.stop = threading.Event()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
        if self._tls is not None:
            self._tls.load_cert_chain(CERTIFICATE, CERTIFICATE.with_suffix(".key.pem"))
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = socket.create_server((host, 0), family=family, backlog=64)
        self.port = self._sock.getsockname()[1]
        self.place = f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, path: str = "f.bin", scheme: str = "") -> str:
        return f"{scheme or ('https' if self._tls else 'http')}://{self.place}/{path}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._sock.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            if not self.greets:
                self.heads.append(read_head(connection))
            self.behave(connection, self)
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(0.2)
            while connection.recv(65536):
                pass

    def close(self) -> None:
        self.stop.set()
        # A thread that waits in accept() keeps the socket open: the shutdown wakes it.
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()


def read_head(connection: socket.socket) -> str:
    head = b""
    while b"\r\n\r\n" not in head:
        piece = connection.recv(65536)
        if not piece:
            raise OSError("closed")
        head += piece
    return head.decode("latin-1")


@contextlib.contextmanager
def raw_server(behave: Behaviour | bytes, **options) -> Iterator[RawServer]:
    sends = behave if not isinstance(behave, bytes) else lambda connection, _: connection.sendall(behave)
    server = RawServer(sends, **options)
    try:
        yield server
    finally:
        server.close()


def answer(body: bytes = b"body", *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """A whole answer; its length is told unless a header tells it, or how the body is framed."""
    lines = [f"HTTP/1.1 {status}", *headers]
    if not any(header.lower().startswith(("content-length", "transfer-encoding")) for header in headers):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def forever(piece: bytes, start: bytes = b"", pause: float = 0.0) -> Behaviour:
    """Sends `start`, then `piece` again and again."""

    def behave(connection: socket.socket, server: RawServer) -> None:
        connection.sendall(start)
        while not server.stop.wait(pause) if pause else not server.stop.is_set():
            connection.sendall(piece)

    return behave
