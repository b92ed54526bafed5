"""Running statistics and other buffers of the ranks, brought together after a forward in training mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, distributed, nn

from torchkutils.parallel.batch_norm import RunningNorm, Statistics, is_stock, recorder, update_statistics
from torchkutils.parallel.collectives import from_first

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class RankBuffers:
    """Records what the normalisations of this rank's template see, and merges it over the ranks."""

    def __init__(self, template: nn.Module, mode: str) -> None:
        self._template = template
        self._mode = mode
        self._calls: list[tuple[RunningNorm, list[Statistics]]] = []

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
    def settle(self, device: torch.device) -> None:
        """Merge the statistics over the ranks and take all other buffers from rank 0; called by every rank."""
        with torch.inference_mode(False):
            merged: set[int] = set()
            for module, calls in self._calls:
                merged |= {id(module._buffers[name]) for name in _STATISTICS}
                for shards in zip(*_gather_calls(module, calls, device), strict=False):
                    update_statistics(module, shards)
            for buffer in self._template.buffers():
                if id(buffer) not in merged:
                    _take_from_first(buffer, device)

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


def _gather_calls(module: RunningNorm, calls: list[Statistics], device: torch.device) -> list[list[Statistics]]:
    """Every rank's calls of one normalisation; ranks that called it more often count by their first calls."""
    world = distributed.get_world_size()
    own = torch.tensor(len(calls), device=device)
    distributed.all_reduce(own, op=distributed.ReduceOp.MIN)
    ranks: list[list[Statistics]] = [[] for _ in range(world)]
    for call in calls[: int(own)]:
        count = torch.tensor([call.count], device=device, dtype=torch.float64)
        row = torch.cat([count, call.mean.double(), call.variance.double()])
        rows = [torch.empty_like(row) for _ in range(world)]
        distributed.all_gather(rows, row)
        for rank, values in zip(ranks, rows, strict=True):
            mean, variance = values[1:].to(call.mean.dtype).chunk(2)
            rank.append(Statistics(int(values[0]), mean, variance))
    return ranks


def _take_from_first(buffer: Tensor, device: torch.device) -> None:
    if not buffer.numel():
        return
    first = from_first(buffer, device)
    # A graph may hold the buffer: it is written only where the ranks differ.
    if not torch.equal(first, buffer):
        buffer.copy_(first)
