"""Whether the ranks hold the same parameters: samples of their values, another one at each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from torchkutils.parallel.control import Message

ELEMENTS = 2**13
"""Elements of one sample: what is read and sent costs some ten microseconds, however large the model."""
TENSORS = 16
"""Tensors of one sample at most."""


class ValueSamples:
    """Two sums over a part of some tensors' values; the parts of successive calls cover all of them.

    On an accelerator the sums are asked for one call later, so that nothing waits for it.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [tensor for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
        self._next = (0, 0)
        self._waiting: tuple[Tensor, Any] | None = None
        self._names: list[int] = []
        self._weights = _weights()

    def pair(self) -> tuple[float, float]:
        """A weighted sum of the next part's values, and the sum of their magnitudes."""
        if not self._tensors:
            return (0.0, 0.0)
        with torch.no_grad():
            sample = torch.cat([part.to(torch.float32) for part in self._parts()])
            sums = torch.stack([sample.dot(self._on(sample.device)[: len(sample)]), sample.abs().sum()])
        if sums.device.type == "cpu":
            weighted, magnitude = sums.tolist()
            return weighted, magnitude
        before, self._waiting = self._waiting, _started(sums)
        return _finished(before) if before is not None else (0.0, 0.0)

    def described(self) -> str:
        """Which tensors the last sample was from, for a message."""
        shapes = [str(tuple(self._tensors[place].shape)) for place in self._names[:3]]
        return "parameters of shape " + ", ".join(shapes) if shapes else "parameters"

    def _on(self, device: torch.device) -> Tensor:
        if self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights

    def _parts(self) -> list[Tensor]:
        parts: list[Tensor] = []
        self._names = []
        room = ELEMENTS
        place, start = self._next
        for _ in range(min(TENSORS, len(self._tensors))):
            part = self._tensors[place].detach().reshape(-1)[start : start + room]
            parts.append(part)
            self._names.append(place)
            room -= part.numel()
            start += part.numel()
            if start >= self._tensors[place].numel():
                place, start = (place + 1) % len(self._tensors), 0
            if not room:
                break
        self._next = (place, start)
        return parts


def _weights() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ELEMENTS, generator=generator)


def _started(sums: Tensor) -> tuple[Tensor, Any]:
    """Sums on their way to the CPU, and what tells that they are there."""
    if sums.device.type != "cuda":
        return sums.cpu(), None
    copied = torch.empty(2, pin_memory=True)
    copied.copy_(sums, non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copied, event


def _finished(copied: tuple[Tensor, Any]) -> tuple[float, float]:
    sums, event = copied
    if event is not None:
        event.synchronize()
    weighted, magnitude = sums.tolist()
    return weighted, magnitude


def differing_samples(everyone: Sequence[Message], where: str) -> None:
    """Refuse to go on with different values; rounding is allowed, since not all processors round alike.

    Raises:
        RuntimeError: Ranks hold other values than rank 0.
    """
    first = everyone[0].pair
    others = [str(rank) for rank, one in enumerate(everyone) if not _close(one.pair, first)]
    if others:
        raise RuntimeError(
            f"ranks must hold the same parameters, got other values than rank 0's on rank {', '.join(others)} "
            f"(seen in {where}); whatever changes them must do so on every rank: load a state, and draw initial "
            "values, with one seed or on all ranks before multi_gpu_model"
        )


def _close(one: tuple[float, float], other: tuple[float, float]) -> bool:
    if not (math.isfinite(one[1]) and math.isfinite(other[1])):
        return math.isfinite(one[1]) == math.isfinite(other[1])
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) <= 1e-4 * (abs(one[1]) + abs(other[1]) + 1e-30)
