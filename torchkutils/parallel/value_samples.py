"""Samples of parameters' values, by which ranks see whether they hold the same: another part at each call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ELEMENTS = 2**13
"""Elements of one sample: what is read costs some ten microseconds, however large the model."""
TENSORS = 16
"""Tensors of one sample at most."""
_KEPT = 256
"""Samples whose views are kept: all of a small network, where making views would be most of the work."""


@dataclass
class _Part:
    """What one sample is made of.

    Attributes:
        places: The tensors.
        addresses: Where their values lay when the views were made; `.data = …` moves them.
        views: The elements that are read.
        weights: What they are multiplied by.
        next: The tensor and element at which the next sample begins.
    """

    places: list[int]
    addresses: list[int]
    views: list[Tensor]
    weights: Tensor
    next: tuple[int, int]


class ValueSamples:
    """Two sums over a part of some tensors' values; the parts of successive calls cover all of them.

    A sample is started at one call and handed out at the next, so that nobody waits for it: on the CPU it is made
    while a message travels, on an accelerator it comes back meanwhile.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = [tensor for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
        self._next = (0, 0)
        self._known: dict[tuple[int, int], _Part] = {}
        self._started: tuple[Sequence[Tensor], Any] | None = None
        self._places: list[int] = []
        self._weights = _weights()

    def take(self) -> tuple[tuple[float, float], list[int]]:
        """The sample that was started before: a weighted sum of values, their magnitude, and where from."""
        started, self._started = self._started, None
        if started is None:
            return (0.0, 0.0), []
        sums, event = started
        if event is not None:
            event.synchronize()
        weighted, squares = map(float, sums)
        # At least the sum of magnitudes.
        return (weighted, math.sqrt(squares * ELEMENTS)), self._places

    @torch.no_grad()
    def start(self) -> None:
        """Begin the next sample, of the values as they are now."""
        if not self._tensors:
            return
        part = self._part()
        self._places, self._next = part.places, part.next
        sample = part.views[0] if len(part.views) == 1 else torch.cat(part.views)
        sample = sample.to(torch.float32)
        self._started = _sent(sample.dot(part.weights), sample.dot(sample))

    def _on(self, device: torch.device) -> Tensor:
        if self._weights.device != device:
            self._weights = self._weights.to(device)
        return self._weights

    def _part(self) -> _Part:
        known = self._known.get(self._next)
        if known is not None and self._addresses(known.places) == known.addresses:
            return known
        part = self._new_part()
        if known is not None or (len(self._known) < _KEPT and self._follows(part)):
            self._known[self._next] = part
        return part

    def _follows(self, part: _Part) -> bool:
        """Whether its views show what is written to the tensors later: one of them may be a copy."""
        storages = [self._tensors[place].untyped_storage().data_ptr() for place in part.places]
        return storages == [view.untyped_storage().data_ptr() for view in part.views]

    def _addresses(self, places: Sequence[int]) -> list[int]:
        return [self._tensors[place].data_ptr() for place in places]

    def _new_part(self) -> _Part:
        places: list[int] = []
        views: list[Tensor] = []
        room = ELEMENTS
        place, start = self._next
        while room and len(places) < min(TENSORS, len(self._tensors)):
            flat = _flat(self._tensors[place])
            view = flat[start : start + room]
            views.append(view)
            places.append(place)
            room -= view.numel()
            start += view.numel()
            if start >= flat.numel():
                place, start = (place + 1) % len(self._tensors), 0
        weights = self._on(views[0].device)[: ELEMENTS - room]
        return _Part(places, self._addresses(places), views, weights, (place, start))

    def shapes(self, places: Sequence[int]) -> str:
        """Which tensors a sample was from, for a message."""
        shapes = [str(tuple(self._tensors[place].shape)) for place in places[:3]]
        return "parameters of shape " + ", ".join(shapes) if shapes else "parameters"


def _flat(tensor: Tensor) -> Tensor:
    """All elements in one axis, in the order of memory: a view, or a copy where elements are skipped or repeated."""
    tensor = tensor.detach()
    axes = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(axes).reshape(-1)


def _weights() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(ELEMENTS, generator=generator)


def _sent(*sums: Tensor) -> tuple[Sequence[Tensor], Any]:
    """Sums on their way to the CPU, and what tells that they are there."""
    if sums[0].device.type != "cuda":
        return sums, None
    copied = torch.empty(len(sums), pin_memory=True)
    copied.copy_(torch.stack(sums), non_blocking=True)
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return copied.unbind(), event


def close(one: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two samples are of the same values; rounding is allowed, since not all processors round alike."""
    if not (math.isfinite(one[1]) and math.isfinite(other[1])):
        return math.isfinite(one[1]) == math.isfinite(other[1])
    return abs(one[0] - other[0]) + abs(one[1] - other[1]) <= 1e-4 * (abs(one[1]) + abs(other[1]) + 1e-30)
