"""The printed text, HTML and Markdown, against golden files that were read by a person."""

from __future__ import annotations

import html.parser
from typing import Any

import pytest
import torch
from torch import nn

from torchkutils import print_summary, summarize


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.first(x) + self.second(x))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(4, 4)
        self.again = nn.Sequential(self.block, nn.ReLU())

    def forward(self, x: torch.Tensor) -> Any:
        return self.again(self.block(x))


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(1234, 1000, bias=False), nn.ReLU(), nn.BatchNorm1d(1000))


def nested() -> nn.Module:
    inner = nn.Sequential(nn.Linear(4, 8), nn.Sequential(nn.ReLU(), nn.Linear(8, 4)))
    return nn.Sequential(inner, nn.Linear(4, 2))


def failing() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(5, 2)), nn.ReLU())


CHAIN = {"input_size": (None, 1234)}
PRINTED: dict[str, tuple[Any, dict[str, Any]]] = {
    "chain_default": (chain, CHAIN),
    "chain_line_length_40": (chain, {**CHAIN, "line_length": 40}),
    "chain_positions": (chain, {**CHAIN, "positions": [20, 40, 60], "line_length": 60}),
    "chain_fractions": (chain, {**CHAIN, "positions": [0.5, 0.8, 1.0]}),
    "joined_default": (Joined, {"input_size": (None, 8)}),
    "joined_line_length_70": (Joined, {"input_size": (None, 8), "line_length": 70}),
    "joined_positions_three": (Joined, {"input_size": (None, 8), "positions": [0.45, 0.85, 1.0]}),
    "joined_positions_four": (Joined, {"input_size": (None, 8), "positions": [0.3, 0.5, 0.6, 1.0]}),
    "nested": (nested, {"input_size": (2, 4)}),
    "nested_depth_1": (nested, {"input_size": (2, 4), "depth": 1}),
    "nested_columns": (nested, {"input_size": (2, 4), "columns": ["input_shape", "dtype", "flops", "bytes"]}),
    "shared": (Twice, {"input_size": (2, 4)}),
    "shared_line_length_65": (Twice, {"input_size": (2, 4), "line_length": 65, "positions": [0.45, 0.85, 1.0]}),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)), {}),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_printed_text_is_the_golden_one(name: str, golden: Any) -> None:
    factory, arguments = PRINTED[name]
    lines: list[str] = []
    print_summary(factory(), print_fn=lines.append, **arguments)
    golden(f"summary_{name}.txt", "\n".join(lines) + "\n")


def test_a_failing_model_prints_what_ran_and_where_it_failed(golden: Any) -> None:
    lines: list[str] = []
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        print_summary(failing(), print_fn=lines.append, input_size=(2, 4))
    golden("summary_failing.txt", "\n".join(lines) + "\n")


@pytest.mark.parametrize(("kind", "ending"), [("_repr_html_", "html"), ("_repr_markdown_", "md")])
def test_the_notebook_faces_are_the_golden_ones(kind: str, ending: str, golden: Any) -> None:
    summary = summarize(Twice(), input_size=(2, 4))
    golden(f"summary_shared.{ending}", getattr(summary, kind)() + "\n")


def test_hostile_names_reach_neither_html_nor_markdown() -> None:
    hostile = type("<script>|`*", (nn.Linear,), {})
    summary = summarize(nn.Sequential(hostile(2, 2)), input_size=(1, 2))
    assert "<script" not in summary._repr_html_() + summary._repr_markdown_()
    row = next(line for line in summary._repr_markdown_().splitlines() if "script" in line)
    assert row.count("|") == 4


class Folds(html.parser.HTMLParser):
    """Counts the elements and checks that each one is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize(("factory", "folds"), [(nested, 2), (chain, 0), (Twice, 1)])
def test_each_module_with_children_folds(factory: Any, folds: int) -> None:
    page = Folds()
    page.feed(summarize(factory())._repr_html_())
    assert page.open == []
    assert page.seen.get("details", 0) == page.seen.get("summary", 0) == folds
    assert "script" not in page.seen


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"line_length": 9}, "line_length"),
        ({"line_length": True}, "line_length"),
        ({"positions": []}, "ascend"),
        ({"positions": [0.5, 0.5, 1.0]}, "ascend"),
        ({"positions": [-0.1, 0.5, 1.0]}, "ascend"),
        ({"positions": [0.5, 1.0]}, "2 entries.*3 or 4"),
        ({"positions": [0.1, 0.2, 0.3, 0.4, 1.0]}, "5 entries"),
        ({"positions": [0.1, 0.2, 1.0], "columns": ["flops"]}, "3 entries.*2 columns"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_before_the_model_runs(arguments: Any, match: str) -> None:
    ran: list[int] = []
    model = nn.Linear(2, 2)
    model.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(ValueError, match=match):
        print_summary(model, input_size=(1, 2), **arguments)
    assert not ran


def test_bytes_are_told_by_dtype() -> None:
    summary = summarize(nn.Sequential(nn.Linear(2, 3).double(), nn.BatchNorm1d(3)), columns=["bytes"])
    assert summary.bytes_by_dtype == {"float64": 72, "float32": 48, "int64": 8}
    assert (summary.param_bytes, summary.buffer_bytes) == (96, 32)
    assert str(summary).splitlines()[-6:-1] == [
        "Parameter bytes: 96",
        "Buffer bytes: 32",
        "Bytes in float64: 72",
        "Bytes in float32: 48",
        "Bytes in int64: 8",
    ]
