"""Progbar: Keras's progress bar, drawn by tqdm where somebody looks, a few plain lines where nobody does."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

import numpy as np
import torch

from torchkutils._keras_names import also_called

QUIET_SECONDS = 5.0
"""Without a terminal, the least time between two lines."""
_LINES_OF_A_KNOWN_TARGET = 20
_LINES_OF_AN_UNKNOWN_TARGET = 24
_DEFAULT_COLUMNS, _NARROWEST_BAR = 80, 8

Metrics: TypeAlias = Iterable[tuple[str, Any]] | Mapping[str, Any]


class Progbar:
    """A progress bar with running averages of metrics.

    Args:
        target: Number of steps expected, None when unknown.
        width: Width of the bar in characters; in a narrow terminal the bar gives way to the metrics.
        verbose: 0 is silent, 1 a bar, 2 one line with the metrics at the end.
        interval: Least number of seconds between two drawings.
        stateful_metrics: Names of metrics that are shown as they are; every other one is averaged over the steps.
        unit: What a step is, Keras 3's `unit_name`; 'B' shows bytes in KiB, MiB …, their rate and the remaining time.
        stateless_metrics: Names of metrics that are averaged; every other one is shown as it is.
        description: A word in front of the bar.
        file: Where to write; None means standard output, as in Keras.

    Raises:
        ValueError: `target` is negative, `width` is not positive, or both lists of metrics are given.

    In a terminal tqdm draws, in a notebook one text output is kept up to date, so that the stored notebook shows the
    last state. Anywhere else (a log, a pipe) there are at most 25 plain lines whatever the duration, each at least 5
    seconds after the one before, and always one at the end. An output that is closed, missing or cannot show a letter
    never raises.

    Differs from Keras: a target of 0 and more steps than the target are shown instead of overflowing; metrics may be
    tensors and arrays of any shape, of which the mean is taken at once, so that no graph is kept; metrics that are
    given after the target is reached are shown; a smaller step than the last one begins a new run.

    >>> import io
    >>> log = io.StringIO()
    >>> bar = Progbar(4, file=log)
    >>> for step in range(4):
    ...     bar.add(1, values=[("loss", float(step))])
    >>> log.getvalue().strip().startswith("4/4")
    True
    """

    @also_called(unit_name="unit")
    def __init__(
        self,
        target: int | None,
        width: int = 30,
        verbose: int = 1,
        interval: float = 0.05,
        stateful_metrics: Iterable[str] | None = None,
        *,
        unit: str = "step",
        stateless_metrics: Iterable[str] | None = None,
        description: str | None = None,
        file: TextIO | None = None,
    ) -> None:
        if target is not None and not (isinstance(target, int | float | np.number) and target >= 0):
            length = f"; its length is {len(target)}" if isinstance(target, Sized) else ""
            raise ValueError(f"target must be a number of steps ≥ 0, or None when unknown, got {target!r}{length}")
        names: tuple[object, ...] = (stateful_metrics, stateless_metrics)
        if any(isinstance(one, str) for one in names):
            raise TypeError("stateful_metrics and stateless_metrics must be lists of names, got a text; write ['acc']")
        if width < 1:
            raise ValueError(f"width must be at least 1 character, got {width!r}")
        self.target: int | None = target
        self.width: int = width
        self.verbose: int = verbose
        self.interval: float = interval
        if stateful_metrics is not None and stateless_metrics is not None:
            raise ValueError("give stateful_metrics or stateless_metrics, not both: each says what the other ones are")
        self.stateful_metrics: set[str] = set(stateful_metrics or ())
        self._averaged = None if stateless_metrics is None else set(stateless_metrics)
        self._unit = unit
        self._description = _printable(description or "")
        self._output = _Output(sys.stdout if file is None else file)
        self._averages: dict[str, _Average] = {}
        self._seen_so_far: int = 0
        self._started, self._finished = time.monotonic(), False
        self._drawing: _Lines | _TerminalBar | _NotebookBar | None = None

    def _reaches(self, current: int) -> bool:
        return self.target is not None and current >= self.target

    def update(self, current: int, values: Metrics | None = None, finalize: bool | None = None) -> None:
        """Say where things stand.

        Args:
            current: Index of the current step.
            values: Pairs of a metric's name and its value for the last step, or a dict of them: a number, a tensor or
                an array (its mean counts), or a text. Averaged, with the number of steps since the last call as weight,
                unless the metric is stateful.
            finalize: Whether this is the last call; None means when the target is reached.
        """
        step: object = current
        if isinstance(step, str) or not (values is None or isinstance(values, Iterable)):
            raise TypeError(
                f"update takes a number of steps and pairs of a name and a value, got {current!r} and {values!r}; "
                "write update(3, [('loss', 0.5)])"
            )
        if current < self._seen_so_far:
            self._begin_anew()
        given = list(values.items() if isinstance(values, Mapping) else values or ())
        for name, value in given:
            self._take(name, _plain(value), current - self._seen_so_far)
        self._seen_so_far = current
        was_finished = self._finished
        self._finished = self._reaches(current) if finalize is None else finalize
        if was_finished and self._finished and not given:
            return
        if self.verbose == 1:
            self._show()
        elif self.verbose == 2 and (self.target is None or self._finished):
            self._output.line(" - ".join(self._metrics()))

    def add(self, n: int, values: Metrics | None = None) -> None:
        """Go `n` steps forward; `values` as in `update`."""
        self.update(self._seen_so_far + n, values)

    def close(self) -> None:
        """End the bar before its target, or one without a target."""
        if self._drawing is not None and not self._finished:
            self._finished = True
            self._show()

    def _begin_anew(self) -> None:
        self._averages.clear()
        self._seen_so_far = 0
        self._started, self._finished = time.monotonic(), False
        if isinstance(self._drawing, _Lines):
            self._drawing = None

    def _take(self, name: str, value: Any, weight: int) -> None:
        average = self._averages.get(name)
        as_it_is = name in self.stateful_metrics if self._averaged is None else name not in self._averaged
        if average is None or as_it_is or isinstance(value, str) or isinstance(average.last, str):
            # The first value counts once even where no step was made: Keras 2.3.1 showed 0 for it.
            self._averages[name] = _Average(value, value if isinstance(value, str) else value * weight, weight)
        else:
            average.last = value
            average.total = average.total + value * weight
            average.weight += weight

    def _metrics(self) -> list[str]:
        return [f"{_printable(name)}: {average.text()}" for name, average in self._averages.items()]

    def _show(self) -> None:
        """Draw; whatever an output does must not end what it reports on."""
        if self._output.is_gone:
            return
        try:
            if self._drawing is None:
                self._drawing = self._new_drawing()
            self._drawing.show(self._state())
        except Exception:
            self._output.is_gone = True

    def _new_drawing(self) -> _Lines | _TerminalBar | _NotebookBar:
        if self._output.file in (sys.stdout, sys.stderr) and _in_notebook():
            return _NotebookBar(self.interval)
        if self._output.isatty():
            return _TerminalBar(self._output, self.interval)
        return _Lines(self._output, self.target, self._started)

    def _state(self) -> _State:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        done, target, unit = self._seen_so_far, self.target, self._unit
        head = f"{self._description}: " if self._description else ""
        head += f"{_amount(done, unit)}/{'?' if target is None else _amount(target, unit)}"
        pace = f"{_amount(done / elapsed, unit)}/s" if unit == "B" else _time_per_step(elapsed, done, unit)
        if self._finished or target is None or not done or done >= target:
            times = _duration(elapsed) + (" - " if unit == "B" else " ") + pace
        else:
            times = f"ETA: {_duration((target - done) * elapsed / done)} - {pace}"
        # A target of 0 is reached from the start.
        share = None if target is None else min(1.0, (done if target else 1) / max(target, 1))
        return _State(head, times, self._metrics(), done, share, self.width, self._finished)


@dataclass
class _Average:
    """The running mean of one metric; sums may be tensors on a device, which are fetched only to be shown."""

    last: Any
    total: Any
    weight: int

    def text(self) -> str:
        if isinstance(self.last, str):
            return self.last
        mean = float(self.total) / self.weight if self.weight else float(self.last)
        return f"{mean:.4f}" if abs(mean) > 1e-3 else f"{mean:.4e}"


@dataclass
class _State:
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


class _Lines:
    """A log: decides which of thousands of updates is worth a line."""

    def __init__(self, output: _Output, target: int | None, started: float) -> None:
        self._output, self._target, self._last = output, target, started
        self._gap, self._count, self._next_share = QUIET_SECONDS, 0, 0.0

    def show(self, state: _State) -> None:
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

    def __init__(self, output: _Output, interval: float) -> None:
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

    def show(self, state: _State) -> None:
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

    def show(self, state: _State) -> None:
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


class _Output:
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
            self.write(_printable(text) + "\n")
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


def _mean_of_several(values: Sequence[Any]) -> Any:
    """The mean of the means of tensors and numbers; the text of them where one has none."""
    means = [_plain(item) for item in values]
    if any(isinstance(mean, str) for mean in means):
        return _printable(str(values))
    return sum(means) / len(means)


def _plain(value: Any) -> Any:
    """A number, without a graph behind it: the mean of whatever was given; a text where there is none."""
    if value is None or isinstance(value, str):
        return _printable(str(value))
    if isinstance(value, torch.Tensor):
        return _mean_of_tensor(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
        return _mean_of_several(value)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return _printable(str(value))
    return float(array.mean()) if array.size else float("nan")


def _mean_of_tensor(value: torch.Tensor) -> Any:
    """The mean in double precision where the device has it; on accelerators a tensor, so that nothing waits for it."""
    if value.is_meta:
        return f"{type(value).__name__}{tuple(value.shape)}"
    precision = torch.float32 if value.device.type == "mps" else torch.float64
    try:
        mean = value.detach().mean(dtype=precision)
        return mean.item() if value.device.type == "cpu" else mean
    except (RuntimeError, TypeError, NotImplementedError):
        return f"{type(value).__name__}{tuple(value.shape)}"


def _printable(text: str) -> str:
    """The text without what a terminal would take for a command."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def _amount(number: float, unit: str) -> str:
    if unit != "B":
        return f"{number:.4g}" if isinstance(number, float) else str(number)
    power = min(max(int(abs(number)).bit_length() - 1, 0) // 10, 4)
    return f"{number / 1024**power:.4g} {('', 'Ki', 'Mi', 'Gi', 'Ti')[power]}B"


def _duration(seconds: float) -> str:
    """Seconds as Keras writes them: 12s, 3:05, 1:02:03."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes}:{rest:02d}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _time_per_step(elapsed: float, steps: float, unit: str) -> str:
    seconds = elapsed / max(steps, 1)
    if seconds >= 1:
        return f"{seconds:.0f}s/{unit}"
    return f"{seconds * 1e3:.0f}ms/{unit}" if seconds >= 1e-3 else f"{seconds * 1e6:.0f}us/{unit}"
