"""Extraction: all or nothing, never outside, never over somebody else's file."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import pathlib
import stat
import subprocess
import sys
import tarfile

import pytest

from tests.files.hostile_archives import HOSTILE, hard, link, plain, tar_of, zip_of
from torchkutils import ArchiveError, get_file
from torchkutils.files import archive, commit


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
    monkeypatch.setattr(archive, "MAX_MEMBERS", 15_000)
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


def test_there_are_enough_hostile_archives() -> None:
    assert len(HOSTILE) >= 45


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
        patch.setattr(archive, "extract_beside", lambda *a, **k: pytest.fail("extracted again"))
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


def test_a_failing_rename_is_undone(tmp_path, monkeypatch) -> None:
    cache = tmp_path / "c"
    unpack(cache, "t.tar", tar_of(plain("a", b"1"), plain("z", b"1")))
    before, real = snapshot(cache), os.rename

    def failing(source, target):
        if str(target).endswith("/z"):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(commit.os, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        unpack(cache, "t.tar", tar_of(plain("a", b"2"), plain("z", b"2")))
    assert {name: value for name, value in snapshot(cache).items() if name in "az"} == {
        name: value for name, value in before.items() if name in "az"
    }
    assert visible(cache) == ["a", "t.tar", "z"]


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
def test_a_killed_extraction_is_finished_or_undone(tmp_path) -> None:
    names = [f"d{number % 7}/f{number}" for number in range(1500)]
    source = tmp_path / "far.tar"
    source.write_bytes(tar_of(*(plain(name, name.encode()) for name in names)))
    for moment in range(20):
        cache = tmp_path / f"c{moment}"
        command = [sys.executable, "-c", PROGRAM, source.as_uri(), str(cache)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            child.stdout.readline()
            try:
                child.wait(0.012 * moment)
            except subprocess.TimeoutExpired:
                child.kill()
        get_file("t.tar", source.as_uri(), cache_dir=cache, cache_subdir="", extract=True, progress=False)
        assert all((cache / name).read_bytes() == name.encode() for name in names)
        hidden = [name for name in os.listdir(cache) if name.startswith(".")]
        assert hidden == [".t.tar.torchkutils-members.json"]


@pytest.mark.parametrize("moment", ["before the journal", "after the journal", "between the renames"])
def test_the_next_call_ends_what_a_kill_interrupted(moment, tmp_path) -> None:
    """The child ends itself at the named point, without any clean-up."""
    source = tmp_path / "far.tar"
    source.write_bytes(tar_of(*TREE))
    point = {
        "before the journal": "archive.write_manifest = lambda *a: os._exit(9)",
        "after the journal": "archive.commit = lambda *a: os._exit(9)",
        "between the renames": "commit.stamped = lambda *a: os._exit(9)",
    }[moment]
    command = [sys.executable, "-c", PROGRAM, source.as_uri(), str(tmp_path / "c")]
    program = f"import os\nfrom torchkutils.files import archive, commit\n{point}\n{PROGRAM}"
    assert subprocess.run([*command[:2], program, *command[3:]], capture_output=True).returncode == 9
    subprocess.run(command, check=True, capture_output=True)
    cache = tmp_path / "c"
    assert visible(cache) == ["d", "d/e", "d/e/y.bin", "d/x.txt", "run.sh", "t.tar"]
    assert [name for name in os.listdir(cache) if name.startswith(".")] == [".t.tar.torchkutils-members.json"]


def test_tarfile_itself_would_take_a_cut_archive_as_whole(tmp_path) -> None:
    (tmp_path / "cut.tar").write_bytes(HOSTILE["tar:cut between members"]("v.tar"))
    with tarfile.open(tmp_path / "cut.tar") as tar:
        assert tar.getnames() == ["first.txt"]
