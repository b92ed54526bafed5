"""compare_models: which module is which, what differs, and what is written."""

from __future__ import annotations

import base64
import gzip
import json
import re

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import ResidualNet
from tests.models.whole_state import whole_state


def chain(*modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(*modules)


def linear(inputs: int = 4, outputs: int = 4) -> nn.Linear:
    return nn.Linear(inputs, outputs)


class Named(nn.Module):
    """A trunk under a name of its own, and a head."""

    def __init__(self, name: str, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk_name = name
        setattr(self, name, trunk if trunk is not None else chain(linear(), nn.ReLU(), linear()))
        self.head = linear()

    def forward(self, x):
        return self.head(getattr(self, self.trunk_name)(x))


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = chain(Named("trunk"))

    def forward(self, x):
        return self.body(x)


def frozen() -> nn.Module:
    module = linear()
    module.weight.requires_grad_(False)
    return module


# Before, after, and the differences without the totals: status, path, other path, and the facts that changed.
CASES = {
    "nothing": (lambda: chain(linear(), nn.ReLU()), lambda: chain(linear(), nn.ReLU()), []),
    "a class": (
        lambda: chain(linear(), nn.ReLU(), linear()),
        lambda: chain(linear(), nn.Tanh(), linear()),
        [("changed", "1", "1", {"class_name"})],
    ),
    "an argument": (
        lambda: chain(linear(), nn.Dropout(0.1)),
        lambda: chain(linear(), nn.Dropout(0.2)),
        [("changed", "1", "1", {"arguments"})],
    ),
    "a size": (
        lambda: chain(linear(), linear(4, 6)),
        lambda: chain(linear(), linear(4, 8)),
        [
            ("changed", "", "", {"output_shapes"}),
            (
                "changed",
                "1",
                "1",
                {"arguments", "weights", "params", "trainable_params", "output_shapes", "flops"},
            ),
        ],
    ),
    "what is trained": (
        lambda: chain(linear(), nn.ReLU()),
        lambda: chain(frozen(), nn.ReLU()),
        [("changed", "0", "0", {"trainable_params"})],
    ),
    "a dtype": (
        lambda: chain(linear()),
        lambda: chain(linear(), nn.Identity()),
        [("added", None, "1", set())],
    ),
    "one put in between": (
        lambda: chain(linear(), nn.ReLU(), linear(), nn.ReLU(), linear()),
        lambda: chain(linear(), nn.LayerNorm(4), nn.ReLU(), linear(), nn.ReLU(), linear()),
        [("added", None, "1", set())],
    ),
    "one taken out": (
        lambda: chain(linear(), nn.LayerNorm(4), nn.ReLU(), linear()),
        lambda: chain(linear(), nn.ReLU(), linear()),
        [("removed", "1", None, set())],
    ),
    "a block more": (
        lambda: chain(*[chain(linear(), nn.ReLU()) for _ in range(3)]),
        lambda: chain(*[chain(linear(), nn.ReLU()) for _ in range(4)]),
        [("added", None, "3", set())],
    ),
    "a block that differs inside": (
        lambda: chain(*[chain(linear(), nn.ReLU()) for _ in range(5)]),
        lambda: chain(*[chain(linear(), nn.GELU() if number == 2 else nn.ReLU()) for number in range(5)]),
        [("changed", "2.1", "2.1", {"class_name", "arguments"})],
    ),
    "a block that differs inside, and one more": (
        lambda: chain(*[chain(linear(), nn.ReLU(), linear()) for _ in range(5)]),
        lambda: chain(*[chain(linear(), nn.Tanh() if number == 2 else nn.ReLU(), linear()) for number in range(6)]),
        [("changed", "2.1", "2.1", {"class_name"}), ("added", None, "5", set())],
    ),
    "a parent renamed": (
        lambda: Named("backbone"),
        lambda: Named("encoder"),
        [("changed", "backbone", "encoder", {"path"})],
    ),
    "a parent renamed, and one in it changed": (
        lambda: Named("backbone"),
        lambda: Named("encoder", chain(linear(), nn.Tanh(), linear())),
        [
            ("changed", "backbone", "encoder", {"path"}),
            ("changed", "backbone.1", "encoder.1", {"class_name"}),
        ],
    ),
    "put into a wrapper": (
        lambda: Named("trunk"),
        Wrapped,
        [
            ("changed", "", "", {"class_name"}),
            ("added", None, "body", set()),
            ("changed", "trunk", "body.0.trunk", {"path"}),
            ("changed", "head", "body.0.head", {"path"}),
        ],
    ),
    "another order of names": (
        lambda: nn.ModuleDict({"a": linear(), "b": nn.ReLU()}),
        lambda: nn.ModuleDict({"b": nn.ReLU(), "a": linear()}),
        None,
    ),
}


@pytest.mark.parametrize(("before", "after", "expected"), CASES.values(), ids=CASES)
def test_what_differs(before, after, expected):
    one, other = before(), after()
    run = {} if isinstance(one, nn.ModuleDict) else {"input_size": (1, 4)}
    found = torchkutils.compare_models(one, other, **run)
    listed = [
        (difference.status, difference.path, difference.other_path, {change.fact for change in difference.changes})
        for difference in found.differences
    ]
    if expected is None:
        # Only the order of definition differs: no module is another one.
        assert {status for status, *_ in listed} <= {"changed", "removed", "added"}
        assert len(found.removed) == len(found.added)
    else:
        assert listed == expected
    assert found.equal == (not found.differences and not found.totals)


@pytest.mark.parametrize("count", [3, 40, 700])
def test_a_model_equals_itself(count):
    found = torchkutils.compare_models(
        chain(*[module for _ in range(count) for module in (linear(), nn.ReLU())]),
        chain(*[module for _ in range(count) for module in (linear(), nn.ReLU())]),
        input_size=(1, 4),
    )
    assert found.equal
    assert found.modules_equal == 2 * count + 1
    assert repr(found) == "Sequential → Sequential: no difference"


def test_in_a_long_list_one_put_in_is_one_more():
    blocks = [linear() if number % 3 else nn.LayerNorm(4) for number in range(900)]
    found = torchkutils.compare_models(chain(*blocks), chain(*blocks[:450], nn.Tanh(), *blocks[450:]))
    assert [(one.status, one.other_path) for one in found.differences] == [("added", "450")]


def test_in_a_long_list_a_changed_one_is_a_change():
    def blocks(changed: int) -> list[nn.Module]:
        return [nn.GELU() if number == changed else linear() for number in range(800)]

    found = torchkutils.compare_models(chain(nn.Tanh(), *blocks(700)), chain(nn.ReLU(), *blocks(300)))
    assert {(one.status, one.path) for one in found.differences} == {
        ("changed", "0"),
        ("changed", "301"),
        ("changed", "701"),
    }


def test_it_is_read_as_text_and_as_data():
    found = torchkutils.compare_models(
        chain(linear(), nn.ReLU(), linear(4, 2)),
        chain(linear(), nn.Tanh(), linear(4, 3), chain(nn.Identity())),
        input_size=(5, 4),
    )
    assert str(found).splitlines() == [
        "Sequential → Sequential: 1 module equal, 3 changed, 1 added",
        "~ the model: output_shapes (5, 2) → (5, 3)",
        "~ 1: class_name ReLU → Tanh",
        "~ 2: arguments in_features=4, out_features=2, bias=True → in_features=4, out_features=3, bias=True; "
        "params 10 → 15; output_shapes (5, 2) → (5, 3); flops 80 → 120",
        "+ 3 (Sequential, with 1 more in it)",
        "total total_params: 30 → 35",
        "total trainable_params: 30 → 35",
        "total param_bytes: 120 → 140",
        "total flops: 240 → 280",
    ]
    data = json.loads(json.dumps(found.to_dict()))
    assert data["names"] == ["Sequential", "Sequential"]
    assert [one["status"] for one in data["differences"]] == ["changed", "changed", "changed", "added"]
    assert data["totals"][3] == {"path": "", "fact": "flops", "before": 240, "after": 280}
    assert data["modules_equal"] == 1


def test_structure_alone_is_compared_without_an_input():
    found = torchkutils.compare_models(chain(linear(), nn.ReLU()), chain(linear(), nn.Tanh()))
    assert [one.path for one in found.changed] == ["1"]
    assert "flops" not in {change.fact for change in found.totals}


def test_both_models_stay_as_they_were():
    one, other = ResidualNet(), ResidualNet(2)
    before = whole_state(one), whole_state(other)
    torchkutils.compare_models(one, other, input_size=(2, 3, 9, 9))
    assert (whole_state(one), whole_state(other)) == before


def test_the_page_holds_both_and_where_they_differ(tmp_path):
    found = torchkutils.compare_models(ResidualNet(), ResidualNet(4), tmp_path / "diff.html", input_size=(2, 3, 9, 9))
    text = (tmp_path / "diff.html").read_text(encoding="utf-8")
    assert text == found.page().html
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', text).group(1)
    data = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert [side["name"] for side in data["sides"]] == ["ResidualNet", "ResidualNet"]
    assert data["sides"][0]["statuses"] == {}
    assert set(data["sides"][1]["statuses"]) == {"layers.3", *[f"layers.3.{n}" for n in ("conv1", "norm", "conv2")]}
    assert len(text) < 500_000
    assert "unsafe" not in text[: text.index("<style>")]
    assert found._repr_html_().startswith("<iframe")
    assert [path.name for path in tmp_path.iterdir()] == ["diff.html"]


def test_bad_arguments_are_refused_before_anything_runs(tmp_path):
    def never(*_):
        raise AssertionError("forward ran")

    model = linear()
    model.forward = never
    with pytest.raises(ValueError, match=r"to_file must end in \.html, got 'diff\.png'"):
        torchkutils.compare_models(model, model, "diff.png", input_size=(1, 4))
    with pytest.raises(FileNotFoundError, match="which is no folder"):
        torchkutils.compare_models(model, model, tmp_path / "no" / "diff.html", input_size=(1, 4))
    with pytest.raises(ValueError, match="mode must be"):
        torchkutils.compare_models(model, model, mode="evaluate")
    with pytest.raises(TypeError, match="Module"):
        torchkutils.compare_models(linear(), "model", input_size=(1, 4))


def test_an_error_says_which_model_raised_it():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as raised:
        torchkutils.compare_models(linear(), linear(3, 3), input_size=(1, 4))
    assert any("second of the two models" in note for note in raised.value.__notes__)


def test_tensors_may_be_given():
    found = torchkutils.compare_models(linear(), linear(), input_data=torch.ones(2, 4))
    assert found.equal
