"""What multi_gpu_model gives is known to type checkers: a user's script, as they see it."""

import importlib.util
import pathlib
import subprocess
import sys

import pytest

SCRIPT = """
import torch
from torch import nn

from torchkutils import ParallelModel, gather_for_metrics, is_main_process, multi_gpu_model


def step(model: ParallelModel, images: torch.Tensor, labels: torch.Tensor) -> float:
    loss: torch.Tensor = model.sharded_loss(
        nn.functional.cross_entropy, images, labels, weights=lambda target: (target != -100).sum()
    )
    with model.no_sync():
        grads = torch.autograd.grad(loss, list(model.parameters()))
    model.refresh()
    inside: nn.Module = model.template
    also: nn.Module = model.module
    return loss.item()


model = multi_gpu_model(
    nn.Linear(4, 3), devices=["cpu", "cpu"], batch_axes={"hidden": 1, "count": "sum"}, options=None
)
whole: ParallelModel = model.train()
if is_main_process():
    print(step(model, torch.randn(4, 4), torch.tensor([0, 1, 2, 0])), gather_for_metrics(model(torch.randn(2, 4))))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
"""
WRONG = "from torchkutils import multi_gpu_model\nfrom torch import nn\nmulti_gpu_model(nn.ReLU()).sharded_loss(1)\n"


PYRIGHT = pathlib.Path(__file__).parents[2] / "build" / "pyright" / "bin" / "pyright"


def checkers():
    """The type checkers that are at hand, as commands; `make test-slow` installs pyright beside the rest."""
    found = {"mypy": [], "pyright": []}
    if importlib.util.find_spec("mypy"):
        found["mypy"] = [sys.executable, "-m", "mypy", "--strict"]
    if PYRIGHT.exists():
        found["pyright"] = [str(PYRIGHT), "--pythonpath", sys.executable]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_script_is_typed(checker, tmp_path):
    run = checkers()[checker]
    if not run:
        pytest.skip(f"{checker} is not installed here")
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(SCRIPT, encoding="utf-8")
    wrong.write_text(WRONG, encoding="utf-8")
    done = subprocess.run([*run, str(right)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout
    assert subprocess.run([*run, str(wrong)], capture_output=True, cwd=tmp_path, check=False).returncode != 0
