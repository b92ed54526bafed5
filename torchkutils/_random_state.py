"""The generators of the process: Python's, NumPy's, torch's on the CPU and on each accelerator in use."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

__all__ = ["RandomState", "random_state_kept"]


class RandomState:
    """The state of every generator at one moment; an accelerator that nothing has used yet stays uninitialised."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._cpu = torch.get_rng_state()
        used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        self._cuda = [(index, torch.cuda.get_rng_state(index)) for index in range(torch.cuda.device_count() * used)]
        self._mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None

    def restore(self) -> None:
        """Set each of them back."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._cpu)
        for index, state in self._cuda:
            torch.cuda.set_rng_state(state, index)
        if self._mps is not None:
            torch.mps.set_rng_state(self._mps)


@contextlib.contextmanager
def random_state_kept() -> Iterator[None]:
    """Whatever the block draws, the generators have the same states after it as before it."""
    before = RandomState()
    try:
        yield
    finally:
        before.restore()
