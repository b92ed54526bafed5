"""What the arguments of a loader must be."""

from __future__ import annotations

import inspect
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import torch

from torchkutils.data.batch_source import BatchSource
from torchkutils.data.shards import whole_number


def check_source(sequence: object) -> None:
    """Check that it gives whole batches.

    Raises:
        TypeError: It is no Sequence, or its `__getitem__` yields.
    """
    kind = type(sequence).__name__
    if not isinstance(sequence, BatchSource):
        raise TypeError(f"sequence must be a torchkutils.Sequence, got {kind}")
    if inspect.isgeneratorfunction(type(sequence).__getitem__):
        raise TypeError(f"{kind}.__getitem__ must return one whole batch, and not yield: it is a generator")


def check_flags(**flags: object) -> None:
    """Check that all are True or False, by a TypeError."""
    for name, value in flags.items():
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {value!r}")


def check_function(name: str, function: object, what: str) -> None:
    """Check that it can be called, or is None, by a TypeError."""
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be a function of {what}, or None; got {function!r}")


def check_choice(name: str, value: object, known: tuple[str, ...]) -> None:
    """Check that it is one of these words, by a ValueError."""
    if value not in known:
        raise ValueError(f"{name} must be one of {list(known)}, got {value!r}")


def check_workers(num_workers: int, prefetch_factor: int, timeout: float, context: Any) -> None:
    """Check the arguments that concern workers.

    Raises:
        TypeError: A context that is none.
        ValueError: An unknown start method, a negative number, or what needs workers where there are none.
    """
    whole_number("prefetch_factor", prefetch_factor, at_least=1)
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ValueError(f"timeout must be a number of seconds of at least 0, got {timeout!r}")
    known = torch.multiprocessing.get_all_start_methods()
    if isinstance(context, str) and context not in known:
        raise ValueError(f"multiprocessing_context must be one of {known}, or a context; got {context!r}")
    if context is not None and not isinstance(context, (str, BaseContext)):
        raise TypeError(f"multiprocessing_context must be one of {known}, or a context; got {context!r}")
    for name, value in (("timeout", timeout), ("multiprocessing_context", context)):
        if value and not num_workers:
            raise ValueError(f"{name}={value!r} needs workers, and num_workers is 0")
