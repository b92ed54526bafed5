"""What the page holds, without a browser; what a reader does with it is tested in tests/browser."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, Residual, ResidualNet


def facts_in(page: str) -> dict:
    packed = re.search(r'<script id="data"[^>]*>([^<]*)</script>', page).group(1)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


@pytest.fixture(scope="module")
def net():
    return facts_in(torchkutils.plot_model(ResidualNet(), None, True, input_size=(2, 3, 9, 9)).page().html)


def test_html_is_an_ending_like_the_others(tmp_path):
    plot = torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.html", input_size=(1, 2))
    assert (tmp_path / "m.html").read_text(encoding="utf-8") == plot.page().html
    assert [path.name for path in tmp_path.iterdir()] == ["m.html"]


def test_there_is_a_layout_for_each_depth(net):
    boxes = [len(re.findall('class="node"', level["svg"])) for level in net["levels"]]
    assert boxes == [2, 5, 7, 16]
    assert [sum(arrow[2] for arrow in level["arrows"]) for level in net["levels"]] == [1, 4, 6, 18]


def test_totals_and_facts_are_the_summary_s(net):
    summary = torchkutils.summarize(ResidualNet(), input_size=(2, 3, 9, 9))
    assert net["totals"].startswith(f"{summary.total_params:,} parameters · {summary.trainable_params:,} trainable")
    assert f"{summary.flops:,} FLOPs" in net["totals"]
    modules = {module["path"]: module for module in net["modules"]}
    for row in summary.rows:
        if not any(other.path.startswith(f"{row.path}.") for other in summary.rows):
            assert modules[row.path]["params"] == f"{row.params:,}"
            assert modules[row.path]["flops"].endswith(f"{row.flops:,}")
            assert modules[row.path]["outputs"] == row.output_shapes
    assert modules["layers"]["opens"]
    assert not modules["stem"]["opens"]


def test_nothing_of_the_model_s_names_is_markup():
    hostile = "</script><img src=x onerror=alert(1)>"
    page = torchkutils.plot_model(type(hostile, (nn.Linear,), {})(2, 2), None, input_size=(1, 2)).page().html
    assert "<img" not in page
    assert page.count("</script>") == 2
    assert html.escape(hostile) in page


def test_names_that_look_like_the_template_s_marks_stay_names():
    page = torchkutils.plot_model(type("@DATA@", (nn.Linear,), {})(2, 2), None, input_size=(1, 2)).page().html
    assert "<title>@DATA@</title>" in page


def test_it_asks_for_nothing_from_the_network():
    page = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page().html
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)


def test_a_notebook_gets_a_frame_that_reaches_nothing():
    page = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2)).page()
    frame = page._repr_html_()
    assert "allow-same-origin" not in frame
    assert html.unescape(re.search('srcdoc="([^"]*)"', frame).group(1)) == page.html


def test_where_forward_failed_is_in_the_page(tmp_path):
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchkutils.plot_model(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), tmp_path / "m.html", input_size=(1, 2))
    facts = facts_in((tmp_path / "m.html").read_text(encoding="utf-8"))
    assert facts["failed_path"] == "1"
    assert re.match(r"RuntimeError: .*mat1 and mat2", facts["failure"])


def test_shapes_in_which_calls_differ_are_multiple():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.MaxPool1d(2)

        def forward(self, x):
            return self.pool(self.pool(x))

    facts = facts_in(torchkutils.plot_model(Pools(), None, input_size=(1, 2, 8)).page().html)
    model, pool = facts["modules"]
    assert (model["inputs"], model["outputs"]) == ("(1, 2, 8)", "(1, 2, 2)")
    assert (pool["inputs"], pool["outputs"], pool["calls"]) == ("multiple", "multiple", 2)


def test_without_input_the_structure_is_a_page_too():
    facts = facts_in(torchkutils.plot_model(Residual(4), None).page().html)
    assert "structure" in facts["totals"]


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
