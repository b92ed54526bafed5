"""Digests by which ranks see whether they hold the same batch: at memory's speed, on the device where it lies."""

from __future__ import annotations

import functools
import hashlib
import pickle
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from torchkutils.parallel.nested_batches import walk

_WORDS = 2**13
"""8-byte words that are summed into one."""
_ROWS = {"cpu": 16}
"""How many such blocks at a time: what a processor's cache holds; an accelerator takes more."""


def fingerprint(values: Iterable[tuple[str, Any]]) -> bytes:
    """A digest of arguments with their names: paths, dtypes, shapes and values, alike in all processes.

    It tells apart what differs by accident (other rows, another order, a flip, one bit), not what an enemy made.
    """
    digest = hashlib.sha256()
    # Sums are made where the tensors lie, and come to the CPU together: one wait for a device, not one a tensor.
    sums: list[Tensor] = []
    for path, leaf in (found for name, value in values for found in walk(value, name)):
        digest.update(path.encode())
        if isinstance(leaf, Tensor):
            digest.update(repr((leaf.dtype, tuple(leaf.shape))).encode())
            sums += _sums(leaf)
        else:
            digest.update(_of_value(leaf))
    for part in _on_cpu(sums):
        digest.update(part.numpy().tobytes())
    return digest.digest()


def _on_cpu(sums: list[Tensor]) -> list[Tensor]:
    devices = {part.device for part in sums}
    if devices <= {torch.device("cpu")} or len(sums) < 2:
        return [part.cpu() for part in sums]
    by_device = [
        [part.view(torch.uint8) for part in sums if part.device == device] for device in sorted(devices, key=str)
    ]
    return [torch.cat(parts).cpu() for parts in by_device]


@torch.no_grad()
def _sums(tensor: Tensor) -> list[Tensor]:
    """Weighted sums of a tensor's words, and the bytes that are left over."""
    if not tensor.numel():
        return []
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous().view(-1)
    if plain.storage_offset() * plain.element_size() % 8:
        plain = plain.clone()
    data = plain.view(torch.uint8)
    whole = data.numel() // (8 * _WORDS)
    blocks = data[: whole * 8 * _WORDS].view(torch.int64).view(whole, _WORDS)
    weights, rows = _weights(str(data.device)), _ROWS.get(data.device.type, 4096)
    products = torch.empty((min(rows, whole), _WORDS), dtype=torch.int64, device=data.device)
    sums = torch.empty(whole, dtype=torch.int64, device=data.device)
    for start in range(0, whole, rows):
        part = blocks[start : start + rows]
        torch.sum(torch.mul(part, weights, out=products[: len(part)]), 1, out=sums[start : start + rows])
    rest = data[whole * 8 * _WORDS :]
    return [sums, rest]


@functools.cache
def _weights(device: str) -> Tensor:
    # Random, so that exchanged words change the sum; odd, so that any one changed word does.
    generator = torch.Generator().manual_seed(0)
    return (torch.randint(-(2**62), 2**62, (_WORDS,), generator=generator) | 1).to(device)


def _of_value(value: Any) -> bytes:
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
