"""Samples of parameters' values, by which ranks see whether they hold the same: another part at each call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

ELEMENTS = 2**13
"""Elements of one sample: what is read costs some ten microseconds, however large the model."""
TENSORS = 16
"""Tensors of one sample at most."""


class ValueSamples:
    """Two sums over a part of some tensors' values; the parts of successive calls cover all of them.

    A sample is started at one call and handed out at the next, so that nobody waits for it: on the CPU it is made
    while a message travels, on an accelerator it comes back meanwhile.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [tensor for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
        self._next = (0, 0)
        self._started: tuple[Tensor, Any] | None = None
        self._places: list[int] = []
        self._weights = _weights()

    def take(self) -> tuple[tuple[float, float], list[int]]:
        """The sample that was started before: a weighted sum of values and the sum of their magnitudes; from where."""
        started, self._started = self._started, None
        if started is None:
            return (0.0, 0.0), []
        sums, event = started
        if event is not None:
            event.synchronize()
        weighted, magnitude = sums.tolist()
        return (weighted, magnitude), self._places

    def start(self) -> None:
        """Begin the next sample, of the values as they are now."""
        if not self._tensors:
            return
        with torch.no_grad():
            parts = self._parts()
            sample = parts[0] if len(parts) == 1 else torch.cat(parts)
            sums = torch.stack([sample.dot(self._on(sample.device)[: len(sample)]), sample.norm(1)])
        self._started = _sent(sums)

    def _on(self, device: torch.device) -> Tensor:
        if self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights

    def _parts(self) -> list[Tensor]:
        parts: list[Tensor] = []
        self._places = []
        room = ELEMENTS
        place, start = self._next
        for _ in range(min(TENSORS, len(self._tensors))):
            part = self._tensors[place].detach().reshape(-1)[start : start + room]
            parts.append(part.to(torch.float32))
            self._places.append(place)
            room -= part.numel()
            start += part.numel()
            if start >= self._tensors[place].numel():
                place, start = (place + 1) % len(self._tensors), 0
            if not room:
                break
        self._next = (place, start)
        return parts

    def shapes(self, places: Sequence[int]) -> str:
        """Which tensors a sample was from, for a message."""
        shapes = [str(tuple(self._tensors[place].shape)) for place in places[:3]]
        return "parameters of shape " + ", ".join(shapes) if shapes else "parameters"


def _weights() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ELEMENTS, generator=generator)


def _sent(sums: Tensor) -> tuple[Tensor, Any]:
    """Sums on their way to the CPU, and what tells that they are there."""
    if sums.device.type != "cuda":
        return sums.cpu(), None
    copied = torch.empty(2, pin_memory=True)
    copied.copy_(sums, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copied, event


def close(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two samples are of the same values; rounding is allowed, since not all processors round alike."""
    if not (math.isfinite(one[1]) and math.isfinite(other[1])):
        return math.isfinite(one[1]) == math.isfinite(other[1])
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) <= 1e-4 * (abs(one[1]) + abs(other[1]) + 1e-30)
