"""This process's place in a process group: whether there is one, its device, its random numbers; small helpers."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, distributed

from torchkutils._nested import rebuild
from torchkutils.parallel.collectives import from_everyone
from torchkutils.parallel.nested_batches import contents


def in_group() -> bool:
    """Whether this process belongs to a process group of more than one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank_device(strategy: str) -> torch.device:
    """The device of this rank: a GPU by LOCAL_RANK where the group has a backend for GPUs, else the CPU.

    Raises:
        ValueError: No process group, or a LOCAL_RANK that names no GPU of this machine.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError(
            f"strategy={strategy!r} needs a process group, got none; start under torchrun and call "
            "torch.distributed.init_process_group() first"
        )
    if not _group_has_gpus():
        return torch.device("cpu")
    local, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if local is None or not local.isdecimal() or int(local) >= count:
        raise ValueError(f"LOCAL_RANK must be one of the {count} GPUs here, got {local!r}; torchrun sets it")
    return torch.device("cuda", int(local))


def _group_has_gpus() -> bool:
    backend = str(distributed.get_backend())
    if "nccl" in backend:
        return True
    # A group that was made without a backend is called 'undefined', and has one for each kind of device. Whoever
    # names gloo gets it for GPUs too, and means the CPU.
    pairs = dict(pair.split(":", 1) for pair in distributed.get_backend_config().split(",") if ":" in pair)
    on_gpus = pairs.get("cuda", "nccl" if backend == "undefined" else "gloo")
    return torch.cuda.is_available() and on_gpus not in ("gloo", "mpi", "fake")


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Let the ranks draw different numbers, the same again for the same seed.

    A block that draws nothing leaves the generators as they were. After one that draws, they stand where one number
    was drawn, on every rank alike.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(torch.cuda.default_generators[device.index or 0])
    before = [generator.get_state() for generator in generators]
    for generator, state in zip(generators, before, strict=True):
        digest = hashlib.sha256(state.numpy().tobytes()).digest()
        seed = int.from_bytes(digest[:8], "little")
        generator.manual_seed((seed + distributed.get_rank() * 0x9E3779B97F4A7C15) % 2**63)
    seeded = [generator.get_state() for generator in generators]
    try:
        yield
    finally:
        for generator, old, new in zip(generators, before, seeded, strict=True):
            drew = not torch.equal(generator.get_state(), new)
            generator.set_state(old)
            if drew:
                torch.empty((), dtype=torch.int64, device=generator.device).random_(generator=generator)


def is_main_process() -> bool:
    """Whether this is the process that prints, logs and writes files: rank 0, or the only one there is.

    >>> is_main_process()
    True
    """
    return not in_group() or distributed.get_rank() == 0


def gather_for_metrics(value: Any, *, length: int | None = None) -> Any:
    """The values of all ranks, on every rank: predictions and labels of an evaluation in which each rank had its share.

    Args:
        value: A tensor, or tuples, lists, dicts and other containers of them. Tensors are joined along axis 0, in the
            order of the ranks, and may be of different lengths; 0-d tensors are stacked. Other values become a list
            with one entry a rank.
        length: How many rows there are in truth, where the ranks' shares were filled up to one length: the rest,
            which repeats samples, is cut off. None: all rows count.

    Returns:
        The same containers, tensors without a graph on this rank's device. Outside a process group: `value`, detached.

    Raises:
        TypeError: A PackedSequence inside.
        ValueError: `length` is larger than what there is, or tensors differ in more than axis 0.

    >>> gather_for_metrics(torch.tensor([1, 2, 3]), length=2)
    tensor([1, 2])
    """
    if isinstance(value, Tensor):
        return _cut(_gathered_tensor(value.detach()), length)
    held = contents(value, "value")
    if held is not None:
        return rebuild(value, [gather_for_metrics(part, length=length) for part in held.values])
    if not in_group():
        return value
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, value)
    return everyone


def _gathered_tensor(tensor: Tensor) -> Tensor:
    if not in_group():
        return tensor
    shapes: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(shapes, (tuple(tensor.shape), str(tensor.dtype)))
    if len({(shape[1:], len(shape), dtype) for shape, dtype in shapes}) > 1:
        raise ValueError(f"tensors must differ in axis 0 alone to be gathered, got {shapes} on the ranks")
    if tensor.ndim == 0:
        return torch.stack(from_everyone(tensor))
    longest = max(shape[0] for shape, _ in shapes)
    own = tensor.new_zeros((longest, *tensor.shape[1:]))
    own[: tensor.shape[0]] = tensor
    return torch.cat([part[: shape[0]] for part, (shape, _) in zip(from_everyone(own), shapes, strict=True)])


def _cut(tensor: Tensor, length: int | None) -> Tensor:
    if length is None:
        return tensor
    if tensor.ndim == 0 or length > tensor.shape[0]:
        rows = tensor.shape[0] if tensor.ndim else 1
        raise ValueError(f"length must be at most the number of rows that were gathered, {rows}, got {length}")
    return tensor[:length]
