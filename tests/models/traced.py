"""The trace of a model, with the fields of a run given by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from torchkutils.models.records import Run, Trace
from torchkutils.models.trace import trace_model


def traced(model: nn.Module, **run: Any) -> Trace:
    """One look at a model."""
    return trace_model(model, Run(**run))
