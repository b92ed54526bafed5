"""The summary as a tree, and everything that a summary can be turned into."""

from __future__ import annotations

import csv
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from torchkutils import ModelSummary, print_summary, summarize


class Residual(nn.Module):
    """Equal blocks, a module that never runs, and one that `model.parameters()` does not reach."""

    def __init__(self, blocks: int = 5) -> None:
        super().__init__()
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(8, 10)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()) for _ in range(blocks)])
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.hidden = [nn.Linear(8, 8)]

    def forward(self, x: torch.Tensor) -> Any:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.hidden[0](x.mean((2, 3))))


SIZE = {"input_size": (None, 3, 16, 16)}
EVERY_COLUMN = ["input_shape", "dtype", "trainable", "flops", "bytes", "output_bytes", "arguments", "connected_to"]
TREES: dict[str, tuple[Any, dict[str, Any]]] = {
    "tree": (Residual, SIZE),
    "tree_depth_1": (Residual, {**SIZE, "depth": 1}),
    "tree_unfolded": (Residual, {**SIZE, "fold": False, "depth": None}),
    "tree_weights": (Residual, {**SIZE, "weights": True, "depth": None}),
    "tree_columns": (Residual, {**SIZE, "columns": EVERY_COLUMN, "line_length": 200}),
    "tree_narrow": (Residual, {**SIZE, "line_length": 60}),
    "tree_structure": (Residual, {}),
    "tree_lazy": (lambda: nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)), {}),
    "tree_leaf": (lambda: nn.Linear(4, 1), {"input_size": (2, 4)}),
}


@pytest.mark.parametrize("name", TREES)
def test_the_tree_is_the_golden_one(name: str, golden: Any) -> None:
    factory, arguments = TREES[name]
    if "arguments" in arguments.get("columns", ()) and "bias" not in repr(nn.LayerNorm(2)):
        pytest.skip("layers of this torch describe their arguments in other words")
    lines: list[str] = []
    print_summary(factory(), print_fn=lines.append, style="tree", **{"line_length": 100, **arguments})
    golden(f"summary_{name}.txt", "\n".join(lines) + "\n")


def test_a_failing_model_shows_where(golden: Any) -> None:
    lines: list[str] = []
    model = nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.Linear(5, 2)), nn.ReLU())
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        print_summary(model, print_fn=lines.append, style="tree", line_length=100, input_size=(2, 4))
    golden("summary_tree_failing.txt", "\n".join(lines) + "\n")


def test_the_width_is_that_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarize(Residual(), **SIZE)
    for width in (70, 90):
        monkeypatch.setenv("COLUMNS", str(width))
        assert max(map(len, repr(summary).splitlines())) <= width


def test_bert_base_fits_40_lines_of_100_columns() -> None:
    transformers = pytest.importorskip("transformers")
    with torch.device("meta"):
        model = transformers.BertModel(transformers.BertConfig())
    lines: list[str] = []
    ids = torch.ones(1, 8, dtype=torch.int64)
    print_summary(model, print_fn=lines.append, style="tree", depth=3, line_length=100, input_data=ids)
    assert len(lines) <= 40
    assert max(map(len, lines)) <= 100
    assert any("0–11: 12 × BertLayer, each 7.09 M" in line and "85,054,464" in line for line in lines)


def test_an_output_without_such_characters_gets_plain_ones() -> None:
    program = (
        "import torch, torchkutils as ku; model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU());"
        "ku.print_summary(model, style='tree')"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    assert b"|- 0 (Linear)" in done.stdout
    assert b"`- 1 (ReLU)" in done.stdout


# -- order, sums, folding --------------------------------------------------------------------------------------------


class Reversed(nn.Module):
    """Defined the other way round than they run; one of them runs in the middle of another."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.ReLU()
        self.last = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.Linear(2, 2)})
        self.first = nn.Linear(2, 2)
        self.again = nn.Sequential(self.first, nn.Tanh())

    def forward(self, x: torch.Tensor) -> Any:
        return self.last["b"](self.last["a"](self.again(self.first(x))))


@pytest.mark.parametrize("inputs", [{"input_size": (2, 2)}, {"input_size": (2, 2), "engine": "meta"}])
def test_rows_stand_in_the_order_of_first_calls(inputs: dict[str, Any]) -> None:
    paths = [row.path for row in summarize(Reversed(), **inputs).rows]
    assert paths == ["first", "again", "again.0", "again.1", "last", "last.a", "last.b", "never"]


def test_a_feed_forward_block_reads_as_it_runs() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes))
    ids = torch.ones(1, 4, dtype=torch.int64)
    summary = summarize(model, input_data={"input_ids": ids, "decoder_input_ids": ids})
    inside = [row.name for row in summary.rows if row.path.startswith("encoder.block.0.layer.1.DenseReluDense.")]
    assert inside == ["wi", "act", "dropout", "wo"]


@pytest.mark.parametrize("depth", [1, 2, 3, None])
@pytest.mark.parametrize("weights", [False, True])
def test_the_column_of_parameters_adds_up_in_every_view(depth: int | None, weights: bool) -> None:
    model = Residual()
    summary = summarize(model, depth=depth, weights=weights, **SIZE)
    assert sum(row.params or 0 for row in summary.rows) == summary.total_params
    assert sum(row.trainable_params for row in summary.rows) == summary.trainable_params
    assert sum(row.param_bytes for row in summary.rows) == summary.param_bytes
    assert summary.total_params == sum(parameter.numel() for parameter in model.parameters())


def test_weights_have_rows_of_their_own() -> None:
    rows = {row.path: row for row in summarize(Residual(), weights=True, **SIZE).rows}
    weight = rows["stem.0.weight"]
    assert (weight.class_name, weight.params, weight.output_sizes, weight.depth) == (
        "Parameter",
        216,
        ((8, 3, 3, 3),),
        3,
    )
    assert rows["stem.0"].params == 0


def test_a_closed_row_sums_up_what_it_hides() -> None:
    summary = summarize(Residual(), depth=1, **SIZE)
    blocks = next(row for row in summary.rows if row.path == "blocks")
    assert (blocks.params, blocks.flops, blocks.hidden) == (5 * 584, 5 * 2 * 8 * 256 * 72, 15)
    assert summary.flops == sum(row.flops for row in summary.rows)


def folded(model: nn.Module, **inputs: Any) -> list[str]:
    lines = repr(summarize(model, depth=None, **inputs)).splitlines()
    return [line.strip("│├└─ ").split("  ")[0] for line in lines if " × " in line and "Inside" not in line]


class Chain(nn.Module):
    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: torch.Tensor) -> Any:
        for part in self.children():
            x = part(x)
        return x


def test_equal_neighbours_fold_and_others_do_not() -> None:
    def block(width: int = 4) -> nn.Module:
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    run = {"input_size": (2, 4)}
    assert folded(Chain(layer1=block(), layer2=block(), layer3=block(5)), **run) == [
        "layer1–layer2: 2 × Sequential, each 40"
    ]
    # Names that do not count say something.
    assert folded(Chain(query=nn.Linear(4, 4), key=nn.Linear(4, 4)), **run) == []
    frozen = block().requires_grad_(False)
    assert folded(Chain(layer1=block(), layer2=frozen), **run) == []
    shared = block()
    assert folded(nn.Sequential(shared, shared, block()), **run) == []


def test_nesting_of_any_depth_is_shown() -> None:
    model: nn.Module = nn.Linear(2, 2)
    for _ in range(1500):
        model = nn.Sequential(model)
    summary = summarize(model, engine="structure", depth=None)
    assert len(summary.rows) == 1500
    assert len(repr(summary).splitlines()) > 1500
    assert "Linear" in summary._repr_html_()
    assert "▸ Sequential" in repr(summary.at(depth=0))


def test_connections_name_no_hidden_row() -> None:
    for depth in (1, 2):
        summary = summarize(Residual(), depth=depth, **SIZE)
        shown = {row.path for row in summary.rows}
        for row in summary.rows:
            assert {name.rpartition("[")[0].rpartition("[")[0] for name in row.inbound} <= shown
    tree = summarize(Residual(), columns=["connected_to"], depth=None, **SIZE)
    assert "blocks.0–4" in repr(tree)
    assert "blocks.4" not in repr(tree)


def test_a_module_that_never_ran_says_so() -> None:
    tree = repr(summarize(Residual(), **SIZE))
    assert "not called" in next(line for line in tree.splitlines() if "unused" in line)
    assert "not called" not in next(line for line in tree.splitlines() if "blocks" in line)


# -- open sizes ------------------------------------------------------------------------------------------------------


class Pairwise(nn.Module):
    """Each sample with each other one."""

    def forward(self, x: torch.Tensor) -> Any:
        return x @ x.T


class Constant(nn.Module):
    """A product of weights, whatever the batch is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))

    def forward(self, x: torch.Tensor) -> Any:
        return x @ (self.a @ self.b)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2)), (3, 8, 8)),
        (nn.LSTM(4, 5, batch_first=True), (7, 4)),
        (nn.MultiheadAttention(8, 2, batch_first=True), None),
        (Residual(), (3, 16, 16)),
        (Pairwise(), (4,)),
        (Constant(), (4,)),
    ],
    ids=["convolution", "recurrent", "attention", "residual", "pairwise", "constant"],
)
def test_an_open_batch_counts_one_sample(model: nn.Module, shape: Any) -> None:
    shapes = [(6, 8)] * 3 if shape is None else [shape]
    one = summarize(model, input_size=[(1, *size) for size in shapes])
    open_batch = summarize(model, input_size=[(None, *size) for size in shapes])
    assert open_batch.counted_for == "one sample"
    assert (open_batch.flops, open_batch.flops_known) == (one.flops, True)
    assert open_batch.memory.activations == one.memory.activations
    assert open_batch.memory.inputs == one.memory.inputs
    assert [row.output_bytes for row in open_batch.rows] == [row.output_bytes for row in one.rows]
    assert "(for one sample)" in repr(open_batch)


def test_other_open_sizes_are_counted_at_a_size_that_is_named() -> None:
    model = nn.Conv1d(2, 4, 3, padding=1)
    both = summarize(model, input_size=(None, 2, None))
    assert both.counted_for == "one sample, open sizes of 64"
    assert both.flops == summarize(model, input_size=(1, 2, 64)).flops
    assert both.rows[0].output_shapes == "(None, 4, None)"
    inner = summarize(model, input_size=(5, 2, None))
    assert inner.counted_for == "open sizes of 64"
    assert inner.flops == summarize(model, input_size=(5, 2, 64)).flops
    assert inner.memory.inputs == 5 * 2 * 64 * 4


def test_keras_s_header_says_one_sample_where_numbers_depend_on_it() -> None:
    model = nn.Linear(4, 2)
    assert str(summarize(model, input_size=(None, 4), columns=["flops"])).startswith(
        'Model: "Linear" (for one sample)\n'
    )
    assert str(summarize(model, input_size=(None, 4))).startswith('Model: "Linear"\n')


# -- the model's own example -----------------------------------------------------------------------------------------


class WithExample(nn.Module):
    ran_on: str = ""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: torch.Tensor, mask: Any = None) -> Any:
        WithExample.ran_on = x.device.type
        if mask is not None and mask.all():
            x = x + 1
        return self.layer(x)


@pytest.mark.parametrize(
    ("attributes", "rows"),
    [
        ({"example_input_array": torch.ones(3, 4)}, 3),
        ({"example_input_array": (torch.ones(3, 4),)}, 3),
        ({"example_input_array": {"x": torch.ones(3, 4)}}, 3),
        ({"dummy_inputs": {"x": torch.ones(5, 4)}}, 5),
        ({"dummy_inputs": {"x": torch.ones(5, 4), "mask": torch.ones(5)}}, 5),
        ({"default_cfg": {"input_size": (4,), "num_classes": 2}}, 1),
        ({"pretrained_cfg": {"input_size": (4,)}}, 1),
    ],
)
def test_a_models_own_example_is_traced_on_a_meta_copy(attributes: dict[str, Any], rows: int) -> None:
    summary = summarize(WithExample(**attributes))
    assert summary.rows[0].output_sizes == ((rows, 2),)
    assert WithExample.ran_on == "meta"
    name = next(iter(attributes))
    assert summary.engine == f"meta: the model's own {name}, since no input was given"
    assert name in repr(summary).splitlines()[0]
    assert name in str(summary).splitlines()[0]


class FailingProperty(WithExample):
    @property
    def dummy_inputs(self) -> Any:
        raise RuntimeError("no network")


@pytest.mark.parametrize(
    "model",
    [
        WithExample(),
        WithExample(example_input_array=None),
        WithExample(dummy_inputs={}),
        WithExample(example_input_array=torch.ones(3, 5)),
        FailingProperty(),
    ],
)
def test_without_a_fitting_example_the_structure_is_told(model: nn.Module) -> None:
    summary = summarize(model)
    assert summary.engine.startswith("structure")
    assert summary.rows[0].output_shapes == "?"
    assert "? is not known, since nothing ran: give input_size=" in repr(summary)


def test_an_input_that_is_given_beats_the_example() -> None:
    assert summarize(WithExample(example_input_array=torch.ones(3, 4)), input_size=(7, 4)).engine == "real"
    assert summarize(WithExample(example_input_array=torch.ones(3, 4)), engine="structure").engine.startswith(
        "structure"
    )


# -- memory, other views, other programs -----------------------------------------------------------------------------


def test_the_estimate_of_memory_is_worked_out_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
    model[0].bias.requires_grad_(False)
    memory = summarize(model, input_size=(2, 4)).memory
    assert (memory.parameters, memory.buffers) == (4 * (40 + 16), 4 * 16 + 8)
    assert (memory.gradients, memory.optimizer) == (4 * (32 + 16), 8 * (32 + 16))
    assert (memory.inputs, memory.activations, memory.largest_activation) == (4 * 8, 4 * 32, 4 * 32)
    assert memory.inference == memory.parameters + memory.buffers + memory.inputs + memory.largest_activation
    assert memory.training == sum(
        (memory.parameters, memory.buffers, memory.gradients, memory.optimizer, memory.inputs, memory.activations)
    )
    assert not summarize(model).memory.known


def test_another_view_needs_no_other_forward() -> None:
    model, ran = Residual(), []
    model.register_forward_hook(lambda *_: ran.append(1))
    summary = summarize(model, depth=1, **SIZE)
    runs = len(ran)
    for depth in (0, 1, 2, None):
        assert summary.at(depth=depth).rows == summarize(model, depth=depth, **SIZE).rows
    assert summary.at(style="tree", columns=["params"]).view.style == "tree"
    assert len(ran) == runs * 5
    assert pickle.loads(pickle.dumps(summary)).at(depth=None).rows == summary.at(depth=None).rows


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"depth": -1}, "depth must be"),
        ({"columns": ["size"]}, "columns must name some of"),
        ({"style": "ascii"}, "style must be one of 'keras', 'tree'"),
        ({"columns": ["arguments"]}, "'arguments', which was not recorded"),
    ],
)
def test_views_that_do_not_exist_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        summarize(nn.ReLU()).at(**arguments)


def test_shapes_are_tuples_beside_their_text() -> None:
    row = summarize(nn.LSTM(4, 5, batch_first=True), input_size=(None, 3, 4)).rows[0]
    assert row.input_sizes == ((None, 3, 4),)
    assert row.output_sizes == ((None, 3, 5), (1, None, 5), (1, None, 5))


def test_two_summaries_are_compared() -> None:
    before = summarize(Chain(a=nn.Linear(4, 4), b=nn.ReLU()), input_size=(2, 4))
    after = summarize(Chain(a=nn.Linear(4, 6), c=nn.Tanh()), input_size=(2, 4))
    assert before.compare(before).equal
    found = before.compare(after)
    assert (found.added, found.removed) == ((("c", "Tanh"),), (("b", "ReLU"),))
    assert {change.fact: (change.before, change.after) for change in found.changed if change.path == "a"} == {
        "output_shapes": ("(2, 4)", "(2, 6)"),
        "params": (20, 30),
        "trainable_params": (20, 30),
        "flops": (64, 96),
    }
    assert {change.fact for change in found.totals} == {"total_params", "trainable_params", "param_bytes", "flops"}
    assert "~ a: params: 20 → 30" in repr(found)
    assert json.loads(json.dumps(found.to_dict()))["names"] == ["Chain", "Chain"]
    with pytest.raises(TypeError, match="other must be a ModelSummary, got int"):
        before.compare(3)


@pytest.fixture
def summary() -> ModelSummary:
    return summarize(Residual(1), columns=["output_shape", "params", "flops"], **SIZE)


def test_csv_has_every_field(summary: ModelSummary, tmp_path: pathlib.Path) -> None:
    text = summary.to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == text
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["path"] for row in rows] == [row.path for row in summary.rows]
    assert sum(int(row["params"]) for row in rows) == summary.total_params


def test_pandas_gets_a_row_a_module(summary: ModelSummary) -> None:
    pytest.importorskip("pandas")
    frame = summary.to_pandas()
    assert int(frame["params"].sum()) == summary.total_params
    assert frame["output_sizes"][0] == ((None, 8, 16, 16),)


def test_rich_prints_the_tree(summary: ModelSummary) -> None:
    rich_console = pytest.importorskip("rich.console")
    console = rich_console.Console(file=io.StringIO(), width=120)
    console.print(summary)
    assert "├─ stem (Sequential)" in console.file.getvalue()
    assert "Total params" in console.file.getvalue()


def test_markdown_and_latex_are_the_golden_ones(summary: ModelSummary, golden: Any) -> None:
    golden("summary_exported.md", summary.to_markdown() + "\n")
    golden("summary_exported.tex", summary.to_latex() + "\n")


def test_latex_escapes_what_it_would_read() -> None:
    hostile = type("A_b&c%{}\\", (nn.Linear,), {})
    text = summarize(nn.Sequential(hostile(2, 2))).to_latex()
    assert r"A\_b\&c\%\{\}\textbackslash{}" in text
    assert all(line.count(" & ") == 2 for line in text.splitlines() if line.endswith("\\\\") and "multi" not in line)


def test_the_dict_holds_views_memory_and_shapes(summary: ModelSummary) -> None:
    found = json.loads(json.dumps(summary.to_dict()))
    assert found["memory"]["training"] == summary.memory.training
    assert found["rows"][0]["output_sizes"] == [[None, 8, 16, 16]]
    assert found["counted_for"] == "one sample"


def test_a_notebook_folds_equal_siblings() -> None:
    page = summarize(Residual(20), **SIZE)._repr_html_()
    assert "0–19: 20 × Sequential, each 584" in page
    assert page.count("Conv2d") == 2
