"""The command line, in processes of its own and by main()."""

from __future__ import annotations

import json
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
        (["plot", "factories:network", "-o", "net.xyz"], "net.xyz|xyz"),
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
