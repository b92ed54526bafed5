"""Windows that slide over a time series, in batches."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchkutils._keras_names import taken_for_keras
from torchkutils.data.sequence import Sequence

__all__ = ["timeseries_dataset_from_array"]


@taken_for_keras(format=("tf", "grain"))
def timeseries_dataset_from_array(
    data: Any,
    targets: Any,
    sequence_length: int,
    sequence_stride: int = 1,
    sampling_rate: int = 1,
    batch_size: int | None = 128,
    shuffle: bool = False,
    seed: int | None = None,
    start_index: int | None = None,
    end_index: int | None = None,
) -> Sequence:
    """Give batches of windows that slide over a series of time steps.

    Args:
        data: Shape (steps, …): an array, a tensor, or anything with a length that slices give arrays of
            (`HDF5Matrix`).
        targets: The target of the window that begins at each step, indexed as `data` is. None: windows alone.
        sequence_length: Steps L in a window.
        sequence_stride: Steps between the beginnings of two windows.
        sampling_rate: Steps between two neighbours inside a window.
        batch_size: Windows in a batch; the last may have fewer. None gives single windows.
        shuffle: Draw the order of the windows, once; the same as Keras's for the same seed.
        seed: Of that order. None draws one from NumPy's generator, as in Keras.
        start_index: Steps before it are not used.
        end_index: Steps from it on are not used.

    Returns:
        A `Sequence` of batches (windows, targets), or of windows: shape (batch, L, …), arrays for arrays, tensors for
        tensors. A batch is a copy; nothing else is copied.

    Raises:
        TypeError: An argument that must be an integer is none.
        ValueError: An argument is out of range, or no window fits between `start_index` and `end_index`.

    Differs from Keras 3: it gives a `Sequence` (use `.loader(…)` for workers and for a new order each epoch),
    `end_index` may be the number of steps, and a window that never fits raises instead of giving no batch. Keras's
    `format` may be given and has no effect.

    >>> windows = timeseries_dataset_from_array(np.arange(6), np.arange(6) * 10, sequence_length=3, batch_size=2)
    >>> x, y = windows[1]
    >>> x.tolist(), y.tolist()
    ([[2, 3, 4], [3, 4, 5]], [20, 30])
    """
    numbers = {"sequence_length": sequence_length, "sequence_stride": sequence_stride, "sampling_rate": sampling_rate}
    if batch_size is not None:
        numbers["batch_size"] = batch_size
    for argument, number in numbers.items():
        if _integer(number, argument) < 1:
            raise ValueError(f"{argument} must be 1 or more, got {number}")
    first, end = _bounds(len(data), start_index, end_index)
    count = end - first - (sequence_length - 1) * sampling_rate
    if count < 1:
        raise ValueError(
            f"no window fits: sequence_length={sequence_length} with sampling_rate={sampling_rate} needs "
            f"{(sequence_length - 1) * sampling_rate + 1} steps, there are {end - first}"
        )
    if targets is not None:
        count = min(count, len(targets) - first)
        if count < 1:
            raise ValueError(f"targets must reach beyond start_index={first}, got {len(targets)} of them")
    starts = np.arange(0, count, sequence_stride)
    if shuffle:
        np.random.RandomState(np.random.randint(10**6) if seed is None else seed).shuffle(starts)
    return Windows(data, targets, starts + first, sequence_length, sampling_rate, batch_size)


def _integer(value: Any, argument: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer, got {value!r}") from None


def _bounds(steps: int, start_index: int | None, end_index: int | None) -> tuple[int, int]:
    first = 0 if start_index is None else _integer(start_index, "start_index")
    end = steps if end_index is None else _integer(end_index, "end_index")
    if not 0 <= first < max(steps, 1):
        raise ValueError(f"start_index must lie in [0, {steps}), got {first}")
    if not first < end <= steps:
        raise ValueError(f"end_index must lie in ({first}, {steps}], got {end}")
    return first, end


class Windows(Sequence):
    """Batches of windows; made by `timeseries_dataset_from_array`."""

    def __init__(
        self,
        data: Any,
        targets: Any,
        starts: npt.NDArray[np.int64],
        length: int,
        rate: int,
        batch_size: int | None,
    ) -> None:
        self.data: Any = data
        self.targets: Any = targets
        self.starts = starts
        self.length: int = length
        self.rate: int = rate
        self.batch_size: int | None = batch_size

    def __len__(self) -> int:
        return len(self.starts) if self.batch_size is None else -(-len(self.starts) // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} is out of range: there are {len(self)}")
        index %= len(self)
        size = self.batch_size or 1
        starts = self.starts[index * size : (index + 1) * size]
        if self.batch_size is None:
            window = _copied(self.data[starts[0] : starts[0] + self._span : self.rate])
            return window if self.targets is None else (window, self.targets[int(starts[0])])
        windows = self._windows(starts)
        return windows if self.targets is None else (windows, self._targets(starts))

    @property
    def _span(self) -> int:
        return (self.length - 1) * self.rate + 1

    def _windows(self, starts: npt.NDArray[np.int64]) -> Any:
        if isinstance(self.data, torch.Tensor):
            sliding = self.data.unfold(0, self._span, 1)[..., :: self.rate]
            return sliding[torch.from_numpy(starts).to(self.data.device)].movedim(-1, 1).contiguous()
        if isinstance(self.data, np.ndarray):
            views = np.lib.stride_tricks.sliding_window_view(self.data, self._span, axis=0)[..., :: self.rate]
            return np.ascontiguousarray(np.moveaxis(views[starts], -1, 1))
        parts = [self.data[int(start) : int(start) + self._span][:: self.rate] for start in starts]
        return torch.stack(parts) if isinstance(parts[0], torch.Tensor) else np.stack(parts)

    def _targets(self, starts: npt.NDArray[np.int64]) -> Any:
        if isinstance(self.targets, torch.Tensor):
            return self.targets[torch.from_numpy(starts).to(self.targets.device)]
        if isinstance(self.targets, list | tuple):
            return np.asarray([self.targets[int(start)] for start in starts])
        return self.targets[starts]


def _copied(rows: Any) -> Any:
    return rows.clone() if isinstance(rows, torch.Tensor) else np.array(rows)
