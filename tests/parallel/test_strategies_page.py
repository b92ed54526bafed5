"""docs/strategies.md: every line of its table is what happens, under every strategy."""

import copy
import pathlib
import warnings

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from tests.ranks import batch, on_ranks
from torchkutils import multi_gpu_model

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "strategies.md"
SAME, REFUSED = "same", "refused"
pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation lies beside the sources, not in the wheel")


class Net(nn.Module):
    """Gives what its `kind` says."""

    def __init__(self, kind="rows"):
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.seen = kind, None
        self.body, self.head, self.idle = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(2, 2)
        self.rnn = nn.GRU(4, 4, batch_first=True)
        self.double()

    def forward(self, x, labels=None, note=None):
        y = self.head(self.body(x).tanh())
        give = {
            "loss": lambda: nn.functional.mse_loss(y, x[:, :3]),
            "tokens": lambda: nn.functional.cross_entropy(y, labels) if labels is not None else y.sum(),
            "entries": lambda: [row * place for place, row in enumerate(y)][:0] + [row[:2] for row in y],
            "layers": lambda: [y, y * 2],
            "state": lambda: self.rnn(x[:, None])[1],
            "number": lambda: {"y": y, "count": len(x)},
            "tensor": lambda: {"y": y, "count": (y > -9).sum()},
            "others": lambda: (y, None, "text", note),
        }
        if self.kind == "sets":
            self.seen = len(x)
        return give.get(self.kind, lambda: y)()

    def training_step(self, x):
        return self(x).square().mean()

    def around(self, x):
        return self.head(self.body(x)).square().mean()


def _loss(output):
    if isinstance(output, dict):
        return output["y"].square().mean() * 0 + output["y"].square().sum()
    if isinstance(output, list | tuple):
        return sum(one.square().sum() for one in output if isinstance(one, torch.Tensor))
    return output.square().sum()


def _train(p, *args, **kwargs):
    output = p(*args, **kwargs)
    _loss(output).backward()
    return output


def _twice(p, x):
    output = p(x)
    output.square().sum().backward(retain_graph=True)
    output.abs().sum().backward()
    return output


def _gathered(p, x):
    if hasattr(p, "no_sync"):
        with p.no_sync():
            _train(p, x)
    else:
        _train(p, x)
    return _train(p, x * 2)


def _unfreeze(p):
    p.body.requires_grad_(True)


def _compile(p):
    p.compile(backend="eager")


def _replace(p):
    torch.manual_seed(3)
    p.head = nn.Linear(4, 3).double()


def _method(name):
    def run(p, x):
        loss = getattr(p, name)(x)
        loss.backward()
        return loss

    return run


def _compiled(p, x):
    # The same for one device: what is compared is what becomes of the parallel model.
    return _train(torch.compile(p, backend="eager") if hasattr(p, "sharded_loss") else p, x)


def _clipped(p, x):
    output = _train(p, x)
    nn.utils.clip_grad_norm_(p.parameters(), 0.1)
    nn.utils.clip_grad_value_(p.parameters(), 0.01)
    return output


def _averaged(p, x):
    average = AveragedModel(p)
    optimizer = torch.optim.SGD(p.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        _train(p, x)
        optimizer.step()
        average.update_parameters(p)
    return average(x)


def _checkpointed(p, x):
    output = checkpoint(p, x.clone().requires_grad_(), use_reentrant=False)
    _loss(output).backward()
    return output


X = batch(5)
LABELS = torch.tensor([0, -100, -100, 2, 1])
# kind, what is frozen first, what is changed after the first call, how it is trained, options
LINES = {
    "a frozen part": ("rows", True, None, lambda p: _train(p, X), {}),
    "a part that is unfrozen afterwards": ("rows", True, _unfreeze, lambda p: _train(p, X), {}),
    "a layer that is replaced afterwards": ("rows", False, _replace, lambda p: _train(p, X), {}),
    "parameters that take no part": ("rows", False, None, lambda p: _train(p, X), {}),
    "a method that calls forward": ("rows", False, None, lambda p: _method("training_step")(p, X), {}),
    "a method around forward": ("rows", False, None, lambda p: _method("around")(p, X), {}),
    "a second backward pass": ("rows", False, None, lambda p: _twice(p, X), {}),
    "gradients gathered inside `no_sync`": ("rows", False, None, lambda p: _gathered(p, X), {}),
    "a loss inside forward": ("loss", False, None, lambda p: _train(p, X), {}),
    "a loss inside forward, labels with -100": ("tokens", False, None, lambda p: _train(p, X, labels=LABELS), {}),
    "a list of one entry a sample": ("entries", False, None, lambda p: _train(p, X), {}),
    "a list of layers' outputs": ("layers", False, None, lambda p: _train(p, X), {}),
    "a recurrent state, batch on axis 1": ("state", False, None, lambda p: _train(p, X), {}),
    "a recurrent state, named in `batch_axes`": ("state", False, None, lambda p: _train(p, X), {"output": 1}),
    "a number": ("number", False, None, lambda p: _train(p, X), {}),
    "a number, named in `batch_axes`": ("number", False, None, lambda p: _train(p, X), {"count": "sum"}),
    "a number as a 0-d tensor of integers": ("tensor", False, None, lambda p: _train(p, X), {}),
    "the same, named in `batch_axes`": ("tensor", False, None, lambda p: _train(p, X), {"output['count']": "sum"}),
    "text, None and what was handed in": ("others", False, None, lambda p: _train(p, X, note="mine"), {}),
    "a batch smaller than the devices": ("rows", False, None, lambda p: _train(p, X[:1]), {}),
    "a model that was compiled before": ("rows", False, None, lambda p: _train(p, X), {}),
    "a model compiled in place, `parallel_model.compile()`": ("rows", False, _compile, lambda p: _train(p, X), {}),
    "`torch.compile(parallel_model)` (runs as written)": ("rows", False, None, lambda p: _compiled(p, X), {}),
    "`copy.deepcopy(parallel_model)`": ("rows", False, None, lambda p: (_train(p, X), copy.deepcopy(p)(X))[1], {}),
    "averaged weights, `AveragedModel(parallel_model)`": ("rows", False, None, lambda p: _averaged(p, X), {}),
    "gradients clipped on every rank": ("rows", False, None, lambda p: _clipped(p, X), {}),
    "gradient checkpointing around the model": ("rows", False, None, lambda p: _checkpointed(p, X), {}),
    "an attribute that forward sets": ("sets", False, None, lambda p: _train(p, X), {}),
}


def lines():
    """The cells of the page's table, by the first one."""
    found = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 3 and name != "What":
            found[name] = dict(zip(("replicate", "ddp", "fsdp"), cells, strict=True))
    return found


def outcome(name, strategy):
    """What happens, in the page's words."""
    kind, frozen, change, train, axes = LINES[name]
    model = Net(kind)
    model.body.requires_grad_(not frozen)
    alone = copy.deepcopy(model)
    devices = {"devices": ["cpu", "cpu"]} if strategy == "replicate" else {}
    template = torch.compile(model, backend="eager") if "compiled before" in name else model
    parallel = multi_gpu_model(template, strategy=strategy, batch_axes=axes, **devices)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if change is not None:
                parallel(X)
                change(parallel)
                change(alone)
            ours = train(parallel)
        except (ValueError, TypeError, RuntimeError):
            return REFUSED
    theirs = train(alone)
    torch.testing.assert_close(_tensors(ours), _tensors(theirs), rtol=0, atol=1e-12)
    for (key, mine), single in zip(model.named_parameters(), alone.parameters(), strict=True):
        gradient = mine.grad.full_tensor() if hasattr(mine.grad, "full_tensor") else mine.grad
        assert (gradient is None) == (single.grad is None), key
        if gradient is not None:
            torch.testing.assert_close(gradient, single.grad, rtol=0, atol=1e-12, msg=key)
    written = [str(one.message) for one in caught if "stays in the replicas" in str(one.message)]
    if model.seen is None and alone.seen is not None and written and "seen" in written[0]:
        return "stays in the replica, a warning names it"
    return SAME


def _tensors(value):
    if isinstance(value, dict):
        return [*_tensors(value["y"]), torch.as_tensor(value["count"])]
    if isinstance(value, list | tuple):
        assert [one for one in value if not isinstance(one, torch.Tensor)] in ([], [None, "text", "mine"])
        return [one.detach() for one in value if isinstance(one, torch.Tensor)]
    return [value.detach()]


def _all_lines(rank, strategy):
    wrong = {}
    for name, cells in lines().items():
        try:
            happened = outcome(name, strategy)
        except AssertionError as error:
            happened = str(error)
        if happened != cells[strategy]:
            wrong[name] = f"{happened!r}, the page says {cells[strategy]!r}"
    assert not wrong, wrong


def test_the_page_has_the_lines_that_are_run():
    assert list(lines()) == list(LINES)


@pytest.mark.parametrize("name", LINES)
def test_a_line_under_replicate(name):
    assert outcome(name, "replicate") == lines()[name]["replicate"]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_all_lines_on_two_ranks(strategy, tmp_path):
    on_ranks(_all_lines, tmp_path, strategy)
