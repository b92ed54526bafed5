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
        self._counted = self._versions()
        self._edited = False

    def _versions(self) -> int:
        return sum(buffer._version for buffer in self._template.buffers())

    def edited(self) -> bool:
        """Whether buffers were changed in place since the ranks brought them together."""
        return self._versions() != self._counted

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Put the buffers back afterwards."""
        before = [(buffer, buffer.clone()) for buffer in self._template.buffers()]
        edited = self.edited()
        try:
            yield
        finally:
            for buffer, value in before:
                # A graph may hold it.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
            if not edited:
                self._counted = self._versions()

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Keep the running statistics as they are during a forward, and record the shard's own instead."""
        self._calls = []
        self._edited = self.edited()
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
        if not self._untrained():
            return
        number_of_calls, edited = self._agreed_calls()
        with torch.inference_mode(False):
            if edited:
                self._put_firsts(device)
            if self._calls:
                self._merge_statistics(device, number_of_calls, counts)
            merged = {id(module._buffers[name]) for module, _ in self._calls for name in _STATISTICS}
            take_from_first([buffer for buffer in self._untrained() if id(buffer) not in merged], device)
        self._counted = self._versions()

    def _untrained(self) -> list[Tensor]:
        return [buffer for buffer in self._template.buffers() if not buffer.requires_grad]

    def _put_firsts(self, device: torch.device) -> None:
        """Put rank 0's buffers in place of those that another rank changed between two forwards."""
        for module in self._template.modules():
            for name, buffer in module._buffers.items():
                if buffer is None or buffer.requires_grad:
                    continue
                first = buffer.clone()
                take_from_first([first], device)
                if not torch.equal(first, buffer):
                    # A new one: the forward that has just run computed with the old one, and its graph needs it.
                    module._buffers[name] = first

    def _agreed_calls(self) -> tuple[list[int], bool]:
        """How many calls of each normalisation count, and whether a rank changed buffers between two forwards.

        No rank goes on unless all are here, and in training.
        """
        own = [len(calls) for _, calls in self._calls]
        messages = self._control.agree("merging running statistics", number=hash(tuple(own)), changes=int(self._edited))
        edited = any(one.changes for one in messages)
        if len({one.number for one in messages}) == 1:
            return own, edited
        # Ranks that called a normalisation more often count by their first calls.
        everyone = self._control.objects(own)
        if len(set(map(len, everyone))) > 1:
            raise RuntimeError("every rank must have the same normalisations in training, got another number on a rank")
        return [min(column) for column in zip(*everyone, strict=True)], edited

    def _merge_statistics(self, device: torch.device, number_of_calls: list[int], counts: bool) -> None:
        if not counts:
            for call in (call for _, calls in self._calls for call in calls):
                call.count = 0
        calls_of = [calls[:number] for (_, calls), number in zip(self._calls, number_of_calls, strict=True)]
        ranks = _gathered([call for calls in calls_of for call in calls], device)
        for (module, _), number in zip(self._calls, number_of_calls, strict=True):
            for _ in range(number):
                update_statistics(module, [next(calls) for calls in ranks])

    def _merged_norms(self) -> list[RunningNorm]:
        if self._mode != "merged":
            return []
        norms = [module for module in self._template.modules() if isinstance(module, RunningNorm)]
        return [module for module in norms if _is_merged(module)]


def _is_merged(norm: RunningNorm) -> bool:
    # SyncBatchNorm couples the ranks itself: its statistics are those of all shards already.
    own = is_stock(norm) and not isinstance(norm, nn.SyncBatchNorm)
    return own and norm.training and norm.running_mean is not None


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
