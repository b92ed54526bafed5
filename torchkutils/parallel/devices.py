"""Which devices a caller means, and whether a model can go there."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def gpu_devices(gpus: int | Sequence[int] | None) -> list[torch.device]:
    """The GPUs that Keras's argument means.

    Raises:
        ValueError: Fewer than two, or some that are not here; in Keras's words.
    """
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus is None or (_is_integer(gpus) and gpus == 0):
        gpus = available
    numbers = _numbers(gpus, available)
    if not all(map(_is_integer, numbers)):
        raise ValueError(f"gpus must hold the ids of GPUs as integers, got {numbers}")
    if not set(numbers) <= set(range(available)):
        wanted = ["cpu", *(f"cuda:{number}" for number in numbers)]
        here = ["cpu", *(f"cuda:{number}" for number in range(available))]
        raise ValueError(
            f"To call `multi_gpu_model` with `gpus={gpus}`, we expect the following devices to be available: {wanted}. "
            f"However this machine only has: {here}. Try reducing `gpus`."
        )
    return [torch.device("cuda", number) for number in numbers]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _numbers(gpus: Any, available: int) -> list[Any]:
    if isinstance(gpus, (list, tuple, range)):
        if len(gpus) <= 1:
            raise ValueError(
                "For multi-gpu usage to be effective, call `multi_gpu_model` with `len(gpus) >= 2`. "
                f"Received: `gpus={gpus}`"
            )
        return list(gpus)
    if isinstance(gpus, int) and gpus > 1:
        return list(range(gpus))
    raise ValueError(
        f"For multi-gpu usage to be effective, call `multi_gpu_model` with `gpus >= 2`. Received: `gpus={gpus!r}`"
        + ("" if available else "; devices=['cpu', 'cpu'] runs the same code without GPUs")
    )


def named_devices(devices: Iterable[str | torch.device], gpus: Any) -> list[torch.device]:
    """Devices by their names, repeats allowed.

    Raises:
        TypeError: No list.
        ValueError: None, one that does not exist, or `gpus` as well.
    """
    if gpus is not None:
        raise ValueError(f"gpus and devices name the same thing; give one of them, got gpus={gpus} and {devices=}")
    if isinstance(devices, (str, torch.device)):
        raise TypeError(f"devices must be a list of devices, got {devices!r}; write [{str(devices)!r}, ...]")
    names = list(devices)
    if not names:
        raise ValueError("devices must name at least one device, got an empty list")
    return [_existing(name) for name in names]


def _existing(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
        # cpu:0 and cuda have other names once a tensor lies there.
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        raise ValueError(
            f"devices must exist on this machine, got {name!r}: {str(error).splitlines()[0]}; "
            "devices=['cpu', 'cpu'] runs the same code without GPUs"
        ) from error


def check_one_home(model: nn.Module, relocating: bool) -> None:
    """Refuse a model that lies on several devices, unless it is about to be moved, or that has no weights yet."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    for name, tensor in tensors:
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"model must be initialised, got lazy parameter {name}; call the model once first")
    homes = {tensor.device: name for name, tensor in tensors}
    if len(homes) > 1 and not relocating:
        where = ", ".join(f"{name} on {device}" for device, name in homes.items())
        raise ValueError(f"model must lie on one device, got {where}; move it, or pass cpu_relocation=True")


def warn_without_peer_access(places: Sequence[torch.device]) -> None:
    """Warn where the first GPU cannot reach another one directly."""
    first = places[0]
    for device in places[1:]:
        distinct_gpus = first.type == device.type == "cuda" and first != device
        if distinct_gpus and not torch.cuda.can_device_access_peer(first, device):
            warnings.warn(
                f"cpu_merge=False merges on {first}, which cannot access {device} directly: cpu_merge=True may be "
                "faster",
                stacklevel=4,
            )
            return
