"""Running statistics of all shards together, and the other buffers that a forward changed.

The shards' means and variances are pooled by the law of total variance: the whole batch's variance is the mean of
the shards' variances plus the variance of their means, each weighted by its number of elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from torchkutils._torch_versions import BatchNormBase, InstanceNormBase
from torchkutils.parallel.replicas import OwnBuffer, ReplicaSet

RunningNorm = BatchNormBase | InstanceNormBase
STOCK_FORWARDS = (BatchNormBase.forward, nn.SyncBatchNorm.forward, InstanceNormBase.forward)


@dataclass
class Statistics:
    """What one call of one normalisation saw in one shard."""

    count: int
    mean: Tensor
    variance: Tensor


class StatisticsMerger:
    """Records each shard's statistics in its replica and brings them together in the template."""

    def __init__(self, replicas: ReplicaSet, mode: str) -> None:
        self._replicas = replicas
        self._mode = mode
        self._generation = -1
        self._norms: dict[int, RunningNorm] = {}
        self._records: list[dict[int, list[Statistics]]] = []

    def prepare(self) -> None:
        """Listen to the replicas' normalisations; called before each forward."""
        if self._generation == self._replicas.generation:
            for records in self._records:
                for calls in records.values():
                    calls.clear()
            return
        self._generation = self._replicas.generation
        self._records = []
        found = [module for module in self._replicas.modules if isinstance(module, RunningNorm) and is_stock(module)]
        self._norms = {id(module): module for module in found if self._mode == "merged"}
        for replica in self._replicas.replicas:
            mine: dict[int, list[Statistics]] = {}
            for key in self._norms:
                twin: Any = replica.twins[key]
                mine[key] = []
                # With a momentum of 1 the replica's running statistics are the shard's own.
                twin.momentum = 1.0
                twin.register_forward_hook(recorder(mine[key]))
            self._records.append(mine)

    @torch.no_grad()
    def settle(self, used: Sequence[int]) -> None:
        """Bring statistics and buffers of the replicas `used` back to the template."""
        with torch.inference_mode(False):
            merged = self._records[used[0]]
            for key, module in self._norms.items():
                for shards in zip(*[self._records[place][key] for place in used], strict=False):
                    update_statistics(module, shards)
            for buffer in self._replicas.replicas[used[0]].buffers:
                if not _merges(merged, buffer):
                    _put_back(buffer)


def _merges(records: dict[int, list[Statistics]], buffer: OwnBuffer) -> bool:
    return id(buffer.module) in records and buffer.name in ("running_mean", "running_var", "num_batches_tracked")


def is_stock(module: RunningNorm) -> bool:
    """Whether a normalisation uses its momentum as torch's own do."""
    # A subclass may use its momentum in another way; its buffers are then the first replica's.
    return type(module).forward in STOCK_FORWARDS


def recorder(calls: list[Statistics]) -> Any:
    """A forward hook that appends to `calls` what a normalisation with a momentum of 1 saw."""

    def record(module: RunningNorm, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        mean, variance = module.running_mean, module.running_var
        if not module.training or mean is None or variance is None:
            return
        values = arguments[0]
        by_sample = isinstance(module, InstanceNormBase)
        count = values.shape[0] if by_sample else values.numel() // values.shape[1]
        calls.append(Statistics(count, mean.detach().clone(), variance.detach().clone()))

    return record


def update_statistics(module: RunningNorm, shards: Sequence[Statistics]) -> None:
    """One step of the template's running statistics by what all shards saw."""
    mean, variance, tracked = module.running_mean, module.running_var, module.num_batches_tracked
    shards = [shard for shard in shards if shard.count]
    if mean is None or variance is None or not shards:
        return
    pool = _pool_samples if isinstance(module, InstanceNormBase) else _pool_elements
    pooled_mean, pooled_variance = pool(shards, mean.device)
    if tracked is not None and not isinstance(module, InstanceNormBase):
        tracked.add_(1)
    momentum = _momentum(module)
    mean.mul_(1 - momentum).add_(pooled_mean, alpha=momentum)
    variance.mul_(1 - momentum).add_(pooled_variance, alpha=momentum)


def _momentum(module: RunningNorm) -> float:
    if module.momentum is not None:
        return module.momentum
    tracked = module.num_batches_tracked
    return 0.0 if isinstance(module, InstanceNormBase) or tracked is None else 1.0 / float(tracked)


def _pool_elements(shards: Sequence[Statistics], home: torch.device) -> tuple[Tensor, Tensor]:
    total = sum(shard.count for shard in shards)
    means = torch.stack([shard.mean.to(home) for shard in shards])
    variances = torch.stack([shard.variance.to(home) for shard in shards])
    counts = torch.tensor([shard.count for shard in shards], device=home, dtype=means.dtype).unsqueeze(1)
    mean = (means * counts).sum(0) / total
    # Sums of squares: each shard's variance is unbiased, and so is what comes out.
    squares = (variances * (counts - 1)).sum(0) + ((means - mean) ** 2 * counts).sum(0)
    return mean, squares / max(total - 1, 1)


def _pool_samples(shards: Sequence[Statistics], home: torch.device) -> tuple[Tensor, Tensor]:
    total = sum(shard.count for shard in shards)
    mean = torch.stack([shard.mean.to(home) * (shard.count / total) for shard in shards]).sum(0)
    variance = torch.stack([shard.variance.to(home) * (shard.count / total) for shard in shards]).sum(0)
    return mean, variance


def _put_back(buffer: OwnBuffer) -> None:
    """The first replica's buffer becomes the template's, if the forward changed it."""
    now = buffer.twin._buffers.get(buffer.name)
    # Normalisations write their statistics without a new version number.
    silent = isinstance(buffer.module, RunningNorm) and buffer.module.training
    if now is None or (now is buffer.own and now._version == buffer.version and not silent):
        return
    original = buffer.original
    if now.shape == original.shape and now.dtype == original.dtype:
        original.copy_(now)
    else:
        buffer.module._buffers[buffer.name] = now.detach().to(original.device)
