"""A save that is killed leaves the old file or the new one, and no litter for long."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from torchkutils import load_weights, save_weights

WIDTH = 1500

# Imports torch once, then forks a child for each line it reads: the child says its process id and saves.
SAVER = f"""
import os, sys, torch, torchkutils
model = torch.nn.Linear({WIDTH}, {WIDTH})
torchkutils.save_weights(model, sys.argv[1] + ".warm")
for line in sys.stdin:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(int(line))
    child = os.fork()
    if child == 0:
        print(os.getpid(), flush=True)
        torchkutils.save_weights(model, sys.argv[1])
        os._exit(0)
    sys.stdin.readline()
    os.waitpid(child, 0)
    print("over", flush=True)
"""


def one_save(saver, number, seconds):
    """Let a child save and kill it after so many seconds (None: never); gives how long it lived."""
    saver.stdin.write(f"{number}\n")
    saver.stdin.flush()
    child = int(saver.stdout.readline())
    start = time.perf_counter()
    if seconds is not None:
        while time.perf_counter() - start < seconds:
            pass
        os.kill(child, signal.SIGKILL)  # nobody has waited for it, so the id is still its own
    saver.stdin.write("wait for it\n")
    saver.stdin.flush()
    assert saver.stdout.readline() == "over\n"
    return time.perf_counter() - start


def check_whole(path, before, number):
    """The file is the old one byte for byte, or the new one whole."""
    if path.read_bytes() == before:
        return "old"
    model = nn.Linear(WIDTH, WIDTH)
    load_weights(model, path)
    assert all(bool((parameter == number).all()) for parameter in model.parameters())
    return "new"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    path, draw = tmp_path / "m.h5", random.Random(2)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SAVER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as saver:
        whole = max(one_save(saver, number, None) for number in range(3))
        assert check_whole(path, b"", 2) == "new"
        for number in range(3, 23):
            before = path.read_bytes()
            one_save(saver, number, draw.uniform(0, 1.2 * whole))
            check_whole(path, before, number)
        saver.stdin.close()
    assert saver.returncode == 0
    save_weights(nn.Linear(2, 2), path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["m.h5", "m.h5.warm"]


def test_a_save_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "m.h5"
    abandoned, running = tmp_path / ".m.h5.0123456789ab.tmp", tmp_path / ".m.h5.ba9876543210.tmp"
    others = {".m.h5.notes.tmp", ".other.h5.0123456789ab.tmp", "m.h5.0123456789ab.tmp"}
    for one in (abandoned, running, *(tmp_path / name for name in others)):
        one.write_bytes(b"x")
    with open(running) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        save_weights(nn.Linear(2, 2), path)
        assert {one.name for one in tmp_path.iterdir()} == {path.name, running.name, *others}
    save_weights(nn.Linear(2, 2), path)
    assert {one.name for one in tmp_path.iterdir()} == {path.name, *others}


def test_a_failing_save_leaves_no_litter_and_keeps_the_files_mode(tmp_path):
    path = tmp_path / "m.h5"
    save_weights(nn.Linear(2, 2), path)
    path.chmod(0o640)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="layout"):
        save_weights({"w": torch.eye(2).to_mkldnn()}, path)
    assert path.read_bytes() == before
    save_weights(nn.Linear(2, 2), path)
    assert path.stat().st_mode & 0o777 == 0o640
    assert [one.name for one in tmp_path.iterdir()] == ["m.h5"]
