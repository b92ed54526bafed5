"""FTP: a real server (pyftpdlib), and ones that talk too much or not at all."""

from __future__ import annotations

import hashlib
import logging
import pathlib
import threading
import time

import pytest

from tests.files.raw_server import forever, raw_server
from torchkutils import DownloadError, get_file

BODY = bytes(range(256)) * 2000
DIGEST = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(scope="module")
def ftp(tmp_path_factory):
    handlers = pytest.importorskip("pyftpdlib.handlers")
    from pyftpdlib.authorizers import DummyAuthorizer
    from pyftpdlib.servers import ThreadedFTPServer

    root = tmp_path_factory.mktemp("ftp")
    (root / "pub dir").mkdir()
    for name in ("f.bin", "pub dir/g h.bin", "eé.bin", "empty"):
        (root / name).write_bytes(b"" if name == "empty" else BODY)
    authorizer = DummyAuthorizer()
    authorizer.add_user("me", "p@ss/w", str(root))
    authorizer.add_anonymous(str(root))
    handler = type(
        "Handler", (handlers.FTPHandler,), {"authorizer": authorizer, "timeout": 5, "auth_failed_timeout": 0}
    )
    logging.getLogger("pyftpdlib").setLevel(logging.CRITICAL)
    server = ThreadedFTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"timeout": 0.05}, daemon=True)
    thread.start()
    yield f"127.0.0.1:{server.address[1]}"
    server.close_all()
    thread.join(5)


def fetched(url, folder, name="f", **options) -> bytes:
    given = {"timeout": (2, 2, 5), "retries": 0, "progress": False, "cache_dir": folder, **options}
    return pathlib.Path(get_file(name, url, **given)).read_bytes()


@pytest.mark.parametrize(
    "address",
    ["{0}/f.bin", "me:p%40ss%2Fw@{0}/f.bin", "{0}/pub dir/g h.bin", "{0}/pub%20dir/g%20h.bin", "{0}/eé.bin"],
)
def test_files_are_fetched_by_name_and_login(address, ftp, tmp_path) -> None:
    assert fetched(f"ftp://{address.format(ftp)}", tmp_path, file_hash=DIGEST) == BODY


def test_an_empty_file_and_a_name_from_the_address(ftp, tmp_path) -> None:
    assert fetched(f"FTP://{ftp}/empty", tmp_path) == b""
    assert get_file(None, f"ftp://{ftp}/pub%20dir/g%20h.bin", cache_dir=tmp_path, progress=False).endswith("/g h.bin")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("{0}/no.bin", "FTP 550: no such file"),
        ("me:wrong@{0}/f.bin", "FTP 530: the login is refused"),
        ("{0}/", "names no file"),
        ("{0}/a%0D%0ADELE%20f.bin", "names no file"),
    ],
)
def test_a_refusal_is_final_and_in_words(address, words, ftp, tmp_path) -> None:
    with pytest.raises(DownloadError, match=words) as caught:
        fetched(f"ftp://{address.format(ftp)}", tmp_path, retries=3)
    assert caught.value.attempts == 1


def lines(*replies: bytes):
    """A server that gives its replies one after another, whatever is asked."""

    def behave(connection, server) -> None:
        for reply in replies:
            connection.sendall(reply)
            connection.recv(4096)

    return behave


HOSTILE = {
    "silence": (lambda connection, server: server.stop.wait(10), "time limit"),
    "a greeting without end": (forever(b"220-hello\r\n" * 100), "said more than"),
    "a line without end": (forever(b"x" * 65536), "line of more than"),
    "a greeting drop by drop": (forever(b"2", b"", 0.05), "time limit"),
    "a greeting line by line": (forever(b"220-hello\r\n", b"", 0.05), "total time limit"),
    "no ftp": (lines(b"HTTP/1.1 400 Bad\r\n\r\n"), "error_|EOF|closed"),
    "closes": (lines(), "closed"),
    "refuses": (lines(b"530 go away\r\n"), "FTP 530"),
    "busy": (lines(b"421 too many users\r\n"), "421"),
    "a passive mode of no sense": (
        lines(b"220 hi\r\n", b"230 in\r\n", b"200 ok\r\n", b"213 4\r\n", b"227 nonsense\r\n"),
        "error_",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_ftp_server_is_refused_in_seconds(name, tmp_path) -> None:
    behaviour, words = HOSTILE[name]
    started = time.monotonic()
    with raw_server(behaviour, greets=True) as server, pytest.raises(DownloadError, match=words):
        fetched(server.url(scheme="ftp"), tmp_path, timeout=(1, 0.4, 0.8))
    assert time.monotonic() - started < 5
