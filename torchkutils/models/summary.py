"""summarize and print_summary: one trace of a model as rows and totals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from torchkutils._call_hints import hinting
from torchkutils._typing import ColumnName, InputDTypes, InputSize
from torchkutils.models.forward.flops import register_flop_formula
from torchkutils.models.forward.raised_errors import attach
from torchkutils.models.picture.layer_range import positions_in_range
from torchkutils.models.picture.look import checked_range
from torchkutils.models.records import EngineName, Mode, Run, Trace
from torchkutils.models.table.comparison import SummaryComparison
from torchkutils.models.table.keras_table import check_layout, keras_columns
from torchkutils.models.table.memory import MemoryEstimate
from torchkutils.models.table.model_summary import ModelSummary, print_model_summary, summary_of
from torchkutils.models.table.rows import SummaryRow
from torchkutils.models.table.view import Style, View, checked_view
from torchkutils.models.trace import trace_model

__all__ = [
    "MemoryEstimate",
    "ModelSummary",
    "SummaryComparison",
    "SummaryRow",
    "print_summary",
    "register_flop_formula",
    "summarize",
]


@hinting(input_shape="input_size", col_names="columns", device="the model runs where it is: model.to(device)")
def summarize(
    model: torch.nn.Module,
    *,
    input_size: InputSize | None = None,
    input_data: Any = None,
    input_kwargs: Mapping[str, Any] | None = None,
    dtypes: InputDTypes | None = None,
    depth: int | Literal["auto"] | None = "auto",
    columns: Sequence[ColumnName] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    grad: bool = False,
    style: Style = "keras",
    fold: bool = True,
    weights: bool = False,
) -> ModelSummary:
    """Run a model once and list its modules with shapes, parameters and FLOPs; the model stays as it was.

    Args:
        model: Any `torch.nn.Module`.
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name; None in a
            shape leaves a dimension open. Indices lie inside each of the model's tables. Without sizes and data the
            model's own example is taken, for shapes alone (`example_input_array`, `dummy_inputs`, `default_cfg`);
            where there is none, nothing runs and shapes are "?".
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments, instead of sizes.
        input_kwargs: Keyword arguments beside either: numbers, strings, flags, tensors.
        dtypes: Of the inputs made from sizes. None takes the model's own; an input that a function cannot take so is
            made anew as what it wants: indices inside its table, a mask of bools, floats, lengths.
        depth: How many levels of nesting to list; None lists all; "auto": all in Keras's layout, 3 in a tree.
        columns: Names out of input_shape, output_shape, dtype, params, trainable, flops, bytes (of parameters),
            connected_to, share (of all parameters, in percent), macs, output_bytes, arguments; None lets the layout
            decide.
        mode: "eval", "train" or "same", for the forward alone.
        engine: "auto", "real", "meta" or "structure".
        grad: Run forward with gradients; one that fails for want of them runs again with them by itself.
        style: What `str()` gives: Keras's layout, or a "tree" with one line a module, which is also what `repr()` and
            notebooks show.
        fold: Equal siblings are one line of a tree ("12 × BertLayer") with their sum; `rows` has each of them.
        weights: Each parameter has a row of its own, and counts there.

    Returns:
        A `ModelSummary`.

    Raises:
        TypeError: `model` is no module, or a size is no int.
        ValueError: An argument out of its range, sizes and data both given; an unknown column or style, with the names
            that exist.
        Exception: What forward raised, with the partial `ModelSummary` as its attribute `summary`.

    >>> print(summarize(torch.nn.ReLU(), input_size=(1, 3)).rows[0].output_shapes)
    (1, 3)
    """
    view = checked_view(depth, columns, style, fold, weights)
    run = _run(locals(), view)
    try:
        return summary_of(trace_model(model, run), view)
    except BaseException as error:
        _attach_partial(error, view)
        raise


def _run(arguments: Mapping[str, Any], view: View) -> Run:
    """The run that a summary is made of; modules are asked for their arguments where a column shows these."""
    return Run.asked_for(arguments, module_arguments="arguments" in (view.columns or ()))


def _attach_partial(error: BaseException, view: View) -> ModelSummary | None:
    """Give an exception of forward the summary of the part that ran; None for an exception from before it."""
    trace = getattr(error, "trace", None)
    if not isinstance(trace, Trace):
        return None
    partial = summary_of(trace, view)
    attach(error, "summary", partial)
    return partial


@hinting(input_shape="input_size", col_names="columns", device="the model runs where it is: model.to(device)")
def print_summary(
    model: torch.nn.Module,
    line_length: int | None = None,
    positions: Sequence[float] | None = None,
    print_fn: Callable[[str], object] | None = None,
    *,
    input_size: InputSize | None = None,
    input_data: Any = None,
    input_kwargs: Mapping[str, Any] | None = None,
    dtypes: InputDTypes | None = None,
    depth: int | Literal["auto"] | None = "auto",
    columns: Sequence[ColumnName] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    grad: bool = False,
    style: Style = "keras",
    fold: bool = True,
    weights: bool = False,
    expand_nested: bool | None = None,
    show_trainable: bool = False,
    layer_range: Sequence[str] | None = None,
) -> None:
    """Print a model's layers, output shapes and parameter counts as Keras does.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        line_length: Characters a line; given it (or `positions`), Keras's own rows are printed, which cut what is
            too long. Without both, columns are as wide as their contents need. A tree is fitted to it; without it, to
            the terminal.
        positions: Where each column ends, as parts of the line or absolute; ascending.
        print_fn: Called once a line; None prints to the standard output.
        input_size, input_data, input_kwargs, dtypes, depth, columns, mode, engine, grad, style, fold, weights: As in
            `summarize`.
        expand_nested: As in Keras 3, where False is the default: True lists all levels, False the direct children
            alone. None leaves it to `depth`, which beats it.
        show_trainable: One more column as in Keras 3: "Y" where a row's parameters are trained, "N" where none is,
            "Y/N" where some are, "-" where it has none.
        layer_range: As in Keras 3, the first and the last layer that is listed: paths, or regular expressions that
            match from the beginning of a path. The totals stay those of the model.

    Raises:
        TypeError, ValueError: As `summarize`, and for lines, positions or a range of layers that cannot be.
        Exception: What forward raised, after the rows so far were printed.

    Differs from Keras: nothing is cut unless a width is asked for; without one, rows are marked with what Keras's
    label does not say (calls, sharing, sharded or lazy parameters). Four positions always give the four columns.
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
    print_line = _print if print_fn is None else print_fn
    if not callable(print_line):
        raise TypeError(f"print_fn must be callable, got {type(print_fn).__name__}")
    if style == "tree" and positions is not None:
        raise ValueError("positions are those of Keras's columns; a tree is fitted to line_length alone")
    keras_3 = _Keras3(bool(show_trainable), None if layer_range is None else checked_range(layer_range))
    check_layout(line_length, positions, None if columns is None else len(columns) + 1)
    view = checked_view(_depth(depth, expand_nested), columns, style, fold, weights)
    run = _run(locals(), view)
    try:
        summary = summary_of(trace_model(model, run), view)
    except BaseException as error:
        partial = _attach_partial(error, view)
        if partial is not None:
            # The range's end may be what did not run.
            keras_3 = replace(keras_3, layer_range=None)
            print_model_summary(keras_3.of(partial, positions), line_length, keras_3.ends(positions), print_line)
        raise
    print_model_summary(keras_3.of(summary, positions), line_length, keras_3.ends(positions), print_line)


def _depth(depth: int | Literal["auto"] | None, expand_nested: bool | None) -> int | Literal["auto"] | None:
    """How many levels are listed; a depth beats Keras 3's flag."""
    if depth != "auto" or expand_nested is None:
        return depth
    return None if expand_nested else 1


@dataclass(frozen=True)
class _Keras3:
    """The arguments that only Keras 3's `summary` has."""

    show_trainable: bool
    layer_range: tuple[str, str] | None

    def of(self, summary: ModelSummary, positions: Sequence[float] | None) -> ModelSummary:
        """The summary with one more column, and without the rows outside of the range.

        Raises:
            ValueError: A name of the range fits no row.
        """
        if self.show_trainable:
            columns = keras_columns(summary.rows) if summary.columns is None else summary.columns
            if positions is not None and summary.columns is None:
                columns = ("output_shape", "params", "connected_to")[: len(positions) - 1]
            column = "trainable" if summary.view.style == "tree" else "is_trainable"
            summary = replace(summary, view=replace(summary.view, columns=(*columns, column)))
        if self.layer_range is not None:
            first, last = positions_in_range([row.path for row in summary.rows], self.layer_range)
            if min(first) > max(last):
                first, last = last, first
            summary = replace(summary, rows=summary.rows[min(first) : max(last) + 1])
        return summary

    def ends(self, positions: Sequence[float] | None) -> Sequence[float] | None:
        """Where columns end that were asked for, with room for one more behind them, as in Keras."""
        if positions is None or not self.show_trainable:
            return positions
        if positions[-1] <= 1:
            return [*(0.9 * position for position in positions), 1.0]
        return [*positions, positions[-1] + len("Trainable") + 3]


def _print(line: str) -> None:
    """Print a line; where the output has no box-drawing characters, with others that are like them."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = line.translate(_PLAIN).encode(encoding, "replace").decode(encoding)
    print(line)


# The characters of a tree, and what is printed instead where the output cannot encode them.
_PLAIN = str.maketrans("│├└─×–▸·…", "||`-x->,~", "") | {ord("≥"): ">="}
