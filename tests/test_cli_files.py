"""The command line's part about files: get, cache list and cache clean."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import time

import pytest

from tests.files.raw_server import answer, raw_server
from torchkutils.cli import main
from torchkutils.files import doi

BODY = b"body"
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture
def server():
    def behave(connection, server) -> None:
        path = server.heads[-1].split()[1]
        found = path.startswith("/f")
        connection.sendall(answer(BODY) if found else answer(b"", status="404 Not Found"))

    with raw_server(behave) as running:
        yield running


def run(capsys, *arguments: str) -> tuple[int, list[str], list[str]]:
    """The status, the lines on standard output, the lines on standard error."""
    status = main([*arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err.splitlines()


def test_get_prints_where_the_file_is(server, tmp_path, capsys) -> None:
    status, out, err = run(capsys, "get", server.url(), "--cache-dir", str(tmp_path), "--hash", SHA)
    assert (status, out) == (0, [str(tmp_path / "datasets/f.bin")])
    assert err[-1].startswith("f.bin: 4 B/4 B")
    assert pathlib.Path(out[0]).read_bytes() == BODY


def test_get_puts_the_file_where_it_is_told(server, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for output, expected in (("x/y.bin", "x/y.bin"), ("folder", "folder/f.bin")):
        status, out, _ = run(capsys, "get", server.url(), "-o", output, "--quiet")
        assert (status, out) == (0, [str(tmp_path / expected)])
        assert (tmp_path / expected).read_bytes() == BODY


def test_get_fetches_several_and_tells_each_failure(server, tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "list").write_text(f"# two\n{server.url('f1')}\n\n{server.url('nothing')}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(server.url("f2")))
    options = ["--cache-dir", str(tmp_path), "--quiet", "--retries", "0", "--jobs", "2"]
    status, out, err = run(capsys, "get", server.url("f0"), "--input", str(tmp_path / "list"), *options)
    assert (status, out) == (1, [str(tmp_path / "datasets" / name) for name in ("f0", "f1")])
    assert len(err) == 1
    assert "/nothing: HTTP 404" in err[0]
    assert run(capsys, "get", "-i", "-", *options)[:2] == (0, [str(tmp_path / "datasets/f2")])


def test_get_sends_headers_and_reads_them_from_a_file(server, tmp_path, capsys) -> None:
    (tmp_path / "secret").write_text("Authorization: Bearer s3cret\nX-More: 1\n")
    options = ["--cache-dir", str(tmp_path), "--quiet", "--header", "X-One: a: b", "--header", f"@{tmp_path}/secret"]
    assert run(capsys, "get", server.url(), *options)[0] == 0
    for line in ("X-One: a: b", "Authorization: Bearer s3cret", "X-More: 1"):
        assert f"\r\n{line}\r\n" in server.heads[0]


def test_get_reads_hashes_from_a_list(server, tmp_path, capsys) -> None:
    (tmp_path / "SHA256SUMS").write_text(f"{'0' * 64}  g.bin\n{SHA}  f.bin\n")
    options = ["--cache-dir", str(tmp_path), "--quiet", "--hash", f"@{tmp_path}/SHA256SUMS"]
    assert run(capsys, "get", server.url("f.bin"), *options)[0] == 0
    status, _, err = run(capsys, "get", server.url("f/g.bin"), *options)
    assert status == 1
    assert "hash is wrong" in err[0]


def test_get_obeys_its_other_options(server, tmp_path, capsys) -> None:
    options = ["--cache-dir", str(tmp_path), "--quiet"]
    status, _, err = run(capsys, "get", server.url("x"), "--retries", "0", "--timeout", "1,2,3", *options)
    assert (status, "after 1 attempt " in err[0]) == (1, True)
    assert run(capsys, "get", server.url("x"), "--mirror", server.url("f"), *options)[0] == 0
    assert run(capsys, "get", server.url("x.bin"), "--offline", *options)[0] == 1
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for member in ("set/x", "set/y"):
            tar.addfile(tarfile.TarInfo(member))
    server.behave = lambda connection, _: connection.sendall(answer(packed.getvalue()))
    assert run(capsys, "get", server.url("set.tgz"), "--extract", "--archive-format", "tar,zip", *options)[0] == 0
    assert (tmp_path / "datasets/set/x").exists()
    status, out, _ = run(
        capsys, "get", server.url("set.tgz"), "--extract-dir", "here", "--member", "set/x", "--remove-archive", *options
    )
    assert (status, out) == (0, [str(tmp_path / "datasets/here")])
    assert sorted(os.listdir(tmp_path / "datasets/here/set")) == ["x"]
    assert not (tmp_path / "datasets/set.tgz").exists()


def test_get_fetches_the_files_of_a_record(tmp_path, capsys, monkeypatch) -> None:
    def behave(connection, server) -> None:
        path = server.heads[-1].split()[1]
        page = f"http://{server.place}/records/7"
        answers = {
            "/doi/api/handles/10.5281/zenodo.7?type=URL": {"values": [{"data": {"value": page}}]},
            "/api/records/7": {"files": [{"key": "a.csv", "links": {"self": f"http://{server.place}/a"}}]},
        }
        connection.sendall(answer(json.dumps(answers[path]).encode() if path in answers else BODY))

    with raw_server(behave) as server:
        monkeypatch.setattr(doi, "DOI_RESOLVER", f"http://{server.place}/doi")
        status, out, _ = run(capsys, "get", "doi:10.5281/zenodo.7", "--cache-dir", str(tmp_path), "--quiet")
    assert (status, out) == (0, [str(tmp_path / "datasets/a.csv")])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give at least one url"),
        (["http://h/a", "http://h/b", "--name", "x"], "--name and --mirror"),
        (["http://h/a", "http://h/b", "-o", "x"], "must be a folder"),
        (["http://h/a", "-o", "x", "--name", "y"], "both name the file"),
        (["http://h/a", "--header", "nothing"], "--header must be"),
        (["http://h/a", "--timeout", "soon"], "no time limit"),
    ],
)
def test_wrong_usage_is_status_2_and_said(arguments, words, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["get", *arguments])
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_an_output_that_is_missing_changes_no_status(stream, server, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, stream, None)
    assert main(["get", server.url(), "--cache-dir", str(tmp_path)]) == 0
    assert main(["get", server.url("x"), "--cache-dir", str(tmp_path), "--retries", "0"]) == 1


def test_a_path_is_printed_though_the_output_lacks_its_letters(server, tmp_path, monkeypatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["get", server.url("f%C3%A9.bin"), "--cache-dir", str(tmp_path), "--quiet"]) == 0
    assert os.fsdecode(out.buffer.getvalue().strip()) == str(tmp_path / "datasets/fé.bin")


def aged(path: pathlib.Path, seconds: float) -> pathlib.Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * 100)
    os.utime(path, (time.time() - seconds, time.time() - seconds))
    return path


def test_the_cache_is_listed(server, tmp_path, capsys) -> None:
    cache = ["--cache-dir", str(tmp_path)]
    run(capsys, "get", server.url("f.bin?token=s3cret"), "--quiet", *cache)
    aged(tmp_path / "datasets/deep/member.txt", 0)
    aged(tmp_path / "datasets/.x.torchkutils-0123456789abcdef.part", 9000)
    status, out, _ = run(capsys, "cache", "list", *cache)
    assert status == 0
    assert len(out) == 3
    assert "4 B" in out[0]
    assert "datasets/f.bin" in out[0]
    assert out[1].startswith("1 file, 4 B")
    assert out[2].startswith("1 leftovers of ended calls, 100 B")
    assert "s3cret" not in "".join(out)


def test_the_cache_is_cleaned(server, tmp_path, capsys) -> None:
    cache = ["--cache-dir", str(tmp_path)]
    folder = tmp_path / "datasets"
    for name in ("f1", "f2", "f3"):
        run(capsys, "get", server.url(name), "--quiet", *cache)
    os.utime(folder / "f3", (0, 0))
    gone = [aged(folder / f".x.torchkutils-{name}", 9000) for name in ("0123456789abcdef.part", "resume.json")]
    young = aged(folder / ".y.torchkutils-0123456789abcdef.part", 0)
    kept = aged(folder / ".z.torchkutils-members.json", 1000)
    status, out, _ = run(capsys, "cache", "clean", "datasets/f1", "--older-than", "30", "--dry-run", *cache)
    assert (status, len(out)) == (0, 3)
    assert all(path.exists() for path in (*gone, young, kept, folder / "f1", folder / "f3"))
    status, out, _ = run(capsys, "cache", "clean", "datasets/f1", "--older-than", "30", *cache)
    assert out == ["removed datasets/f1, 4 B", "removed datasets/f3, 4 B", "removed 2 leftovers of ended calls, 200 B"]
    assert [path.exists() for path in (*gone, young, kept)] == [False, False, True, True]
    assert sorted(name for name in os.listdir(folder) if name.startswith("f")) == ["f2"]
    for name in ("datasets/f9", "../x", str(folder / "f2")):
        status, _, err = run(capsys, "cache", "clean", name, *cache)
        assert (status, "none of the cache's files" in err[0]) == (1, True)


HOLDER = """
import sys
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.sidecar_files import SidecarFiles
sidecars = SidecarFiles(sys.argv[1])
with only_one_process(sidecars, "hold"):
    print(sidecars.new_part(), flush=True)
    sys.stdin.read()
"""


def test_what_a_running_call_holds_is_left_alone(tmp_path, capsys) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "datasets/x")]
    (tmp_path / "datasets").mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        held = aged(pathlib.Path(child.stdout.readline().strip()), 9000)
        note = aged(held.with_name(".x.torchkutils-resume.json"), 9000)
        status, out, _ = run(capsys, "cache", "clean", "--cache-dir", str(tmp_path))
        assert (status, out) == (0, ["removed 0 leftovers of ended calls, 0 B"])
        child.communicate()
    assert held.exists()
    assert run(capsys, "cache", "clean", "--cache-dir", str(tmp_path))[1] == [
        "removed 2 leftovers of ended calls, 200 B"
    ]
    assert not held.exists()
    assert not note.exists()


@pytest.mark.parametrize("command", [["cache"], ["cache", "list"], ["cache", "clean"], ["get"]])
def test_help_says_what_there_is(command, capsys) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "usage: torchkutils" in capsys.readouterr().out
