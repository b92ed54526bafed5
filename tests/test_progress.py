"""Progbar: Keras's averages; a bar in a terminal, few plain lines in a log."""

from __future__ import annotations

import io
import pathlib
import re

import numpy as np
import pytest
import torch

from torchkutils import Progbar, progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def last_line(bar: Progbar, log: io.StringIO) -> str:
    bar.close()
    return log.getvalue().strip().splitlines()[-1]


def test_metrics_are_averaged_by_steps_and_stateful_ones_are_not() -> None:
    log = io.StringIO()
    bar = Progbar(10, stateful_metrics=["acc"], file=log)
    bar.update(2, [("loss", 1.0), ("acc", 0.5), ("small", 1e-5)])
    bar.add(8, [("loss", 2.0), ("acc", 0.75), ("small", 1e-5)])
    line = last_line(bar, log)
    assert line.startswith("10/10")
    assert line.endswith(" - loss: 1.8000 - acc: 0.7500 - small: 1.0000e-05")


@pytest.mark.parametrize("value", [torch.tensor(2.0, requires_grad=True), np.float32(2), np.array([1.0, 3.0]), 2])
def test_values_of_any_kind_are_taken(value) -> None:
    log = io.StringIO()
    bar = Progbar(1, file=log)
    bar.add(1, [("loss", value), ("note", "text")])
    assert last_line(bar, log).endswith("- loss: 2.0000 - note: text")


@pytest.mark.parametrize("target", [1000, None])
def test_ten_minutes_without_a_terminal_are_few_plain_lines(target, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    bar = Progbar(target, file=log, description="odd\x1b[2Jname\n")
    for _ in range(1000):
        now[0] += 0.6
        bar.add(1, [("loss", 1.0)])
    bar.close()
    lines = log.getvalue().splitlines()
    assert 3 <= len(lines) <= 25
    assert all(line.isprintable() and line for line in lines)
    assert "1000/" in lines[-1]


def test_a_week_is_few_lines_too(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for target in (10_000, None):
        log = io.StringIO()
        bar = Progbar(target, file=log)
        for _ in range(10_000):
            now[0] += 60
            bar.add(1)
        bar.close()
        assert len(log.getvalue().splitlines()) <= 25


@pytest.mark.parametrize(("target", "current", "shown"), [(0, 0, "0/0"), (5, 8192, "8192/5"), (None, 7, "7/?")])
def test_odd_targets_are_shown(target, current, shown) -> None:
    log = io.StringIO()
    bar = Progbar(target, file=log)
    bar.update(current)
    assert last_line(bar, log).startswith(shown)
    terminal = Terminal()
    bar = Progbar(target, file=terminal)
    bar.update(current)
    bar.close()
    assert str(current) in terminal.getvalue()


def test_a_terminal_gets_a_bar_of_the_width() -> None:
    terminal = Terminal()
    bar = Progbar(4, width=20, interval=0, file=terminal)
    for _ in range(4):
        bar.add(1, [("loss", 0.5)])
    assert "4/4 [" in terminal.getvalue()
    assert re.search(r"\[(█{20}|#{20})\]", terminal.getvalue())
    assert "loss: 0.5000" in terminal.getvalue()


def test_bytes_show_rate_and_remaining_time(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    log = io.StringIO()
    bar = Progbar(4 << 20, unit="B", description="f", file=log)
    now[0] = 10
    bar.update(1 << 20)
    assert log.getvalue() == "f: 1 MiB/4 MiB - ETA: 30s - 102.4 KiB/s\n"


@pytest.mark.parametrize(("verbose", "lines"), [(0, []), (2, ["loss: 1.0000"])])
def test_quieter_modes(verbose, lines) -> None:
    log = io.StringIO()
    bar = Progbar(2, verbose=verbose, file=log)
    bar.add(1, [("loss", 1.0)])
    bar.add(1, [("loss", 1.0)])
    assert log.getvalue().splitlines() == lines


def test_standard_output_is_the_default(capsys) -> None:
    Progbar(1).add(1)
    assert capsys.readouterr().out.startswith("1/1")


@pytest.mark.parametrize("arguments", [{"target": -1}, {"target": 1, "width": 0}])
def test_impossible_sizes_are_refused(arguments) -> None:
    with pytest.raises(ValueError, match="must be"):
        Progbar(**arguments)


def test_a_program_that_uses_a_kernel_s_library_is_no_notebook() -> None:
    pytest.importorskip("ipykernel")
    pytest.importorskip("IPython")
    log = io.StringIO()
    bar = Progbar(2, file=log)
    bar.add(2)
    assert last_line(bar, log).startswith("2/2")


@pytest.mark.slow
def test_a_notebook_shows_a_bar(tmp_path: pathlib.Path) -> None:
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    code = "import torchkutils\nbar = torchkutils.Progbar(3)\nfor _ in range(3): bar.add(1, [('loss', 0.5)])"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(
        notebook, timeout=100, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    shown = [str(output) for output in notebook.cells[0].outputs]
    assert any("3/3" in text and "loss: 0.5000" in text for text in shown)
    assert not any("3/3 - " in text for text in shown), "plain lines are for logs"
