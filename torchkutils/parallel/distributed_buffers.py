"""Running statistics and other buffers of the ranks, brought together after a forward in training mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn

from torchkutils.parallel.batch_norm import RunningNorm, Statistics, is_stock, recorder, update_statistics
from torchkutils.parallel.collectives import take_from_first
from torchkutils.parallel.control import Control

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
_Calls = list[tuple[RunningNorm, list[Statistics]]]


class RankBuffers:
    """Records what the normalisations of this rank's template see, and merges it over the ranks."""

    def __init__(self, template: nn.Module, mode: str, control: Control) -> None:
        self._template = template
        self._mode = mode
        self._control = control
        self._calls: _Calls = []

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the running statistics as they are during a forward, and record the shard's own instead."""
        self._calls = []
        with contextlib.ExitStack() as stack:
            for module in self._merged_norms():
                calls: list[Statistics] = []
                self._calls.append((module, calls))
                stack.enter_context(_own_statistics(module, calls))
            yield

    @torch.no_grad()
    def settle(self, device: torch.device, *, counts: bool = True) -> None:
        """Merge the statistics over the ranks and take all other buffers from rank 0; called by every rank.

        Args:
            device: This rank's.
            counts: False where this rank had no sample, and computed another rank's to keep pace.
        """
        with torch.inference_mode(False):
            merged = {id(module._buffers[name]) for module, _ in self._calls for name in _STATISTICS}
            if self._calls:
                self._merge_statistics(device, counts)
            others = [buffer for buffer in self._template.buffers() if id(buffer) not in merged]
            take_from_first([buffer for buffer in others if not buffer.requires_grad], device)

    def _merge_statistics(self, device: torch.device, counts: bool) -> None:
        number_of_calls = [len(calls) for _, calls in self._calls]
        if not counts:
            for _, calls in self._calls:
                for call in calls:
                    call.count = 0
        # Ranks that called a normalisation more often count by their first calls.
        messages = self._control.agree("merging running statistics", number=hash(tuple(number_of_calls)))
        if len({one.number for one in messages}) > 1:
            number_of_calls = [min(column) for column in zip(*self._control.objects(number_of_calls), strict=True)]
        calls_of = [calls[:number] for (_, calls), number in zip(self._calls, number_of_calls, strict=True)]
        ranks = _gathered([call for calls in calls_of for call in calls], device)
        for (module, _), number in zip(self._calls, number_of_calls, strict=True):
            for _ in range(number):
                update_statistics(module, [next(calls) for calls in ranks])

    def _merged_norms(self) -> list[RunningNorm]:
        if self._mode != "merged":
            return []
        # SyncBatchNorm couples the ranks itself: its statistics are those of all shards already.
        return [
            module
            for module in self._template.modules()
            if isinstance(module, RunningNorm)
            and is_stock(module)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.training
            and module.running_mean is not None
        ]


@contextlib.contextmanager
def _own_statistics(module: RunningNorm, calls: list[Statistics]) -> Iterator[None]:
    kept = {name: module._buffers[name] for name in _STATISTICS}
    momentum = module.momentum
    # Clones, so that autograd never holds the buffers that are changed after the forward.
    module._buffers.update({name: None if held is None else held.clone() for name, held in kept.items()})
    # With a momentum of 1 the running statistics are the shard's own.
    module.momentum = 1.0
    handle = module.register_forward_hook(recorder(calls))
    try:
        yield
    finally:
        handle.remove()
        module.momentum = momentum
        module._buffers.update(kept)


def _gathered(calls: list[Statistics], device: torch.device) -> list[Iterator[Statistics]]:
    """Every rank's statistics of the same calls, in one message: for each rank, one call after another."""
    if not calls:
        return []
    counts = torch.tensor([call.count for call in calls], dtype=torch.float64)
    own = torch.cat([counts.to(device), *[part.double() for call in calls for part in (call.mean, call.variance)]])
    rows = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(rows, own)
    # The only wait for the device: all counts at once.
    numbers = torch.stack([row[: len(calls)] for row in rows]).tolist()
    return [_unpacked(row[len(calls) :], calls, count) for row, count in zip(rows, numbers, strict=True)]


def _unpacked(row: Tensor, calls: list[Statistics], counts: list[float]) -> Iterator[Statistics]:
    parts = iter(torch.split(row, [size for call in calls for size in (call.mean.numel(), call.variance.numel())]))
    for call, count in zip(calls, counts, strict=True):
        mean, variance = next(parts).to(call.mean.dtype), next(parts).to(call.variance.dtype)
        yield Statistics(int(count), mean, variance)
