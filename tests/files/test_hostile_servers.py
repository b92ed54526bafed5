"""Servers that are broken, lie, or never end: each is refused in words, or the file is right, within seconds."""

from __future__ import annotations

import gzip
import pathlib
import time

import pytest

from tests.files.raw_server import answer, forever, raw_server
from torchkutils import DownloadError, get_file

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSES = OK + b"Connection: close\r\n\r\n"
ZIPPED = gzip.compress(b"body")


def moved(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", f"Location: {location}", status=status)


def silent(connection, server) -> None:
    server.stop.wait(10)


def reset(connection, server) -> None:
    import socket
    import struct

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


# What the server does, and the words of the error.
REFUSED = {
    "says nothing": (silent, "time limit"),
    "closes at once": (b"", "closed"),
    "resets": (reset, "closed|reset|Reset|Broken"),
    "no http": (b"220 ftp ready\r\n\r\n", "BadStatusLine"),
    "http 0.9": (b"<html>hi</html>\r\n", "BadStatusLine"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "BadStatusLine"),
    "a status that is a word": (b"HTTP/1.1 two OK\r\n\r\n", "BadStatusLine"),
    "a status line without end": (forever(b"x" * 65536), "line of more than|BadStatusLine"),
    "a status line drop by drop": (forever(b"H", b"", 0.05), "time limit"),
    "headers drop by drop": (forever(b"x: y\r\n", OK, 0.05), "time limit"),
    "headers without end": (forever(b"x: y\r\n" * 1000, OK), "header lines"),
    "one header without end": (forever(b"y" * 65536, OK + b"x: "), "line of more than"),
    "a folded header without end": (forever(b" y\r\n" * 1000, OK + b"x: y\r\n"), "header lines"),
    "100 Continue without end": (forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "only announce"),
    "103 drop by drop": (forever(b"HTTP/1.1 103 Early Hints\r\n\r\n", b"", 0.1), "only announce|total time"),
    "headers after 100 without end": (forever(b"x: y\r\n" * 1000, b"HTTP/1.1 100 Continue\r\n"), "header lines"),
    "102 and silence": (lambda c, s: (c.sendall(b"HTTP/1.1 102 Processing\r\n\r\n"), silent(c, s)), "time limit"),
    "101 another protocol": (answer(b"", status="101 Switching Protocols"), "HTTP 101"),
    "a body drop by drop": (forever(b"x", OK + b"Content-Length: 100000\r\n\r\n", 0.05), "total time limit"),
    "a body without length, drop by drop": (forever(b"x", CLOSES, 0.05), "total time limit"),
    "a chunked body drop by drop": (forever(b"1\r\nx\r\n", CHUNKED, 0.05), "total time limit"),
    "a chunk's size drop by drop": (forever(b"0", CHUNKED, 0.05), "total time limit"),
    "a chunk's size without end": (forever(b"0" * 65536, CHUNKED), "line of more than"),
    "a chunk's extension without end": (forever(b"x" * 65536, CHUNKED + b"1;"), "line of more than"),
    "extensions longer than the body": (forever((b"1;" + b"x" * 9000 + b"\r\nx\r\n") * 9, CHUNKED), "lines between"),
    "trailers without end": (forever(b"x: y\r\n" * 1000, CHUNKED + b"1\r\nx\r\n0\r\n"), "header lines"),
    "trailers drop by drop": (forever(b"x: y\r\n", CHUNKED + b"1\r\nx\r\n0\r\n", 0.05), "time limit"),
    "a negative chunk": (CHUNKED + b"-1\r\nx\r\n0\r\n\r\n", "chunk"),
    "a chunk of no number": (CHUNKED + b"zz\r\nx\r\n0\r\n\r\n", "chunk"),
    "a chunk larger than the world": (CHUNKED + b"f" * 16 + b"\r\nx", "chunk"),
    "a chunk longer than its size": (CHUNKED + b"1\r\nxyz\r\n0\r\n\r\n", "chunk"),
    "chunks that end too early": (CHUNKED + b"4\r\nbody\r\n", "closed in the middle"),
    "a chunk that ends too early": (CHUNKED + b"40\r\nbody", "middle of a chunk"),
    "trailers that end too early": (CHUNKED + b"4\r\nbody\r\n0\r\n", "closed in the middle"),
    "shorter than announced": (answer(b"body", length=9), "got 4 of 9 bytes"),
    "two lengths": (answer(b"body", "Content-Length: 3", "Content-Length: 4"), "not one number"),
    "a length in a list": (answer(b"body", "Content-Length: 3, 4"), "not one number"),
    "a negative length": (answer(b"body", "Content-Length: -4"), "not one number"),
    "a length with a sign": (answer(b"body", "Content-Length: +4"), "not one number"),
    "a length in hexadecimal": (answer(b"body", "Content-Length: 0x4"), "not one number"),
    "a length in words": (answer(b"body", "Content-Length: four"), "not one number"),
    "a length in other digits": (answer(b"body", "Content-Length: \xb2"), "not one number"),
    "a length of 5000 digits": (answer(b"body", f"Content-Length: {'9' * 5000}"), "not one number"),
    "gzip, chunked": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "Transfer-Encoding"),
    "chunked twice": (OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", "Transfer-Encoding"),
    "an unknown coding": (OK + b"Transfer-Encoding: xyz\r\n\r\nbody", "Transfer-Encoding"),
    "compressed unasked": (answer(ZIPPED, "Content-Encoding: gzip"), "Content-Encoding"),
    "compressed twice": (answer(ZIPPED, "Content-Encoding: UTF-8, BR"), "Content-Encoding"),
    "a redirect without a place": (answer(b"", status="302 Found"), "without a Location"),
    "a redirect to a file": (moved("file:///etc/hostname"), "no http address"),
    "a redirect to a file, by protocol of its own": (moved("FILE:/etc/hostname"), "no http address"),
    "a redirect to a bad port": (moved("http://h:99999/x"), "no http address"),
    "a redirect to port 0": (moved("http://h:0/x"), "no http address"),
    "a redirect to half an address": (moved("http://[::1/x"), "no http address"),
    "a redirect with bytes of no encoding": (moved("http://\xff\xfe.example/x"), "no http address"),
    "a redirect to itself": (moved("/f.bin"), "redirects"),
    "304 unasked": (answer(b"", status="304 Not Modified"), "HTTP 304"),
    "206 unasked": (answer(b"body", "Content-Range: bytes 0-3/4", status="206 Partial Content"), "HTTP 206"),
    "416 unasked": (answer(b"", status="416 Range Not Satisfiable"), "HTTP 416"),
    "202": (answer(b"body", status="202 Accepted"), "HTTP 202"),
    "599": (answer(b"", status="599 Odd"), "HTTP 599"),
    "999": (answer(b"", status="999 Denied"), "HTTP 999"),
    "Retry-After in other digits": (answer(b"", "Retry-After: \xb2", status="503 Busy"), "HTTP 503"),
    "Retry-After of 400 digits": (answer(b"", f"Retry-After: {'9' * 400}", status="503 Busy"), "HTTP 503"),
    "Retry-After at no date": (answer(b"", "Retry-After: Wed, 99 Foo 2015 99:99 GMT", status="503 Busy"), "HTTP 503"),
    "a rate limit without sense": (answer(b"", 'RateLimit: ;;t=-1;r=;"', status="429 Slow"), "HTTP 429"),
    "a cookie without sense": (answer(b"", "Set-Cookie: ;;=;\x01", "Location: /f.bin", status="302 A"), "redirects"),
}  # fmt: skip

# What comes all the same.
TAKEN = {
    "early hints": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + answer(),
    "several interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n" * 3 + answer(),
    "203": answer(status="203 Non-Authoritative Information"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nbody",
    "no reason": b"HTTP/1.1 200\r\nContent-Length: 4\r\n\r\nbody",
    "lines ended by a newline alone": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "a header that is none": answer(b"body", "what is this", ": nor this"),
    "a space before the colon": OK + b"Content-Length : 4\r\n\r\nbody, and more",
    "a length twice": OK + b"Content-Length: 4\r\nContent-Length: 4\r\n\r\nbody, and more",
    "a length twice in a list": OK + b"Content-Length: 4, 4\r\n\r\nbody, and more",
    "a length and chunks": OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
    "chunks with extensions": CHUNKED + b"2;a=b\r\nbo\r\n0002 ; c\r\ndy\r\n0;d\r\n\r\n",
    "trailers": CHUNKED + b"4\r\nbody\r\n0\r\nX-Sum: 1\r\nX-More: 2\r\n\r\n",
    "aws-chunked": answer(b"body", "Content-Encoding: aws-chunked"),
    "UTF-8 as an encoding": answer(b"body", "Content-Encoding: UTF-8"),
    "no encoding": answer(b"body", "Content-Encoding:"),
    "text/html that is no page": answer(b"body", "Content-Type: text/html"),
}  # fmt: skip

HURRY = {"timeout": (1, 0.4, 0.8), "retries": 0, "progress": False}


def fetched(server, folder, **options) -> bytes:
    path = get_file("f.bin", server.url(), cache_dir=folder, cache_subdir="", **{**HURRY, **options})
    return pathlib.Path(path).read_bytes()


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_server_is_refused_in_words_and_seconds(name, tmp_path) -> None:
    behaviour, words = REFUSED[name]
    started = time.monotonic()
    with raw_server(behaviour) as server, pytest.raises(DownloadError, match=words) as caught:
        fetched(server, tmp_path)
    assert time.monotonic() - started < 5
    assert caught.value.__context__ is None, "a chained exception may hold what a message must not"
    assert str(caught.value).isprintable()
    assert not any(path.is_file() for path in tmp_path.iterdir())


@pytest.mark.parametrize("name", TAKEN)
def test_an_odd_server_gives_the_file(name, tmp_path) -> None:
    with raw_server(TAKEN[name]) as server:
        assert fetched(server, tmp_path) == b"body"


@pytest.mark.parametrize("name", ["a redirect to a bad port", "Retry-After in other digits", "a length of 5000 digits"])
def test_nonsense_of_one_server_leads_to_the_next(name, tmp_path) -> None:
    with raw_server(REFUSED[name][0]) as odd, raw_server(answer()) as good:
        assert fetched(odd, tmp_path, mirrors=[good.url()]) == b"body"


def test_a_cut_under_tls_is_no_end(tmp_path) -> None:
    import socket

    def behave(connection, server) -> None:
        connection.sendall(CLOSES + b"half")
        connection.shutdown(socket.SHUT_WR)

    from tests.files.raw_server import CERTIFICATE

    with raw_server(behave, tls=True) as server, pytest.raises(DownloadError, match="end that TLS demands"):
        fetched(server, tmp_path, verify=CERTIFICATE)


def test_a_handshake_drop_by_drop_ends_with_the_time_to_connect(tmp_path) -> None:
    with raw_server(forever(b"\x16", b"", 0.05), greets=True) as server:
        started = time.monotonic()
        with pytest.raises(DownloadError, match=r"time limit|SSL"):
            get_file("f", server.url(scheme="https"), cache_dir=tmp_path, **HURRY)
    assert time.monotonic() - started < 5


def test_the_total_time_holds_for_all_attempts_and_mirrors(tmp_path) -> None:
    with raw_server(answer(b"", status="503 Busy")) as server:
        started = time.monotonic()
        with pytest.raises(DownloadError, match=r"HTTP 503|time limit"):
            fetched(server, tmp_path, timeout=(1, 1, 0.3), retries=10**6, mirrors=[server.url()] * 3)
    assert time.monotonic() - started < 3
