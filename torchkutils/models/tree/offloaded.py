"""Models whose weights accelerate keeps elsewhere: on meta between calls, loaded by its hooks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


def is_offloaded(modules: Iterable[torch.nn.Module]) -> bool:
    """Whether hooks of accelerate load the weights of one of the modules when it is called."""
    return any("_hf_hook" in module.__dict__ for module in modules)


def execution_device(modules: Iterable[torch.nn.Module]) -> torch.device | None:
    """Where accelerate's hooks run the first module that they load; None without such hooks."""
    for module in modules:
        hook = module.__dict__.get("_hf_hook")
        # Several hooks are held by one.
        for part in getattr(hook, "hooks", [hook]):
            device: Any = getattr(part, "execution_device", None)
            if isinstance(device, int):
                return torch.device(f"cuda:{device}")
            if device is not None:
                return torch.device(device)
    return None
