"""What multi_gpu_model gives is known to type checkers: a user's script, as they see it."""

import sys

import pytest

from tests.test_types import checked, pyright

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


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_users_script_is_typed(checker, tmp_path):
    if checker == "mypy":
        pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict"] if checker == "mypy" else [pyright()]
    if None in command:
        pytest.skip("pyright is not installed here; `make test-slow` installs it")
    (tmp_path / "right.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "wrong.py").write_text(WRONG, encoding="utf-8")
    done = checked([*command, "right.py"], tmp_path)
    assert done.returncode == 0, done.stdout
    assert checked([*command, "wrong.py"], tmp_path).returncode != 0
