"""An HTTP server on 127.0.0.1 with a route for each way a download can go wrong."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

BODY = bytes(range(256)) * 1200
DIGEST = hashlib.sha256(BODY).hexdigest()
HALF = len(BODY) // 2


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.count: Counter[str] = Counter()
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.location = ""
        self.stop = threading.Event()

    def url(self, route: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{route}"

    def handle_error(self, *_: object) -> None:
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        route = self.path.strip("/").split("?")[0].split("/")[0]
        self.server.count[route] += 1
        self.server.seen.append((route, dict(self.headers.items())))
        self.close_connection = True
        ROUTES[route](self, self.server.count[route])

    def head(self, status: int = 200, length: int | None = len(BODY), **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def whole(self, **headers: str) -> None:
        self.head(**headers)
        self.wfile.write(BODY)

    def part(self, first: int, *, etag: str = '"v1"', claimed: int | None = None) -> None:
        start = first if claimed is None else claimed
        place = f"bytes {start}-{len(BODY) - 1}/{len(BODY)}"
        self.head(206, len(BODY) - first, Content_Range=place, ETag=etag)
        self.wfile.write(BODY[first:])

    def asked(self) -> int | None:
        text = self.headers.get("Range")
        return int(text.removeprefix("bytes=").rstrip("-")) if text else None


def cut_then(reaction: Callable[[Handler], None], etag: str = '"v1"') -> Callable[[Handler, int], None]:
    """First half a body, then what the test is about."""

    def route(handler: Handler, number: int) -> None:
        if number == 1:
            handler.head(ETag=etag)
            handler.wfile.write(BODY[:HALF])
        else:
            reaction(handler)

    return route


def failing(status: int, times: int = 10**6, **headers: str) -> Callable[[Handler, int], None]:
    def route(handler: Handler, number: int) -> None:
        if number <= times:
            handler.head(status, 0 if status != 204 else None, **headers)
        else:
            handler.whole()

    return route


def cut(handler: Handler, number: int) -> None:
    handler.head()
    handler.wfile.write(BODY[:HALF])


def one_byte_short(handler: Handler, number: int) -> None:
    handler.head()
    handler.wfile.write(BODY[:-1])


def reset(handler: Handler, number: int) -> None:
    if number > 1:
        handler.whole()
        return
    handler.head()
    handler.wfile.write(BODY[:HALF])
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def chunked(*pieces: bytes) -> Callable[[Handler, int], None]:
    def route(handler: Handler, number: int) -> None:
        handler.head(length=None, Transfer_Encoding="chunked")
        for piece in pieces:
            handler.wfile.write(piece)

    return route


def no_length(handler: Handler, number: int) -> None:
    handler.head(length=None)
    handler.wfile.write(BODY[:HALF])


def silent(handler: Handler, number: int) -> None:
    handler.server.stop.wait(30)


def stall(handler: Handler, number: int) -> None:
    handler.head()
    handler.wfile.write(BODY[:HALF])
    handler.server.stop.wait(30)


def html(handler: Handler, number: int) -> None:
    handler.head(length=15, Content_Type="text/html")
    handler.wfile.write(b"<html>no</html>")


def redirect(handler: Handler, number: int) -> None:
    handler.head(302, 0, Location=handler.server.location)


def garbage(handler: Handler, number: int) -> None:
    handler.wfile.write(b"no http at all\r\n\r\n")


def encoded(handler: Handler, number: int) -> None:
    handler.whole(Content_Encoding="gzip")


def slow(handler: Handler, number: int) -> None:
    handler.head()
    for start in range(0, len(BODY), 2048):
        handler.wfile.write(BODY[start : start + 2048])
        time.sleep(0.001)


def complete_without_end(handler: Handler, number: int) -> None:
    if number == 1:
        handler.head(length=None, Transfer_Encoding="chunked", ETag='"v1"')
        handler.wfile.write(b"%x\r\n" % len(BODY) + BODY + b"\r\n")
    else:
        handler.head(416, 0, Content_Range=f"bytes */{len(BODY)}", ETag='"v1"')


def date_in_the_past(handler: Handler, number: int) -> None:
    failing(503, 1, Retry_After="Wed, 21 Oct 2015 07:28:00 GMT")(handler, number)


CHUNK = b"%x\r\n" % len(BODY) + BODY + b"\r\n"
ROUTES: dict[str, Callable[[Handler, int], None]] = {
    "good": lambda handler, number: handler.whole(),
    "slow": slow,
    "cut": cut,
    "short": one_byte_short,
    "reset": reset,
    "chunked": chunked(CHUNK, b"0\r\n\r\n"),
    "chunk-cut": chunked(CHUNK[:HALF]),
    "chunk-bad": chunked(b"zz\r\nxx"),
    "no-length": no_length,
    "silent": silent,
    "stall": stall,
    "html": html,
    "redirect": redirect,
    "loop": lambda handler, number: handler.head(302, 0, Location="/loop"),
    "nowhere": lambda handler, number: handler.head(302, 0),
    "garbage": garbage,
    "encoded": encoded,
    "moved": lambda handler, number: handler.head(308, 0, Location="good"),
    "not-found": failing(404),
    "forbidden": failing(403),
    "gone": failing(410),
    "no-content": failing(204),
    "broken": failing(500),
    "once-500": failing(500, 1),
    "busy": failing(503, 1, Retry_After="0"),
    "too-many": failing(429, 1, Retry_After="0"),
    "much-later": failing(429, Retry_After="100000"),
    "date": date_in_the_past,
    "unasked-part": lambda handler, number: handler.part(HALF),
    "resume": cut_then(lambda handler: handler.part(handler.asked() or 0)),
    "weak": cut_then(lambda handler: handler.whole(ETag='W/"v1"') if handler.asked() is None else 1 / 0, 'W/"v1"'),
    "ignores-range": cut_then(lambda handler: handler.whole(ETag='"v1"')),
    "new-version": cut_then(lambda handler: handler.whole(ETag='"v2"')),
    "new-part": cut_then(
        lambda handler: handler.whole() if handler.asked() is None else handler.part(handler.asked(), etag='"v2"')
    ),
    "wrong-part": cut_then(
        lambda handler: handler.whole() if handler.asked() is None else handler.part(handler.asked(), claimed=7)
    ),
    "416-restart": cut_then(
        lambda handler: handler.whole() if handler.asked() is None else handler.head(416, 0, Content_Range="bytes */9")
    ),
    "416-complete": complete_without_end,
}


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
