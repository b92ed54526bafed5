"""plot_model writes the right file, shows itself in a notebook and leaves nothing behind when it cannot."""

from __future__ import annotations

import copy
import os
import re

import pytest
import torch
from torch import nn

import torchkutils
from tests.models.pictured import Classifier, Plain, Residual, ResidualNet, edges_of

FIRST_BYTES = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF", ".jpg": b"\xff\xd8\xff", ".dot": b"digraph"}


@pytest.mark.parametrize("ending", FIRST_BYTES)
def test_the_ending_chooses_what_is_written(tmp_path, ending):
    path = tmp_path / f"m{ending}"
    torchkutils.plot_model(nn.Linear(2, 2), path, input_size=(1, 2))
    assert path.read_bytes().startswith(FIRST_BYTES[ending])
    assert list(tmp_path.iterdir()) == [path]


def test_a_keras_call_runs_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torchkutils.plot_model(nn.Linear(2, 2))
    assert (tmp_path / "model.png").read_bytes().startswith(FIRST_BYTES[".png"])
    torchkutils.plot_model(nn.Linear(2, 2), "named", True, False, "LR", True, 200)
    assert (tmp_path / "named").read_bytes().startswith(FIRST_BYTES[".png"])


def test_none_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plot = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2))
    assert list(tmp_path.iterdir()) == []
    plot.save(tmp_path / "later.svg")
    assert (tmp_path / "later.svg").read_bytes().startswith(FIRST_BYTES[".svg"])


def test_dot_is_written_without_graphviz(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    plot = torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.dot", input_size=(1, 2))
    assert (tmp_path / "m.dot").read_text() == plot.source
    with pytest.raises(RuntimeError, match=r"pip install 'pygraphviz>=2'"):
        plot.save(tmp_path / "m.svg")
    assert [path.name for path in tmp_path.iterdir()] == ["m.dot"]
    assert "pip install" in plot._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize(
    ("name", "keywords", "error", "message"),
    [
        ("m.bmp", {}, ValueError, r"to_file ends in \.bmp"),
        ("missing/m.png", {}, FileNotFoundError, "which is no folder; make it first"),
        (".", {}, IsADirectoryError, "to_file is a folder"),
        ("m.png", {"rankdir": "XY"}, ValueError, "rankdir must be one of"),
        ("m.png", {"dpi": -1}, ValueError, "dpi must be a number above 0"),
        ("m.png", {"depth": 1.5}, ValueError, "depth must be None or an int"),
        ("m.png", {"drawer": "pencil"}, ValueError, "drawer must be 'layers' or 'torchview', got 'pencil'"),
        ("m.png", {"drawer": "torchview"}, ValueError, "give input_size or input_data"),
        ("m.png", {"mode": "test"}, ValueError, "mode must be"),
        ("m.png", {"input_size": (1, 2), "input_data": torch.ones(1, 2)}, ValueError, "give one of them"),
    ],
)
def test_bad_arguments_leave_no_file(tmp_path, name, keywords, error, message):
    with pytest.raises(error, match=message):
        torchkutils.plot_model(nn.Linear(2, 2), tmp_path / name, **keywords)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_module_is_refused(tmp_path):
    for drawer in ("layers", "torchview"):
        with pytest.raises(TypeError, match="model must be a torch"):
            torchkutils.plot_model(lambda x: x, tmp_path / "m.png", input_size=(1, 2), drawer=drawer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(
    os.name == "nt" or not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="which cannot be written"):
        torchkutils.plot_model(nn.Linear(2, 2), tmp_path / "m.png")


def test_a_png_that_would_be_too_large_is_refused(tmp_path):
    model = nn.Sequential(*[nn.ReLU() for _ in range(400)])
    with pytest.raises(ValueError, match=r"pixels, more than 32,767 a side, as png; write \.svg or \.html"):
        torchkutils.plot_model(model, tmp_path / "m.png", input_size=(1, 2))
    assert list(tmp_path.iterdir()) == []
    plot = torchkutils.plot_model(model, tmp_path / "m.svg", input_size=(1, 2))
    assert set(plot._repr_mimebundle_(include=["image/png"])) == {"text/plain", "text/html", "image/svg+xml"}


def test_when_forward_fails_the_part_that_ran_is_drawn_and_attached(tmp_path):
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5))
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.plot_model(model, tmp_path / "m.svg", input_size=(1, 2))
    svg = (tmp_path / "m.svg").read_text()
    assert "FAILED" in svg
    assert "(1, 3)" in svg
    assert 'stroke="red"' in svg
    assert isinstance(caught.value.plot, torchkutils.ModelPlot)
    assert "FAILED" in caught.value.plot.source


def test_the_error_of_forward_is_not_hidden_by_one_in_writing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="cannot be multiplied") as caught:
        torchkutils.plot_model(nn.Sequential(nn.Linear(2, 3), nn.Linear(4, 5)), tmp_path / "m.svg", input_size=(1, 2))
    assert any("was not written: drawing needs Graphviz" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("drawer", ["layers", "torchview"])
def test_the_model_and_the_random_state_stay_as_they_were(drawer):
    model = ResidualNet().train()
    model.layers[0].norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    data, state = torch.randn(2, 3, 9, 9), torch.get_rng_state()
    given = data.clone()
    torchkutils.plot_model(model, None, input_data=data, drawer=drawer)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert [m.training for m in model.modules()] == modes
    assert {name: set(vars(module)) for name, module in model.named_modules()} == attributes
    assert torch.equal(data, given)
    assert torch.equal(torch.get_rng_state(), state)


def test_torchview_draws_its_operations(tmp_path):
    plot = torchkutils.plot_model(
        Residual(4), tmp_path / "m.svg", True, rankdir="LR", input_size=(1, 4, 5, 5), drawer="torchview", dpi=120
    )
    assert plot.caption == "torchview"
    assert "rankdir=LR" in plot.source
    assert "dpi=120" in plot.source
    assert "relu" in (tmp_path / "m.svg").read_text()


def test_a_failure_of_torchview_shows_its_cause():
    with pytest.raises(RuntimeError, match=r"torchview could not draw the model: RuntimeError: .*cannot be multiplied"):
        torchkutils.plot_model(nn.Linear(3, 2), None, input_size=(1, 2), drawer="torchview")


def test_a_notebook_stores_no_bitmap_unless_it_asks_for_one():
    plot = torchkutils.plot_model(nn.Linear(2, 2), None, input_size=(1, 2))
    bundle = plot._repr_mimebundle_()
    assert bundle["image/svg+xml"].startswith("<?xml")
    assert bundle["text/html"].startswith("<svg ")
    assert bundle["text/plain"] == "ModelPlot('Linear', engine='real')"
    assert set(bundle) == {"text/plain", "text/html", "image/svg+xml"}
    assert plot._repr_mimebundle_(include={"image/png"})["image/png"].startswith(FIRST_BYTES[".png"])


def test_what_a_prompt_shows_is_one_short_line():
    model = nn.Sequential(*[nn.Linear(2, 2) for _ in range(50)])
    plot = torchkutils.plot_model(model, None, input_size=(1, 2))
    graph = torchkutils.model_to_dot(model)
    assert repr(plot) == "ModelPlot('Sequential', engine='real')"
    assert repr(graph) == "ModelDigraph('Sequential', engine='structure (torch.fx): no input was given')"
    assert repr(graph.copy()) == graph._repr_mimebundle_()["text/plain"] == repr(graph)
    page = plot.page()
    kilobytes = re.fullmatch(r"ModelPage\('Sequential', (\d+) KB of HTML\)", repr(page)).group(1)
    assert int(kilobytes) == pytest.approx(len(page.html.encode()) / 1000, abs=0.5)


def test_the_picture_of_an_embedding_model_needs_only_its_size(tmp_path):
    torchkutils.plot_model(Classifier(), tmp_path / "m.svg", input_data=torch.ones(1, 4, dtype=torch.int64), depth=9)
    assert "encoder.layers.1.norm2" in (tmp_path / "m.svg").read_text()


def test_an_input_that_forward_hands_on_is_an_output_too():
    source = torchkutils.plot_model(Plain(lambda m, x: (m.a(x), x)), None, input_size=(1, 4)).source
    assert edges_of(source) == {("x", "a"): 1, ("a", "output[0]"): 1, ("x", "output[1]"): 1}


@pytest.mark.slow
def test_a_notebook_shows_both_the_plot_and_keras_s_idiom():
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [
        "import torch, torchkutils\nm = torch.nn.Linear(2, 2)\ntorchkutils.plot_model(m, None, input_size=(1, 2))",
        "from IPython.display import SVG\nSVG(torchkutils.model_to_dot(m).create(prog='dot', format='svg'))",
        "torchkutils.model_to_dot(m, input_size=(1, 2))",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute()
    shown = [set(cell.outputs[0].data) for cell in notebook.cells]
    assert "image/png" not in shown[0]
    assert all("image/svg+xml" in kinds for kinds in shown[1:])
    assert all(not any(o.output_type == "stream" for o in cell.outputs) for cell in notebook.cells)
