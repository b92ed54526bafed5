"""Progbar: Keras's averages; a bar in a terminal, few plain lines in a log."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re
import struct

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


VALUES = [
    torch.tensor([2.0]), torch.tensor([2.0], requires_grad=True), torch.tensor([1.0, 3.0], requires_grad=True) * 1,
    torch.tensor([[1, 3], [0, 4]]), torch.tensor([True, True]) * 2, torch.tensor(2.0, dtype=torch.bfloat16),
    np.array([1, 3]), np.ones((2, 2), np.float16) * 2, [1.0, 3.0], (torch.tensor(1.0), torch.tensor([3.0])), 2,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=str)
def test_a_metric_of_any_shape_is_its_mean(value) -> None:
    log = io.StringIO()
    bar = Progbar(2, file=log)
    bar.update(1, [("loss", value)])
    bar.update(2, [("loss", value)])
    assert last_line(bar, log).endswith("loss: 2.0000")


def test_no_graph_is_kept() -> None:
    import gc
    import weakref

    class Leaf(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad

    bar = Progbar(2, file=io.StringIO())
    loss = Leaf.apply(torch.ones(3, requires_grad=True))
    node = weakref.ref(loss.grad_fn)
    bar.update(1, [("loss", loss)])
    del loss
    gc.collect()
    assert node() is None


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "None"), ({"a": 1}, "{'a': 1}"), (float("nan"), "nan"), (1 + 2j, "(1+2j)"), (torch.empty(0), "nan"),
     (torch.tensor(1.0, device="meta"), "Tensor()"), ("a\x1bb", "a?b"), ([], "nan"), (["x"], "['x']")],
)  # fmt: skip
def test_what_has_no_mean_is_shown_as_text(value, shown) -> None:
    log = io.StringIO()
    bar = Progbar(1, file=log)
    bar.update(1, [("x", value)])
    assert last_line(bar, log).endswith(f"- x: {shown}")


def test_numbers_and_texts_of_one_name_may_follow_each_other() -> None:
    log = io.StringIO()
    bar = Progbar(3, file=log)
    for step, value in enumerate([1.0, "n/a", 2.0], 1):
        bar.update(step, [("x", value)])
    assert last_line(bar, log).endswith("x: 2.0000")


def test_what_comes_after_the_target_is_shown() -> None:
    log = io.StringIO()
    bar = Progbar(2, file=log)
    bar.update(2, [("loss", 1.0)])
    bar.update(2)
    bar.update(2, [("val_loss", 0.5)])
    bar.close()
    first, second = log.getvalue().splitlines()
    assert first.endswith("loss: 1.0000")
    assert second.endswith("loss: 1.0000 - val_loss: 0.5000")


def test_finalize_decides_when_it_ends() -> None:
    log = io.StringIO()
    bar = Progbar(2, file=log)
    bar.update(2, [("loss", 1.0)], finalize=False)
    assert log.getvalue() == ""
    bar.update(2, [("val_loss", 0.5)], finalize=True)
    assert log.getvalue().count("\n") == 1
    log = io.StringIO()
    Progbar(None, file=log, unit_name="sample").update(3, finalize=True)
    assert re.fullmatch(r"3/\? - 0s \d+us/sample\n|3/\? - 0s \d+ms/sample\n", log.getvalue())


def test_a_smaller_step_begins_a_new_run() -> None:
    log = io.StringIO()
    bar = Progbar(2, file=log)
    for _ in range(2):
        for step, loss in ((1, 4.0), (2, 2.0)):
            bar.update(step, [("loss", loss)])
    assert [line.split(" - ")[-1] for line in log.getvalue().splitlines()] == ["loss: 3.0000"] * 2


def test_the_end_says_the_whole_time_and_the_time_of_a_step(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    for seconds, shown in ((0.5, "0s 250us/step"), (20, "20s 10ms/step"), (4000, "1:06:40 2s/step")):
        log = io.StringIO()
        bar = Progbar(2000, file=log)
        now[0] += seconds
        bar.update(2000)
        assert log.getvalue() == f"2000/2000 - {shown}\n"


@contextlib.contextmanager
def terminal_of(columns: int, encoding: str = "utf-8"):
    """The file of a real terminal of so many columns, and a function that gives what was written to it."""
    fcntl, pty, termios = (pytest.importorskip(name) for name in ("fcntl", "pty", "termios"))
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24 if columns else 0, columns, 0, 0))
    os.set_blocking(master, False)
    shown = bytearray()

    def written() -> str:
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(master, 65536):
                shown.extend(piece)
        return shown.decode()

    with open(slave, "w", encoding=encoding) as file:
        yield file, written
    os.close(master)


@pytest.mark.parametrize("columns", [80, 40, 0])
@pytest.mark.parametrize("target", [3, None])
def test_no_metric_is_cut_in_a_narrow_terminal(columns, target) -> None:
    metrics = [(f"metric_{k}", k + 0.5) for k in range(8)]
    with terminal_of(columns) as (file, written):
        bar = Progbar(target, interval=0, description="epoch", file=file)
        for step in (1, 2, 3):
            bar.update(step, metrics)
            if target is None or step < target:
                assert all(f"{name}: {value:.4f}" in written() for name, value in metrics)
        before = len(written())
        bar.close()
        shown = written()
    last = shown[before:] if target is None else shown[shown.rindex("3/3") :]
    assert all(f"{name}: {value:.4f}" in last for name, value in metrics)
    printed = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", shown)
    assert all(len(line.rstrip()) < (columns or 80) for line in re.split(r"[\r\n]+", printed))


def test_a_terminal_gets_no_commands_and_no_letters_that_it_lacks() -> None:
    with terminal_of(80, "ascii") as (file, written):
        bar = Progbar(3, interval=0, description="donn\xe9es\x1b[2J", file=file)
        bar.update(3, [("x\x1b[2J", "y\x07")])
        shown = written()
    assert "\x1b[2J" not in shown
    assert "donn?es?[2J: 3/3 [" in shown
    assert "x?[2J: y?" in shown


class Broken(io.StringIO):
    def __init__(self, error: Exception, terminal: bool) -> None:
        super().__init__()
        self.error, self.terminal = error, terminal

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> int:
        raise self.error


@pytest.mark.parametrize("error", [OSError("gone"), BrokenPipeError(), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("verbose", [1, 2])
def test_an_output_that_fails_ends_nothing(error, terminal, verbose) -> None:
    bar = Progbar(2, verbose=verbose, interval=0, file=Broken(error, terminal))
    bar.update(1)
    bar.update(2, [("loss", 1.0)])
    bar.close()


def test_an_output_that_is_missing_closed_or_ascii_ends_nothing(monkeypatch) -> None:
    closed = io.StringIO()
    closed.close()
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    for file in (None, closed, ascii_only):
        monkeypatch.setattr(progress.sys, "stdout", file)
        bar = Progbar(1, description="ü")
        bar.update(1)
        bar.close()
    assert ascii_only.buffer.getvalue().startswith(b"?: 1/1")
