"""Locks where they fail: refused, granted to everybody, planted, left by a dead process, shared by a group."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import pathlib
import stat
import threading
import time
import warnings

import pytest

from tests.files.faulty_server import BODY
from torchkutils import get_file
from torchkutils.files import download_lock, sidecar_files
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.sidecar_files import SidecarFiles


def fetch(folder: pathlib.Path, url: str) -> bytes:
    path = get_file("f.bin", url, cache_dir=folder, cache_subdir="", progress=False)
    return pathlib.Path(path).read_bytes()


def refusing(number: int):
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def in_children(count: int, act) -> list:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()

    def run(number: int) -> None:
        warnings.simplefilter("ignore")  # a child's warnings are not what is tested
        try:
            queue.put(act(number))
        except BaseException as error:
            queue.put(repr(error))

    children = [context.Process(target=run, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    results = [queue.get(timeout=90) for _ in children]
    for child in children:
        child.join()
    return results


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS])
def test_without_locks_a_file_with_a_lifetime_excludes_others_and_is_said_once(number, server, tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    monkeypatch.setattr(download_lock, "_soft_locks_said", set())

    def fetch_twice() -> None:
        fetch(tmp_path / "other", server.url("good"))
        get_file("g", server.url("good"), cache_dir=tmp_path / "other", cache_subdir="", progress=False)

    assert in_children(3, lambda _: fetch(tmp_path, server.url("slow")) == BODY) == [True] * 3
    with pytest.warns(UserWarning, match="has no locks") as caught:
        fetch_twice()
    assert len(caught) == 1
    assert server.count["slow"] == 1
    assert sorted(os.listdir(tmp_path / "other")) == ["f.bin", "g"]
    assert sorted(os.listdir(tmp_path)) == ["f.bin", "other"]


@pytest.mark.parametrize("holder", ["dead", "silent", "unreadable"])
def test_a_soft_lock_of_a_dead_process_is_taken_away(holder, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(download_lock, "SOFT_LIFETIME", 0.3)
    [dead] = in_children(1, lambda _: f"{sidecar_files.this_machine()}-{sidecar_files.process_token()}-0")
    left = {"dead": dead, "silent": "00000000-1-1-0", "unreadable": ""}[holder]
    (tmp_path / ".f.bin.torchkutils-lock-soft").write_text(left)
    monkeypatch.setattr(download_lock, "_soft_locks_said", set())
    with pytest.warns(UserWarning, match="has no locks"):
        assert fetch(tmp_path, server.url("good")) == BODY
    assert [name for name in os.listdir(tmp_path) if "soft" in name] == []


def test_a_soft_lock_is_renewed_as_long_as_its_holder_lives(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    monkeypatch.setattr(download_lock, "SOFT_LIFETIME", 0.3)
    monkeypatch.setattr(sidecar_files, "LOCK_PATIENCE", 1.2)
    monkeypatch.setattr(download_lock, "_soft_locks_said", {str(tmp_path)})
    sidecars = SidecarFiles(str(tmp_path / "f"))

    def wait(_: int) -> str:
        with pytest.raises(TimeoutError, match="makes no progress"), only_one_process(sidecars, "wait"):
            pass
        return "waited"

    with only_one_process(sidecars, "hold"):
        assert in_children(1, wait) == ["waited"]


def test_where_a_lock_excludes_nobody_no_running_download_is_removed(server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)

    def late(number: int) -> bool:
        time.sleep(0.05 * number)
        return fetch(tmp_path, server.url("slow")) == BODY

    assert in_children(3, late) == [True] * 3
    assert [name for name in os.listdir(tmp_path) if name.endswith(".part")] == []


def test_a_planted_link_is_neither_followed_nor_emptied(server, tmp_path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    cache = tmp_path / "c"
    cache.mkdir()
    (cache / ".f.bin.torchkutils-lock").symlink_to(victim)
    assert fetch(cache, server.url("good")) == BODY
    os.link(victim, cache / ".f.bin.torchkutils-lock")
    (cache / "f.bin").unlink()
    assert fetch(cache, server.url("good")) == BODY
    assert victim.read_bytes() == b"mine"
    os.mkfifo(cache / ".f.bin.torchkutils-lock")
    (cache / "f.bin").unlink()
    with pytest.raises(OSError, match=r"must be the lock of a download, but is no file"):
        fetch(cache, server.url("good"))


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o077])
def test_a_group_s_cache_can_be_locked_by_all_of_it(mask, tmp_path) -> None:
    tmp_path.chmod(0o2775)
    before = os.umask(mask)
    try:
        with only_one_process(SidecarFiles(str(tmp_path / "f")), "look"):
            mode = (tmp_path / ".f.torchkutils-lock").stat().st_mode
    finally:
        os.umask(before)
    assert stat.S_IMODE(mode) & 0o060 == 0o060


def test_threads_of_one_process_exclude_each_other(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    sidecars, inside, most = SidecarFiles(str(tmp_path / "f")), [], []

    def work() -> None:
        with only_one_process(sidecars, "work"):
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 6


def test_a_download_in_a_child_of_a_thread_that_holds_the_lock_waits_for_it_only(server, tmp_path) -> None:
    """The child inherits the lock of threads as it was at the fork; nobody would release it there."""
    with only_one_process(SidecarFiles(str(tmp_path / "held")), "hold"):
        assert in_children(1, lambda _: fetch(tmp_path, server.url("good")) == BODY) == [True]
