"""What a picture shows on request: Keras 3's arguments, colours, short names, a part of the layers."""

from __future__ import annotations

import inspect
import itertools
import re

import pygraphviz
import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, ResidualNet, edges_of, labels_of, titles_of
from torchkutils.models.picture.layer_kinds import PALETTE, kind_of
from torchkutils.models.render import laid_out_plainly

IMAGE = {"input_size": (1, 3, 9, 9)}


def dot(model, **options):
    return torchkutils.model_to_dot(model, **options).source


# -- Keras 3's arguments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plot_model", "model_to_dot"])
def test_every_argument_of_keras_3_is_there(name, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    theirs = set(inspect.signature(getattr(keras.utils, name)).parameters) - {"kwargs"}
    # Keras 3 takes it by **kwargs, to say that it went; TensorFlow's Keras has it.
    theirs.add("layer_range")
    assert theirs <= set(inspect.signature(getattr(torchkutils, name)).parameters)


def test_keras_3_s_defaults_keep_the_picture():
    plain = dot(ResidualNet(), **IMAGE)
    options = {"show_dtype": False, "show_layer_activations": False, "show_trainable": False, "layer_range": None}
    assert dot(ResidualNet(), **IMAGE, **options, style="keras", splines=None) == plain


@pytest.mark.parametrize("splines", ["ortho", "curved", "polyline", "spline", "line"])
def test_arrows_run_as_asked_for(splines):
    graph = torchkutils.model_to_dot(ResidualNet(), splines=splines, expand_nested=True, **IMAGE)
    assert f" splines={splines}]" in graph.source
    assert graph.create(format="svg").lstrip().startswith(b"<?xml")


def test_a_plain_layout_has_straight_lines_whatever_was_asked_for():
    source = dot(nn.Linear(2, 2), splines="ortho", input_size=(1, 2))
    assert "ortho" not in laid_out_plainly(source)
    assert "splines=line" in laid_out_plainly(source)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"splines": "wavy"}, ValueError, "splines must be one of ortho, curved, polyline, spline, line; got 'wavy'"),
        ({"splines": True}, ValueError, "splines must be one of"),
        ({"style": "tree"}, ValueError, "style must be one of keras, color; got 'tree'"),
        ({"rankdir": None}, ValueError, "rankdir must be one of TB, BT, LR, RL; got None"),
        ({"rolled": "yes"}, ValueError, "rolled must be None, True or False, got 'yes'"),
        ({"layer_range": "stem"}, TypeError, "layer_range must be a list or tuple of two names, got 'stem'"),
        ({"layer_range": ["stem"]}, ValueError, "layer_range must be a list or tuple of two names, got ['stem']"),
        ({"layer_range": [0, 1]}, TypeError, "layer_range must hold names or regular expressions as text"),
        ({"layer_range": ["(", "head"]}, ValueError, "layer_range: '(' is no regular expression"),
        ({"layer_range": ["haed", "head"]}, ValueError, "layer_range: 'haed' fits none of the 4 layers"),
        ({"layer_range": ["haed", "head"]}, ValueError, "some are head"),
        ({"layer_range": ["head", "nothing"]}, ValueError, "some are stem, layers, pool, head"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(tmp_path, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        torchkutils.model_to_dot(ResidualNet(), **IMAGE, **options)
    with pytest.raises(error, match=re.escape(message)):
        torchkutils.plot_model(ResidualNet(), tmp_path / "m.svg", **IMAGE, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "draw", [torchkutils.model_to_dot, lambda *args, **kw: torchkutils.plot_model(*args, None, **kw)]
)
def test_keyword_arguments_stand_beside_sizes(draw):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, *parts, by="a"):
            return getattr(self, by)(parts[0] + parts[1])

    source = draw(Scaled(), input_size=[(1, 4), (1, 4)], input_kwargs={"by": "b"}).source
    assert {"add", "b"} <= set(titles_of(source))
    assert "a" not in titles_of(source)


class Acts(nn.Module):
    """Holds activations in the ways that people hold them."""

    def __init__(self, activation):
        super().__init__()
        self.dense, self.activation = nn.Linear(4, 4), activation

    def forward(self, x):
        return self.activation(self.dense(x))


@pytest.mark.parametrize(
    ("activation", "shown"),
    [(torch.relu, "relu"), (nn.GELU(), "GELU"), (nn.functional.silu, "silu"), (lambda x: x, "\\<lambda\\>")],
)
def test_an_activation_that_a_module_holds_is_shown_on_request(activation, shown):
    model = nn.Sequential(Acts(activation), nn.Linear(4, 2))
    assert f"0: Acts\\nactivation: {shown}" in dot(model, input_size=(1, 4), show_layer_activations=True)
    assert "activation:" not in dot(model, input_size=(1, 4))


def test_activations_are_those_of_a_wrapped_model_too():
    model = nn.Sequential(nn.RNN(4, 4), nn.Identity())
    options = {"input_size": (2, 1, 4), "show_layer_activations": True}
    assert "activation: tanh" in dot(nn.DataParallel(model), **options)


@pytest.mark.parametrize(
    ("layer_range", "titles"),
    [
        (["stem", "pool"], ["layers", "pool", "stem", "x"]),
        (["layers", "pool"], ["layers", "pool"]),
        (["pool", "layers"], ["layers", "pool"]),
        (["p.*", "h.*d"], ["head", "pool"]),
        (("head", "head"), ["head"]),
    ],
)
def test_a_range_of_layers_is_drawn_with_both_ends(layer_range, titles):
    assert titles_of(dot(ResidualNet(), layer_range=layer_range, **IMAGE)) == titles


def test_a_range_inside_open_modules_keeps_their_frames_and_joins():
    source = dot(ResidualNet(), layer_range=("layers.1", "layers.2.conv1"), expand_nested=True, **IMAGE)
    conv = ["layers.1.conv1", "layers.1.conv2", "layers.1.norm", "layers.2.conv1"]
    assert titles_of(source) == sorted(["add", *conv])
    # layers, layers.1, layers.2; the first block has no frame.
    assert source.count("subgraph") == 3


def test_a_name_means_that_layer_and_not_those_that_begin_with_it():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(12)])
    assert titles_of(dot(model, layer_range=["1", "1"], input_size=(1, 2))) == ["1"]
    assert titles_of(dot(model, layer_range=["1.", "11"], input_size=(1, 2))) == ["10", "11"]


def test_a_range_does_not_hide_the_error_of_forward():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5), nn.ReLU())
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.model_to_dot(model, layer_range=["2", "2"], input_size=(1, 2))
    assert "FAILED" in caught.value.dot.source


# -- names and levels --------------------------------------------------------------------------------------------------


def test_names_inside_a_frame_leave_out_what_the_frame_says():
    source = dot(ResidualNet(1), expand_nested=True, **IMAGE)
    assert labels_of(source) == sorted(
        [
            *("x: Input", "stem: Conv2d", "pool: AdaptiveAvgPool2d", "head: Linear", "add"),
            *("conv1: Conv2d", "norm: BatchNorm2d", "conv2: Conv2d"),
        ]
    )
    frames = re.findall(r'label="([^"]*)" labeljust', source)
    assert [title.rstrip() for title in frames] == ["layers: Sequential", "0: Residual"]
    assert "layers.0.conv1" in titles_of(source)


def test_a_module_of_another_branch_has_its_whole_path_inside_a_frame():
    class Borrows(nn.Module):
        def __init__(self):
            super().__init__()
            self.own, self.borrowed = nn.Linear(4, 4), []

        def forward(self, x):
            return self.borrowed[0](self.own(x))

    class Lends(nn.Module):
        def __init__(self):
            super().__init__()
            self.shared, self.block = nn.Linear(4, 4), Borrows()
            self.block.borrowed.append(self.shared)

        def forward(self, x):
            return self.block(x)

    assert labels_of(dot(Lends(), expand_nested=True, input_size=(1, 4))) == [
        "own: Linear",
        "shared: Linear",
        "x: Input",
    ]


class Listed(nn.Module):
    """Blocks in lists and dicts that have no forward of their own."""

    def __init__(self, container):
        super().__init__()
        self.blocks = container([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        for block in self.blocks.values() if isinstance(self.blocks, nn.ModuleDict) else self.blocks:
            x = block(x)
        return self.head(x)


@pytest.mark.parametrize("engine", ["auto", "structure"])
@pytest.mark.parametrize(
    "container",
    [nn.ModuleList, lambda blocks: nn.ModuleDict(zip("ab", blocks, strict=True)), list],
    ids=["ModuleList", "ModuleDict", "list"],
)
def test_lists_of_modules_are_no_level(container, engine):
    size = {"input_size": (1, 4)} if engine == "auto" else {"engine": engine}
    counted = [len(titles_of(dot(Listed(container), depth=depth, **size))) for depth in (0, 1, 2, 3)]
    assert counted == [2, 4, 6, 6]


def test_a_root_with_one_list_of_blocks_shows_the_blocks():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])

        def forward(self, x):
            return self.blocks[1](self.blocks[0](x))

    assert titles_of(dot(Root(), input_size=(1, 4))) == ["blocks.0", "blocks.1", "x"]


# -- colours -----------------------------------------------------------------------------------------------------------

KINDS = {
    "convolution": ["Conv1d", "Conv2d", "ConvTranspose3d", "LazyConv2d", "Conv2dNormActivation"],
    "attention": ["MultiheadAttention", "BertSelfAttention", "GPT2Attention", "WindowAttention", "LlamaSdpaAttention"],
    "normalisation": ["BatchNorm2d", "LayerNorm", "GroupNorm", "LlamaRMSNorm", "FrozenBatchNorm2d", "SyncBatchNorm"],
    "activation": ["ReLU", "GELU", "SiLU", "Softmax", "GELUActivation", "NewGELUActivation", "ReLU6", "PReLU", "Tanh"],
    "recurrent": ["LSTM", "GRUCell", "RNN", "LSTMCell"],
    "embedding": ["Embedding", "EmbeddingBag", "BertEmbeddings", "PatchEmbed", "LlamaRotaryEmbedding"],
    "linear": ["Linear", "Bilinear", "Conv1D", "NonDynamicallyQuantizableLinear", "LazyLinear"],
    "pooling": ["MaxPool2d", "AdaptiveAvgPool2d", "AvgPool1d", "LPPool2d"],
    "dropout": ["Dropout", "Dropout2d", "AlphaDropout", "DropPath", "StochasticDepth"],
    "": ["Sequential", "BasicBlock", "Flatten", "Identity", "BertPooler", "Upsample", "ConversationModel", "Normal"],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in KINDS.items() for name in names])
def test_a_layer_s_kind_is_known_by_its_class(kind, name):
    assert kind_of([name]) == kind


def test_every_activation_of_torch_is_one():
    known = [name for name in nn.modules.activation.__all__ if name != "MultiheadAttention"]
    assert [name for name in known if kind_of([name]) != "activation"] == []


class Stem(nn.Conv2d):
    """A convolution by its base class alone."""


def test_boxes_are_coloured_by_kind_on_request_and_only_then():
    model = nn.Sequential(Stem(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))
    graph = pygraphviz.AGraph(string=dot(model, style="color", **IMAGE))
    fills = [(node.attr["label"].partition(": ")[2], node.attr["fillcolor"]) for node in graph.nodes()]
    kinds = {"Stem": "convolution", "BatchNorm2d": "normalisation", "ReLU": "activation", "Linear": "linear"}
    assert dict(fills) == {"Input": "", "Flatten": ""} | {name: PALETTE[kind].fill for name, kind in kinds.items()}
    assert "fillcolor" not in dot(model, style="keras", **IMAGE)
    assert "fillcolor" not in dot(model, **IMAGE)


def test_a_failed_box_is_red_in_colours_too():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.model_to_dot(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), style="color", input_size=(1, 2))
    assert re.search(r"FAILED.*color=red", caught.value.dot.source)


def linear_light(colour):
    channels = torch.tensor([int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)])
    return torch.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """W3C's contrast ratio, WCAG 2.2."""
    weights = torch.tensor([0.2126, 0.7152, 0.0722])
    bright, dark = sorted((float(linear_light(colour) @ weights) for colour in (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("kind", PALETTE)
def test_text_is_readable_on_each_colour(kind):
    assert contrast(PALETTE[kind].fill, PALETTE[kind].text) >= 4.5


# Machado, Oliveira, Fernandes: "A Physiologically-based Model for Simulation of Color Vision Deficiency" (2009), full.
VISION = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def lab(light):
    """CIE L*a*b* of linear sRGB under D65."""
    to_xyz = torch.tensor([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = (to_xyz @ light.clamp(0, 1) / torch.tensor([0.9505, 1.0, 1.089])).clamp(min=1e-6) ** (1 / 3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("vision", VISION)
def test_colours_are_told_apart_with_any_colour_vision(vision):
    seen = {
        kind: lab(torch.tensor(VISION[vision], dtype=torch.float32) @ linear_light(colour.fill))
        for kind, colour in PALETTE.items()
    }
    distances = {pair: float((seen[pair[0]] - seen[pair[1]]).norm()) for pair in itertools.combinations(seen, 2)}
    # A difference of 2.3 is just noticeable side by side.
    assert {pair: distance for pair, distance in distances.items() if distance < 10} == {}


def test_arrows_and_boxes_are_the_same_in_colours():
    ids = torch.ones(2, 7, dtype=torch.int64)
    plain, coloured = (
        dot(Classifier(), expand_nested=True, input_data=ids, style=style) for style in ("keras", "color")
    )
    assert (titles_of(plain), edges_of(plain)) == (titles_of(coloured), edges_of(coloured))
