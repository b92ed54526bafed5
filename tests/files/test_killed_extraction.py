"""An extraction killed at any of its system calls, then any change by the user: the next calls make it right."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pathlib
import random
import shutil
import sys
from collections.abc import Callable

import pytest

from tests.files.hostile_archives import link, plain, tar_of
from torchkutils import ArchiveError, get_file

V1 = {"same": b"s", "changed": b"1", "gone": b"g", "d/a": b"a1", "d/old/x": b"x"}
V2 = {"same": b"s", "changed": b"2", "new": b"n", "d/a": b"a2", "d/b": b"b", "e/f/c": b"c" * 3000, "z": b"z"}
V3 = {"same": b"s3", "changed": b"3", "d/a": b"a3", "z": b"z3"}
KEPT = {"t.tar", "other"}
EVENTS = {"open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.utime", "os.chmod"}


def pack(files: dict[str, bytes], *more) -> bytes:
    return tar_of(*(plain(name, content) for name, content in files.items()), *more)


def unpack(folder: pathlib.Path, content: bytes, name: str = "t.tar", **options) -> None:
    source = folder.parent / "far.bin"
    source.write_bytes(content)
    get_file(name, source.as_uri(), cache_dir=folder, cache_subdir="", progress=False, extract=True, **options)


def killed_at(moment: int, folder: pathlib.Path, content: bytes) -> bool:
    """Unpack in a child that ends itself before its system call of that number; False when it came to the end."""

    def act() -> None:
        left = [moment]

        def count(event: str, arguments: object = None) -> None:
            if event in EVENTS:
                left[0] -= 1
                if not left[0]:
                    os._exit(9)

        def counted(real: Callable) -> Callable:
            return lambda *arguments: count("open") or real(*arguments)

        # Python tells no hook of these two.
        for name in ("fsync", "write"):
            setattr(os, name, counted(getattr(os, name)))
        sys.addaudithook(count)
        unpack(folder, content, force=True)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join()
    assert child.exitcode in {0, 9}
    return child.exitcode == 9


def members(folder: pathlib.Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: content for name, content in found.items() if ".torchkutils-" not in name and name not in KEPT}


def hidden(folder: pathlib.Path) -> list[pathlib.Path]:
    return [path for path in folder.iterdir() if ".torchkutils-" in path.name]


def nothing(folder: pathlib.Path, draw: random.Random) -> None:
    pass


def a_member(folder: pathlib.Path, draw: random.Random) -> pathlib.Path | None:
    there = sorted(members(folder))
    return folder / draw.choice(there) if there else None


def delete_one(folder: pathlib.Path, draw: random.Random) -> None:
    if (path := a_member(folder, draw)) is not None:
        path.unlink()


def edit_one(folder: pathlib.Path, draw: random.Random) -> None:
    if (path := a_member(folder, draw)) is not None:
        path.write_bytes(b"edited by the user")


def delete_all(folder: pathlib.Path, draw: random.Random) -> None:
    for name in members(folder):
        (folder / name).unlink()
    shutil.rmtree(folder / "d", ignore_errors=True)


def delete_folder(folder: pathlib.Path, draw: random.Random) -> None:
    shutil.rmtree(folder / draw.choice(["d", "e", "d/old"]), ignore_errors=True)


def delete_hidden(folder: pathlib.Path, draw: random.Random) -> None:
    for path in draw.sample(hidden(folder), min(1, len(hidden(folder)))):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def delete_all_hidden(folder: pathlib.Path, draw: random.Random) -> None:
    for path in hidden(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def own_file(folder: pathlib.Path, draw: random.Random) -> None:
    path = folder / draw.choice(["new", "z", "d/b", "e"])
    with contextlib.suppress(OSError):
        path.write_bytes(b"the user's own")


def folder_for_file(folder: pathlib.Path, draw: random.Random) -> None:
    if (path := a_member(folder, draw)) is not None:
        path.unlink()
        path.mkdir()


def link_for_folder(folder: pathlib.Path, draw: random.Random) -> None:
    if (folder / "d").is_dir():
        (folder / "d").rename(folder / "moved")
        (folder / "d").symlink_to("moved")


def other_archive(folder: pathlib.Path, draw: random.Random) -> None:
    with contextlib.suppress(ArchiveError):
        unpack(folder, pack({"y/1": b"y", "new": b"n"}), name="y.tar")


def damage_manifest(folder: pathlib.Path, draw: random.Random) -> None:
    path = folder / ".t.tar.torchkutils-members.json"
    if path.exists():
        content = bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)


CHANGES = [
    *(nothing, delete_one, edit_one, delete_all, delete_folder, delete_hidden, delete_all_hidden),
    *(own_file, folder_for_file, link_for_folder, other_archive, damage_manifest),
]


def set_right(folder: pathlib.Path) -> None:
    """What a user does who was told that something is in the way: move everything away."""
    away = folder.parent / "away"
    away.mkdir(exist_ok=True)
    for name in {*members(folder), *V2}:
        top = folder / name.split("/")[0]
        if os.path.lexists(top):
            os.rename(top, away / f"{len(list(away.iterdir()))}")


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
def test_after_a_kill_and_a_change_the_next_call_is_right_or_clear(change, tmp_path) -> None:
    draw = random.Random(change.__name__)
    old, new, latest = pack(V1), pack(V2, link("l", "d/a")), pack(V3)
    moment, calls = 0, 0
    while True:
        moment += draw.randrange(1, 9)
        folder = tmp_path / str(moment) / "c"
        folder.mkdir(parents=True)
        (folder / "other").write_bytes(b"other")
        unpack(folder, old)
        if not killed_at(moment, folder, new):
            break
        change(folder, draw)
        content, files = draw.choice([(new, V2 | {"l": V2["d/a"]}), (latest, V3)])
        context = f"killed at {moment}, then {change.__name__}"
        try:
            unpack(folder, content, force=content is latest or draw.random() < 0.5)
        except ArchiveError as error:
            if "is there already" not in str(error):
                raise
            set_right(folder)
            unpack(folder, content, force=True)
        if (folder / "t.tar").read_bytes() != content:
            unpack(folder, content, force=True)  # the kill came before the new archive was there
        now = members(folder)
        assert {name: now.get(name) for name in files} == files, context
        assert (folder / "other").exists(), context
        staging = [path.name for path in hidden(folder) if path.name.endswith(("staging", "part"))]
        assert staging == [], context
        calls += 1
        shutil.rmtree(folder.parent)
    assert calls > 10
