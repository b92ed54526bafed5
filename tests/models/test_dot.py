"""The picture says what the tensors did."""

from __future__ import annotations

import collections
import copy
import io
import itertools
import pickle
import re
import threading

import graphviz
import pygraphviz
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import dlpack

import torchkutils
from tests.models.pictured import WAYS, Classifier, Plain, Recurrent, Residual, ResidualNet, edges_of, titles_of


@pytest.mark.parametrize("way", WAYS)
def test_arrows_are_what_the_tensors_did(way):
    forward, expected = WAYS[way]
    graph = torchkutils.model_to_dot(Plain(forward), input_size=(2, 4))
    assert edges_of(graph.source) == expected


@pytest.mark.parametrize(
    ("model", "size", "depth", "boxes", "arrows"),
    [
        # Counted by hand: input, stem, layers, pool, head.
        (ResidualNet(), (1, 3, 9, 9), 1, 5, 4),
        # Three blocks between; their inner joins are hidden.
        (ResidualNet(), (1, 3, 9, 9), 2, 7, 6),
        # Each block: conv1, norm, conv2, add; and three arrows within, two into it.
        (ResidualNet(), (1, 3, 9, 9), 3, 4 + 3 * 4, 4 + 3 * 4 + 2),
        (ResidualNet(), (1, 3, 9, 9), 0, 1 + 1, 1),
        # x, lstm, cat, head; the cat takes two rows of the hidden state.
        (Recurrent(), (2, 5, 4), 1, 4, 4),
    ],
)
def test_boxes_and_arrows_at_each_depth(model, size, depth, boxes, arrows):
    source = torchkutils.model_to_dot(model, depth=depth, input_size=size).source
    assert (len(titles_of(source)), sum(edges_of(source).values())) == (boxes, arrows)


def test_a_transformer_shows_its_learned_positions_and_its_residual_adds():
    ids = torch.ones(2, 7, dtype=torch.int64)
    source = torchkutils.model_to_dot(Classifier(), expand_nested=True, input_data=ids).source
    edges = edges_of(source)
    assert edges["positions", "add"] == 1
    assert edges["embedding", "add"] == 1
    assert collections.Counter(titles_of(source))["add"] == 1 + 2 * 2


@pytest.mark.parametrize("depth", [1, 2, 9])
@pytest.mark.parametrize(
    ("model", "data"),
    [
        (ResidualNet(), torch.ones(1, 3, 9, 9)),
        (Classifier(), torch.ones(2, 7, dtype=torch.int64)),
        (Recurrent(), torch.ones(2, 5, 4)),
    ],
)
def test_everything_hangs_together_from_input_to_output(model, data, depth):
    edges = edges_of(torchkutils.model_to_dot(model, depth=depth, input_data=data).source)
    neighbours = collections.defaultdict(set)
    for source, target in edges:
        neighbours[source].add(target)
        neighbours[target].add(source)
    seen, stack = set(), ["x"]
    while stack:
        here = stack.pop()
        if here not in seen:
            seen.add(here)
            stack.extend(neighbours[here])
    assert seen == set(neighbours)
    assert "head" in seen


def test_parameters_that_a_closed_module_takes_from_itself_are_not_shown():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

        def forward(self, x):
            return self.inner(x) * self.scale

    model = nn.Sequential(Scaled(), nn.ReLU())
    assert titles_of(torchkutils.model_to_dot(model, depth=1, input_size=(1, 4)).source) == ["0", "1", "input"]
    opened = pygraphviz.AGraph(string=torchkutils.model_to_dot(model, depth=2, input_size=(1, 4)).source)
    (cluster,) = opened.subgraphs()
    assert len(cluster.nodes()) == 3
    assert edges_of(opened.string())["0.scale", "mul"] == 1


def test_a_shared_block_is_one_cluster_with_its_calls():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = Residual(4)

        def forward(self, a, b):
            return self.block(a) * self.block(b)

    source = torchkutils.model_to_dot(Twins(), expand_nested=True, input_size=[(1, 4, 5, 5)] * 2).source
    assert titles_of(source) == sorted(
        ["a", "b", "block.conv1 (2 calls)", "block.norm (2 calls)", "block.conv2 (2 calls)", "add (2 calls)", "mul"]
    )
    assert edges_of(source)["block.conv1 (2 calls)", "block.norm (2 calls)"] == 1
    assert edges_of(source)["add (2 calls)", "mul"] == 2
    assert source.count("subgraph") == 1


def test_many_arrows_between_two_boxes_are_one_with_a_number():
    model = Plain(lambda m, x: (lambda h: torch.stack([h] * 7))(m.a(x)))
    assert "×7" in torchkutils.model_to_dot(model, input_size=(1, 4)).source


def test_labels_are_keras_records():
    model = nn.Sequential(collections.OrderedDict(dense=nn.Linear(4, 2)))
    source = torchkutils.model_to_dot(model, show_shapes=True, input_size=(None, 4)).source
    assert 'label="dense: Linear|{input:|output:}|{{(None, 4)}|{(None, 2)}}"' in source
    assert "[label=Linear " in torchkutils.model_to_dot(model, show_layer_names=False, input_size=(1, 4)).source


def test_facts_are_shown_on_request():
    model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2).requires_grad_(False), nn.ReLU())
    source = torchkutils.model_to_dot(
        model, show_dtype=True, show_params=True, show_trainable=True, input_size=(1, 4)
    ).source
    assert "0: Linear\\nfloat32 · params: 10 · trainable" in source
    assert "1: Linear\\nfloat32 · params: 6 · frozen" in source
    assert "2: ReLU\\nfloat32 · params: 0" in source


def test_functions_are_boxes_on_request():
    model = Plain(lambda m, x: m.a(torch.tanh(x)))
    assert "tanh" not in titles_of(torchkutils.model_to_dot(model, input_size=(1, 4)).source)
    shown = torchkutils.model_to_dot(model, input_size=(1, 4), show_ops=True).source
    assert edges_of(shown) == {("x", "tanh"): 1, ("tanh", "a"): 1}


def test_a_root_with_one_working_child_is_looked_through():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return self.net(x)

    assert titles_of(torchkutils.model_to_dot(Wrapper(), input_size=(1, 4)).source) == ["net.0", "net.1", "x"]


@pytest.mark.parametrize("rankdir", ["TB", "BT", "LR", "RL"])
def test_every_direction_draws(rankdir):
    graph = torchkutils.model_to_dot(nn.Linear(2, 2), True, rankdir=rankdir, input_size=(1, 2))
    assert f"rankdir={rankdir}" in graph.source
    assert graph.create(prog="dot", format="svg").lstrip().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"rankdir": "XY"}, "rankdir must be one of TB, BT, LR, RL; got 'XY'"),
        ({"rankdir": "tb"}, "rankdir must be one of"),
        ({"dpi": 0}, "dpi must be a number above 0"),
        ({"dpi": "high"}, "dpi must be a number above 0"),
        ({"depth": -1}, "depth must be None or an int of 0 or more, got -1"),
        ({"depth": True}, "depth must be None or an int"),
    ],
)
def test_bad_looks_are_refused(keywords, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        torchkutils.model_to_dot(nn.Linear(2, 2), **keywords)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got str"):
        torchkutils.model_to_dot("model")


def test_without_input_the_caption_says_where_the_arrows_come_from():
    symbolic = torchkutils.model_to_dot(nn.Sequential(nn.Linear(4, 2), nn.ReLU()), show_shapes=True)
    assert symbolic.caption.startswith("structure (torch.fx)")
    assert symbolic.caption in symbolic.source
    assert "{{?}|{?}}" in symbolic.source

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) if x.sum() > 0 else self.b(x)

    guessed = torchkutils.model_to_dot(Branching())
    assert guessed.caption.startswith("structure (order of definition)")
    assert edges_of(guessed.source)["a", "b"] == 1
    assert "style=dashed" in guessed.source


def test_it_is_a_graphviz_digraph_that_needs_no_dot(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    graph = torchkutils.model_to_dot(nn.Linear(2, 2), input_size=(1, 2))
    assert isinstance(graph, graphviz.Digraph)
    assert graph.pipe("svg", encoding="utf-8").lstrip().startswith("<?xml")
    assert graph.create_png().startswith(b"\x89PNG")
    assert graph.write(tmp_path / "m.png", format="png")
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert graph.write(tmp_path / "m.dot")
    assert (tmp_path / "m.dot").read_text() == graph.source
    drawn = graph.render("model", tmp_path, format="svg", cleanup=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.dot", "m.png", "model.svg"]
    assert drawn.endswith("model.svg")
    assert "image/svg+xml" in graph._repr_mimebundle_()


@pytest.mark.parametrize(
    ("model", "arrows"),
    [
        (nn.Linear(2, 3), {("input", "Linear"): 1}),
        (nn.Bilinear(2, 2, 3), {("input1", "Bilinear"): 1, ("input2", "Bilinear"): 1}),
        (nn.Identity(), {("input", "Identity"): 1}),
        (nn.Flatten(), {("input", "Flatten"): 1}),
    ],
)
def test_a_model_without_children_is_one_box_without_an_input_too(model, arrows):
    assert edges_of(torchkutils.model_to_dot(model).source) == arrows


def test_calls_that_differ_have_multiple_shapes_as_in_keras():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool, self.norm = nn.MaxPool2d(2), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.pool(self.pool(self.norm(self.norm(x))))

    plot = torchkutils.plot_model(Pools(), None, True, input_size=(None, 3, 8, 8), rolled=True)
    assert "pool: MaxPool2d (2 calls)|{input:|output:}|{{multiple}|{multiple}}" in plot.source
    assert "norm: BatchNorm2d (2 calls)|{input:|output:}|{{(None, 3, 8, 8)}|{(None, 3, 8, 8)}}" in plot.source


def test_a_function_of_torch_s_own_has_no_underscores_around_its_name():
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(3, 3, batch_first=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return self.rnn(packed)[1]

    graph = torchkutils.model_to_dot(Packs(), input_data=(torch.ones(2, 4, 3), torch.tensor([4, 2])))
    assert "pack_padded_sequence" in titles_of(graph.source)


def test_a_cluster_s_name_stands_at_its_left_where_no_arrow_comes_in():
    model = nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 3)), nn.ReLU())
    graph = torchkutils.model_to_dot(model, True, expand_nested=True, input_size=(1, 4, 9, 9))
    svg = graph.pipe("svg", encoding="utf-8")
    frame, name = re.search(r'class="cluster">.*?<path[^>]* d="([^"]*)".*? x="([\d.]+)"', svg, re.DOTALL).groups()
    left, *_, right = sorted(float(x) for x in re.findall(r"([\d.]+),-", frame))
    assert left < float(name) < (left + right) / 2 - 50


@pytest.mark.parametrize("nested", [False, True])
def test_a_long_error_of_several_lines_is_one_short_red_line(nested):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            self.a(x)
            raise ValueError("first\nsecond " + "x" * 1_000)

    model = nn.Sequential(Fails(), nn.ReLU()) if nested else Fails()
    with pytest.raises(ValueError, match="first") as caught:
        torchkutils.model_to_dot(model, depth=2, input_size=(1, 2))
    (line,) = [line for line in caught.value.dot.source.splitlines() if "FAILED" in line]
    assert "FAILED: ValueError: first second xxx" in line
    assert "fontcolor=red" in line
    assert len(line) < 300


def test_it_copies_and_pickles():
    graph = torchkutils.model_to_dot(nn.Linear(2, 2), input_size=(1, 2))
    for other in (graph.copy(), pickle.loads(pickle.dumps(graph))):
        assert (other.source, other.caption) == (graph.source, graph.caption)


@pytest.mark.parametrize(("call", "message"), [("create", "prog must be 'dot'"), ("pipe", "engine must be 'dot'")])
def test_other_layouts_are_refused(call, message):
    graph = torchkutils.model_to_dot(nn.Linear(2, 2), input_size=(1, 2))
    with pytest.raises(ValueError, match=message):
        graph.create(prog="neato", format="svg") if call == "create" else graph.pipe("svg", engine="neato")


def test_two_models_fit_into_one_graph():
    whole = graphviz.Digraph()
    for _ in range(2):
        whole.subgraph(torchkutils.model_to_dot(nn.Linear(2, 2), subgraph=True, input_size=(1, 2)))
    parsed = pygraphviz.AGraph(string=whole.source)
    assert len(parsed.nodes()) == 4
    assert len(parsed.subgraphs()) == 2


NASTY = st.text(alphabet=st.sampled_from('<>{}|"\\ \n\t&;né漢🙂\u202e\0aN%'), min_size=1, max_size=12)


@given(NASTY, NASTY)
@example("<", "<>")
@example("<{<N{", ">")
@settings(deadline=None, max_examples=60)
def test_names_are_text_whatever_stands_in_them(name, class_name):
    model = type(class_name.replace("\0", "0"), (nn.Sequential,), {})()
    model._modules[name.replace(".", "_")] = type(class_name.replace("\0", "0"), (nn.Linear,), {})(2, 2)
    model._modules["inner"] = nn.Sequential(nn.Linear(2, 2))
    source = torchkutils.model_to_dot(model, show_shapes=True, expand_nested=True, input_size=(1, 2)).source
    parsed = pygraphviz.AGraph(string=source)
    assert len(parsed.nodes()) == 3
    assert len(parsed.edges()) == 2


@pytest.mark.parametrize("name", ["Blk<2,3>", "<b>bold</b>", "a|b", "{x}", 'say "hi"', "back\\slash", "&amp;", "層"])
def test_odd_names_are_drawn_character_for_character(name):
    import html

    model = nn.Sequential(type(name, (nn.Linear,), {})(2, 2))
    svg = torchkutils.model_to_dot(model, input_size=(1, 2)).create(format="svg").decode()
    assert f"0: {name}" in html.unescape(svg).replace("\xa0", " ")


def test_a_very_long_name_is_shortened_and_whole_in_the_tooltip():
    long = "Layer" * 200
    source = torchkutils.model_to_dot(nn.Sequential(type(long, (nn.Linear,), {})(2, 2)), input_size=(1, 2)).source
    label = re.search(r'label="?(0: [^"\s]+)', source).group(1)
    assert len(label) <= 125
    assert f'tooltip="0: {long}"' in source


def test_the_failing_module_is_red_with_what_it_was_given():
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.model_to_dot(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), input_size=(1, 2))
    source = caught.value.dot.source
    assert edges_of(source) == {("input", "0"): 1, ("0", "1"): 1}
    assert re.search(r"FAILED.*\(1, 3\).*color=red", source)


def test_a_container_that_fails_itself_is_a_red_cluster():
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x):
            return self.a(x) @ torch.ones(5, 5)

    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.model_to_dot(nn.Sequential(Broken()), expand_nested=True, input_size=(1, 2))
    assert re.search(r"subgraph.*\n.*FAILED.*color=red", caught.value.dot.source)


def test_200_nested_modules_are_drawn():
    model = nn.Linear(2, 2)
    for _ in range(200):
        model = nn.Sequential(model)
    source = torchkutils.model_to_dot(model, expand_nested=True, input_size=(1, 2)).source
    assert source.count("subgraph") == 199


def test_modules_of_other_threads_notice_nothing():
    before = nn.Module.__call__
    seen = []

    class Slow(nn.Module):
        def forward(self, x):
            other = threading.Thread(target=lambda: seen.append((nn.Module.__call__ is before, nn.ReLU()(x))))
            other.start()
            other.join()
            return x + 1

    graph = torchkutils.model_to_dot(Slow(), input_size=(1, 2))
    assert seen[0][0]
    assert "ReLU" not in graph.source


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 3, 20])
@pytest.mark.parametrize("family", ["Bert", "GPT2", "T5", "Mixtral"])
def test_transformers_are_drawn_connected(family, depth):
    transformers = pytest.importorskip("transformers")
    sizes = {
        "Bert": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32},
        "GPT2": {"n_embd": 16, "n_layer": 2, "n_head": 2},
        "T5": {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2},
        "Mixtral": {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 32,
            "num_local_experts": 2,
        },
    }
    model = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(vocab_size=50, **sizes[family])
    )
    data = {"input_ids": torch.ones(1, 4, dtype=torch.int64)}
    if family == "T5":
        data["decoder_input_ids"] = torch.ones(1, 3, dtype=torch.int64)
    graph = torchkutils.model_to_dot(model, show_shapes=True, depth=depth, input_data=data)
    edges = edges_of(graph.source)
    reached, stack = set(), list(data)
    while stack:
        here = stack.pop()
        if here not in reached:
            reached.add(here)
            stack.extend(target for source, target in edges if source == here)
    modules = [title for title in titles_of(graph.source) if "." in title or title in dict(model.named_children())]
    assert modules
    assert reached & set(modules)
    assert graph.create(format="svg")


# -- modules that are called several times -----------------------------------------------------------------------------


class Reused(nn.Module):
    """Two layers, one activation between and behind them, one normalisation twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.relu, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4)

    def forward(self, x):
        return self.relu(self.norm(self.b(self.norm(self.relu(self.a(x))))))


@pytest.mark.parametrize(
    ("rolled", "titles"),
    [
        (None, ["a", "b", "norm (2 calls)", "relu", "relu (2)"]),
        (True, ["a", "b", "norm (2 calls)", "relu (2 calls)"]),
        (False, ["a", "b", "norm", "norm (2)", "relu", "relu (2)"]),
    ],
)
def test_calls_share_a_box_where_there_are_parameters_or_it_is_asked_for(rolled, titles):
    source = torchkutils.model_to_dot(Reused(), input_size=(1, 4), rolled=rolled).source
    assert titles_of(source) == sorted(["x", *titles])


def test_a_chain_stays_a_chain_when_each_call_has_a_box():
    edges = edges_of(torchkutils.model_to_dot(Reused(), input_size=(1, 4), rolled=False).source)
    chain = ["x", "a", "relu", "norm", "b", "norm (2)", "relu (2)"]
    assert edges == dict.fromkeys(itertools.pairwise(chain), 1)


def test_an_open_module_has_a_frame_a_call_only_when_unrolled():
    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            return self.block(self.block(x))

    for rolled, frames, relus in [(None, 1, ["block.1 (2 calls)"]), (False, 2, ["block.1", "block.1 (2)"])]:
        source = torchkutils.model_to_dot(Twins(), expand_nested=True, input_size=(1, 4), rolled=rolled).source
        assert source.count("subgraph") == frames
        assert [title for title in titles_of(source) if title.startswith("block.1")] == relus


def test_a_loop_is_drawn_once_when_rolled():
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(8, 4)

        def forward(self, xs):
            h = xs.new_zeros(1, 4)
            for x in xs:
                h = torch.tanh(self.cell(torch.cat([x, h], 1)) * 2 + h)
            return h

    source = torchkutils.model_to_dot(Loop(), input_size=(50, 1, 4), rolled=True).source
    assert {"cat × 50", "add × 50", "cell (50 calls)"} <= set(titles_of(source))
    assert len(titles_of(source)) < 8
    assert titles_of(torchkutils.model_to_dot(Loop(), input_size=(50, 1, 4)).source).count("cat") == 50


def test_comparisons_that_only_steer_python_have_no_box():
    class Steers(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            if (self.a(x).sum() > 1e9).any() or int(x.argmax()) > 100:
                return x
            mask = x > 0
            # Of positions that an attention without a mask does not take.
            torch.arange(3)[None]
            return self.a(x).masked_fill(mask, 0)

    titles = titles_of(torchkutils.model_to_dot(Steers(), input_size=(1, 4), show_ops=True).source)
    assert {"any", "sum", "argmax", "arange", "getitem"}.isdisjoint(titles)
    assert titles.count("gt") == 1
    assert "masked_fill" in titles


def test_where_provenance_ends_a_dashed_box_says_so():
    class RoundTrip(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(torch.from_numpy(self.a(x).numpy() * 2))

    source = torchkutils.model_to_dot(RoundTrip(), input_size=(2, 4)).source
    (box,) = [line for line in source.splitlines() if 'label="not traced through NumPy"' in line]
    assert "style=dashed" in box
    arrows = [line for line in source.splitlines() if "->" in line]
    assert sum("style=dashed" in line for line in arrows) == 1
    assert len(arrows) == 3


class Blocks(nn.Module):
    """A chain of equal blocks that also take a mask; a head of another kind ends it."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

        def forward(self, x, mask):
            return self.norm(self.dense(x) * mask)

    def __init__(self, skip=False):
        super().__init__()
        self.blocks = nn.ModuleList([Blocks.Block(4) for _ in range(6)])
        self.head, self.skip = nn.Linear(4, 2), skip

    def forward(self, x, mask):
        middle = None
        for number, block in enumerate(self.blocks):
            x = block(x, mask)
            middle = x if number == 2 else middle
        return self.head(x + middle if self.skip else x)


@pytest.mark.parametrize("options", [{"depth": 2}, {"expand_nested": True}])
def test_equal_blocks_in_a_chain_are_one_box_on_request(options):
    sizes = {"input_size": [(1, 4), (1, 4)]}
    edges = edges_of(torchkutils.model_to_dot(Blocks(), fold=True, **sizes, **options).source)
    box = "6 × Block (blocks.0 … blocks.5)"
    assert edges == {("x", box): 1, ("mask", box): 1, (box, "head"): 1}
    assert "×" not in torchkutils.model_to_dot(Blocks(), **sizes, **options).source


def test_a_block_whose_output_goes_elsewhere_ends_a_fold():
    source = torchkutils.model_to_dot(Blocks(skip=True), fold=True, depth=2, input_size=[(1, 4), (1, 4)]).source
    assert {"3 × Block (blocks.0 … blocks.2)", "3 × Block (blocks.3 … blocks.5)"} <= set(titles_of(source))
    assert edges_of(source)["3 × Block (blocks.0 … blocks.2)", "add"] == 1


def saved_and_loaded(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file)


def with_data_of(x):
    made = torch.zeros(2, 4)
    made.data = x
    return made


@pytest.mark.parametrize(
    ("way", "traced_through"),
    [
        (copy.copy, False),
        (copy.deepcopy, True),
        (lambda x: torch.empty(0).set_(x), False),
        (lambda x: torch.tensor([]).set_(x.untyped_storage(), 0, (2, 4), (4, 1)), False),
        (with_data_of, False),
        (lambda x: dlpack.from_dlpack(dlpack.to_dlpack(x)), True),
        (lambda x: pickle.loads(pickle.dumps(x)), False),
        (saved_and_loaded, False),
        (lambda x: torch.tensor(x.tolist()), False),
        (lambda x: torch.frombuffer(bytearray(x.numpy().tobytes()), dtype=torch.float32).view(2, 4), False),
    ],
    ids=["copy", "deepcopy", "set_", "set_ a storage", "data", "dlpack", "pickle", "save", "tolist", "frombuffer"],
)
def test_a_picture_does_not_fall_apart_where_tensors_leave_and_return(way, traced_through):
    class Leaves(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.b(way(self.a(x)))

    source = torchkutils.model_to_dot(Leaves(), input_size=(2, 4)).source
    assert ("style=dashed" in source) is not traced_through
    arrows = [line.split()[::2][:2] for line in source.splitlines() if " -> " in line]
    # A chain from the input to the second layer.
    assert len({start for start, _ in arrows}) == len(arrows) == (2 if traced_through else 3)
