"""What a failed or killed download leaves is gone on with by the next call, of the same version only."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

from tests.files.raw_server import raw_server
from torchkutils import DownloadError, get_file
from torchkutils.files import resume
from torchkutils.files.sidecar_files import SidecarFiles

BODY = bytes(range(256)) * 2000
HALF = len(BODY) // 2


class Versions:
    """Cuts the first `cuts` answers in the middle; answers a Range of the version that it holds."""

    def __init__(self, cuts: int, etag: str = '"v1"', body: bytes = BODY) -> None:
        self.cuts, self.etag, self.body = cuts, etag, body
        self.asked: list[int | None] = []

    def __call__(self, connection, server) -> None:
        wanted = [line for line in server.heads[-1].splitlines() if line.lower().startswith("range: bytes=")]
        same = f"If-Range: {self.etag}" in server.heads[-1]
        first = int(wanted[0].partition("=")[2].rstrip("-")) if wanted and same else None
        self.asked.append(int(wanted[0].partition("=")[2].rstrip("-")) if wanted else None)
        start = first or 0
        status = "200 OK" if first is None else "206 Partial Content"
        place = f"Content-Range: bytes {start}-{len(self.body) - 1}/{len(self.body)}\r\n" if first is not None else ""
        head = f"HTTP/1.1 {status}\r\nETag: {self.etag}\r\n{place}Content-Length: {len(self.body) - start}\r\n\r\n"
        end = len(self.body) if len(self.asked) > self.cuts else start + (len(self.body) - start) // 2
        connection.sendall(head.encode() + self.body[start:end])


def fetched(server, folder, **options) -> bytes:
    given = {"retries": 0, "progress": False, "timeout": (2, 2), **options}
    return pathlib.Path(get_file("f.bin", server.url(), cache_dir=folder, cache_subdir="", **given)).read_bytes()


def hidden(folder) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "f.bin")


def bytes_on_disk(folder) -> int:
    size = 0
    for path in folder.glob(".*.part"):
        with contextlib.suppress(FileNotFoundError):
            size = max(size, path.stat().st_size)
    return size


@pytest.fixture
def failed(tmp_path):
    """A server of which one call has got half a file."""
    versions = Versions(cuts=1)
    with raw_server(versions) as server:
        with pytest.raises(DownloadError, match="ended early"):
            fetched(server, tmp_path)
        assert len(hidden(tmp_path)) == 2
        yield versions, server, tmp_path


def test_the_next_call_asks_only_for_the_rest(failed) -> None:
    versions, server, folder = failed
    assert fetched(server, folder) == BODY
    assert versions.asked == [None, HALF]
    assert hidden(folder) == []


def test_several_failed_calls_add_up(tmp_path) -> None:
    versions = Versions(cuts=3)
    with raw_server(versions) as server:
        for _ in range(3):
            with pytest.raises(DownloadError, match="ended early"):
                fetched(server, tmp_path)
        assert fetched(server, tmp_path) == BODY
    assert versions.asked == [None, HALF, HALF + HALF // 2, HALF + HALF // 2 + HALF // 4]


def test_another_version_is_fetched_whole(failed) -> None:
    versions, server, folder = failed
    versions.etag, versions.body = '"v2"', BODY[::-1]
    assert fetched(server, folder) == BODY[::-1]
    assert versions.asked == [None, HALF]


PARTS = {
    "another part": lambda start: (206, f"bytes {start + 1}-{len(BODY) - 1}/{len(BODY)}", BODY[start + 1 :]),
    "a part of another whole": lambda start: (206, f"bytes {start}-{len(BODY) - 1}/{len(BODY) + 5}", BODY[start:]),
    "no place": lambda start: (206, None, BODY[start:]),
    "a place in words": lambda start: (206, f"bytes {start}/{len(BODY)}", BODY[start:]),
    "nothing left": lambda start: (416, f"bytes */{len(BODY)}", b""),
    "a condition that fails": lambda start: (412, None, b""),
}


@pytest.mark.parametrize("name", PARTS)
def test_an_answer_that_is_not_the_missing_rest_is_never_appended(name, failed) -> None:
    versions, server, folder = failed

    def odd(connection, raw) -> None:
        if "Range: bytes=" not in raw.heads[-1]:
            versions(connection, raw)
            return
        status, place, body = PARTS[name](HALF)
        lines = [f"HTTP/1.1 {status} X", f"ETag: {versions.etag}", f"Content-Length: {len(body)}"]
        lines += [f"Content-Range: {place}"] if place else []
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    server.behave = odd
    assert fetched(server, folder) == BODY


def test_a_wrong_hash_after_a_resume_is_fetched_whole(failed) -> None:
    import hashlib

    versions, server, folder = failed
    (part,) = folder.glob(".*.part")
    part.write_bytes(b"x" * HALF)
    assert fetched(server, folder, file_hash=hashlib.sha256(BODY).hexdigest(), retries=1) == BODY
    assert versions.asked == [None, HALF, None]


def test_another_address_starts_anew_and_a_mirror_that_fails_costs_nothing(failed) -> None:
    _, _, folder = failed
    with pytest.raises(DownloadError, match="refused"):
        get_file("f.bin", "http://127.0.0.1:9/f.bin", cache_dir=folder, cache_subdir="", retries=0, progress=False)
    with raw_server(Versions(cuts=0, body=b"other")) as other:
        assert fetched(other, folder) == b"other"
    assert hidden(folder) == []


def spoiled(change):
    def spoil(folder) -> None:
        (note,) = folder.glob(".*resume.json")
        values = json.loads(note.read_text())
        note.write_text(json.dumps(change(values)))

    return spoil


def linked(folder) -> None:
    (part,) = folder.glob(".*.part")
    (folder.parent / "victim").write_bytes(part.read_bytes())
    part.unlink()
    part.symlink_to(folder.parent / "victim")


def hard_linked(folder) -> None:
    (part,) = folder.glob(".*.part")
    os.link(part, folder.parent / "second name")


def shorter(folder) -> None:
    (part,) = folder.glob(".*.part")
    part.write_bytes(part.read_bytes()[:100])


def linked_note(folder) -> None:
    (note,) = folder.glob(".*resume.json")
    note.rename(folder.parent / "note")
    note.symlink_to(folder.parent / "note")


SPOILED = {
    "no json": lambda folder: next(folder.glob(".*resume.json")).write_text("{"),
    "deep json": lambda folder: next(folder.glob(".*resume.json")).write_text("[" * 10000),
    "a list": spoiled(lambda values: [values]),
    "a field more": spoiled(lambda values: {**values, "x": 1}),
    "a field less": spoiled(lambda values: {"part": values["part"]}),
    "a part elsewhere": spoiled(lambda values: {**values, "part": "../victim"}),
    "a part that is the lock": spoiled(lambda values: {**values, "part": ".f.bin.torchkutils-lock"}),
    "a part of another file": spoiled(lambda values: {**values, "part": "g.bin"}),
    "a number as text": spoiled(lambda values: {**values, "received": "9"}),
    "a negative number": spoiled(lambda values: {**values, "total": -1}),
    "a tag with a header in it": spoiled(lambda values: {**values, "etag": '"v1"\r\nX: "y"'}),
    "a weak tag": spoiled(lambda values: {**values, "etag": "W/" + values["etag"]}),
    "a link for the part": linked,
    "a second name of the part": hard_linked,
    "a link for the note": linked_note,
    "a part that was cut": shorter,
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_note_or_part_is_not_believed(name, failed) -> None:
    versions, server, folder = failed
    (folder.parent / "victim").write_bytes(b"victim")
    SPOILED[name](folder)
    victim = (folder.parent / "victim").read_bytes()
    assert fetched(server, folder) == BODY
    assert versions.asked == [None, None]
    assert (folder.parent / "victim").read_bytes() == victim
    assert hidden(folder) == []


@pytest.mark.parametrize("etag", ['W/"v1"', ""])
def test_without_a_strong_tag_nothing_is_kept(etag, tmp_path) -> None:
    versions = Versions(cuts=1, etag=etag)
    with raw_server(versions) as server:
        with pytest.raises(DownloadError, match="ended early"):
            fetched(server, tmp_path)
        assert hidden(tmp_path) == []
        assert fetched(server, tmp_path) == BODY
    assert versions.asked == [None, None]


def test_an_interrupted_call_is_gone_on_with(tmp_path) -> None:
    versions = Versions(cuts=0)

    def interrupt(connection, server) -> None:
        versions(connection, server) if versions.asked else stalled(connection, server)

    def stalled(connection, server) -> None:
        versions.asked.append(None)
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + BODY[:HALF])
        while bytes_on_disk(tmp_path) < HALF:
            pass
        os.kill(os.getpid(), signal.SIGINT)
        server.stop.wait(5)

    # A shell has what it starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with raw_server(interrupt) as server:
            with pytest.raises(KeyboardInterrupt):
                fetched(server, tmp_path, timeout=(2, 10))
            assert fetched(server, tmp_path) == BODY
    finally:
        signal.signal(signal.SIGINT, before)
    assert versions.asked[0] is None
    assert 0 < (versions.asked[1] or 0) <= HALF


PROGRAM = """
import sys
from torchkutils import get_file
get_file("f.bin", sys.argv[1], cache_dir=sys.argv[2], cache_subdir="", progress=False, retries=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/random/boot_id"), reason="starts cannot be told apart here")
def test_a_killed_call_is_gone_on_with(tmp_path) -> None:
    versions = Versions(cuts=0)

    def stalled(connection, server) -> None:
        if versions.asked:
            versions(connection, server)
            return
        versions.asked.append(None)
        connection.sendall(b'HTTP/1.1 200 OK\r\nETag: "v1"\r\nContent-Length: %d\r\n\r\n' % len(BODY) + BODY[:HALF])
        server.stop.wait(60)

    with raw_server(stalled) as server:
        child = subprocess.Popen([sys.executable, "-c", PROGRAM, server.url(), str(tmp_path)])
        try:
            sidecars = SidecarFiles(str(tmp_path / "f.bin"))
            while bytes_on_disk(tmp_path) < HALF:
                assert child.poll() is None
            note = resume.read_note(sidecars)
            assert note is not None
            assert resume.take_over(sidecars, str(tmp_path / "stolen"), [note.source]) is None, "it is alive"
            resume.write_note(sidecars, note)
        finally:
            child.kill()
            child.wait()
        assert fetched(server, tmp_path) == BODY
    assert versions.asked == [None, HALF]
    assert hidden(tmp_path) == []
