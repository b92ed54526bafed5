"""A user's program satisfies strict type checkers, and they see a wrong word."""

from __future__ import annotations

import inspect
import os
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest

import torchkutils
import torchkutils as ku
from torchkutils.files.download_options import FileOptions
from torchkutils.integrations.look_options import PictureOptions, SummaryOptions

PROGRAM = pathlib.Path(__file__).parent / "typed_program.py"
ROOT = pathlib.Path(torchkutils.__file__).parents[1]
WRONG = {
    'rankdir="LR"': 'rankdir="XY"',
    'mode="train"': 'mode="training"',
    '"params", "flops"': '"params", "flop"',
    "input_size=[(1, 2), (1, 3)]": "input_size=3",
    'style="tree"': 'style="trees"',
    'shard="drop"': 'shard="dropped"',
    'padding="post"': 'padding="after"',
    'strategy="replicate"': 'strategy="dp"',
    '"golden.json", input_size=': '"golden.json", input_sise=',
    "retries=5": "retry=5",
}

FILE_AND_HASH = {"fname", "origin", "untar", "md5_hash", "file_hash", "hash_algorithm", "force_download"}


def pyright() -> str | None:
    """The program; in a virtual environment under build/ beside the sources, or on the path."""
    own = ROOT / "build" / "pyright" / "bin" / "pyright"
    return str(own) if own.exists() else shutil.which("pyright")


def checked(arguments: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    # pyright finds torch by the interpreter that stands first on the path.
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MYPYPATH": str(ROOT),
        "PATH": os.pathsep.join([str(pathlib.Path(sys.executable).parent), os.environ["PATH"]]),
    }
    return subprocess.run(
        arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=110, check=False
    )


def wrong_program() -> tuple[str, set[int]]:
    """The program with wrong words, and the lines that they stand in."""
    text = PROGRAM.read_text(encoding="utf-8")
    lines = set()
    for right, wrong in WRONG.items():
        assert text.count(right) == 1, right
        lines.add(text[: text.index(right)].count("\n") + 1)
        text = text.replace(right, wrong)
    return text, lines


@pytest.mark.parametrize(
    ("options", "function", "left_out"),
    [
        (SummaryOptions, ku.summarize, {"model"}),
        (PictureOptions, ku.plot_model, {"model", "to_file"}),
        (
            FileOptions,
            ku.get_file,
            {"fname", "origin", "untar", "md5_hash", "file_hash", "hash_algorithm", "force_download"},
        ),
    ],
)
def test_options_that_are_handed_on_are_the_function_s(options: type, function: Callable, left_out: set[str]) -> None:
    assert set(options.__annotations__) == set(inspect.signature(function).parameters) - left_out


@pytest.mark.slow
def test_mypy_accepts_a_users_program_and_sees_wrong_words(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache")]
    shutil.copy(PROGRAM, tmp_path / "right.py")
    text, wrong_lines = wrong_program()
    (tmp_path / "wrong.py").write_text(text, encoding="utf-8")
    done = checked([*command, "right.py", "wrong.py"], tmp_path)
    lines = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line for line in lines if line.startswith("right.py")] == []
    assert {int(line.split(":")[1]) for line in lines} == wrong_lines, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(pyright() is None, reason="pyright is not installed")
def test_pyright_accepts_a_users_program_and_sees_wrong_words(tmp_path: pathlib.Path) -> None:
    program = pyright()
    assert program is not None
    shutil.copy(PROGRAM, tmp_path / "right.py")
    text, wrong_lines = wrong_program()
    (tmp_path / "wrong.py").write_text(text, encoding="utf-8")
    right = checked([program, "right.py"], tmp_path)
    assert right.returncode == 0, right.stdout
    wrong = checked([program, "wrong.py"], tmp_path)
    found = {int(line) for line in re.findall(r"wrong\.py:(\d+):\d+ - error", wrong.stdout)}
    assert found == wrong_lines, wrong.stdout


@pytest.mark.slow
@pytest.mark.skipif(pyright() is None, reason="pyright is not installed")
def test_pyright_finds_the_types_complete(tmp_path: pathlib.Path) -> None:
    program = pyright()
    assert program is not None
    done = checked([program, "--verifytypes", "torchkutils", "--ignoreexternal"], tmp_path)
    score = re.search(r"Type completeness score: ([\d.]+)%", done.stdout)
    assert score is not None, done.stdout[-2000:]
    assert float(score[1]) >= 99.0, done.stdout[-4000:]
