"""A picture in Mermaid's language has the boxes and arrows of the picture, and nothing that a model says breaks it."""

from __future__ import annotations

import html
import re

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, Recurrent, ResidualNet, edges_of, titles_of

BOX = re.compile(r'^ +(b\d+)(?:\[|\(\[)"(.*)"(?:\]|\]\))$')
FRAME = re.compile(r'^ +subgraph (f\d+)\["(.*)"\]$')
ARROW = re.compile(r'^  (b\d+) (?:-->|-\.->)(?:\|"×(\d+)"\|)? (b\d+)$')
STYLE = re.compile(r"^  (?:classDef \w+ [\w#:,-]+|class b\d+(?:,b\d+)* \w+)$")


def read(text):
    """Boxes by their names, frames and arrows with their numbers; a line that is none of Mermaid's is an error."""
    head, *lines = text.splitlines()
    assert re.fullmatch(r"flowchart (TB|BT|LR|RL)", head)
    boxes, frames, arrows, depth = {}, [], [], 0
    for line in lines:
        if box := BOX.match(line):
            boxes[box[1]] = shown(box[2])
        elif frame := FRAME.match(line):
            frames.append(shown(frame[2]))
            depth += 1
        elif line.strip() == "end":
            depth -= 1
        elif arrow := ARROW.match(line):
            arrows += [(arrow[1], arrow[3])] * int(arrow[2] or 1)
        else:
            assert STYLE.match(line), line
        assert depth >= 0
    assert depth == 0
    assert {end for arrow in arrows for end in arrow} <= set(boxes)
    return boxes, frames, arrows


def shown(label):
    """A label as a reader sees it."""
    assert not re.search(r'["<>`{}|]', label.replace("<br/>", "")), label
    return re.sub(r"#(\w+);", lambda code: html.unescape(f"&{'#' * code[1].isdigit()}{code[1]};"), label)


@pytest.mark.parametrize("options", [{}, {"expand_nested": True}, {"depth": 2, "rankdir": "LR", "show_ops": True}])
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (ResidualNet(), torch.ones(1, 3, 9, 9)),
        (Classifier(), torch.ones(2, 7, dtype=torch.int64)),
        (Recurrent(), torch.ones(2, 5, 4)),
    ],
)
def test_it_has_the_boxes_frames_and_arrows_of_the_picture(model, data, options):
    plot = torchkutils.plot_model(model, None, input_data=data, **options)
    boxes, frames, arrows = read(plot.to_mermaid())
    assert len(boxes) == len(titles_of(plot.source))
    assert len(frames) == plot.source.count("subgraph")
    assert len(arrows) == sum(edges_of(plot.source).values())


def test_labels_have_what_was_asked_for():
    plot = torchkutils.plot_model(nn.Linear(4, 2), None, True, input_size=(None, 4), show_params=True)
    boxes, _, _ = read(plot.to_mermaid())
    assert boxes["b1"] == "Linear: Linear<br/>params: 10<br/>input: (None, 4)<br/>output: (None, 2)"


NAMES = [
    "Blk<2,3>",
    "<b>bold</b>",
    "a|b",
    "{x}",
    'say "hi"',
    "back\\slash",
    "&amp;",
    "層",
    "end",
    "#35;",
    "`code`",
    "]",
]


@pytest.mark.parametrize("name", NAMES)
def test_odd_names_are_text(name):
    model = nn.Sequential(
        type(name, (nn.Linear,), {})(2, 2), nn.Sequential(type(name, (nn.Sequential,), {})(nn.ReLU()))
    )
    plot = torchkutils.plot_model(model, None, input_size=(1, 2), expand_nested=True)
    boxes, frames, _ = read(plot.to_mermaid())
    assert f"0: {name}" in boxes.values()
    assert f"0: {name}" in frames


def test_line_breaks_and_control_characters_are_replaced():
    model = type("Two\nlines\x07", (nn.Linear,), {})(2, 2)
    boxes, _, _ = read(torchkutils.plot_model(model, None, input_size=(1, 2)).to_mermaid())
    assert boxes["b1"].count("\N{REPLACEMENT CHARACTER}") == 4


def test_colours_failures_and_guesses_are_styled():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    coloured = torchkutils.plot_model(model, None, style="color", input_size=(1, 3, 9, 9)).to_mermaid()
    assert "  classDef convolution fill:#56B4E9,color:#000000" in coloured
    assert "  class b2 activation" in coloured
    assert "classDef" not in torchkutils.plot_model(model, None, input_size=(1, 3, 9, 9)).to_mermaid()
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.plot_model(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), None, input_size=(1, 2))
    assert "  class b2 failed" in caught.value.plot.to_mermaid()
    assert "FAILED: RuntimeError" in caught.value.plot.to_mermaid()


@pytest.mark.parametrize("ending", ["mmd", "mermaid"])
def test_the_ending_writes_it_without_graphviz(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plot = torchkutils.plot_model(nn.Linear(2, 2), tmp_path / f"m.{ending}", input_size=(1, 2))
    assert (tmp_path / f"m.{ending}").read_text(encoding="utf-8") == plot.to_mermaid()
    graph = torchkutils.model_to_dot(nn.Linear(2, 2), input_size=(1, 2))
    assert graph.to_mermaid() == plot.to_mermaid()


def test_one_that_mermaid_would_not_draw_begins_with_a_comment():
    chain = nn.Sequential(*[nn.ReLU() for _ in range(501)])
    text = torchkutils.plot_model(chain, None, input_size=(1, 2)).to_mermaid()
    assert text.startswith("%% 501 arrows, ")
    assert "give a smaller depth or fold=True" in text.splitlines()[0]
    read(text.partition("\n")[2])


def test_torchview_has_none(tmp_path):
    with pytest.raises(ValueError, match="no Mermaid text"):
        torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.mmd", input_size=(1, 2), drawer="torchview")
    plot = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2), drawer="torchview")
    with pytest.raises(ValueError, match="no Mermaid text"):
        plot.to_mermaid()
    assert list(tmp_path.iterdir()) == []
