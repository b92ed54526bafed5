"""What the page holds, without a browser; what a reader does with it is tested in tests/browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import importlib.resources
import json
import re

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, Recurrent, Residual, ResidualNet


def facts_in(page: str) -> dict:
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


class Items:
    """The items of a page, read as its script reads them."""

    def __init__(self, page: str) -> None:
        self.facts = facts_in(page)
        self.tree = self.facts["tree"]

    def number(self, name: str, item: int) -> int:
        return self.tree["items"].get(name, [0] * self.tree["size"])[item]

    def text(self, name: str, item: int) -> str:
        return self.tree["strings"][self.number(name, item)]

    def kind(self, item: int) -> str:
        return self.tree["kinds"][self.number("kind", item)]

    def path(self, item: int) -> str:
        if str(item) in self.tree["paths"]:
            return self.tree["paths"][str(item)]
        if item == 0:
            return ""
        around, name = self.path(self.number("parent", item)), self.text("name", item)
        if self.kind(item) != "module":
            return around
        return f"{around}{'' if name.startswith('[') else '.'}{name}" if around else name

    def drawn(self, item: int = 0, deep: int = 9) -> list:
        """An item with what lies in it, nested: ("layers", [...])."""
        inside = [other for other in range(item + 1, self.tree["size"]) if self.number("parent", other) == item]
        return [
            (self.label(other), self.drawn(other, deep - 1)) if deep > 1 and self.opens(other) else self.label(other)
            for other in inside
        ]

    def opens(self, item: int) -> bool:
        return item in self.tree["items"]["parent"]

    def label(self, item: int) -> str:
        if self.kind(item) in ("group", "range"):
            return f"{self.number('count', item)} × {self.text('class', item)}: {self.text('name', item)}"
        return self.text("name", item)

    def arrows(self) -> set[tuple[str, str, int]]:
        sources, targets, counts, _ = self.tree["arrows"]
        return {
            (self.where(source), self.where(target), count)
            for source, target, count in zip(sources, targets, counts, strict=True)
        }

    def where(self, item: int) -> str:
        return self.path(item) if self.kind(item) == "module" else f"{self.path(item)}/{self.text('name', item)}"


def items_of(model: nn.Module, **run) -> Items:
    return Items(torchkutils.plot_model(model, None, **run).page().html)


@pytest.fixture(scope="module")
def net():
    return items_of(ResidualNet(), show_shapes=True, input_size=(2, 3, 9, 9))


BLOCK = ["conv1", "norm", "conv2", "add"]


def test_html_is_an_ending_like_the_others(tmp_path):
    plot = torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.html", input_size=(1, 2))
    assert (tmp_path / "m.html").read_text(encoding="utf-8") == plot.page().html
    assert [path.name for path in tmp_path.iterdir()] == ["m.html"]


def test_writing_a_page_needs_no_graphviz(tmp_path, monkeypatch):
    import torchkutils.models.render

    monkeypatch.setattr(torchkutils.models.render, "render", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    torchkutils.plot_model(ResidualNet(), tmp_path / "m.html", input_size=(2, 3, 9, 9))
    assert (tmp_path / "m.html").stat().st_size < 400_000


def test_modules_lie_in_modules_in_the_order_in_which_they_ran(net):
    blocks = [("0", BLOCK), ("1", BLOCK), ("2", BLOCK)]
    assert net.drawn() == ["x", "stem", ("layers", blocks), "pool", "head"]


def test_arrows_join_what_holds_nothing_else(net):
    assert net.arrows() == {
        ("/x", "stem", 1),
        ("stem", "layers.0.conv1", 1),
        ("stem", "layers.0/add", 1),
        *[(f"layers.{n}.conv1", f"layers.{n}.norm", 1) for n in range(3)],
        *[(f"layers.{n}.norm", f"layers.{n}.conv2", 1) for n in range(3)],
        *[(f"layers.{n}.conv2", f"layers.{n}/add", 1) for n in range(3)],
        *[(f"layers.{n}/add", f"layers.{n + 1}.conv1", 1) for n in range(2)],
        *[(f"layers.{n}/add", f"layers.{n + 1}/add", 1) for n in range(2)],
        ("layers.2/add", "pool", 1),
        ("pool", "head", 1),
    }


def linear() -> nn.Module:
    return nn.Linear(2, 2)


def pair() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.ReLU())


class Around(nn.Module):
    """Blocks with a residual that the model adds itself."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(pair() for _ in range(count))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.act = linear(), nn.Tanh()

    def forward(self, x):
        return torch.stack([self.act(self.cell(x)) for _ in range(50)])


class Projections(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = linear(), linear(), linear(), linear()

    def forward(self, x):
        return self.out(torch.softmax(self.query(x) @ self.key(x).mT, -1) @ self.value(x))


FOLDED = {
    "blocks": (lambda: nn.Sequential(*[pair() for _ in range(12)]), ["input", "12 × Sequential: 0 … 11"]),
    "three are seen as quickly": (lambda: nn.Sequential(pair(), pair(), pair()), ["input", "0", "1", "2"]),
    "leaves": (lambda: nn.Sequential(*[linear() for _ in range(5)]), ["input", "5 × Linear: 0 … 4"]),
    "one that differs": (
        lambda: nn.Sequential(*[pair() for _ in range(4)], nn.Sequential(linear()), *[pair() for _ in range(4)]),
        ["input", "4 × Sequential: 0 … 3", "4", "4 × Sequential: 5 … 8"],
    ),
    "a pattern": (
        lambda: nn.Sequential(*[module for _ in range(6) for module in (linear(), nn.ReLU())], nn.Tanh()),
        ["input", "6 × (Linear, ReLU): 0 … 11", "12"],
    ),
    "functions between them": (lambda: Around(5), ["x", "5 × Sequential: blocks.0 … blocks.4", "add"]),
    "calls of one module": (Loop, ["x", "cell", "50 × Tanh: act … act (50)", "stack"]),
    "names that do not count": (
        Projections,
        ["x", "query", "key", "matmul", "value", "matmul", "out"],
    ),
    "other shapes": (
        lambda: nn.Sequential(*[nn.Conv1d(2, 2, 2) for _ in range(5)]),
        ["input", "0", "1", "2", "3", "4"],
    ),
}


@pytest.mark.parametrize(("make", "drawn"), FOLDED.values(), ids=FOLDED)
def test_equal_modules_that_follow_each_other_are_one_item(make, drawn):
    model = make()
    size = (1, 2, 9) if isinstance(model[0] if isinstance(model, nn.Sequential) else None, nn.Conv1d) else (1, 2)
    assert items_of(model, input_size=size).drawn(deep=1) == drawn


def test_a_long_list_is_in_parts_that_open_quickly():
    items = items_of(nn.Sequential(*[linear() for _ in range(3_000)]), input_size=(1, 2))
    inside = [items.tree["items"]["parent"].count(item) for item in range(items.tree["size"])]
    assert max(inside) <= 64
    assert items.drawn(deep=1) == ["input", "3000 × Linear: 0 … 2999"]
    kinds = [items.kind(item) for item in range(items.tree["size"])]
    assert kinds.count("module") == 3_001


def test_a_group_has_the_sum_of_what_it_stands_for():
    items = items_of(nn.Sequential(*[pair() for _ in range(12)]), input_size=(3, 2))
    group = next(item for item in range(items.tree["size"]) if items.kind(item) == "group")
    assert items.number("params", group) == 12 * 6
    assert items.number("flops", group) == 12 * 3 * 8
    assert items.number("memory", group) == 12 * (6 * 4 + 2 * 3 * 2 * 4)
    assert items.text("outputs", group) == "(3, 2)"


def test_totals_and_facts_are_the_summary_s(net):
    summary = torchkutils.summarize(ResidualNet(), input_size=(2, 3, 9, 9))
    totals = net.facts["totals"]
    assert totals.startswith(f"{summary.total_params:,} parameters · {summary.trainable_params:,} trainable")
    assert f"{summary.flops:,} FLOPs" in totals
    modules = {net.path(item): item for item in range(net.tree["size"]) if net.kind(item) == "module"}
    assert net.number("params", modules[""]) == summary.total_params
    assert net.number("flops", modules[""]) == summary.flops
    for row in summary.rows:
        if not any(other.path.startswith(f"{row.path}.") for other in summary.rows):
            assert net.number("params", modules[row.path]) == row.params
            assert net.number("flops", modules[row.path]) == row.flops
            assert net.text("outputs", modules[row.path]) == row.output_shapes


KINDS = {
    "convolution": (nn.Conv2d(1, 1, 1), (1, 1, 4, 4)),
    "linear": (nn.Linear(4, 4), (1, 4)),
    "normalisation": (nn.LayerNorm(4), (1, 4)),
    "activation": (nn.GELU(), (1, 4)),
    "embedding": (nn.Embedding(8, 4), (1, 4)),
    "pooling": (nn.AdaptiveAvgPool2d(1), (1, 1, 4, 4)),
    "recurrent": (nn.LSTM(4, 4), (3, 4)),
    "dropout": (nn.Dropout(), (1, 4)),
    "other": (nn.Flatten(), (1, 4)),
}


@pytest.mark.parametrize(("kind", "case"), KINDS.items(), ids=KINDS)
def test_layers_have_the_colour_of_their_kind(kind, case):
    items = items_of(nn.Sequential(case[0]), input_size=case[1])
    module = next(item for item in range(1, items.tree["size"]) if items.kind(item) == "module")
    assert items.tree["layers"][items.number("layer", module)] == kind


def test_nothing_of_the_model_s_names_is_markup():
    hostile = "</script><img src=x onerror=alert(1)>"
    page = torchkutils.plot_model(type(hostile, (nn.Linear,), {})(2, 2), None, input_size=(1, 2)).page().html
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert html.escape(hostile) in page


def test_names_that_look_like_the_template_s_marks_stay_names():
    page = torchkutils.plot_model(type("@DATA@", (nn.Linear,), {})(2, 2), None, input_size=(1, 2)).page().html
    assert "<title>@DATA@</title>" in page


def test_only_the_page_s_own_script_and_styles_may_run():
    page = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page().html
    policy = html.unescape(re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page).group(1))
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    for text in (script, *re.findall(r"<style[^>]*>(.*?)</style>", page, re.DOTALL)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_it_asks_for_nothing_from_the_network():
    page = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page().html
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)
    assert "http" not in page.replace("http://www.w3.org/", "").replace("http-equiv", "")
    assert not re.search(r"\b(fetch|XMLHttpRequest|WebSocket|EventSource|import|sendBeacon)\(", page)


def test_the_layout_library_s_licence_is_in_the_page_and_beside_the_library():
    folder = importlib.resources.files("torchkutils.models") / "page_assets" / "dagre"
    licence = (folder / "LICENSE").read_text(encoding="utf-8").strip()
    assert "Permission is hereby granted, free of charge" in licence
    assert licence in (folder / "dagre.min.js").read_text(encoding="utf-8")
    assert licence in torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page().html


def test_each_part_of_the_script_is_in_a_page_that_is_used():
    folder = importlib.resources.files("torchkutils.models") / "page_assets" / "script"
    model = nn.Linear(2, 2)
    pages = [
        torchkutils.plot_model(model, None, input_size=(1, 2)).page().html,
        torchkutils.compare_models(model, model).page().html,
    ]
    parts = {path.name: path.read_text(encoding="utf-8").rstrip() for path in folder.iterdir()}
    assert [name for name, text in parts.items() if not any(text in page for page in pages)] == []
    assert [name for name, text in parts.items() if not text.startswith("// ")] == []


def test_a_notebook_gets_a_frame_that_reaches_nothing():
    page = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page()
    frame = page._repr_html_()
    assert "allow-same-origin" not in frame
    assert html.unescape(re.search('srcdoc="([^"]*)"', frame).group(1)) == page.html


def test_where_forward_failed_is_in_the_page(tmp_path):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchkutils.plot_model(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), tmp_path / "m.html", input_size=(1, 2))
    items = Items((tmp_path / "m.html").read_text(encoding="utf-8"))
    assert items.facts["failed_path"] == "1"
    assert re.match(r"RuntimeError: .*mat1 and mat2", items.facts["failure"])
    assert [items.path(item) for item in range(items.tree["size"]) if items.number("flags", item) & 1] == ["1"]


def test_a_module_that_failed_before_anything_in_it_ran_is_there_with_those_around_it():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.child = nn.Linear(2, 2)

        def forward(self, x):
            raise RuntimeError("not today")

    class Starts(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Fails()
            self.other = nn.Linear(2, 2)

        def forward(self, x):
            return self.inner(x)

    with pytest.raises(RuntimeError, match="not today") as raised:
        torchkutils.plot_model(nn.Sequential(nn.Linear(2, 2), Starts()), None, input_size=(1, 2))
    items = Items(raised.value.plot.page().html)
    assert items.facts["failed_path"] == "1.inner"
    assert [items.path(item) for item in range(items.tree["size"]) if items.number("flags", item) & 1] == ["1.inner"]


def test_shapes_in_which_calls_differ_are_multiple():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(2, 2, 2)

        def forward(self, x):
            return self.conv(self.conv(x))

    items = items_of(Twice(), input_size=(1, 2, 8))
    root, conv = (item for item in range(items.tree["size"]) if items.kind(item) == "module")
    assert (items.text("inputs", root), items.text("outputs", root)) == ("(1, 2, 8)", "(1, 2, 6)")
    assert (items.text("inputs", conv), items.text("outputs", conv), items.number("calls", conv)) == (
        "multiple",
        "multiple",
        2,
    )


def test_calls_that_are_drawn_one_by_one_say_which_they_are():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool1d(2)

        def forward(self, x):
            return self.pool(self.pool(x))

    assert items_of(Pools(), input_size=(1, 2, 8)).drawn() == ["x", "pool", "pool (2)"]
    assert items_of(Pools(), input_size=(1, 2, 8), rolled=True).drawn() == ["x", "pool"]


def test_modules_that_never_ran_are_named():
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
            self.tied = self.body[0]
            self.unused = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

        def forward(self, x):
            return self.body[1](self.body[0](x))

    assert items_of(Partly(), input_size=(1, 2)).facts["uncalled"] == ["unused"]


def test_without_input_the_structure_is_a_page_too():
    items = items_of(Residual(4))
    assert "structure" in items.facts["totals"]
    assert not items.facts["ran"]
    assert {"conv1", "norm", "conv2"} <= set(items.drawn())


@pytest.mark.parametrize("make", [lambda: Classifier(), lambda: Recurrent()])
def test_parameters_that_forward_uses_itself_are_items(make):
    model = make()
    data = torch.ones(1, 4, dtype=torch.int64) if isinstance(model, Classifier) else torch.ones(1, 3, 4)
    items = items_of(model, input_data=data)
    assert ("positions" in items.drawn()) == isinstance(model, Classifier)


def test_the_same_model_gives_the_same_file():
    pages = [
        torchkutils.plot_model(Classifier(), None, input_data=torch.ones(1, 4, dtype=torch.int64)).page().html
        for _ in range(2)
    ]
    assert pages[0] == pages[1]


def test_torchview_has_no_page(tmp_path):
    with pytest.raises(ValueError, match="drawer='torchview' has no interactive page"):
        torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.html", input_size=(1, 2), drawer="torchview")
    plot = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2), drawer="torchview")
    with pytest.raises(ValueError, match="drawer='torchview' has no interactive page"):
        plot.page()
    assert list(tmp_path.iterdir()) == []
