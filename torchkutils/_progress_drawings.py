"""How the state of a progress bar is drawn: by tqdm in a terminal, as one text in a notebook, as lines in a log."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol, TextIO

from torchkutils._printable import printable

__all__ = ["Drawing", "LogLines", "Output", "State", "new_drawing"]

QUIET_SECONDS = 5.0
"""Without a terminal, the least time between two lines."""
_LINES_OF_A_KNOWN_TARGET = 20
_LINES_OF_AN_UNKNOWN_TARGET = 24
_DEFAULT_COLUMNS, _NARROWEST_BAR = 80, 8


@dataclass
class State:
    """What there is to show at one moment; `share` is the part that is done, None where the target is unknown."""

    head: str
    times: str
    metrics: list[str]
    done: int
    share: float | None
    width: int
    finished: bool

    def plain(self) -> str:
        """One line of a log."""
        return " - ".join([self.head, self.times, *self.metrics])

    def rows(self, columns: int, *, ascii_only: bool) -> list[str]:
        """The lines of a drawing, none of them longer than the terminal is wide: no metric is cut off."""
        from tqdm.std import Bar  # type: ignore[attr-defined]
        from tqdm.utils import disp_len

        metrics = "".join(f" - {metric}" for metric in self.metrics)
        room = columns - 1 - disp_len(f"{self.head} [] {self.times}{metrics}")
        width = max(_NARROWEST_BAR, min(self.width, room))
        forms = [f"{self.head} {self.times}", self.head]
        if self.share is not None:
            graphic = Bar(self.share, default_len=width, charset=Bar.ASCII if ascii_only else Bar.UTF)
            forms.insert(0, f"{self.head} [{graphic}] {self.times}")
        rows = [next((form for form in forms if disp_len(form) < columns), forms[-1])]
        for metric in self.metrics:
            if disp_len(rows[-1]) + 3 + disp_len(metric) < columns:
                rows[-1] += f" - {metric}"
            else:
                rows.append(f"  {metric}")
        return rows


class Drawing(Protocol):
    """One way to draw; it decides itself which of thousands of states are worth it."""

    def show(self, state: State) -> None:
        """Draw a state."""


def new_drawing(output: Output, *, target: int | None, interval: float, started: float) -> Drawing:
    """The way to draw that suits an output.

    Args:
        output: Where to write.
        target: Number of steps expected, None when unknown.
        interval: Least number of seconds between two drawings.
        started: When the bar was made, by `time.monotonic`.
    """
    if output.file in (sys.stdout, sys.stderr) and _in_notebook():
        return _NotebookBar(interval)
    if output.isatty():
        return _TerminalBar(output, interval)
    return LogLines(output, target, started)


class LogLines:
    """A log: decides which of thousands of updates is worth a line."""

    def __init__(self, output: Output, target: int | None, started: float) -> None:
        self._output, self._target, self._last = output, target, started
        self._gap, self._count, self._next_share = QUIET_SECONDS, 0, 0.0

    def show(self, state: State) -> None:
        if state.finished or self._is_worth_it(state.done):
            self._output.line(state.plain())

    def _is_worth_it(self, current: int) -> bool:
        now = time.monotonic()
        if now - self._last < self._gap:
            return False
        if self._target is None:
            if self._count >= _LINES_OF_AN_UNKNOWN_TARGET:
                return False
            self._gap *= 2
        else:
            share = current / self._target
            if share < self._next_share or self._count >= _LINES_OF_A_KNOWN_TARGET:
                return False
            self._next_share = (int(share * _LINES_OF_A_KNOWN_TARGET) + 1) / _LINES_OF_A_KNOWN_TARGET
        self._last = now
        self._count += 1
        return True


class _TerminalBar:
    """A bar that tqdm keeps in its place, also among others; metrics that do not fit get rows below it."""

    def __init__(self, output: Output, interval: float) -> None:
        from tqdm.std import tqdm

        class Row(tqdm):  # type: ignore[type-arg]
            monitor_interval = 0  # no watching thread: a forked child would inherit its lock
            text = ""

            def __str__(self) -> str:
                return self.text

        self._output, self._interval = output, interval
        self._new_row: Any = Row
        self._rows: list[Any] = []
        self._drawn = float("-inf")

    def show(self, state: State) -> None:
        now = time.monotonic()
        if not state.finished and now - self._drawn < self._interval:
            return
        self._drawn = now
        columns = self._output.columns()
        if not self._rows:
            self._add_row()
        texts = state.rows(columns, ascii_only=bool(getattr(self._rows[0], "ascii", False)))
        if state.finished:
            self._end(texts)
            return
        while len(self._rows) < len(texts):
            self._add_row()
        for row, text in zip(self._rows, [*texts, *[""] * len(self._rows)], strict=False):
            row.text = text
            row.refresh()

    def _add_row(self) -> None:
        # tqdm would draw at once: the row's text is empty then.
        row = self._new_row(
            total=1, file=self._output, leave=not self._rows, ncols=_DEFAULT_COLUMNS, dynamic_ncols=False
        )
        self._rows.append(row)

    def _end(self, texts: list[str]) -> None:
        """Take the rows away and leave the last state as plain lines."""
        first, *others = self._rows
        switched_off = first.disable  # by TQDM_DISABLE; closing sets it too
        for row in reversed(others):
            row.close()
        first.text = texts[0]
        first.close()
        self._rows = []
        if not switched_off:
            for text in texts[1:]:
                self._output.line(text)


class _NotebookBar:
    """One text output of a notebook's cell, kept up to date: the stored notebook holds its last state."""

    def __init__(self, interval: float) -> None:
        self._interval = max(interval, 0.1)
        self._drawn = float("-inf")
        self._handle: Any = None

    def show(self, state: State) -> None:
        from IPython.display import display

        now = time.monotonic()
        if not state.finished and now - self._drawn < self._interval:
            return
        self._drawn = now
        data = {"text/plain": "\n".join(state.rows(100, ascii_only=False))}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)


class Output:
    """A text file that may be closed, missing, or unable to show a letter."""

    def __init__(self, file: TextIO | None) -> None:
        self.file = file
        self.is_gone = file is None
        self.encoding = getattr(file, "encoding", None)

    def write(self, text: str) -> None:
        if self.file is None:
            return
        try:
            self.file.write(text)
        except UnicodeEncodeError:
            encoding = self.encoding or "ascii"
            self.file.write(text.encode(encoding, "replace").decode(encoding))

    def flush(self) -> None:
        if self.file is not None:
            self.file.flush()

    def line(self, text: str) -> None:
        """Write one line; where that fails, this and all later ones are left out."""
        if self.is_gone:
            return
        try:
            self.write(printable(text) + "\n")
            self.flush()
        except Exception:
            self.is_gone = True

    def isatty(self) -> bool:
        try:
            return self.file is not None and self.file.isatty()
        except (AttributeError, ValueError):
            return False

    def columns(self) -> int:
        """The terminal's width; terminals of containers and of test programs say 0."""
        columns = 0
        with contextlib.suppress(OSError, ValueError, AttributeError):
            columns = os.get_terminal_size(self.file.fileno() if self.file is not None else -1).columns
        named = os.environ.get("COLUMNS", "")
        return columns or (int(named) if named.isdigit() else 0) or _DEFAULT_COLUMNS


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; a program that only uses the library of one is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and "IPKernelApp" in shell.config
