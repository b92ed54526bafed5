"""print_summary takes what Keras 3's takes, with its meaning."""

from __future__ import annotations

import inspect

import pytest
from torch import nn

import torchkutils
from tests.models.pictured import ResidualNet

SIZE = {"input_size": (1, 3, 9, 9)}


def lines_of(model, *args, **options):
    lines = []
    torchkutils.print_summary(model, *args, print_fn=lines.append, **options)
    return lines


def names_of(lines):
    """The first word of each row between the rules."""
    rules = [place for place, line in enumerate(lines) if set(line) == {"="}]
    return [line.split()[0] for line in lines[rules[0] + 1 : rules[1]] if line.strip() and set(line) != {"_"}]


def test_every_argument_of_keras_3_is_there(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    theirs = set(inspect.signature(keras.Model.summary).parameters) - {"self"}
    assert theirs <= set(inspect.signature(torchkutils.print_summary).parameters)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"expand_nested": False}, ["stem", "layers", "pool", "head"]),
        ({"expand_nested": True, "layer_range": ["layers.1", "layers.1"]}, ["1", "conv1", "norm", "conv2"]),
        # A depth that is asked for beats it.
        ({"expand_nested": True, "depth": 1}, ["stem", "layers", "pool", "head"]),
        ({"expand_nested": False, "layer_range": ["layers", "pool"]}, ["layers", "pool"]),
        ({"expand_nested": False, "layer_range": ("pool", "l.*")}, ["layers", "pool"]),
        ({"layer_range": [r"layers\.2", "he.d"]}, ["2", "conv1", "norm", "conv2", "pool", "head"]),
    ],
)
def test_levels_and_ranges_are_listed_as_in_keras_3(options, names):
    lines = lines_of(ResidualNet(), columns=["params"], **SIZE, **options)
    assert names_of(lines) == names
    assert f"Total params: {sum(p.numel() for p in ResidualNet().parameters()):,}" in lines


def test_without_them_nothing_changes():
    plain = lines_of(ResidualNet(), **SIZE)
    assert lines_of(ResidualNet(), **SIZE, expand_nested=None, show_trainable=False, layer_range=None) == plain


@pytest.mark.parametrize(
    ("layout", "positions"),
    [({}, None), ({"line_length": 80}, None), ({}, [0.45, 0.85, 1.0]), ({"line_length": 90}, [40, 70, 80])],
)
def test_a_column_says_what_is_trained(layout, positions):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2), nn.ReLU())
    model[1].requires_grad_(False)
    model[2].bias.requires_grad_(False)
    lines = lines_of(model, positions=positions, input_size=(1, 2), show_trainable=True, **layout)
    assert lines[2].split()[-1] == "Trainable"
    rows = [line.split() for line in lines if "(Linear)" in line or "(ReLU)" in line]
    assert [row[-1] for row in rows] == ["Y", "N", "Y/N", "-"]


def test_a_tree_has_its_own_column():
    lines = lines_of(nn.Sequential(nn.Linear(2, 2)), input_size=(1, 2), show_trainable=True, style="tree")
    assert "Trainable" in lines[1] + lines[2]


@pytest.mark.parametrize(
    ("layer_range", "error", "message"),
    [
        (["haed", "head"], ValueError, "layer_range: 'haed' fits none of the .* layers that are shown; some are head"),
        (["stem"], ValueError, "layer_range must be a list or tuple of two names"),
        ("stem", TypeError, "layer_range must be a list or tuple of two names"),
        ([1, 2], TypeError, "layer_range must hold names or regular expressions"),
        (["[", "head"], ValueError, "is no regular expression"),
    ],
)
def test_a_range_that_cannot_be_is_refused_before_a_line_is_printed(layer_range, error, message):
    lines = []
    with pytest.raises(error, match=message):
        torchkutils.print_summary(ResidualNet(), print_fn=lines.append, layer_range=layer_range, **SIZE)
    assert lines == []


def test_a_failure_prints_what_ran_whatever_the_range():
    lines = []
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5), nn.ReLU())
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        torchkutils.print_summary(
            model, print_fn=lines.append, layer_range=["2", "2"], show_trainable=True, input_size=(1, 2)
        )
    assert any("FAILED" in line for line in lines)
