"""Progbar: Keras's progress bar, drawn by tqdm where somebody looks, a few plain lines where nobody does."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO

import numpy as np

QUIET_SECONDS = 5.0
"""Without a terminal, the least time between two lines."""
_LINES_OF_A_KNOWN_TARGET = 20
_LINES_OF_AN_UNKNOWN_TARGET = 24


class Progbar:
    """A progress bar with running averages of metrics.

    Args:
        target: Number of steps expected, None when unknown.
        width: Width of the bar in characters.
        verbose: 0 is silent, 1 a bar, 2 one line with the metrics at the end.
        interval: Least number of seconds between two drawings.
        stateful_metrics: Names of metrics that are shown as they are; every other one is averaged over the steps.
        unit: What a step is; 'B' shows bytes in KiB, MiB and GiB, with the rate and the remaining time.
        description: A word in front of the bar.
        file: Where to write; None means standard output, as in Keras.

    Raises:
        ValueError: `target` is negative, or `width` is not positive.

    In a terminal or a notebook `tqdm.auto` draws. Anywhere else (a log, a pipe) there are at most 25 plain lines
    whatever the duration, each at least 5 seconds after the one before, and always one at the end.

    Differs from Keras: a target of 0 and more steps than the target are shown instead of overflowing; tensors are
    taken as metric values and not kept.

    >>> import io
    >>> log = io.StringIO()
    >>> bar = Progbar(4, file=log)
    >>> for step in range(4):
    ...     bar.add(1, values=[("loss", float(step))])
    >>> log.getvalue().strip().startswith("4/4")
    True
    """

    def __init__(
        self,
        target: int | None,
        width: int = 30,
        verbose: int = 1,
        interval: float = 0.05,
        stateful_metrics: Iterable[str] | None = None,
        *,
        unit: str = "it",
        description: str | None = None,
        file: TextIO | None = None,
    ) -> None:
        if target is not None and target < 0:
            raise ValueError(f"target must be a number of steps ≥ 0, or None when unknown, got {target!r}")
        if width < 1:
            raise ValueError(f"width must be at least 1 character, got {width!r}")
        self.target = target
        self.width = width
        self.verbose = verbose
        self.interval = interval
        self.stateful_metrics = set(stateful_metrics or ())
        self._unit, self._description = unit, description
        self._file = sys.stdout if file is None else file
        self._values: dict[str, list[Any]] = {}
        self._seen_so_far: int = 0
        self._started = time.monotonic()
        self._lines: _Lines | None = None
        self._bar: Any = None

    def update(self, current: int, values: Iterable[tuple[str, Any]] | None = None) -> None:
        """Say where things stand.

        Args:
            current: Index of the current step.
            values: Pairs of a metric's name and its value for the last step; averaged with the number of steps
                since the last call as weight, unless the metric is stateful.
        """
        for name, value in values or ():
            self._take(name, _plain(value), current - self._seen_so_far)
        self._seen_so_far = current
        finished = self.target is not None and current >= self.target
        if self.verbose == 1:
            self._show(current, finished)
        elif self.verbose == 2 and (self.target is None or finished):
            self._write(self._metrics().removeprefix(" - "))

    def add(self, n: int, values: Iterable[tuple[str, Any]] | None = None) -> None:
        """Go `n` steps forward; `values` as in `update`."""
        self.update(self._seen_so_far + n, values)

    def close(self) -> None:
        """End the bar before its target, or one without a target."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._lines is not None and not self._lines.ended:
            self._lines.ended = True
            self._write(self._plain_line())

    def _take(self, name: str, value: Any, weight: int) -> None:
        if name in self.stateful_metrics or isinstance(value, str):
            self._values[name] = [value, 1]
        elif name in self._values:
            self._values[name][0] += value * weight
            self._values[name][1] += weight
        else:
            self._values[name] = [value * weight, weight]

    def _metrics(self) -> str:
        text = ""
        for name, (total, weight) in self._values.items():
            if isinstance(total, str):
                text += f" - {name}: {total}"
                continue
            mean = float(np.mean(total / max(1, weight)))
            text += f" - {name}: {mean:.4f}" if abs(mean) > 1e-3 else f" - {name}: {mean:.4e}"
        return text

    def _show(self, current: int, finished: bool) -> None:
        if self._bar is None and self._lines is None:
            if getattr(self._file, "isatty", lambda: False)() or _in_notebook():
                self._bar = self._new_bar()
            else:
                self._lines = _Lines(self.target, self._started)
        if self._lines is not None:
            if self._lines.wants(current, finished):
                self._write(self._plain_line())
            return
        if self.target is not None and current > self.target:
            self._bar.total = None
        self._bar.set_postfix_str(self._metrics().removeprefix(" - "), refresh=False)
        self._bar.update(current - self._bar.n)
        if finished:
            self._bar.refresh()
            self._bar.close()

    def _new_bar(self) -> Any:
        from tqdm.auto import tqdm

        class Bar(tqdm):  # type: ignore[type-arg]
            monitor_interval = 0  # no watching thread: a forked child would inherit its lock

        layout = f"{{desc}}{{n_fmt}}/{{total_fmt}} [{{bar:{self.width}}}] {{remaining}} {{rate_fmt}}{{postfix}}"
        known = self.target is not None
        return Bar(
            total=self.target,
            mininterval=self.interval,
            miniters=1,
            unit=self._unit,
            unit_scale=self._unit == "B",
            unit_divisor=1024,
            desc=self._description,
            bar_format=layout if known else None,
            file=self._file,
        )

    def _plain_line(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self._seen_so_far / elapsed
        total = "?" if self.target is None else self._amount(self.target)
        line = f"{self._description + ': ' if self._description else ''}{self._amount(self._seen_so_far)}/{total}"
        if self.target is not None and rate > 0 and self._seen_so_far < self.target:
            line += f" - ETA: {(self.target - self._seen_so_far) / rate:.0f}s"
        else:
            line += f" - {elapsed:.0f}s"
        return f"{line} - {self._amount(rate)}{'/s' if self._unit == 'B' else ' ' + self._unit + '/s'}{self._metrics()}"

    def _amount(self, number: float) -> str:
        if self._unit != "B":
            return f"{number:.4g}" if isinstance(number, float) else str(number)
        value = float(number)
        for prefix in ("", "Ki", "Mi", "Gi"):
            if abs(value) < 1024:
                return f"{value:.4g} {prefix}B"
            value /= 1024
        return f"{value:.4g} TiB"

    def _write(self, line: str) -> None:
        printable = "".join(letter if letter.isprintable() else "?" for letter in line)
        self._file.write(printable + "\n")
        self._file.flush()


class _Lines:
    """Decides which of thousands of updates is worth a line in a log."""

    def __init__(self, target: int | None, started: float) -> None:
        self.target = target
        self.ended = False
        self._last = started
        self._gap = QUIET_SECONDS
        self._count = 0
        self._next_share = 0.0

    def wants(self, current: int, finished: bool) -> bool:
        if self.ended:
            return False
        if finished:
            self.ended = True
            return True
        now = time.monotonic()
        if now - self._last < self._gap:
            return False
        if self.target is None:
            if self._count >= _LINES_OF_AN_UNKNOWN_TARGET:
                return False
            self._gap *= 2
        else:
            share = current / self.target
            if share < self._next_share or self._count >= _LINES_OF_A_KNOWN_TARGET:
                return False
            self._next_share = (int(share * _LINES_OF_A_KNOWN_TARGET) + 1) / _LINES_OF_A_KNOWN_TARGET
        self._last = now
        self._count += 1
        return True


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code; a program that only uses the library of one is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return shell is not None and "IPKernelApp" in shell.config


def _plain(value: Any) -> Any:
    """A number without a graph or a device behind it; text and None as text."""
    if value is None or isinstance(value, str):
        return str(value)
    return value.item() if hasattr(value, "item") and np.size(getattr(value, "shape", ())) == 0 else value
