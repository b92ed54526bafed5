"""What the ranks of a process group say to each other: batches compared, failures agreed on, outputs gathered."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed


def from_everyone(own: Tensor) -> list[Tensor]:
    """Every rank's tensor, in the order of the ranks; all have one shape and dtype."""
    # As bytes: gloo knows neither int16 nor float8.
    plain = own.detach().resolve_conj().resolve_neg().contiguous().view(-1).view(torch.uint8)
    parts = [torch.empty_like(plain) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, plain)
    return [part.view(own.dtype).view(own.shape) for part in parts]


def from_first(own: Tensor, device: torch.device) -> Tensor:
    """Rank 0's tensor, on `device`."""
    first = own.detach().resolve_conj().resolve_neg().to(device, copy=True).contiguous()
    distributed.broadcast(first.view(-1).view(torch.uint8), src=0)
    return first


def agree(
    problem: Exception | None, device: torch.device, what: str, *, content: bytes = b"", unequal: str = ""
) -> None:
    """Go on only if every rank does, and has the same content: none waits for what never comes.

    Raises:
        Exception: This rank's `problem`.
        RuntimeError: Another rank has one; `what` failed there.
        ValueError: Contents differ: `unequal`, with the ranks that differ from rank 0 in place of `{ranks}`.
    """
    own = [*(hashlib.sha256(content).digest() if problem is None else bytes(32)), problem is not None]
    everyone = from_everyone(torch.tensor(own, dtype=torch.uint8, device=device))
    if problem is not None:
        raise problem
    _refuse_failures([rank for rank, other in enumerate(everyone) if bool(other[-1])], what)
    others = [str(rank) for rank, other in enumerate(everyone) if not torch.equal(other, everyone[0])]
    if others:
        raise ValueError(unequal.format(ranks=", ".join(others)))


def lengths_of_everyone(length: int, problem: Exception | None, device: torch.device) -> list[int]:
    """Every rank's number of samples; one message, for it is sent before each step.

    Raises:
        Exception: This rank's `problem`.
        RuntimeError: Another rank has one.
    """
    own = torch.tensor(length if problem is None else -1, device=device)
    lengths = [int(one) for one in from_everyone(own)]
    if problem is not None:
        raise problem
    _refuse_failures([rank for rank, one in enumerate(lengths) if one < 0], "reading the arguments")
    return lengths


def _refuse_failures(ranks: list[int], what: str) -> None:
    if ranks:
        raise RuntimeError(f"{what} must succeed on every rank, got an exception on rank {', '.join(map(str, ranks))}")


def merge_leaf(leaf: Any, weights: Sequence[float], lengths: Sequence[int], device: torch.device) -> Any:
    """One leaf of the outputs of all ranks: rows joined, 0-d tensors and floats averaged, anything else this rank's."""
    if type(leaf) is float:
        return float(merge_scalar(torch.tensor(leaf, dtype=torch.float64, device=device), weights))
    if not isinstance(leaf, Tensor):
        return leaf
    if leaf.ndim == 0:
        return merge_scalar(leaf, weights)
    rows: Tensor = _AllGather.apply(leaf, list(lengths))  # type: ignore[no-untyped-call]
    return rows


def merge_scalar(scalar: Tensor, weights: Sequence[float]) -> Tensor:
    """The weighted sum of all ranks' 0-d tensors, on every rank."""
    plain = scalar if scalar.is_floating_point() or scalar.is_complex() else scalar.to(torch.get_default_dtype())
    weighted = (plain * weights[distributed.get_rank()]).reshape(1)
    joined: Tensor = _AllGather.apply(weighted, [1] * len(weights))  # type: ignore[no-untyped-call]
    return joined.sum()


class _AllGather(torch.autograd.Function):
    """Every rank's rows on every rank. Each rank computes the same loss, and gradients are averaged over ranks:

    hence the factor in backward.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, lengths: list[int]) -> Tensor:
        rank, longest = distributed.get_rank(), max(lengths)
        ctx.part = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        # Collectives want one size on all ranks.
        own = rows.new_zeros((longest, *rows.shape[1:]))
        own[: rows.shape[0]] = rows
        return torch.cat([part[:length] for part, length in zip(from_everyone(own), lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0][ctx.part] * distributed.get_world_size(), None
