"""The command line, in processes of its own and by main()."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest
import torch

from torchkutils import save_model
from torchkutils.cli import main

FACTORIES = """
import torch


def network():
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))


class Pair(torch.nn.Module):
    def forward(self, ids, mask):
        return ids * mask


def broken():
    raise RuntimeError("no weights\\nin this folder")


def late():
    return torch.nn.Sequential(torch.nn.Linear(5, 5), torch.nn.Embedding(9, 2))


def table():
    class Table(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.table = torch.nn.Linear(5, 5), torch.nn.Embedding(9, 5)

        def forward(self, ids):
            return self.layer(self.table(ids))

    return Table()


def number():
    return 7
"""


@pytest.fixture(autouse=True)
def folder_with_factories(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    (tmp_path / "factories.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "factories", raising=False)
    return tmp_path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "torchkutils", *arguments], capture_output=True, text=True, timeout=100, check=False
    )


def test_notes_go_where_messages_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "factories:table", "--input-size", "1,7"]) == 0
    printed = capsys.readouterr()
    assert "Note" not in printed.out
    assert printed.err == "Note: ids was made as int64, which forward wants; dtypes= decides otherwise\n"


def test_summary_finds_a_factory_in_the_current_folder() -> None:
    done = run("summary", "factories:network", "--input-size", "None,4")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(None, 3)" in done.stdout
    assert "Total params: 23" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["summary", "factories:network", "--input-size", "2,4", "--json"], '"total_params": 23'),
        (["summary", "factories:network", "--depth", "0"], "Total params: 23"),
        (["summary", "torch.nn:ReLU", "--input-size", "1,2", "--columns", "flops,params"], "FLOPs"),
        (["summary", "factories:Pair", "--input-size", "ids=2,3", "--input-size", "mask=2,3"], "(2, 3)"),
        (["summary", "factories:network", "--style", "tree", "--weights"], "├─ weight (Parameter)"),
        (["summary", "factories.py:network"], "Total params: 23"),
        (["summary", "./factories.py:network"], "Total params: 23"),
        (["plot", "factories:network", "-o", "net.svg", "--show-shapes", "--input-size", "2,4"], "net.svg"),
    ],
)
def test_commands_print_what_was_asked_for(arguments: list[str], part: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert part in capsys.readouterr().out


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["summary", "factories:network", "--input-size", "2,4", "--json"])
    assert json.loads(capsys.readouterr().out)["trainable_params"] == 23


def test_plot_writes_the_file(folder_with_factories: pathlib.Path) -> None:
    assert main(["plot", "factories:network", "-o", "net.dot"]) == 0
    assert (folder_with_factories / "net.dot").read_text().startswith("digraph")


def test_plot_writes_mermaid_in_colours() -> None:
    done = run("plot", "factories:network", "-o", "-", "--format", "mmd", "--style", "color", "--fold")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("flowchart TB")
    assert "classDef linear" in done.stdout


def test_get_prints_the_path(folder_with_factories: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = folder_with_factories / "factories.py"
    assert main(["get", source.as_uri(), "--name", "copy.py", "--cache-dir", "cache", "--quiet"]) == 0
    assert pathlib.Path(capsys.readouterr().out.strip()).read_text() == FACTORIES


def test_show_lists_what_a_model_file_holds(capsys: pytest.CaptureFixture[str]) -> None:
    save_model(torch.nn.Sequential(torch.nn.Linear(4, 3)), "model.h5", metadata={"epoch": 5})
    assert main(["show", "model.h5"]) == 0
    shown = capsys.readouterr().out
    assert all(part in shown for part in ("Linear", "0.weight", "epoch"))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["summary", "no_such_module:net"], "No module named 'no_such_module'"),
        (["summary", "factories:nothing"], "has no attribute 'nothing'"),
        (["summary", "factories:broken"], "RuntimeError: no weights in this folder"),
        (["summary", "factories:number"], "factories:number gave int"),
        (["summary", "factories:network", "--input-size", "2,5"], "cannot be multiplied"),
        (["summary", "absent.py:network"], "there is no file"),
        (["summary", "factories:network", "--input-size", "2,5"], "which was given (2, 5)"),
        (["summary", "factories:late", "--input-size", "2,5"], "dtypes= chooses others"),
        (["get", "nowhere://x/y"], "nowhere"),
        (["show", "missing.h5"], "missing.h5"),
    ],
)
def test_a_failure_is_one_line_and_status_1(
    arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert any(part in lines[0] for part in reason.split("|"))


def test_a_failing_forward_shows_the_rows_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "factories:network", "--input-size", "2,5"]) == 1
    assert capsys.readouterr().out.count("Layer (type)") == 1


def test_a_failing_forward_leaves_the_output_free_of_what_is_no_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "factories:network", "--input-size", "2,5", "--json"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["draw"],
        ["summary"],
        ["summary", "factories"],
        ["summary", "factories:Pair", "--input-size", "2,x"],
        ["summary", "factories:Pair", "--input-size", "ids=2,3", "--input-size", "2,3"],
        ["plot", "factories:network", "--rankdir", "XY"],
        ["plot", "factories:network", "--style", "tree"],
        ["plot", "factories:network", "--splines", "wavy"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.parametrize("command", [[], ["summary"], ["plot"], ["get"], ["show"]])
def test_help_is_status_0(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([*command, "--help"])
    assert "usage: torchkutils" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    program = "import sys; sys.argv = ['torchkutils', '--help']\nfrom torchkutils.cli import main\n"
    program += "try: main()\nexcept SystemExit: pass\n"
    program += "print([name for name in ('torch', 'numpy', 'h5py', 'tqdm') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["summary", "factories:network", "--columns", "shape"], 2, "--columns knows input_shape, "),
        (["plot", "factories:network", "-o", "model.doc"], 2, "pictures are written as"),
        (["summary", "factories:sized", "2", "--set", "width"], 2, "--set takes NAME=VALUE, got 'width'"),
        (["summary", "factories:made", "3"], 2, "is a model already, which takes no arguments"),
        (["summary", "factories:broken"], 1, "RuntimeError: no weights in this folder"),
        (["get", "http://127.0.0.1:9/x", "--hash", "md5:xyz"], 2, "xyz"),
    ],
)
def test_the_exit_status_tells_wrong_usage_from_failure(
    words: list[str], status: int, said: str, folder_with_factories: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (folder_with_factories / "factories.py").open("a") as file:
        file.write(
            "\n\ndef sized(width, bias=True):\n    return torch.nn.Linear(width, 2, bias=bias)\n\n\nmade = network()\n"
        )
    try:
        found = main(words)
    except SystemExit as error:
        found = error.code
    told = capsys.readouterr()
    assert (found, told.out) == (status, "")
    assert said in told.err


def test_a_factory_takes_arguments(folder_with_factories: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder_with_factories / "factories.py").write_text(
        "import torch\n\n\ndef sized(width, kind, *, bias=True):\n"
        "    return getattr(torch.nn, kind)(width, 2, bias=bias)\n"
    )
    assert main(["summary", "factories.py:sized", "7", "Linear", "--set", "bias=false", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_params"] == 14


def test_a_picture_goes_to_standard_output() -> None:
    done = run("plot", "factories:network", "-o", "-", "--format", "dot")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("digraph")
    assert list(pathlib.Path.cwd().glob("*.dot")) == []


def test_a_traceback_is_shown_when_asked() -> None:
    done = run("--traceback", "summary", "factories:broken")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "in broken" in done.stderr


def test_a_model_file_is_shown_as_json(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model(torch.nn.Linear(2, 3), tmp_path / "m.h5", metadata={"epoch": 4})
    assert main(["show", str(tmp_path / "m.h5"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["shape"], one["bytes"]) for one in shown["tensors"]] == [
        ("weight", [3, 2], 24),
        ("bias", [3], 12),
    ]
    assert shown["metadata"] == {"epoch": 4}


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("torchkutils su", {"summary "}),
        ("torchkutils summary --inp", {"--input-size "}),
        ("torchkutils summary net --style ", {"keras", "tree"}),
        ("torchkutils cache ", {"list", "clean"}),
        ("torchkutils plot net --rankdir L", {"LR "}),
    ],
)
def test_the_shell_completes_commands_options_and_choices(line: str, offered: set[str], tmp_path: pathlib.Path) -> None:
    pytest.importorskip("argcomplete")
    answer = tmp_path / "answer"
    shell = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9"}
    subprocess.run(
        [sys.executable, "-m", "torchkutils"],
        env={**os.environ, **shell, "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_IFS": "\n"},
        check=True,
        timeout=100,
    )
    assert offered <= set(answer.read_text().split("\n"))


@pytest.mark.parametrize("columns", ["60", "200"])
def test_a_tree_is_fitted_to_the_terminal_and_a_pipe_has_no_colours(columns: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "torchkutils", "summary", "factories:network", "--style", "tree", "--input-size", "2,4"],
        env={**os.environ, "COLUMNS": columns, "FORCE_COLOR": "1", "TERM": "xterm-256color"},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "\x1b" not in done.stdout + done.stderr
    assert max(map(len, done.stdout.splitlines())) <= int(columns)
    assert "Linear" in done.stdout


def test_an_argument_may_be_made_by_a_factory(
    folder_with_factories: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder_with_factories / "factories.py").write_text(
        "import dataclasses\n\nimport torch\n\n\n@dataclasses.dataclass\nclass Config:\n"
        "    width: int\n    bias: bool = True\n\n\n"
        "def built(config):\n    return torch.nn.Linear(config.width, 2, bias=config.bias)\n"
    )
    assert main(["summary", "factories.py:built", "factories.py:Config(7, bias=False)", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["total_params"] == 14
    for words in ("factories.py:Config(x)", "factories.py:Config(1) + f(2)"):
        with pytest.raises(SystemExit, match="2"):
            main(["summary", "factories.py:built", words])
        assert "must be values of Python" in capsys.readouterr().err


def test_a_traceback_may_be_asked_for_after_the_command() -> None:
    with pytest.raises(RuntimeError, match="no weights"):
        main(["summary", "factories:broken", "--traceback"])


def test_a_misspelt_factory_is_pointed_to_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "factories:networks"]) == 1
    assert "factories has no attribute 'networks'; did you mean 'network'?" in capsys.readouterr().err
