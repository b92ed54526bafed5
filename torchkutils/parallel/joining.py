"""What a model does for torch's Join: ranks with different numbers of batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class JoinHook:
    """DistributedDataParallel's hook, and the end of the block noted: torch leaves it switched on.

    Args:
        joined: Called with True on the ranks with the most batches when all batches are used up.
        hook: The hook of DistributedDataParallel.
    """

    def __init__(self, joined: Callable[[bool], None], hook: Any) -> None:
        self._joined = joined
        self._hook = hook

    def main_hook(self) -> None:
        """What a rank without batches does in each step of the others."""
        self._hook.main_hook()

    def post_hook(self, is_last_joiner: bool) -> None:
        """Take the parameters and buffers of the rank with the most batches."""
        self._hook.post_hook(is_last_joiner)
        self._joined(is_last_joiner)
