"""One seed for every generator of the process."""

from __future__ import annotations

import operator
import random

import numpy as np
import torch

__all__ = ["set_random_seed"]


def set_random_seed(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, those of every accelerator included.

    Args:
        seed: An integer in [0, 2**32), the range that NumPy takes.

    Raises:
        TypeError: `seed` is no integer.
        ValueError: `seed` lies outside the range.

    It changes the state of the whole process: that is what it is for. Kernels that are not deterministic stay so
    (`torch.use_deterministic_algorithms(True)` changes that), and a `numpy.random.Generator` has a state of its own.

    Differs from Keras 3: the accelerators of torch are seeded too, whatever the backend.

    >>> set_random_seed(7); first = torch.rand(2)
    >>> set_random_seed(7); bool((torch.rand(2) == first).all())
    True
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed must be an integer, got {seed!r}") from None
    if not 0 <= number < 2**32:
        raise ValueError(f"seed must lie in [0, 2**32), got {number}")
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)
