"""What holds one model is looked through; the generators of the process are put back."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from torchkutils import multi_gpu_model
from torchkutils._random_state import random_state_kept
from torchkutils._wrapped_models import inner_model, unwrapped

WRAPPERS = {
    "compiled": torch.compile,
    "DataParallel": torch.nn.DataParallel,
    "several devices": lambda model: multi_gpu_model(model, devices=["cpu", "cpu"]),
    "compiled DataParallel": lambda model: torch.compile(torch.nn.DataParallel(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_is_looked_through(wrap) -> None:
    model = torch.nn.Linear(2, 2)
    assert unwrapped(wrap(model)) is model
    assert inner_model(model) is None


def test_a_module_with_a_child_of_that_name_is_no_wrapper() -> None:
    model = torch.nn.Module()
    model.module = torch.nn.Linear(2, 2)
    assert unwrapped(model) is model


def test_the_block_s_draws_leave_no_trace() -> None:
    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    with random_state_kept():
        first = draws()
    with pytest.raises(LookupError, match="nothing there"), random_state_kept():
        raise LookupError(f"nothing there: {draws()}")
    assert draws() == first
