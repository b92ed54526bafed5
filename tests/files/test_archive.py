"""Extraction: all or nothing, never outside, never over somebody else's file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import pathlib
import shutil
import stat
import subprocess
import sys
import warnings

import pytest

from tests.files.hostile_archives import HOSTILE, hard, link, plain, raw_zip, tar_of, zip_entry, zip_of
from tests.files.unusual_archives import UNUSUAL, zipped
from torchkutils import ArchiveError, DownloadError, get_file
from torchkutils.files import archive, archive_kinds


def unpack(folder: pathlib.Path, name: str, content: bytes, **options) -> str:
    source = folder.parent / "far.bin"
    source.write_bytes(content)
    options = {"extract": True, "force": True, **options}
    return get_file(name, source.as_uri(), cache_dir=folder, cache_subdir="", progress=False, **options)


def snapshot(folder: pathlib.Path) -> dict[str, tuple]:
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(path.relative_to(folder))] = (status.st_mode, content)
    return found


def visible(folder: pathlib.Path) -> list[str]:
    names = (str(path.relative_to(folder)) for path in folder.rglob("*") if ".torchkutils-" not in path.name)
    return sorted(names)


@pytest.mark.parametrize("case", sorted(HOSTILE))
def test_a_hostile_archive_leaves_nothing(case, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 500)
    monkeypatch.setattr(archive, "FREE_BYTES", 4 << 20)
    cache, name = tmp_path / "cache", "v.tar" if case.startswith("tar") else "v.zip"
    cache.mkdir()
    (tmp_path / "outside.txt").write_bytes(b"outside")
    (cache / "victim.txt").write_bytes(b"victim")
    (cache / "other.bin").write_bytes(b"another download")
    content = HOSTILE[case](name)
    before = snapshot(tmp_path)
    with pytest.raises(ArchiveError, match="is not extracted") as caught:
        unpack(cache, name, content)
    after = snapshot(tmp_path)
    assert after.pop(f"cache/{name}")[1] == content
    del after["far.bin"]
    assert after == before
    assert caught.value.path == str(cache / name)
    assert not pathlib.Path("/tmp/evil").exists()


@pytest.mark.parametrize("case", sorted(UNUSUAL))
def test_an_archive_that_every_other_tool_opens_is_opened(case, tmp_path) -> None:
    unusual, name = UNUSUAL[case], f"t.{case[:3]}"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unpack(tmp_path / "c", name, unusual.make(), **unusual.options)
    said = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    assert [unusual.warning in words for words in said] == ([True] if unusual.warning else [])
    found = {
        str(path.relative_to(tmp_path / "c")): path.read_bytes()
        for path in (tmp_path / "c").rglob("*")
        if path.is_file()
    }
    found = {path: content for path, content in found.items() if ".torchkutils-" not in path and path != name}
    assert found == unusual.files


def test_there_are_enough_archives_of_both_kinds() -> None:
    assert len(HOSTILE) >= 100
    assert len(UNUSUAL) >= 50


TREE = [
    plain("d/x.txt", b"x"),
    plain("run.sh", b"#!", mode=0o6755, mtime=1_000_000_000),
    plain("d/e/y.bin", b"y" * 5000),
]


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.tgz", "t.tar.bz2", "t.tar.xz", "t.zip"])
def test_a_good_archive_lands_beside_itself(name, tmp_path) -> None:
    pack = {"gz": gzip.compress, "tgz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
    content = zip_of(*((n, c, f.get("mode", 0)) for n, c, f in TREE)) if name == "t.zip" else tar_of(*TREE)
    content = pack.get(name.rpartition(".")[2], bytes)(content)
    path = unpack(tmp_path / "c", name, content)
    assert path == str(tmp_path / "c" / name)
    assert visible(tmp_path / "c") == sorted(["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh", name])
    assert (tmp_path / "c/d/e/y.bin").read_bytes() == b"y" * 5000
    mode = (tmp_path / "c/run.sh").stat().st_mode
    assert mode & 0o111
    assert not mode & 0o7022
    if name != "t.zip":
        assert (tmp_path / "c/run.sh").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
@pytest.mark.parametrize("explicit", [True, False])
def test_a_single_compressed_file_loses_its_ending(kind, explicit, tmp_path) -> None:
    content = {"gz": gzip, "bz2": bz2, "xz": lzma}[kind].compress(b"1,2")
    unpack(tmp_path / "c", f"x.csv.{kind}", content, archive_format=kind if explicit else "auto")
    assert (tmp_path / "c/x.csv").read_bytes() == b"1,2"


def test_links_inside_are_kept_and_hard_links_become_copies(tmp_path) -> None:
    content = tar_of(plain("d/x", b"x"), link("l", "d/x"), link("dir", "d"), hard("h", "d/x"), hard("d/x", "d/x"))
    unpack(tmp_path / "c", "t.tar", content)
    assert os.readlink(tmp_path / "c/l") == "d/x"
    assert (tmp_path / "c/dir/x").read_bytes() == b"x"
    assert (tmp_path / "c/h").stat().st_nlink == 1
    for entries in ([link("l", "x")], [hard("h", "x")]):
        with pytest.raises(ArchiveError, match="allow_links=False"):
            unpack(tmp_path / "e", "t.tar", tar_of(plain("x"), *entries), allow_links=False)
    assert visible(tmp_path / "e") == ["t.tar"]


def test_a_repeated_call_touches_nothing_and_a_damaged_member_is_restored(tmp_path, monkeypatch) -> None:
    cache = tmp_path / "c"
    unpack(cache, "t.tar", tar_of(*TREE))
    with monkeypatch.context() as patch:
        patch.setattr(archive, "extract_archive", lambda *a, **k: pytest.fail("extracted again"))
        unpack(cache, "t.tar", tar_of(*TREE), force=False)
    (cache / "d/x.txt").write_bytes(b"z")
    (cache / "run.sh").unlink()
    unpack(cache, "t.tar", tar_of(*TREE), force=False)
    assert (cache / "d/x.txt").read_bytes() == b"x"
    assert (cache / "run.sh").exists()


def test_equal_files_are_taken_over_and_a_new_version_replaces_only_its_own(tmp_path) -> None:
    cache = tmp_path / "c"
    cache.mkdir()
    (cache / "run.sh").write_bytes(b"#!")
    unpack(cache, "t.tar", tar_of(*TREE))
    unpack(cache, "t.tar", tar_of(plain("d/x.txt", b"new"), plain("run.sh", b"#!")))
    assert (cache / "d/x.txt").read_bytes() == b"new"
    assert not (cache / "d/e/y.bin").exists()
    unpack(cache, "u.tar", tar_of(plain("run.sh", b"#!")))
    with pytest.raises(ArchiveError, match=r"run\.sh is there already, different"):
        unpack(cache, "t.tar", tar_of(plain("run.sh", b"changed"), plain("d/x.txt", b"newer")))
    assert (cache / "run.sh").read_bytes() == b"#!"
    assert (cache / "d/x.txt").read_bytes() == b"new"


def test_members_do_not_pass_through_a_link_that_is_there(tmp_path) -> None:
    cache = tmp_path / "c"
    cache.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (cache / "d").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArchiveError, match="'d'"):
        unpack(cache, "t.tar", tar_of(*TREE))
    assert os.listdir(tmp_path / "elsewhere") == []


@pytest.mark.parametrize("failures", [1, 99])
def test_a_failing_rename_is_undone_or_settled_by_the_next_call(failures, tmp_path, monkeypatch) -> None:
    cache = tmp_path / "c"
    old, new = tar_of(plain("a", b"1"), plain("z", b"1")), tar_of(plain("a", b"2"), plain("z", b"2"))
    unpack(cache, "t.tar", old)
    real, failed = os.rename, []

    def failing(source, target, **handles):
        if target == "z" and len(failed) < failures:
            failed.append(source)
            raise OSError(5, "Input/output error")
        real(source, target, **handles)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="Input/output"):
            unpack(cache, "t.tar", new)
    if failures == 1:
        assert visible(cache) == ["a", "t.tar", "z"]
        assert (cache / "a").read_bytes() == (cache / "z").read_bytes() == b"1"
    unpack(cache, "t.tar", new, force=False)
    assert (cache / "a").read_bytes() == (cache / "z").read_bytes() == b"2"
    assert [name for name in os.listdir(cache) if name.startswith(".")] == [".t.tar.torchkutils-members.json"]


@pytest.mark.parametrize(
    ("name", "content", "formats", "result"),
    [
        ("x.txt", b"text", "auto", pytest.warns(UserWarning, match="no archive")),
        ("x.txt", tar_of(*TREE), "zip", pytest.warns(UserWarning, match="no archive")),
        ("x.zip", b"text", "auto", pytest.raises(ArchiveError, match="named like an archive")),
        ("x.gz", b"text", ["gz"], pytest.raises(ArchiveError, match="named like an archive")),
    ],
)
def test_what_is_no_archive_is_said(name, content, formats, result, tmp_path) -> None:
    with result as caught:
        unpack(tmp_path / "c", name, content, archive_format=formats)
    assert (tmp_path / "c" / name).read_bytes() == content
    assert not isinstance(caught, pytest.WarningsRecorder) or caught[0].filename == __file__


@pytest.mark.parametrize("formats", [None, [], ()])
def test_no_format_extracts_nothing(formats, tmp_path) -> None:
    unpack(tmp_path / "c", "t.tar", tar_of(*TREE), archive_format=formats)
    assert os.listdir(tmp_path / "c") == ["t.tar"]


PROGRAM = """
import sys
from torchkutils import get_file
print(flush=True)
get_file("t.tar", sys.argv[1], cache_dir=sys.argv[2], cache_subdir="", extract=True, progress=False)
"""


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before the journal", "after the journal", "between the renames"])
def test_the_next_call_ends_what_a_kill_interrupted(moment, tmp_path) -> None:
    """The child ends itself at the named point, without any clean-up."""
    source = tmp_path / "far.tar"
    source.write_bytes(tar_of(*TREE))
    point = {
        "before the journal": "archive.write_manifest = lambda *a: os._exit(9)",
        "after the journal": "archive.commit = lambda *a: os._exit(9)",
        "between the renames": "commit.entry_as_written = lambda *a: os._exit(9)",
    }[moment]
    command = [sys.executable, "-c", PROGRAM, source.as_uri(), str(tmp_path / "c")]
    program = f"import os\nfrom torchkutils.files import archive, commit\n{point}\n{PROGRAM}"
    assert subprocess.run([*command[:2], program, *command[3:]], capture_output=True).returncode == 9
    subprocess.run(command, check=True, capture_output=True)
    cache = tmp_path / "c"
    assert visible(cache) == ["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh", "t.tar"]
    assert [name for name in os.listdir(cache) if name.startswith(".")] == [".t.tar.torchkutils-members.json"]


def test_two_archives_of_one_folder_share_a_file_only_when_asked(tmp_path) -> None:
    cache = tmp_path / "c"
    unpack(cache, "one.zip", zipped("README", "one/x", "same"))
    second = zip_of(("README", b"two", 0), ("two/x", b"x", 0), ("same", b"same", 0))
    with pytest.raises(ArchiveError, match=r"README is there already, different.*overwrite=True or extract_dir"):
        unpack(cache, "two.zip", second)
    assert visible(cache) == ["README", "one", "one.zip", "one/x", "same", "two.zip"]
    unpack(cache, "two.zip", second, overwrite=True)
    assert (cache / "README").read_bytes() == b"two"
    unpack(cache, "two.zip", zip_of(("README", b"2", 0)), overwrite=True)
    assert (cache / "same").exists()  # the other archive brought it too
    assert not (cache / "two").exists()
    (cache / "folder").mkdir()
    with pytest.raises(ArchiveError, match="folder is there already"):
        unpack(cache, "three.zip", zip_of(("folder", b"x", 0)), overwrite=True)


def test_members_go_to_another_folder_which_is_returned(tmp_path) -> None:
    cache, far = tmp_path / "c", tmp_path / "elsewhere"
    content = tar_of(*TREE)
    assert unpack(cache, "t.tar", content, extract=False, extract_dir="sub/of") == str(cache / "sub/of")
    assert unpack(cache, "t.tar", content, extract_dir=far) == str(far)
    assert visible(far) == visible(cache / "sub/of") == ["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh"]
    assert unpack(tmp_path / "c2", "t.tar", tar_of(plain("other")), extract_dir=far) == str(far)
    (far / "run.sh").write_bytes(b"damaged")
    assert unpack(cache, "t.tar", content, extract_dir=far, force=False) == str(far)
    assert (far / "run.sh").read_bytes() == b"#!"
    with pytest.raises(ArchiveError, match="other is there already"):
        unpack(cache, "t.tar", tar_of(plain("other", b"different")), extract_dir=far)


def test_only_chosen_members_are_unpacked_and_later_ones_are_added(tmp_path) -> None:
    cache, content = tmp_path / "c", tar_of(plain("a/1.csv"), plain("a/2.txt"), plain("b/3.csv"), hard("h", "b/3.csv"))
    unpack(cache, "t.tar", content, members="*.csv")
    assert visible(cache) == ["a", "a/1.csv", "b", "b/3.csv", "t.tar"]
    unpack(cache, "t.tar", content, members=["a/", "h", "b/3.csv"], force=False)
    assert visible(cache) == ["a", "a/1.csv", "a/2.txt", "b", "b/3.csv", "h", "t.tar"]
    (cache / "a/2.txt").unlink()
    unpack(cache, "t.tar", content, members="*.csv", force=False)
    assert not (cache / "a/2.txt").exists()  # this call did not ask for it
    unpack(cache, "t.tar", content, force=False)
    assert (cache / "a/2.txt").exists()
    with pytest.raises(ArchiveError, match=r"members names \['z'\]"):
        unpack(tmp_path / "e", "t.tar", content, members=["a", "z"])
    with pytest.raises(ArchiveError, match=r"hard link to 'b/3.csv', which `members` leaves out"):
        unpack(tmp_path / "e", "t.tar", content, members="h")


def test_an_archive_that_is_removed_is_not_asked_for_again(tmp_path) -> None:
    cache, content = tmp_path / "c", tar_of(*TREE)
    digest = hashlib.sha256(content).hexdigest()
    options = {"remove_archive": True, "force": False, "file_hash": digest}
    assert unpack(cache, "t.tar", content, **options) == str(cache)
    assert visible(cache) == ["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh"]
    (tmp_path / "far.bin").unlink()
    again = {"extract": True, "cache_dir": cache, "cache_subdir": "", "remove_archive": True, "progress": False}
    gone = (tmp_path / "far.bin").as_uri()
    assert get_file("t.tar", gone, file_hash=digest, **again) == str(cache)
    assert get_file("t.tar", gone, offline=True, **again) == str(cache)
    with pytest.raises(DownloadError, match="No such file"):
        get_file("t.tar", gone, file_hash="0" * 64, retries=0, **again)
    (cache / "run.sh").write_bytes(b"damaged")
    unpack(cache, "t.tar", content, **options)
    assert (cache / "run.sh").read_bytes() == b"#!"
    assert not (cache / "t.tar").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.rar", b"Rar!\x1a\7\1\0" + bytes(60), "RAR is not supported"),
        ("a.bin", b"Rar!\x1a\7\1\0" + bytes(60), "RAR is not supported"),
        ("a.tar.Z", b"\x1f\x9d\x90" + bytes(60), "compress"),
        ("a.tar.lz4", b"\x04\x22\x4d\x18" + bytes(60), "LZ4 is not supported"),
        ("a.tar.br", bytes(60), "Brotli is not supported"),
        ("a.7z", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(60), "damaged|needs a package: pip install py7zr"),
    ],
)
def test_a_format_that_is_not_read_is_named(name, content, words, tmp_path) -> None:
    with pytest.raises(ArchiveError, match=words):
        unpack(tmp_path / "c", name, content)


@pytest.mark.parametrize(("method", "words"), [(1, "Shrink"), (6, "Implode"), (9, "Deflate64"), (98, "PPMd")])
def test_a_packing_method_that_is_not_read_is_named(method, words, tmp_path) -> None:
    with pytest.raises(ArchiveError, match=rf"method {method} \({words}\), which is not supported"):
        unpack(tmp_path / "c", "a.zip", raw_zip(zip_entry(b"a", method=method)))


@pytest.mark.parametrize(("ending", "format"), [("zst", "zst"), ("7z", "7z")])
def test_a_missing_package_is_named(ending, format, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(archive_kinds, "_can_read", lambda kind: kind != format)
    content = {"zst": b"\x28\xb5\x2f\xfd" + bytes(20), "7z": b"7z\xbc\xaf\x27\x1c" + bytes(60)}[format]
    with pytest.raises(ArchiveError, match="pip install"):
        unpack(tmp_path / "c", f"a.{ending}", content)
    with pytest.raises(ImportError, match="pip install"):
        unpack(tmp_path / "c", f"a.{ending}", content, archive_format=format)


def test_zstandard_and_7z_are_read_through_their_packages(tmp_path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    py7zr = pytest.importorskip("py7zr")
    unpack(tmp_path / "z", "t.tar.zst", zstd.compress(tar_of(*TREE)))
    assert visible(tmp_path / "z") == ["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh", "t.tar.zst"]
    unpack(tmp_path / "s", "x.csv.zst", zstd.compress(b"1") + zstd.compress(b",2"))
    assert (tmp_path / "s/x.csv").read_bytes() == b"1,2"
    (tmp_path / "in/d").mkdir(parents=True)
    (tmp_path / "in/d/x").write_bytes(b"x" * 300)
    (tmp_path / "in/empty").write_bytes(b"")
    (tmp_path / "in/l").symlink_to("d/x")
    with py7zr.SevenZipFile(tmp_path / "t.7z", "w") as file:
        file.writeall(tmp_path / "in", "top")
    unpack(tmp_path / "7", "t.7z", (tmp_path / "t.7z").read_bytes())
    assert (tmp_path / "7/top/d/x").read_bytes() == (tmp_path / "7/top/l").read_bytes() == b"x" * 300
    assert visible(tmp_path / "7") == ["t.7z", "top", "top/d", "top/d/x", "top/empty", "top/l"]
    unpack(tmp_path / "m", "t.7z", (tmp_path / "t.7z").read_bytes(), members="top/d")
    assert visible(tmp_path / "m") == ["t.7z", "top", "top/d", "top/d/x"]


def test_a_folder_that_is_exchanged_for_a_link_is_not_followed(tmp_path, monkeypatch) -> None:
    """At every system call of the commit, the real folder is moved away and a link to somebody's home put there."""
    home, cache = tmp_path / "home", tmp_path / "c"
    home.mkdir()
    content, real, done = tar_of(plain("d/e/evil"), plain("d/e/old", b"o")), os.rename, 0
    for moment in range(12):
        (cache / "d/e").mkdir(parents=True)
        (cache / "d/e/old").write_bytes(b"o")
        calls = iter(range(100))

        def exchanging(source, target, calls=calls, moment=moment, **handles):
            if next(calls) == moment:
                real(cache / "d", cache / "was")
                (cache / "d").symlink_to(home)
            real(source, target, **handles)

        with monkeypatch.context() as patch:
            patch.setattr(os, "rename", exchanging)
            with contextlib.suppress(ArchiveError, OSError):
                unpack(cache, "t.tar", content)
                done += 1
        assert os.listdir(home) == []
        shutil.rmtree(cache)
    assert done


BASE = {
    "archive": [0, 0, 0], "kind": "tar", "members": [], "chosen": [], "links": True, "encoding": "", "complete": True,
    "removed": None, "staging": "", "replaces": [], "stale": [], "kept": [], "version": 2,
}  # fmt: skip
OUT = "../../home/.bashrc"
FORGED: dict[str, bytes] = {
    "empty": b"", "cut": b'{"archive":[1,', "list": b"[]", "number": b"5", "bytes": bytes(range(256)), "NaN": b"NaN",
    "deep": b"[" * 100_000, "UTF-16": json.dumps(BASE).encode("utf-16"), "first version": json.dumps(
        {"archive": [0, 0, 0], "kind": "zip", "folder": "..", "members": [[OUT, "file", 0, 0]], "staging": "evil",
         "replaces": [OUT], "stale": [], "version": 1}).encode(),
} | {
    f"{name}: {value!r}"[:60]: json.dumps({**BASE, name: value}).encode()
    for name, value in [
        ("more", 1), ("version", 1), ("version", True), ("archive", None), ("archive", [0, 0]),
        ("archive", [0, 0, "0"]),
        ("kind", []), ("kind", None), ("links", 1), ("complete", None), ("encoding", 5), ("chosen", [5]),
        ("removed", 5), ("members", 5), ("members", None), ("members", [["a"]]), ("members", ["name"]),
        ("members", [[5, "file", 0, 0]]), ("members", [[[], "file", 0, 0]]), ("members", [["a\0", "file", 0, 0]]),
        ("members", [["a", "pipe", 0, 0]]), ("members", [["a", [], 0, 0]]), ("members", [["a", "file", 0.5, 0]]),
        ("members", [["a", "file", 0, 0], ["a", "file", 0, 0]]), ("members", [[OUT, "file", 0, 0]]),
        ("members", [["/etc/passwd", "file", 0, 0]]), ("members", [[".x.torchkutils-lock", "file", 0, 0]]),
        ("stale", [[OUT, "file", 0, 0]]), ("stale", 5), ("kept", [[OUT, "file", 0, 0]]), ("replaces", None),
        ("replaces", ["home"]), ("staging", 5), ("staging", "evil"), ("staging", "../home"),
        ("staging", ".t.tar.torchkutils-../evil.staging"), ("staging", ".t.tar.torchkutils-gone.staging"),
    ]
}  # fmt: skip


@pytest.mark.parametrize("case", sorted(FORGED))
def test_a_manifest_that_does_not_hold_is_dropped(case, tmp_path) -> None:
    cache, home = tmp_path / "x/c", tmp_path / "home"
    (cache / "evil").mkdir(parents=True)
    (cache / "evil/x").write_bytes(b"x")
    home.mkdir()
    (home / ".bashrc").write_bytes(b"mine")
    (cache / ".t.tar.torchkutils-members.json").write_bytes(FORGED[case])
    (cache / ".u.tar.torchkutils-members.json").write_bytes(FORGED[case])  # another archive of the folder meets it
    unpack(cache, "t.tar", tar_of(plain("a", b"1")))
    assert (cache / "a").read_bytes() == b"1"
    assert (home / ".bashrc").read_bytes() == b"mine"
    assert (cache / "evil/x").exists()
    (cache / "b").write_bytes(b"user's")
    with pytest.raises(ArchiveError, match="b is there already"):
        unpack(cache, "u.tar", tar_of(plain("b", b"1")))


def test_a_manifest_that_is_a_link_is_dropped(tmp_path) -> None:
    cache = tmp_path / "c"
    unpack(cache, "t.tar", tar_of(plain("a", b"1")))
    (cache / ".t.tar.torchkutils-members.json").rename(tmp_path / "manifest")
    (cache / ".t.tar.torchkutils-members.json").symlink_to(tmp_path / "manifest")
    (cache / "a").write_bytes(b"2")
    with pytest.raises(ArchiveError, match="a is there already"):
        unpack(cache, "t.tar", tar_of(plain("a", b"1")), force=False)


def test_members_that_became_reachable_by_a_link_do_not_count_as_intact(tmp_path) -> None:
    cache = tmp_path / "c"
    unpack(cache, "t.tar", tar_of(plain("d/a", b"1")))
    (cache / "d").rename(tmp_path / "d")
    (cache / "d").symlink_to(tmp_path / "d")
    with pytest.raises(ArchiveError, match="d is there already"):
        unpack(cache, "t.tar", tar_of(plain("d/a", b"1")), force=False)
