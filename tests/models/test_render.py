"""DOT becomes a picture on any machine, quietly, or the error says what to do."""

from __future__ import annotations

import os
import pathlib
import stat
import subprocess
import sys

import pytest
from PIL import Image

import torchkutils.models.render
from torchkutils.models.render import MAX_PIXELS, PLAIN_NOTE, picture_format_of, render, write_whole

SOURCE = "digraph { a -> b -> c }"
FIRST_BYTES = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF", "jpg": b"\xff\xd8\xff", "ps": b"%!PS"}


@pytest.fixture
def no_programs(monkeypatch):
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("no_programs")
@pytest.mark.parametrize("picture_format", FIRST_BYTES)
def test_every_format_is_drawn_without_the_dot_program(picture_format):
    assert render(SOURCE, picture_format).startswith(FIRST_BYTES[picture_format])


@pytest.mark.usefixtures("no_programs")
def test_nothing_reaches_the_terminal(capfd):
    # Over 1,000 nodes pygraphviz warns of the time; an unknown attribute value makes Graphviz itself speak.
    render("digraph { node [shape=nosuchshape]; " + "; ".join(f"n{i}" for i in range(1100)) + " }", "svg")
    assert capfd.readouterr() == ("", "")


def test_the_dot_program_is_used_where_it_is(tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint('drawn', sys.argv[1:], sys.stdin.read())\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert render(SOURCE, "svg").decode() == f"drawn ['-Tsvg'] {SOURCE}\n"


def test_what_the_dot_program_says_is_in_the_error(tmp_path, monkeypatch):
    program = tmp_path / "dot"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('syntax error in line 7')\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"Graphviz refused the graph: syntax error in line 7; save it as \.dot"):
        render(SOURCE, "svg")


@pytest.mark.usefixtures("no_programs")
def test_without_any_graphviz_the_error_has_the_command(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match=r"run `pip install 'pygraphviz>=2'`"):
        render(SOURCE, "svg")


@pytest.mark.usefixtures("no_programs")
def test_without_an_interpreter_to_start_it_is_drawn_in_process(monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    assert render(SOURCE, "png").startswith(FIRST_BYTES["png"])


def test_a_broken_graph_is_an_error():
    with pytest.raises(RuntimeError, match="Graphviz refused the graph"):
        render("digraph { a -> ", "svg")


def test_an_unknown_format_is_refused():
    with pytest.raises(ValueError, match=r"format must be one of .*svg.*; got 'bmp'"):
        render(SOURCE, "bmp")


@pytest.mark.parametrize("picture_format", ["png", "jpg"])
def test_a_bitmap_over_the_limit_is_refused_not_shrunk(picture_format):
    chain = "digraph { " + "".join(f"n{i} -> n{i + 1};" for i in range(400)) + " }"
    with pytest.raises(ValueError, match=rf"more than {MAX_PIXELS:,} a side, as {picture_format}; write \.svg"):
        render(chain, picture_format, dpi=96)
    assert render(chain, "svg").startswith(FIRST_BYTES["svg"])


def test_the_size_is_foretold_to_the_pixel(tmp_path):
    chain = "digraph { graph [dpi=96]; " + "".join(f"n{i} -> n{i + 1};" for i in range(300)) + " }"
    path = tmp_path / "chain.png"
    path.write_bytes(render(chain, "png", dpi=96))
    Image.MAX_IMAGE_PIXELS = None
    # 301 nodes of 36 points with gaps of 36 points between, and the margins.
    assert Image.open(path).size[1] == pytest.approx((301 * 36 + 300 * 36 + 8) / 72 * 96, abs=2)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("m.svg", "svg"), ("m.JPEG", "jpg"), ("m", "png"), ("m.dot", "dot"), ("m.gv", "dot"), ("m.html", "html")],
)
def test_the_ending_chooses_the_format(name, expected):
    assert picture_format_of(pathlib.Path("some.folder") / name) == expected


def test_an_unknown_ending_is_refused():
    with pytest.raises(ValueError, match=r"to_file ends in \.bmp; it must be one of \.dot, \.html, \.png"):
        picture_format_of("m.bmp")


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "m.svg"
    path.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("m.svg", b"old")]


@pytest.mark.slow
def test_the_built_wheel_draws_with_an_empty_path(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists() or not (root / "torchkutils").is_dir():
        pytest.skip("the sources are not here")
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    import zipfile

    import torch

    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(packages)
    # torch and the rest come from here; torchkutils only from the wheel, which lies before them.
    (packages / "others.pth").write_text(str(pathlib.Path(torch.__file__).parents[1]) + "\n")
    code = (
        "import torch, torchkutils, pathlib; assert 'venv' in torchkutils.__file__, torchkutils.__file__;"
        "[torchkutils.plot_model(torch.nn.Linear(2, 2), f'm.{e}', input_size=(1, 2)) for e in ('svg', 'png', 'html')];"
        "print(sorted(p.name for p in pathlib.Path().glob('m.*')))"
    )
    done = subprocess.run(
        [str(python), "-c", code], cwd=tmp_path, env={"PATH": ""}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "['m.html', 'm.png', 'm.svg']"


def dense(nodes):
    """Each box takes from all before it, as in a DenseNet."""
    boxes = "".join(f"\tn{node} [label={node}]\n" for node in range(nodes))
    arrows = "".join(f"\tn{node} -> n{later}\n" for later in range(nodes) for node in range(later))
    return f"digraph dense {{\n{boxes}{arrows}}}\n"


def test_a_graph_with_too_many_arrows_is_laid_out_plainly_and_says_so():
    source = dense(32)
    assert len(source) > 400
    picture = render(source, "svg").decode()
    assert PLAIN_NOTE.split(",")[0] in picture
    assert PLAIN_NOTE.split(",")[0] not in render(dense(8), "svg").decode()


def test_a_layout_that_takes_too_long_is_given_up_for_a_plainer_one(monkeypatch):
    monkeypatch.setattr(torchkutils.models.render, "DEADLINE_SECONDS", 0.001)
    assert PLAIN_NOTE.split(",")[0] in render(dense(5), "svg").decode()
    monkeypatch.setattr(torchkutils.models.render, "PLAIN_DEADLINE_SECONDS", 0.001)
    with pytest.raises(RuntimeError, match="found no layout within 0 s; give a smaller depth"):
        render(dense(5), "svg")
