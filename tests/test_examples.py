"""The main job runs from the download to the reloaded model, twice in one folder."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "train_digits.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples lie beside the sources, not in the wheel"),
]


def run_in(folder: pathlib.Path, *arguments: str) -> str:
    """The program's output; its folder lies in `folder`."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--output", str(folder / "out"), *arguments],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_digits_are_learned_and_everything_is_written(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    output = run_in(tmp_path)
    assert "digits.csv.gz:" in output
    accuracy = re.search(r"test accuracy: ([\d.]+)%", output)
    assert accuracy is not None
    assert float(accuracy.group(1)) >= 97
    assert "the reloaded model predicts the same" in output
    made = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert made >= {"digits.csv.gz", "digits.h5", "digits_model.h5", "loss.png", "model.png", "model.svg"}
    assert "digits.csv.gz:" not in run_in(tmp_path, "--epochs", "1"), "the second run downloaded again"
