"""Numbers of a summary against values worked out by hand, and Keras's table."""

from __future__ import annotations

import json
import pathlib
import types

import pytest
import torch
from torch import nn

from torchkutils.models.summary import print_summary, summarize


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.out = nn.Embedding(100, 8), nn.Linear(8, 100, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x):
        return self.out(self.embed(x))


def test_tied_weights_count_once_and_say_where_they_are_shared():
    summary = summarize(Tied(), input_size=(2, 3))
    assert summary.total_params == sum(row.params for row in summary.rows) == 800
    assert [row.shared_with for row in summary.rows] == [None, "embed"]


def test_a_shared_module_counts_once():
    block = nn.Linear(10, 10, bias=False)
    model = nn.ModuleDict({"a": nn.ModuleList([block]), "b": nn.ModuleList([block])})
    assert summarize(model).total_params == 100


def test_the_row_of_a_depth_holds_what_lies_below_it():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), nn.Linear(4, 1))
    model[1].weight.requires_grad_(False)
    summary = summarize(model, depth=1)
    assert [row.params for row in summary.rows] == [25, 5]
    assert (summary.total_params, summary.non_trainable_params) == (30, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_generated_inputs_take_the_models_dtype(dtype):
    assert summarize(nn.Linear(3, 4).to(dtype), input_size=(2, 3)).rows[0].output_shapes == "(2, 4)"


def test_open_dimensions_print_as_none():
    assert summarize(nn.Sequential(nn.Linear(3, 4)), input_size=(None, 3)).rows[0].output_shapes == "(None, 4)"


def test_a_failing_forward_shows_the_rows_so_far():
    lines = []
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as caught:
        print_summary(nn.Sequential(nn.Linear(3, 4), nn.Linear(5, 4)), print_fn=lines.append, input_size=(2, 3))
    summary = caught.value.summary
    assert [(row.output_shapes, row.failed) for row in summary.rows] == [("(2, 4)", False), ("?", True)]
    assert summary.rows[1].input_shapes == "(2, 4)"
    assert any("FAILED" in line for line in lines)


def test_a_lazy_parameter_is_a_question_mark_outside_the_total():
    summary = summarize(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 1)))
    assert [row.params for row in summary.rows] == [None, 5]
    assert summary.total_params == 5


def test_keras_rows_are_cut_when_a_width_is_given():
    lines = []
    print_summary(nn.Sequential(nn.Linear(1234, 1000, bias=False)), 40, print_fn=lines.append, input_size=(None, 1234))
    # int(40 * .45) = 18, int(40 * .85) = 34: six characters are left for a number of seven.
    assert lines[2] == "Layer (type)      Output Shape    Param "
    assert lines[4] == "0 (Linear)        (None, 1000)    123400"


def test_nothing_is_cut_when_no_width_is_given():
    text = str(summarize(nn.Sequential(nn.Linear(123_456, 100, bias=False)), input_size=(None, 123_456)))
    assert "12345600" in text


def test_the_dict_is_json_and_the_tables_show_every_row():
    summary = summarize(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), input_size=(1, 2), columns=["flops", "bytes"])
    assert json.loads(json.dumps(summary.to_dict()))["total_params"] == 9
    for text in (str(summary), summary._repr_html_(), summary._repr_markdown_()):
        assert "Linear" in text
        assert "ReLU" in text


def test_a_prompt_shows_a_tree_and_str_the_table_of_keras():
    summary = summarize(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), input_size=(None, 2))
    lines = []
    print_summary(nn.Sequential(nn.Linear(2, 3), nn.ReLU()), print_fn=lines.append, input_size=(None, 2))
    assert str(summary) == "\n".join(lines)
    assert repr(summary) == str(summary.at(style="tree"))
    assert "├─ 0 (Linear)" in repr(summary)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"line_length": 3}, ValueError, "line_length"),
        ({"positions": [0.5, 0.4, 1.0]}, ValueError, "ascend"),
        ({"positions": [1.0]}, ValueError, "positions has 1"),
        ({"print_fn": 3}, TypeError, "print_fn"),
        ({"columns": ["colour"]}, ValueError, "columns"),
        ({"columns": "flops"}, ValueError, "columns must name some of input_shape, .*, macs"),
        ({"depth": -1}, ValueError, "depth must be 'auto', None or an int"),
        ({"depth": "all"}, ValueError, "depth must be 'auto', None or an int"),
        ({"style": "table"}, ValueError, "style must be one of 'keras', 'tree', got 'table'"),
        ({"style": "tree", "positions": [0.4, 0.8, 1.0]}, ValueError, "positions are those of Keras"),
    ],
)
def test_bad_arguments_are_refused(arguments, error, match):
    with pytest.raises(error, match=match):
        print_summary(nn.Linear(2, 2), **arguments)


class Blocks(nn.Module):
    """Residual blocks, and a head that takes the sum, the input of the first and the last block."""

    def __init__(self, number):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(number)])
        self.head = nn.Linear(8, 1)

    def forward(self, x):
        for block in self.blocks:
            y = block(x)
            x = x + y
        return self.head(torch.cat([x, y], 1))


def test_a_running_sum_is_named_by_its_latest_block():
    rows = {row.path: row.inbound for row in summarize(Blocks(30), input_size=(2, 4)).rows}
    assert rows["blocks.1"] == ("blocks.0[0][0]",)
    assert rows["blocks.29"] == ("blocks.27[0][0]", "blocks.28[0][0]")
    assert rows["head"] == ("blocks.29[0][0]",)


@pytest.mark.parametrize("name", ["weight_norm", "spectral_norm", "orthogonal"])
def test_a_parametrized_layer_keeps_its_place(name):
    parametrize = getattr(nn.utils.parametrizations, name)
    model = nn.Sequential(nn.Linear(4, 4), parametrize(nn.Linear(4, 4)), nn.ReLU())
    summary = summarize(model, input_size=(2, 4))
    inbound = {row.path: row.inbound for row in summary.rows}
    assert inbound["1"] == ("0[0][0]",)
    assert inbound["2"] == ("1[0][0]",)
    assert summary.flops >= 2 * 2 * 2 * 4 * 4
    assert summary.total_params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda m: torch.jit.script(m),
        lambda m: torch.jit.trace(m, torch.ones(2, 4)),
        nn.DataParallel,
        torch.compile,
    ],
    ids=["scripted", "jit-traced", "DataParallel", "compiled"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_whole_model_may_be_wrapped(wrap):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    summary = summarize(wrap(model), input_size=(2, 4))
    assert summary.total_params == 15
    assert summary.rows[-1].output_shapes == "(2, 3)" or summary.model_name != "Sequential"


def test_a_packed_sequence_is_one_argument():
    packed = nn.utils.rnn.pack_padded_sequence(torch.ones(2, 3, 4), [3, 2], batch_first=True)
    rows = summarize(nn.LSTM(4, 5, batch_first=True), input_data=packed).rows
    assert rows[0].output_shapes.startswith("[(5, 5), (3,)")


def test_a_complex_model_gets_complex_inputs():
    assert summarize(nn.Linear(3, 4, dtype=torch.complex64), input_size=(2, 3)).rows[0].dtypes == "complex64"


def test_the_model_s_own_failure_is_marked_and_says_what_it_was_fed():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x):
            return self.a(x) @ torch.ones(3, 3)

    lines = []
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        print_summary(Fails(), print_fn=lines.append, input_size=(2, 4))
    assert any("Fails (Fails) FAILED at (2, 4)" in line for line in lines)
    (note,) = caught.value.__notes__
    assert note.startswith("forward failed in Fails (the model itself), which was given (2, 4).")
    assert "float32" in note
    assert "dtypes=" not in note


@pytest.mark.parametrize(
    ("model", "inputs", "says", "not_said"),
    [
        (
            nn.Sequential(nn.Conv1d(4, 4, 3), nn.Flatten(), nn.Linear(3, 1)),
            {"input_size": (2, 4, 9)},
            ["forward failed in 2 (Linear), which was given (2, 28)", "(2, 4, 9) (float32)", "batch axis first"],
            ["dtypes="],
        ),
        (
            nn.Sequential(nn.Linear(4, 4), nn.Embedding(9, 2)),
            {"input_size": (2, 4)},
            ["forward failed in 1 (Embedding), which was given (2, 4)", "made from input_size as float32", "dtypes="],
            [],
        ),
        (nn.Linear(3, 1), {"input_data": torch.ones(2, 4)}, ["Linear (the model itself)", "(2, 4)"], ["input_size"]),
    ],
    ids=["shapes", "dtypes", "data"],
)
def test_a_failure_has_one_note_that_names_module_and_shapes(model, inputs, says, not_said):
    with pytest.raises(RuntimeError, match=r"shapes|[Ee]xpected") as caught:
        summarize(model, **inputs)
    (note,) = caught.value.__notes__
    assert [words for words in says if words not in note] == []
    assert [words for words in not_said if words in note] == []


class Unmade(nn.Module):
    def __init__(self):
        self.size = 3


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (nn.Linear, r"got the class Linear; give an instance of it: Linear\(\.\.\.\)"),
        (nn.Linear(3, 1).state_dict(), "got a state dict .* call load_state_dict"),
        ({"model": nn.Linear(3, 1), "epoch": 3}, "got dict; it holds a module under 'model': give that"),
        (types.SimpleNamespace(net=nn.Linear(3, 1)), "got SimpleNamespace; it holds a module under 'net': give that"),
        ([nn.Linear(3, 1), nn.ReLU()], r"got a list of 2 values; give one module, or torch.nn.Sequential"),
        (Unmade(), r"__init__ of Unmade must call super\(\).__init__\(\)"),
        ({"epoch": 3, "model": {}}, "got dict; of a checkpoint, give the model"),
        ("weights.pt", "got str 'weights.pt'; give the model that was loaded from it"),
        (pathlib.Path("weights.pt"), r"got \w*Path 'weights.pt'; give the model"),
        (lambda: nn.Linear(3, 1), "got the function <lambda>; give the module that it returns"),
        (3, "got int$"),
    ],
    ids=[
        *(
            "class",
            "state dict",
            "with a model",
            "object",
            "list",
            "no super",
            "checkpoint",
            "path",
            "pathlib",
            "factory",
        ),
        "int",
    ],
)
def test_what_is_no_model_is_refused_with_what_to_give(given, match):
    with pytest.raises(TypeError, match=rf"^model (must be a torch\.nn\.Module|is no module yet)[,:] {match}"):
        summarize(given, input_size=(2, 3))


@pytest.mark.parametrize("make", [torch.export.export, lambda m, x: torch.fx.symbolic_trace(m)], ids=["export", "fx"])
def test_exported_and_graph_modules_are_models(make):
    model = make(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), (torch.ones(2, 3),))
    summary = summarize(model, input_size=(2, 3))
    assert (summary.total_params, summary.flops) == (26, 2 * 2 * (12 + 8))


def test_a_traceback_holds_the_model_s_frames_and_few_of_ours():
    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.hooked = nn.Linear(3, 1)
            self.hooked.register_forward_hook(lambda *_: None)

        def forward(self, x):
            return self.hooked(x)

    with pytest.raises(RuntimeError, match="mat1") as caught:
        summarize(nn.Sequential(nn.Sequential(Inner())), input_size=(2, 4))
    files = [entry.frame.code.path.as_posix() for entry in caught.traceback]
    ours = [number for number, file in enumerate(files) if "/torchkutils/" in file]
    assert len(ours) <= 5
    # After the first frame of the model none is ours.
    first = next(number for number, file in enumerate(files) if file.endswith("container.py"))
    assert max(ours) < first
    assert sum(file == __file__ for file in files) == 2
