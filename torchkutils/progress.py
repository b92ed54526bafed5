"""Progbar: Keras's progress bar with running averages; `_progress_drawings` draws it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TextIO, TypeAlias

import numpy as np
import torch

from torchkutils._keras_names import also_called
from torchkutils._printable import printable
from torchkutils._progress_drawings import Drawing, LogLines, Output, State, new_drawing

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
        _check_target(target)
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
        self._description = printable(description or "")
        self._output = Output(sys.stdout if file is None else file)
        self._averages: dict[str, _Average] = {}
        self._seen_so_far: int = 0
        self._started, self._finished = time.monotonic(), False
        self._drawing: Drawing | None = None

    def _reaches(self, current: int) -> bool:
        return self.target is not None and current >= self.target

    def update(self, current: int, values: Metrics | None = None, finalize: bool | None = None) -> None:
        """Report the current step.

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
        given = _pairs(values)
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
        if isinstance(self._drawing, LogLines):
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
        return [f"{printable(name)}: {average.text()}" for name, average in self._averages.items()]

    def _show(self) -> None:
        """Draw; whatever an output does must not end what it reports on."""
        if self._output.is_gone:
            return
        try:
            if self._drawing is None:
                self._drawing = new_drawing(
                    self._output, target=self.target, interval=self.interval, started=self._started
                )
            self._drawing.show(self._state())
        except Exception:
            self._output.is_gone = True

    def _state(self) -> State:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        done, target, unit = self._seen_so_far, self.target, self._unit
        head = f"{self._description}: " if self._description else ""
        head += f"{_amount(done, unit)}/{'?' if target is None else _amount(target, unit)}"
        pace = f"{_amount(done / elapsed, unit)}/s" if unit == "B" else _time_per_step(elapsed, done, unit)
        if self._finished or target is None or not done or done >= target:
            times = _duration(elapsed) + (" - " if unit == "B" else " ") + pace
        else:
            times = f"ETA: {_duration((target - done) * elapsed / done)} - {pace}"
        return State(head, times, self._metrics(), done, self._share(), self.width, self._finished)

    def _share(self) -> float | None:
        """The part that is done, None where the target is unknown; a target of 0 is reached from the start."""
        if self.target is None:
            return None
        return min(1.0, self._seen_so_far / self.target) if self.target else 1.0


def _check_target(target: Any) -> None:
    if target is not None and not (isinstance(target, int | float | np.number) and target >= 0):
        length = f"; its length is {len(target)}" if isinstance(target, Sized) else ""
        raise ValueError(f"target must be a number of steps ≥ 0, or None when unknown, got {target!r}{length}")


def _pairs(values: Metrics | None) -> list[tuple[str, Any]]:
    return list(values.items() if isinstance(values, Mapping) else values or ())


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


def _mean_of_several(values: Sequence[Any]) -> Any:
    """The mean of the means of tensors and numbers; the text of them where one has none."""
    means = [_plain(item) for item in values]
    if any(isinstance(mean, str) for mean in means):
        return printable(str(values))
    return sum(means) / len(means)


def _plain(value: Any) -> Any:
    """A number, without a graph behind it: the mean of whatever was given; a text where there is none."""
    if value is None or isinstance(value, str):
        return printable(str(value))
    if isinstance(value, torch.Tensor):
        return _mean_of_tensor(value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in value):
        return _mean_of_several(value)
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        return printable(str(value))
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
