"""What a model consists of: one trace, told as rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchkutils.models.forward.flops import register_flop_formula
from torchkutils.models.forward.raised_errors import attach
from torchkutils.models.records import EngineName, Mode, Run, Trace
from torchkutils.models.table.model_summary import (
    COLUMNS,
    ModelSummary,
    SummaryRow,
    check_layout,
    print_model_summary,
)
from torchkutils.models.table.rows import summary_of
from torchkutils.models.trace import trace_model

__all__ = ["ModelSummary", "SummaryRow", "print_summary", "register_flop_formula", "summarize"]


def summarize(
    model: torch.nn.Module,
    *,
    input_size: Any = None,
    input_data: Any = None,
    input_kwargs: Any = None,
    dtypes: Any = None,
    depth: int | None = None,
    columns: Sequence[str] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    grad: bool = False,
) -> ModelSummary:
    """Run a model once and list its modules with shapes, parameters and FLOPs; the model stays as it was.

    Args:
        model: Any `torch.nn.Module`.
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name; None in a
            shape leaves a dimension open. Without it and `input_data` nothing runs and shapes are "?".
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments, instead of sizes.
        dtypes: Of the inputs made from sizes; None takes the model's own.
        depth: How many levels of nesting to list; None lists all.
        columns: Names out of input_shape, output_shape, dtype, params, trainable, flops, bytes, connected_to.
        mode: "eval", "train" or "same", for the forward alone.
        engine: "auto", "real", "meta" or "structure".

    Returns:
        A `ModelSummary`.

    Raises:
        TypeError: `model` is no module, or a size is no int.
        ValueError: An argument out of its range, sizes and data both given.
        Exception: What forward raised, with the partial `ModelSummary` as its attribute `summary`.

    >>> print(summarize(torch.nn.ReLU(), input_size=(1, 3)).rows[0].output_shapes)
    (1, 3)
    """
    shown = _checked_columns(columns)
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ValueError(f"depth must be None or an int of 0 or more, got {depth!r}")
    run = Run(
        input_size=input_size,
        input_data=input_data,
        input_kwargs=input_kwargs,
        dtypes=dtypes,
        mode=mode,
        engine=engine,
        grad=grad,
    )
    try:
        trace = trace_model(model, run)
    except BaseException as error:
        partial = getattr(error, "trace", None)
        if isinstance(partial, Trace):
            attach(error, "summary", summary_of(partial, depth, shown))
        raise
    return summary_of(trace, depth, shown)


def print_summary(
    model: torch.nn.Module,
    line_length: int | None = None,
    positions: Sequence[float] | None = None,
    print_fn: Callable[[str], object] | None = None,
    *,
    input_size: Any = None,
    input_data: Any = None,
    input_kwargs: Any = None,
    dtypes: Any = None,
    depth: int | None = None,
    columns: Sequence[str] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    grad: bool = False,
) -> None:
    """Print a model's layers, output shapes and parameter counts as Keras does.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        line_length: Characters a line; given it (or `positions`), Keras's own rows are printed, which cut what is
            too long. Without both, columns are as wide as their contents need.
        positions: Where each column ends, as parts of the line or absolute; ascending.
        print_fn: Called once a line; None prints to the standard output.
        input_size, input_data, dtypes, depth, columns, mode, engine: As in `summarize`.

    Raises:
        TypeError, ValueError: As `summarize`, and for lines or positions that cannot be.
        Exception: What forward raised, after the rows so far were printed.

    Differs from Keras: nothing is cut unless a width is asked for; without one, rows are marked with what Keras's
    label has no place for (calls, sharing, sharded or lazy parameters). Four positions always give the four columns.
    Nested modules are indented, and shapes need `input_size` or `input_data`, because a PyTorch model does not know
    its input.

    >>> print_summary(torch.nn.Linear(2, 1), input_size=(None, 2))  # doctest: +NORMALIZE_WHITESPACE
    Model: "Linear"
    _________________________________________________________________
    Layer (type)                 Output Shape              Param #
    =================================================================
    Linear (Linear)              (None, 1)                 3
    =================================================================
    Total params: 3
    Trainable params: 3
    Non-trainable params: 0
    _________________________________________________________________
    """
    print_line = print if print_fn is None else print_fn
    if not callable(print_line):
        raise TypeError(f"print_fn must be callable, got {type(print_fn).__name__}")
    check_layout(line_length, positions, None if columns is None else len(columns) + 1)
    try:
        summary = summarize(
            model,
            input_size=input_size,
            input_data=input_data,
            input_kwargs=input_kwargs,
            dtypes=dtypes,
            depth=depth,
            columns=columns,
            mode=mode,
            engine=engine,
            grad=grad,
        )
    except BaseException as error:
        partial = getattr(error, "summary", None)
        if isinstance(partial, ModelSummary):
            print_model_summary(partial, line_length, positions, print_line)
        raise
    print_model_summary(summary, line_length, positions, print_line)


def _checked_columns(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    unknown = [name for name in columns if name not in COLUMNS]
    if isinstance(columns, str) or unknown:
        raise ValueError(f"columns must name some of {', '.join(COLUMNS)}; got {columns!r}")
    return tuple(columns)
