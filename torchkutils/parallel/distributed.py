"""multi_gpu_model on torch.distributed: one process a device, gradients averaged by DistributedDataParallel."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchkutils.parallel.distributed_buffers import RankBuffers
from torchkutils.parallel.parallel_model import TemplateView
from torchkutils.parallel.scatter_gather import batch_length, plan_shards, scatter, shard_weights
from torchkutils.parallel.structure import Structure


def in_group() -> bool:
    """Whether this process belongs to a process group of more than one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank_device() -> torch.device:
    """The device of this rank: a GPU by LOCAL_RANK under NCCL, else the CPU.

    Raises:
        ValueError: No process group, or a LOCAL_RANK that names no GPU of this machine.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError(
            "strategy='ddp' needs a process group, got none; start under torchrun and call "
            "torch.distributed.init_process_group() first"
        )
    if "nccl" not in str(distributed.get_backend()):
        return torch.device("cpu")
    local, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if local is None or not local.isdecimal() or int(local) >= count:
        raise ValueError(f"LOCAL_RANK must be one of the {count} GPUs here, got {local!r}; torchrun sets it")
    return torch.device("cuda", int(local))


class DistributedModel(TemplateView):
    """One rank's part of a model under DistributedDataParallel; made by `multi_gpu_model`."""

    def __init__(
        self, template: nn.Module, device: torch.device, *, outputs: str, split: str, buffers: str, cpu_merge: bool
    ) -> None:
        super().__init__(template)
        template.to(device)
        ids = [device.index] if device.type == "cuda" else None
        object.__setattr__(self, "_settings", (device, outputs, split, torch.device("cpu") if cpu_merge else device))
        # The buffers are brought together after each forward, not before the next one.
        engine: nn.Module = template
        if any(parameter.requires_grad for parameter in template.parameters()):
            engine = nn.parallel.DistributedDataParallel(template, device_ids=ids, broadcast_buffers=False)
        object.__setattr__(self, "_engine", engine)
        object.__setattr__(self, "_rank_buffers", RankBuffers(template, buffers))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """This rank's outputs (`local`), or the whole batch's on every rank (`merged`)."""
        device, outputs, split, merge_on = self._settings
        if outputs == "local":
            with self._rank_buffers.recorded():
                result = self._engine(*args, **kwargs)
            if self.training and torch.is_grad_enabled():
                self._rank_buffers.settle(device)
            return result
        whole = Structure((args, kwargs), "arguments")
        rank, world = distributed.get_rank(), distributed.get_world_size()
        problem: Exception | None = None
        length = 0
        try:
            length = batch_length([whole])
            if length < world:
                problem = ValueError(f"a merged batch must hold a sample for each of the {world} ranks, got {length}")
        except (TypeError, ValueError) as err:
            problem = err
        _check_same(whole, device, problem)
        plan = plan_shards(length, [device] * world, split)
        mine, named = scatter(whole, plan)[rank]
        try:
            with self._rank_buffers.recorded(), _own_random_numbers(device):
                output = Structure(self._engine(*mine, **named), "output")
            _check_rows(output, plan[rank].length)
        except Exception as err:
            problem = err
        _agree(problem, device)
        if self.training:
            self._rank_buffers.settle(device)
        weights, lengths = shard_weights(plan), [shard.length for shard in plan]
        return output.filled([_merge(leaf, weights, lengths, merge_on) for leaf in output.leaves])

    def sharded_loss(self, *_: Any, **__: Any) -> Tensor:
        """Not built for several processes.

        Raises:
            NotImplementedError: Always; with `outputs='local'` each rank computes its own loss.
        """
        raise NotImplementedError(
            "sharded_loss is built for strategy='replicate' only; use outputs='local' under 'ddp'"
        )


def _check_same(batch: Structure, device: torch.device, problem: Exception | None) -> None:
    """Raise on every rank unless all ranks hold the same usable batch."""
    digest = hashlib.sha256(repr(batch.paths).encode())
    for leaf in batch.leaves:
        if isinstance(leaf, Tensor):
            plain = leaf.detach().cpu().contiguous()
            digest.update(repr((plain.dtype, tuple(plain.shape))).encode())
            digest.update(plain.view(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b"")
        else:
            digest.update(_content(leaf))
    content = list(digest.digest()) if problem is None else [0] * 32
    own = torch.tensor([*content, 0 if problem is None else 1], dtype=torch.int64, device=device)
    everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, own)
    if problem is not None:
        raise problem
    unequal = [rank for rank, other in enumerate(everyone) if not torch.equal(other, everyone[0])]
    if unequal:
        raise ValueError(
            "outputs='merged' takes the same batch on every rank, got another one than rank 0's on rank "
            f"{', '.join(map(str, unequal))}; use outputs='local' for each rank's own"
        )


def _content(value: Any) -> bytes:
    """What tells a plain argument from another one, alike in all processes."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return repr(value).encode()
    if isinstance(value, (set, frozenset)):
        # Sets of strings have another order in each process.
        return repr(sorted(map(repr, value))).encode()
    try:
        return pickle.dumps(value)
    except Exception:
        return type(value).__name__.encode()


@contextlib.contextmanager
def _own_random_numbers(device: torch.device) -> Iterator[None]:
    """Let the ranks draw different numbers; afterwards their generators stand alike again."""
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    seed = (seed + distributed.get_rank() * 0x9E3779B97F4A7C15) % 2**63
    gpus = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield


def _check_rows(output: Structure, length: int) -> None:
    for path, leaf in zip(output.paths, output.leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] != length:
            raise ValueError(
                f"{path} must have one row a sample to be merged over ranks, got shape {tuple(leaf.shape)} for "
                f"{length} samples; use outputs='local'"
            )


def _agree(problem: Exception | None, device: torch.device) -> None:
    """Raise on every rank if the forward failed on one: none waits for outputs that never come."""
    own = torch.tensor([problem is not None], dtype=torch.int64, device=device)
    everyone = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(everyone, own)
    if problem is not None:
        raise problem
    failed = [str(rank) for rank, other in enumerate(everyone) if int(other)]
    if failed:
        raise RuntimeError(f"the forward must succeed on every rank, got an exception on rank {', '.join(failed)}")


def _merge(leaf: Any, weights: list[float], lengths: list[int], target: torch.device) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.ndim == 0:
        plain = leaf if leaf.is_floating_point() or leaf.is_complex() else leaf.to(torch.get_default_dtype())
        weighted = (plain * weights[distributed.get_rank()]).reshape(1)
        joined: Tensor = _AllGather.apply(weighted, [1] * len(lengths))  # type: ignore[no-untyped-call]
        return joined.sum().to(target)
    rows: Tensor = _AllGather.apply(leaf, lengths)  # type: ignore[no-untyped-call]
    return rows.to(target)


class _AllGather(torch.autograd.Function):
    """Every rank's rows on every rank. Each rank computes the same loss and DDP averages: hence the factor."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int]) -> Tensor:
        rank, longest = distributed.get_rank(), max(lengths)
        ctx.part = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        # Collectives want one size on all ranks.
        own = rows.new_zeros((longest, *rows.shape[1:]))
        own[: rows.shape[0]] = rows
        parts = [torch.empty_like(own) for _ in lengths]
        distributed.all_gather(parts, own)
        return torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.part] * distributed.get_world_size(), None
