"""Weights on their way to other devices and gradients on their way back, in buckets.

Tensors of one dtype are packed into flat buckets of about `BUCKET_BYTES`: one copy a bucket and device instead of one
a tensor. Each bucket of trained weights is a node of the graph of its own. In backward it runs as soon as the last of
its gradients is there, while the layers before it still compute (its sequence number makes it go first): so gradients
travel while backward runs. With three devices or more beside the master's, each sums its part of a bucket over all of
them, and only sums travel to the master: what reaches it is one bucket, however many devices there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchkutils._torch_versions import run_early
from torchkutils.parallel.scatter_gather import spans_gpus

BUCKET_BYTES = 25 * 2**20
"""As DistributedDataParallel's: large enough for the links, small enough that several fit into one backward."""


class WeightTraffic:
    """Copies of a template's weights on other devices, which backward leads back to the template.

    Args:
        tensors: The template's weights, all on one device.
        devices: The other devices.

    Attributes:
        copies: For each device, a copy of each tensor, in their order; those of trained tensors are in the graph.
        copies_made: How many tensors were copied to how many devices so far.
    """

    copies_made: int

    def __init__(self, tensors: Sequence[Tensor], devices: Sequence[torch.device]) -> None:
        self.tensors: list[Tensor] = list(tensors)
        self.devices: list[torch.device] = list(devices)
        self.copies: dict[torch.device, list[Tensor]] = {device: list(tensors) for device in devices}
        self.copies_made = 0
        self._buckets = (
            [_Bucket(places, self.tensors, self.devices) for places in _bucketed(tensors)] if devices else []
        )
        for bucket in self._buckets:
            self._put(bucket)

    def _put(self, bucket: _Bucket) -> None:
        masters = [self.tensors[place] for place in bucket.places]
        if masters[0].requires_grad:
            with torch.enable_grad():
                flat = _Leave.apply(bucket, *masters)  # type: ignore[no-untyped-call]
            run_early(flat[0].grad_fn)
        else:
            flat = bucket.fill(masters)
        count = len(masters)
        for row, device in enumerate(self.devices):
            for place, copied in zip(bucket.places, flat[row * count : (row + 1) * count], strict=True):
                self.copies[device][place] = copied
        self.copies_made += count * len(self.devices)

    def refresh(self, changed: Sequence[bool]) -> None:
        """Copy all values anew; `changed`: whether a tensor's version shows a change."""
        for bucket in self._buckets:
            bucket.fill([self.tensors[place] for place in bucket.places])
            self.copies_made += len(bucket.places) * len(self.devices)
        written = [copies[place] for copies in self.copies.values() for place, new in enumerate(changed) if new]
        for copied in written:
            # The copy itself leaves no trace: two forwards before one backward stay valid unless weights changed.
            torch.autograd.graph.increment_version(copied)


def _bucketed(tensors: Sequence[Tensor]) -> list[list[int]]:
    """Places of tensors that travel together: of one dtype, all trained or none, and of `BUCKET_BYTES` or less."""
    open_buckets: dict[Any, tuple[list[int], int]] = {}
    closed: list[list[int]] = []
    for place, tensor in enumerate(tensors):
        size = tensor.numel() * tensor.element_size()
        # A flat bucket keeps no strides: tensors of another memory format travel by themselves.
        plain = tensor.is_contiguous() and not tensor.is_sparse
        key = (tensor.dtype, tensor.requires_grad, plain or place)
        places, filled = open_buckets.get(key, ([], 0))
        if places and filled + size > BUCKET_BYTES:
            closed.append(places)
            places, filled = [], 0
        places.append(place)
        open_buckets[key] = (places, filled + size)
    return closed + [places for places, _ in open_buckets.values()]


@dataclass(frozen=True)
class _Slot:
    start: int
    stop: int
    shape: torch.Size


class _Bucket:
    """Some tensors in one flat piece of memory on each device."""

    def __init__(self, places: list[int], tensors: Sequence[Tensor], devices: Sequence[torch.device]) -> None:
        self.places = places
        self.devices = list(devices)
        self.home = tensors[places[0]].device
        self._alone = len(places) == 1
        self._flats: list[Tensor] = []
        self._staging: Tensor | None = None
        self._sent: Any = None
        self.slots: list[_Slot] = []
        start = 0
        for place in places:
            stop = start + tensors[place].numel()
            self.slots.append(_Slot(start, stop, tensors[place].shape))
            start = stop

    def fill(self, masters: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Bring the masters' values to every device; the first time, give the copies, one device after another."""
        with torch.no_grad():
            flat = masters[0].detach() if self._alone else self._packed(masters)
            if self._flats:
                self._send(flat, self._flats)
                return ()
            self._flats = [torch.empty_like(flat, device=device) for device in self.devices]
            self._send(flat, self._flats)
            # Through .data: each copy has a version of its own, for an optimizer may change one weight alone.
            if self._alone:
                return tuple(one.data for one in self._flats)
            return tuple(one[s.start : s.stop].view(s.shape).data for one in self._flats for s in self.slots)

    def _packed(self, masters: Sequence[Tensor]) -> Tensor:
        parts = [master.detach().reshape(-1) for master in masters]
        if self.home.type != "cpu" or not any(device.type == "cuda" for device in self.devices):
            return torch.cat(parts)
        # Only from pinned memory a GPU copies beside the CPU's own work; it must have read before this is written.
        if self._sent is not None:
            self._sent.synchronize()
        if self._staging is None:
            self._staging = torch.empty(self.slots[-1].stop, dtype=parts[0].dtype, pin_memory=True)
        return torch.cat(parts, out=self._staging)

    def _send(self, flat: Tensor, targets: Sequence[Tensor]) -> None:
        if not spans_gpus([target.device for target in targets]):
            for target in targets:
                target.data.copy_(flat, non_blocking=target.device.type == "cuda")
            self._note_sending(targets[:1])
            return
        from torch.nn.parallel.comm import broadcast

        if self.home.type != "cuda":
            # From a CPU master first to one GPU, and from there to the others.
            targets[0].data.copy_(flat, non_blocking=True)
            self._note_sending(targets[:1])
            flat, targets = targets[0], targets[1:]
        broadcast(flat.data, out=[target.data for target in targets])  # type: ignore[no-untyped-call]

    def _note_sending(self, targets: Sequence[Tensor]) -> None:
        if self._staging is not None and targets[0].device.type == "cuda":
            self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._sent.record(torch.cuda.current_stream(targets[0].device))

    def collect(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The sum of each tensor's gradients on the home device; None where none came."""
        count = len(self.slots)
        rows = [list(gradients[row * count : (row + 1) * count]) for row in range(len(self.devices))]
        columns = list(zip(*rows, strict=True))
        packed = [place for place, column in enumerate(columns) if _packs(column)]
        sums = dict(zip(packed, self._sums_of_packed(rows, packed), strict=True))
        # No gradient on some device, or a sparse one.
        return [sums[place] if place in sums else _sum_of_present(self.home, columns[place]) for place in range(count)]

    def _sums_of_packed(self, rows: Sequence[Sequence[Tensor | None]], places: Sequence[int]) -> list[Tensor]:
        """The sums of gradients that every device has, in one addition a device."""
        if not places:
            return []
        total = sum_on(self.home, [torch.cat([_flat(row[place]) for place in places]) for row in rows])
        shapes = [self.slots[place].shape for place in places]
        parts = torch.split(total, [shape.numel() for shape in shapes])
        return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _sum_of_present(home: torch.device, column: Sequence[Tensor | None]) -> Tensor | None:
    present = [gradient for gradient in column if gradient is not None]
    return sum_on(home, present) if present else None


def _packs(column: Sequence[Tensor | None]) -> bool:
    return all(gradient is not None and gradient.layout is torch.strided for gradient in column)


def _flat(gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return gradient.reshape(-1)


def sum_on(home: torch.device, pieces: Sequence[Tensor]) -> Tensor:
    """The sum of equally long tensors of several devices, on `home`.

    Of three or more dense ones each device sums its part, and the sums travel: `home` receives one tensor's length.
    """
    if len(pieces) < 3 or pieces[0].is_sparse or pieces[0].numel() < len(pieces):
        total = pieces[0].to(home)
        for piece in pieces[1:]:
            total = total + piece.to(home)
        return total
    shape = pieces[0].shape
    parts = [torch.tensor_split(piece.reshape(-1), len(pieces)) for piece in pieces]
    return torch.cat([part.to(home) for part in _sums_of_parts(pieces, parts)]).view(shape)


def _sums_of_parts(pieces: Sequence[Tensor], parts: Sequence[Sequence[Tensor]]) -> Iterator[Tensor]:
    for place, owner in enumerate(pieces):
        total = parts[0][place].to(owner.device)
        for other in parts[1:]:
            total = total + other[place].to(owner.device)
        yield total


class _Leave(torch.autograd.Function):
    """`apply(bucket, *masters)` → each master on the first device, then each on the second, and so on.

    It saves nothing, so one node serves any number of backward passes. A tensor that took no part gets no gradient.
    """

    @staticmethod
    def forward(ctx: Any, bucket: _Bucket, *masters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.bucket = bucket
        return bucket.fill(masters)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *ctx.bucket.collect(gradients))
