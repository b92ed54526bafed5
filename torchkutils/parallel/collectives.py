"""Tensors of all ranks: rank 0's, everyone's, and outputs joined inside the graph."""

from __future__ import annotations

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


def from_first(own: Tensor, device: torch.device, source: int = 0) -> Tensor:
    """The tensor of rank 0, or of another one, on `device`."""
    first = own.detach().resolve_conj().resolve_neg().to(device, copy=True).contiguous()
    distributed.broadcast(first.view(-1).view(torch.uint8), src=source)
    return first


@torch.no_grad()
def take_from_first(tensors: Sequence[Tensor], device: torch.device, source: int = 0) -> None:
    """Give tensors the values of rank 0, or of another one, in place; those of one dtype in one message."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            by_dtype.setdefault(tensor.dtype, []).append(tensor)
    for alike in by_dtype.values():
        own = torch.cat([tensor.detach().resolve_conj().resolve_neg().to(device).reshape(-1) for tensor in alike])
        first = from_first(own, device, source)
        # A graph may hold the tensors: they are written only where the ranks differ.
        if torch.equal(first, own):
            continue
        lengths = [one.numel() for one in alike]
        for tensor, mine, value in zip(alike, torch.split(own, lengths), torch.split(first, lengths), strict=True):
            if not torch.equal(mine, value):
                tensor.copy_(value.view(tensor.shape))


def average_gradients(tensors: Sequence[Tensor]) -> None:
    """Give every tensor the mean of all ranks' gradients; a rank without one counts as zeros.

    The mean of gradients that are equal on all ranks is that gradient: what was exchanged before stays as it is.
    """
    world = distributed.get_world_size()
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    with torch.no_grad():
        for tensor in tensors:
            gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            if gradient.is_sparse:
                gradient = gradient.to_dense()
            tensor.grad = gradient
            by_dtype.setdefault(gradient.dtype, []).append(gradient)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / world
            distributed.all_reduce(flat)
            for gradient, part in zip(gradients, torch.split(flat, [one.numel() for one in gradients]), strict=True):
                gradient.copy_(part.view(gradient.shape))


def join_ranks(tensor: Tensor, lengths: Sequence[int], axis: int) -> Tensor:
    """The tensors of all ranks along an axis, on every rank; `lengths` are those along that axis."""
    if axis:
        return join_ranks(tensor.movedim(axis, 0), lengths, 0).movedim(0, axis)
    rows: Tensor = _AllGather.apply(tensor, list(lengths))  # type: ignore[no-untyped-call]
    return rows


def add_ranks(tensor: Tensor, weight: float) -> Tensor:
    """The weighted sum of all ranks' tensors of one shape, on every rank."""
    plain = tensor if tensor.is_floating_point() or tensor.is_complex() else tensor.to(torch.get_default_dtype())
    if not weight:
        # A mean over nothing is not a number, and would stay so times 0.
        plain = plain.nan_to_num()
    stacked: Tensor = _AllGather.apply((plain * weight)[None], [1] * distributed.get_world_size())  # type: ignore[no-untyped-call]
    return stacked.sum(0)


def own_of_all(tensor: Tensor) -> Tensor:
    """A tensor that only its own rank has in a graph, while every rank computes with it: see `_AllGather`."""
    own: Tensor = _OwnOfAll.apply(tensor)  # type: ignore[no-untyped-call]
    return own


class _OwnOfAll(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * distributed.get_world_size()


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
