"""The cache's rules: where a file lies, when it is fetched, what is refused beforehand."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pathlib
import stat
import tarfile

import pytest
import torch

from tests.files.faulty_server import BODY, DIGEST
from tests.ranks import on_ranks
from torchkutils import DownloadError, get_file
from torchkutils.files import cache_folder


@pytest.fixture
def source(tmp_path) -> pathlib.Path:
    path = tmp_path / "far" / "x.csv"
    path.parent.mkdir()
    path.write_bytes(b"1,2")
    return path


def test_the_base_folder_follows_keras(tmp_path, monkeypatch, source) -> None:
    def where(**options) -> str:
        return get_file("f", source.as_uri(), progress=False, **options)

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KERAS_HOME", "~/k")
    monkeypatch.setenv("TORCHKUTILS_HOME", str(tmp_path / "t"))
    assert where(cache_dir=tmp_path / "given") == str(tmp_path / "given/datasets/f")
    assert where(cache_dir="~/given") == str(tmp_path / "home/given/datasets/f")
    assert where() == str(tmp_path / "t/datasets/f")
    monkeypatch.delenv("TORCHKUTILS_HOME")
    assert where() == str(tmp_path / "home/k/datasets/f")
    monkeypatch.delenv("KERAS_HOME")
    assert where() == str(tmp_path / "home/.keras/datasets/f")
    assert where(cache_subdir=tmp_path / "sub") == str(tmp_path / "sub/f")


def test_names_of_files(tmp_path, source) -> None:
    options = {"cache_dir": tmp_path / "c", "progress": False}
    assert get_file(None, source.as_uri() + "", **options) == str(tmp_path / "c/datasets/x.csv")
    assert get_file("a/b/f", source.as_uri(), **options) == str(tmp_path / "c/datasets/a/b/f")
    assert get_file(str(tmp_path / "abs/f"), source.as_uri(), **options) == str(tmp_path / "abs/f")
    assert pathlib.Path(get_file("n" * 255, source.as_uri(), **options)).read_bytes() == b"1,2"


def test_a_file_in_the_cache_is_not_fetched_again(server, tmp_path) -> None:
    options = {"cache_dir": tmp_path, "progress": False}
    path = pathlib.Path(get_file(None, server.url("good?x=1"), **options))
    assert path == tmp_path / "datasets/good"
    path.write_bytes(b"edited")
    get_file("good", server.url("good"), **options)
    assert path.read_bytes() == b"edited"
    for upper in (DIGEST.upper(), f"sha256:{DIGEST}", hashlib.md5(BODY).hexdigest(), hashlib.sha512(BODY).hexdigest()):
        get_file("good", server.url("good"), file_hash=upper, **options)
        assert path.read_bytes() == BODY
    assert server.count["good"] == 2
    get_file("good", server.url("good"), force=True, **options)
    assert server.count["good"] == 3
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_keras_s_deprecated_arguments_work_and_warn(tmp_path, source) -> None:
    with tarfile.open(tmp_path / "far" / "set.tar.gz", "w:gz") as tar:
        tar.add(source, "set/x.csv")
    url = (tmp_path / "far" / "set.tar.gz").as_uri()
    options = {"cache_dir": tmp_path / "c", "progress": False}
    with pytest.warns(DeprecationWarning, match="untar"):
        assert get_file("set", url, untar=True, extract=True, **options) == str(tmp_path / "c/datasets/set")
    assert (tmp_path / "c/datasets/set/x.csv").read_bytes() == b"1,2"
    with pytest.warns(DeprecationWarning, match="untar"), pytest.warns(UserWarning, match="no entry of that name"):
        path = get_file("other", url, True, cache_subdir="none", **options)
    assert path == str(tmp_path / "c/none/other")
    assert (tmp_path / "c/none/set/x.csv").read_bytes() == b"1,2"
    with pytest.warns(DeprecationWarning, match="md5_hash"), pytest.raises(ValueError, match=r"hash is wrong.*md5"):
        get_file("f", url, md5_hash="0" * 32, **options)
    with pytest.warns(DeprecationWarning, match="md5_hash"):
        get_file("x", source.as_uri(), md5_hash="0" * 32, file_hash=hashlib.sha1(b"1,2").hexdigest(), **options)


def test_what_keras_left_is_taken_as_it_is(tmp_path, source) -> None:
    folder = tmp_path / "datasets"
    (folder / "set").mkdir(parents=True)
    (folder / "set.tar.gz").write_bytes(b"kept")
    with pytest.warns(DeprecationWarning, match="untar"):
        assert get_file("set", "https://nobody.invalid/set.tar.gz", untar=True, cache_dir=tmp_path) == str(
            folder / "set"
        )


BAD = [
    ({"origin": ""}, "origin must be a URL"),
    ({"origin": None}, "origin must be a URL"),
    ({"origin": 3}, "origin must be a URL"),
    ({"origin": b"http://x/y"}, "origin must be a URL"),
    ({"origin": "x.csv"}, "origin must be a URL"),
    ({"origin": "nope://x/y"}, "known protocol"),
    ({"origin": "http:///x"}, "host"),
    ({"origin": "http://h:99999/x"}, "valid port"),
    ({"origin": "http://h/x\r\nX: y"}, "control characters"),
    ({"mirrors": ["nope://x"]}, "mirrors must be"),
    ({"mirrors": "http://h/x"}, "mirrors must be a list"),
    ({"file_hash": "abc"}, "hexadecimal digits"),
    ({"file_hash": "a" * 33}, "hexadecimal digits"),
    ({"file_hash": "g" * 32}, "hexadecimal digits"),
    ({"file_hash": 5}, "hexadecimal digits"),
    ({"file_hash": "a" * 32, "hash_algorithm": "sha256"}, "64 digits"),
    ({"file_hash": "a" * 32, "hash_algorithm": "crc"}, "hash_algorithm must be"),
    ({"hash_algorithm": "crc"}, "hash_algorithm must be"),
    ({"file_hash": "sha3:" + "a" * 32}, "known are"),
    ({"fname": "../x"}, r"'\.\.'"),
    ({"fname": "a/../x"}, r"'\.\.'"),
    ({"fname": "a\\..\\x"}, r"'\.\."),
    ({"fname": ""}, "fname must be"),
    ({"fname": "a/"}, "fname must be"),
    ({"fname": "a\0b"}, "fname must be"),
    ({"fname": None, "origin": "http://h/"}, "fname must be given"),
    ({"fname": None, "origin": "http://h/a%2F..%2Fb"}, "fname must be given"),
    ({"archive_format": "rar"}, "archive_format must be"),
    ({"archive_format": ["tar", "rar"], "extract": True}, "archive_format must be"),
    ({"timeout": 0}, "timeout must be"),
    ({"timeout": -1}, "timeout must be"),
    ({"timeout": (1, 0)}, "timeout must be"),
    ({"timeout": (1, 2, 3, 4)}, "timeout must be"),
    ({"timeout": (1, 2, 0)}, "timeout must be"),
    ({"timeout": (1,)}, "timeout must be"),
    ({"timeout": "5"}, "timeout must be"),
    ({"timeout": float("nan")}, "timeout must be"),
    ({"retries": -1}, "retries must be"),
    ({"retries": 1.5}, "retries must be"),
    ({"headers": {"A": "b\r\nc"}}, "headers must map"),
    ({"headers": {"Range": "bytes=0-"}}, "headers must not hold"),
    ({"force": True, "offline": True}, "force=True"),
    ({"headers": ["x"]}, "headers must map"),
    ({"mirrors": None}, "mirrors must be a list"),
    ({"archive_format": 3}, "archive_format must be"),
    ({"cache_dir": 3}, "cache_dir must be"),
    ({"fname": 3}, "fname must be"),
    ({"cache_subdir": 3}, "cache_subdir must be"),
    ({"cache_subdir": None}, "cache_subdir must be"),
    ({"force": "no"}, "force must be"),
    ({"allow_links": None}, "allow_links must be"),
    ({"allow_links": "no"}, "allow_links must be"),
    ({"overwrite": 1}, "overwrite must be"),
    ({"extract_dir": 3}, "extract_dir must be"),
    ({"extract_dir": ""}, "extract_dir must be"),
    ({"extract_dir": "../up"}, "extract_dir must stay"),
    ({"extract": True, "members": 3}, "members must be"),
    ({"extract": True, "members": []}, "members must be"),
    ({"extract": True, "members": ["/"]}, "members must be"),
    ({"members": "a"}, "members must come with extract"),
    ({"remove_archive": True}, "remove_archive must come with extract"),
    ({"remove_archive": "yes", "extract": True}, "remove_archive must be"),
    ({"encoding": "no such"}, "encoding must be"),
    ({"encoding": "base64"}, "encoding must be"),
    ({"fname": "."}, "name of a file"),
    ({"fname": "a/."}, "name of a file"),
    ({"fname": "a/"}, "name of a file"),
    ({"fname": "a\nb"}, "control characters"),
    ({"fname": "a\x9bb"}, "control characters"),
    ({"fname": ".z.zip.torchkutils-members.json"}, "cache's own files"),
    ({"fname": "a/.Z.TorchKutils-Lock/b"}, "cache's own files"),
    ({"fname": ".z.\uff54orchkutils-lock"}, "cache's own files"),
    ({"fname": ".z.torch\u200dkutils-lock"}, "cache's own files"),
    ({"fname": "folder"}, "must name a file"),
]


@pytest.mark.parametrize(("arguments", "words"), BAD)
def test_a_bad_argument_is_refused_before_any_request(arguments, words, server, tmp_path) -> None:
    (tmp_path / "datasets/folder").mkdir(parents=True)
    given = {"fname": "f", "origin": server.url("good"), "cache_dir": tmp_path, **arguments}
    with pytest.raises(ValueError, match=words):
        get_file(**given)
    assert sum(server.count.values()) == 0
    assert os.listdir(tmp_path / "datasets") == ["folder"]


@pytest.mark.parametrize(
    "last", [".z.zip.torchkutils-members.json", "a%0Ab", "a%1B%5B2Jb", "%00", "..%5Cx", "x%2Fy", ".."]
)
def test_a_name_from_an_address_is_no_hidden_file_and_no_path(last, server, tmp_path) -> None:
    with pytest.raises(ValueError, match="fname must be given"):
        get_file(None, server.url(f"good/{last}"), cache_dir=tmp_path)
    assert sum(server.count.values()) == 0


@pytest.mark.parametrize("base", [{}, {"cache_dir": "~nobody-of-that-name/k"}])
def test_an_unknown_home_is_the_temporary_folder(base, tmp_path, monkeypatch, source) -> None:
    monkeypatch.setattr(cache_folder.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(cache_folder.os.path, "expanduser", lambda path: path)
    for name in ("TORCHKUTILS_HOME", "KERAS_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="cannot be written"):
        path = get_file("f", source.as_uri(), progress=False, **base)
    assert pathlib.Path(path).parents[2] == tmp_path
    assert not any(name.startswith("~") for name in os.listdir(tmp_path))


def test_a_link_in_the_cache_stays_one_where_its_owner_is_trusted(tmp_path, monkeypatch, source) -> None:
    (tmp_path / "big").mkdir()
    (tmp_path / "big/f").write_bytes(b"old")
    (tmp_path / "datasets").mkdir()
    link = tmp_path / "datasets/f"
    link.symlink_to("../big/f")
    options = {"cache_dir": tmp_path, "progress": False, "force": True}
    assert get_file("f", source.as_uri(), **options) == str(link)
    assert (link.is_symlink(), (tmp_path / "big/f").read_bytes()) == (True, b"1,2")
    assert os.listdir(tmp_path / "big") == ["f"]
    (tmp_path / "big/f").write_bytes(b"old")
    os.lchown(link, 54321, -1)
    get_file("f", source.as_uri(), **options)
    assert (link.is_symlink(), link.read_bytes(), (tmp_path / "big/f").read_bytes()) == (False, b"1,2", b"old")


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027, 0o077])
def test_files_members_and_folders_follow_the_umask(mask, tmp_path, source) -> None:
    with tarfile.open(tmp_path / "far" / "t.tar", "w") as tar:
        info = tarfile.TarInfo("d/x")
        info.mode = 0o4666
        tar.addfile(info)
        info = tarfile.TarInfo("d/run")
        info.mode = 0o777
        tar.addfile(info)
    before = os.umask(mask)
    try:
        get_file("f", source.as_uri(), cache_dir=tmp_path, progress=False)
        url = (tmp_path / "far" / "t.tar").as_uri()
        get_file("t.tar", url, extract=True, cache_dir=tmp_path, progress=False)
    finally:
        os.umask(before)
    modes = {"f": 0o666, "d": 0o777, "d/x": 0o666, "d/run": 0o777}
    for name, mode in modes.items():
        assert stat.S_IMODE((tmp_path / "datasets" / name).stat().st_mode) == mode & ~mask | (mode & 0o600)


def test_a_missing_driver_is_named_with_its_command(tmp_path) -> None:
    with pytest.raises(ImportError, match="pip install s3fs"):
        get_file("f", "s3://bucket/f", cache_dir=tmp_path)


def test_offline_asks_nobody(server, tmp_path) -> None:
    options = {"cache_dir": tmp_path, "offline": True, "progress": False}
    with pytest.raises(DownloadError, match=r"offline=True.*is not there") as caught:
        get_file("f", server.url("good"), **options)
    assert caught.value.attempts == 0
    get_file("f", server.url("good"), cache_dir=tmp_path, progress=False)
    assert get_file("f", server.url("good"), **options)
    with pytest.raises(DownloadError, match="has not the hash"):
        get_file("f", server.url("good"), file_hash="0" * 64, **options)
    assert sum(server.count.values()) == 1


def test_a_base_that_cannot_be_made_is_replaced_with_a_warning(tmp_path, monkeypatch, source) -> None:
    monkeypatch.setattr(cache_folder.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        with pytest.warns(UserWarning, match="cannot be written"):
            path = get_file("f", source.as_uri(), cache_dir=tmp_path / "file" / "base", progress=False)
    base = pathlib.Path(path).parents[1]
    assert base.parent == tmp_path / "tmp"
    assert stat.S_IMODE(base.stat().st_mode) == 0o700
    base.chmod(0o777)
    with pytest.warns(UserWarning, match="cannot be written"):
        other = get_file("f", source.as_uri(), cache_dir=tmp_path / "file" / "base", progress=False)
    assert pathlib.Path(other).parents[1] != base


def test_a_valid_file_in_a_cache_that_cannot_be_written_is_returned(tmp_path, monkeypatch, source) -> None:
    path = get_file("f", source.as_uri(), cache_dir=tmp_path / "c", progress=False)
    monkeypatch.setattr(cache_folder, "can_be_written", lambda folder: False)
    digest = hashlib.sha256(b"1,2").hexdigest()
    assert get_file("f", "https://nobody.invalid/f", cache_dir=tmp_path / "c", file_hash=digest) == path


def test_memory_chains_and_encoded_paths_are_read(tmp_path) -> None:
    import zipfile

    import fsspec

    with fsspec.open("memory://far/x.bin", "wb") as file:
        file.write(b"m")
    odd = tmp_path / "an odd name.zip"
    with zipfile.ZipFile(odd, "w") as archive:
        archive.writestr("in/x.txt", "z")
    options = {"cache_dir": tmp_path / "c", "progress": False}
    assert pathlib.Path(get_file(None, "memory://far/x.bin", **options)).read_bytes() == b"m"
    assert pathlib.Path(get_file("z", f"zip://in/x.txt::file://{odd}", **options)).read_bytes() == b"z"
    assert pathlib.Path(get_file("o", odd.as_uri(), **options)).read_bytes() == odd.read_bytes()
    with pytest.raises(DownloadError, match="No such file") as caught:
        get_file("n", (tmp_path / "none").as_uri(), **options)
    assert caught.value.attempts == 1
    assert "(1 request in all)" in str(caught.value)


class Remote(torch.utils.data.Dataset):
    def __init__(self, url: str, folder: pathlib.Path) -> None:
        self.url, self.folder = url, folder

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        return len(pathlib.Path(get_file("f", self.url, cache_dir=self.folder, progress=False)).read_bytes())


def test_workers_of_a_data_loader_may_call_it(server, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    loader = torch.utils.data.DataLoader(
        Remote(server.url("good"), tmp_path), num_workers=2, multiprocessing_context=context
    )
    assert [int(size) for size in loader] == [len(BODY)] * 4
    assert server.count["good"] == 1


def _fetched_by_a_rank(rank: int, url: str, folder: pathlib.Path) -> None:
    for name in ("first", "second"):
        path = get_file(name, url, cache_dir=folder, progress=False)
        assert pathlib.Path(path).read_bytes() == BODY


@pytest.mark.slow
def test_ranks_make_one_request(server, tmp_path) -> None:
    on_ranks(_fetched_by_a_rank, tmp_path, server.url("slow"), tmp_path / "cache", world=3)
    assert server.count["slow"] == 2


def test_the_progress_goes_to_standard_error(server, tmp_path, capsys) -> None:
    get_file("f", server.url("good"), cache_dir=tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("f: 300 KiB/300 KiB")
    assert len(err.splitlines()) == 1


def test_the_caller_s_random_state_is_untouched(server, tmp_path) -> None:
    import random

    before = random.getstate()
    get_file("f", server.url("once-500"), cache_dir=tmp_path, progress=False)
    assert random.getstate() == before
