"""Files that were made to hurt are refused with their path, in little memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.objects.hostile_files import HOSTILE, forge
from torchkutils import load_model


def test_a_forged_file_that_means_well_is_read(tmp_path):
    forge(tmp_path / "m.h5")
    assert load_model(tmp_path / "m.h5").in_features == 3


@pytest.mark.timeout(120)
def test_each_is_refused_with_its_path_and_allocates_little(tmp_path):
    command = [sys.executable, "-W", "ignore", "-m", "tests.objects.hostile_files", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = dict(line.split("|", 1) for line in done.stdout.splitlines())
    assert list(found) == list(HOSTILE), done.stderr
    wrong = {
        name: outcome
        for name, outcome in found.items()
        if not outcome.startswith("refused|") or int(outcome.split("|")[1]) > 50
    }
    assert not wrong
