"""This process's place in a process group: whether there is one, its device, its random numbers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from torch import distributed


def in_group() -> bool:
    """Whether this process belongs to a process group of more than one."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def rank_device(strategy: str) -> torch.device:
    """The device of this rank: a GPU by LOCAL_RANK under NCCL, else the CPU.

    Raises:
        ValueError: No process group, or a LOCAL_RANK that names no GPU of this machine.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        raise ValueError(
            f"strategy={strategy!r} needs a process group, got none; start under torchrun and call "
            "torch.distributed.init_process_group() first"
        )
    if "nccl" not in str(distributed.get_backend()):
        return torch.device("cpu")
    local, count = os.environ.get("LOCAL_RANK"), torch.cuda.device_count()
    if local is None or not local.isdecimal() or int(local) >= count:
        raise ValueError(f"LOCAL_RANK must be one of the {count} GPUs here, got {local!r}; torchrun sets it")
    return torch.device("cuda", int(local))


@contextlib.contextmanager
def own_random_numbers(device: torch.device) -> Iterator[None]:
    """Let the ranks draw different numbers; afterwards their generators stand alike again."""
    seed = int(torch.empty((), dtype=torch.int64, device="cpu").random_())
    seed = (seed + distributed.get_rank() * 0x9E3779B97F4A7C15) % 2**63
    gpus = [device.index] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)
        for gpu in gpus:
            torch.cuda.default_generators[gpu].manual_seed(seed)
        yield
