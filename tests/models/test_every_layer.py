"""Every class of torch.nn that can be made from small numbers: totals, and nothing changed afterwards."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn

from tests.models.whole_state import whole_state
from torchkutils import summarize

ARGUMENTS: list[tuple[Any, ...]] = [(), (4,), (4, 4), (2, 4), (4, 4, 3), (4, 2), (4, 4, 4)]
SIZES: list[Any] = [(2, 4), (2, 4, 8), (2, 4, 8, 8), (2, 4, 8, 8, 8), [(2, 4)] * 2, [(2, 4)] * 3, [(3, 2, 4)] * 3]
CLASSES = sorted(
    name
    for name, kind in vars(nn).items()
    if inspect.isclass(kind) and issubclass(kind, nn.Module) and kind is not nn.Module
)


def ran(kind: type[nn.Module]) -> tuple[nn.Module, Any] | None:
    """A module and the sizes that it takes; None when no try works."""
    for arguments in ARGUMENTS:
        for size in SIZES:
            try:
                module = kind(*arguments)
                shapes = size if isinstance(size, list) else [size]
                with torch.no_grad():
                    module.eval()(*[torch.zeros(shape) for shape in shapes])
                fresh = kind(*arguments)
            except Exception:
                continue
            return fresh, size
    return None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CLASSES)
def test_each_class_is_counted_and_left_as_it_was(name: str) -> None:
    made = ran(getattr(nn, name))
    if made is None:
        pytest.skip("needs arguments of its own")
    module, size = made
    before = whole_state(module)
    summary = summarize(module, input_size=size)
    assert whole_state(module) == before
    held = [parameter for parameter in module.parameters() if not nn.parameter.is_lazy(parameter)]
    assert summary.total_params == sum(parameter.numel() for parameter in held)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_most_classes_do_run() -> None:
    assert sum(ran(getattr(nn, name)) is not None for name in CLASSES) > 100
