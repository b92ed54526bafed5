"""A rank that raises, is killed or hangs: every other rank gets an error in time, none waits for ever."""

import datetime
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import distributed, multiprocessing, nn

from tests.ranks import SHARDS, batch
from torchkutils import multi_gpu_model

pytestmark = pytest.mark.slow

TIMEOUT = 10
"""Seconds that a rank waits for another one."""
STARTING = 60
"""Seconds that are granted to two processes that import torch on a busy machine."""


class Breaking(nn.Module):
    """Raises, dies or hangs where it is told to."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 4).double(), nn.Linear(4, 3).double()
        self.fault = None

    def forward(self, x):
        x = self.first(x)
        if self.fault == "raises":
            raise KeyError("no such row")
        if self.fault in ("killed", "hangs"):
            os.kill(os.getpid(), signal.SIGKILL if self.fault == "killed" else signal.SIGSTOP)
        return self.second(x)


def _train(rank, folder, strategy, outputs, fault):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    template = Breaking()
    model = multi_gpu_model(template, strategy=strategy, outputs=outputs)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    try:
        for step in range(5):
            if rank == 1 and step == 2:
                template.fault = fault
                (folder / "broken").write_text(str(time.time()))
            model(batch(4)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        message = "it went on"
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
    (folder / f"rank{rank}").write_text(f"{time.time()} {message}")
    os._exit(1)


@pytest.mark.parametrize("fault", ["raises", "killed", "hangs"])
@pytest.mark.parametrize(
    ("strategy", "outputs"), [("ddp", "local"), ("ddp", "merged"), pytest.param("fsdp", "merged", marks=SHARDS)]
)
def test_a_broken_rank_ends_the_others_in_time(strategy, outputs, fault, tmp_path):
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_train, args=(rank, tmp_path, strategy, outputs, fault)) for rank in range(2)]
    for process in ranks:
        process.start()
    try:
        ranks[0].join(STARTING + 2 * TIMEOUT)
        assert ranks[0].exitcode == 1
        if fault != "hangs":
            ranks[1].join(TIMEOUT)
            assert ranks[1].exitcode == {"raises": 1, "killed": -signal.SIGKILL}[fault]
    finally:
        for process in ranks:
            process.kill()
            process.join()
    began = float((tmp_path / "broken").read_text())
    seconds, _, message = (tmp_path / "rank0").read_text().partition(" ")
    assert message.startswith(("RuntimeError", "DistBackendError", "DistNetworkError")), message
    assert float(seconds) - began < 2 * TIMEOUT
    if fault == "raises":
        assert "KeyError: 'no such row'" in (tmp_path / "rank1").read_text()
        if (strategy, outputs) == ("ddp", "merged"):
            assert "the forward must succeed on every rank, got an exception on rank 1" in message


@pytest.mark.parametrize("fault", ["raises", "killed"])
def test_torchrun_ends_the_whole_job(fault, tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        textwrap.dedent(f"""
        import torch
        from tests.parallel.test_rank_faults import Breaking, batch
        from torchkutils import multi_gpu_model

        torch.distributed.init_process_group("gloo")
        template = Breaking()
        model = multi_gpu_model(template, outputs="local")
        for step in range(1000):
            if step == 2 and torch.distributed.get_rank() == 1:
                template.fault = {fault!r}
            model(batch(4)).sum().backward()
    """)
    )
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": _paths()},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert {"raises": "KeyError: 'no such row'", "killed": "Signal 9 (SIGKILL)"}[fault] in done.stderr


def _paths():
    root = str(pathlib.Path(__file__).parents[2])
    return os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
