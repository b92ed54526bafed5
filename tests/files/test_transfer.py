"""Whatever the network does: the right file, or an error that says what happened and the old file."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import resource
import signal
import subprocess
import sys

import pytest

from tests.files.faulty_server import BODY, DIGEST, HALF, serving
from torchkutils import DownloadError, get_file, validate_file
from torchkutils.files import http_source, sidecar_files, transfer

OLD = b"the old file"


def download(folder, url, **options) -> str:
    return get_file("f.bin", url, cache_dir=folder, cache_subdir="", progress=False, **options)


# route, options, the error's words, the requests
FAULTS = [
    ("cut", {}, "ended early, got 153600 of 307200", 4),
    ("short", {}, "got 307199 of 307200", 4),
    ("chunk-cut", {}, "middle of a chunk", 4),
    ("chunk-bad", {}, "chunk|ValueError", 4),
    ("garbage", {}, "BadStatusLine", 4),
    ("silent", {"timeout": (5, 0.05), "retries": 1}, "time limit", 2),
    ("stall", {"timeout": (5, 0.05), "retries": 1}, "time limit", 2),
    ("not-found", {}, "HTTP 404", 1),
    ("forbidden", {}, "HTTP 403", 1),
    ("gone", {}, "HTTP 410", 1),
    ("no-content", {}, "HTTP 204", 1),
    ("unasked-part", {}, "HTTP 206", 1),
    ("broken", {}, "HTTP 500", 4),
    ("broken", {"retries": 0}, "HTTP 500", 1),
    ("much-later", {}, "100000 s", 1),
    ("loop", {}, "redirects", http_source.MAX_REDIRECTS + 1),
    ("nowhere", {}, "without a Location", 1),
    ("encoded", {}, "Content-Encoding", 1),
]


@pytest.mark.parametrize(("route", "options", "words", "requests"), FAULTS)
@pytest.mark.parametrize("old", [None, OLD], ids=["new", "refetched"])
def test_a_failed_download_leaves_what_was_there(route, options, words, requests, old, server, tmp_path) -> None:
    if old is not None:
        (tmp_path / "f.bin").write_bytes(old)
    with pytest.raises(DownloadError, match=words) as caught:
        download(tmp_path, server.url(route), force=True, **options)
    assert server.count[route] == requests
    assert caught.value.url == server.url(route)
    assert caught.value.attempts == (1 if route == "loop" else requests)
    assert sorted(os.listdir(tmp_path)) == ([] if old is None else ["f.bin"])
    if old is not None:
        assert (tmp_path / "f.bin").read_bytes() == old


RECOVERED = [
    ("good", 1), ("chunked", 1), ("reset", 2), ("once-500", 2), ("busy", 2), ("too-many", 2), ("date", 2),
    ("moved", 1), ("resume", 2), ("weak", 2), ("ignores-range", 2), ("new-version", 2), ("new-part", 3),
    ("wrong-part", 3), ("416-restart", 3), ("416-complete", 2),
]  # fmt: skip


@pytest.mark.parametrize(("route", "requests"), RECOVERED)
@pytest.mark.parametrize("file_hash", [None, DIGEST], ids=["no hash", "hash"])
def test_a_fault_that_passes_ends_in_the_right_file(route, requests, file_hash, server, tmp_path) -> None:
    path = download(tmp_path, server.url(route), file_hash=file_hash)
    assert pathlib.Path(path).read_bytes() == BODY
    assert os.listdir(tmp_path) == ["f.bin"]
    assert server.count[route] == requests


def test_a_resume_asks_only_for_what_is_missing(server, tmp_path) -> None:
    download(tmp_path, server.url("resume"))
    second = server.seen[1][1]
    assert (second["Range"], second["If-Range"]) == (f"bytes={HALF}-", '"v1"')


@pytest.mark.parametrize("route", ["html", "no-length", "good"])
def test_a_wrong_hash_is_an_error_and_the_old_file_stays(route, server, tmp_path) -> None:
    (tmp_path / "f.bin").write_bytes(OLD)
    with pytest.raises(ValueError, match=r"hash is wrong.*expected sha256:0000"):
        download(tmp_path, server.url(route), file_hash="0" * 64)
    assert (tmp_path / "f.bin").read_bytes() == OLD
    assert os.listdir(tmp_path) == ["f.bin"]
    assert server.count[route] == 2, "a wrong hash is asked for once more"


@pytest.mark.parametrize("bad", ["not-found", "html", "cut"])
def test_the_next_mirror_is_asked(bad, server, tmp_path) -> None:
    path = download(tmp_path, server.url(bad), mirrors=[server.url("good")], file_hash=DIGEST, retries=0)
    assert validate_file(path, DIGEST)
    assert (server.count[bad], server.count["good"]) == (1, 1)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://:80/", "//["])
def test_a_redirect_leads_to_http_only(target, server, tmp_path) -> None:
    server.location = target
    with pytest.raises(DownloadError, match="no http address"):
        download(tmp_path, server.url("redirect"))
    assert os.listdir(tmp_path) == []


def test_headers_stay_with_their_host(server, tmp_path) -> None:
    secret = {"Authorization": "Bearer secret", "X-Token": "t"}
    with serving() as other:
        for server.location, target in ((other.url("good"), other), (server.url("good"), server)):
            download(tmp_path, server.url("redirect"), headers=secret, force=True)
            sent = {name for name, _ in target.seen[-1][1].items()}
            assert {"Authorization", "X-Token"} & sent == (set(secret) if target is server else set())
            assert target.seen[-1][1]["Accept-Encoding"] == "identity"


def test_a_password_in_the_address_is_sent_and_not_shown(server, tmp_path) -> None:
    url = server.url("not-found").replace("http://", "http://me:secret@")
    with pytest.raises(DownloadError, match=r"//\*\*\*@") as caught:
        download(tmp_path, url)
    assert "secret" not in str(caught.value) + caught.value.url
    assert server.seen[0][1]["Authorization"] == "Basic bWU6c2VjcmV0"


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("http_proxy", server.url("").rstrip("/"))
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(DownloadError, match=r"cannot fetch http://nobody\.invalid/good"):
        download(tmp_path, "http://nobody.invalid/good", retries=0)
    assert sum(server.count.values()) == 1


def test_nobody_listening_is_a_download_error(tmp_path) -> None:
    with serving() as server:
        url = server.url("good")
    with pytest.raises(DownloadError, match="refused") as caught:
        download(tmp_path, url, retries=2)
    assert (caught.value.status, caught.value.attempts) == (None, 3)


@pytest.mark.parametrize(
    ("attempt", "asked", "low", "high"), [(1, None, 0.25, 0.5), (3, None, 1, 2), (99, None, 15, 30), (5, 7.0, 7, 7)]
)
def test_pauses_grow_to_a_bound_and_obey_the_server(attempt, asked, low, high, monkeypatch) -> None:
    monkeypatch.setattr(transfer, "BACKOFF_SECONDS", 0.5)
    assert low <= transfer.pause_before(attempt, asked) <= high


def fetch_and_report(folder, url, queue) -> None:
    try:
        queue.put(pathlib.Path(download(folder, url)).read_bytes() == BODY)
    except BaseException as error:
        queue.put(repr(error))


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_eight_processes_make_one_request(method, server, tmp_path) -> None:
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    children = [context.Process(target=fetch_and_report, args=(tmp_path, server.url("slow"), queue)) for _ in range(8)]
    for child in children:
        child.start()
    assert [queue.get(timeout=90) for _ in children] == [True] * 8
    for child in children:
        child.join()
    assert server.count["slow"] == 1
    assert os.listdir(tmp_path) == ["f.bin"]


HOLDER = """
import sys
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.sidecar_files import SidecarFiles
with only_one_process(SidecarFiles(sys.argv[1]), "hold"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_waiter_gives_up_by_name_and_goes_on_when_the_holder_is_killed(server, tmp_path, monkeypatch) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "f.bin")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        monkeypatch.setattr(sidecar_files, "LOCK_PATIENCE", 0.1)
        with pytest.raises(TimeoutError, match=rf"process {os.getpid()} waited .* to fetch .*good.*lock .*f\.bin"):
            download(tmp_path, server.url("good"))
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    assert pathlib.Path(download(tmp_path, server.url("good"))).read_bytes() == BODY
    assert os.listdir(tmp_path) == ["f.bin"]


def full_disk(folder, url, queue) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    fetch_and_report(folder, url, queue)


def test_a_full_disk_leaves_the_folder_clean(server, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=full_disk, args=(tmp_path, server.url("good"), queue))
    child.start()
    assert "OSError(27" in queue.get()
    child.join()
    assert os.listdir(tmp_path) == []
    assert server.count["good"] == 1


def fetch_anew(folder, url) -> None:
    download(folder, url, force=True)


@pytest.mark.slow
def test_a_killed_download_leaves_nothing_and_the_next_call_recovers(server, tmp_path) -> None:
    (tmp_path / "f.bin").write_bytes(OLD)
    context = multiprocessing.get_context("fork")
    for moment in range(20):
        child = context.Process(target=fetch_anew, args=(tmp_path, server.url("slow")))
        child.start()
        child.join(0.01 * moment)
        child.kill()
        child.join()
        assert (tmp_path / "f.bin").read_bytes() in {OLD, BODY}
    download(tmp_path, server.url("good"), force=True)
    assert os.listdir(tmp_path) == ["f.bin"]
    assert (tmp_path / "f.bin").read_bytes() == BODY
