"""examples/train_distributed.py under torchrun: the weights of one process, also after a kill and on fewer ranks."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import torch

from tests.ranks import SHARDS
from torchkutils import load_model, read_metadata

EXAMPLE = pathlib.Path(__file__).parent.parent / "examples" / "train_distributed.py"
EPOCHS = 5

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the examples lie beside the sources, not in the wheel"),
]


def command(world: int, output: pathlib.Path, *arguments: str) -> list[str]:
    run = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    return [sys.executable, *run, str(EXAMPLE), "--output", str(output), *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def trained(world: int, output: pathlib.Path, *arguments: str) -> str:
    done = subprocess.run(
        command(world, output, *arguments), env=environment(), capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def killed_after_an_epoch(world: int, output: pathlib.Path, *arguments: str) -> None:
    """Kill every process of the job, by surprise, once the first epoch is saved."""
    with subprocess.Popen(
        command(world, output, *arguments),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as job:
        assert job.stdout is not None
        for line in job.stdout:
            if line.startswith("epoch 1/"):
                break
        # torchrun gives its workers sessions of their own: found by the folder that they write to.
        for process in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if str(output).encode() in (process / "cmdline").read_bytes():
                    os.kill(int(process.name), signal.SIGKILL)
    assert not (output / "model.h5").exists()


def weights(output: pathlib.Path) -> dict[str, torch.Tensor]:
    return load_model(output / "model.h5").state_dict()


def assert_equal_weights(output: pathlib.Path, other: pathlib.Path) -> None:
    mine, theirs = weights(output), weights(other)
    for name, value in theirs.items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(mine[name], value, rtol=0, atol=1e-8)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    output = tmp_path_factory.mktemp("alone")
    trained(1, output, "--exact", "--epochs", str(EPOCHS))
    return output


@pytest.mark.parametrize("strategy", ["ddp", pytest.param("fsdp", marks=SHARDS)])
def test_the_final_weights_are_those_of_one_process_killed_or_not(
    strategy: str, alone: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    arguments = ("--exact", "--epochs", str(EPOCHS), "--strategy", strategy)
    output = tmp_path / "killed"
    killed_after_an_epoch(2, output, *arguments)
    assert 1 <= read_metadata(output / "checkpoint.h5")["loader"]["epoch"] < EPOCHS
    elsewhere = shutil.copytree(output, tmp_path / "fewer")
    printed = trained(2, output, *arguments)
    assert "epoch 1/" not in printed
    assert f"epoch {EPOCHS}/{EPOCHS}" in printed
    assert_equal_weights(output, alone)
    trained(1, elsewhere, *arguments)
    assert_equal_weights(elsewhere, alone)


def test_two_ranks_in_one_go_give_the_weights_of_one_process(alone: pathlib.Path, tmp_path: pathlib.Path) -> None:
    trained(2, tmp_path, "--exact", "--epochs", str(EPOCHS))
    assert_equal_weights(tmp_path, alone)
    assert read_metadata(tmp_path / "model.h5") == read_metadata(alone / "model.h5")


def test_the_digits_are_learned_as_well_as_by_one_process(tmp_path: pathlib.Path) -> None:
    accuracies = {}
    for world in (1, 2):
        output = trained(world, tmp_path / str(world))
        found = re.search(r"test accuracy: ([\d.]+)%", output)
        assert found is not None
        accuracies[world] = float(found.group(1))
    assert min(accuracies.values()) >= 97
    assert abs(accuracies[1] - accuracies[2]) <= 1
