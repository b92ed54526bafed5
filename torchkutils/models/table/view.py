"""Which part of a trace a table shows, and how: one value that all functions take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from torchkutils._call_hints import nearest

Style: TypeAlias = Literal["keras", "tree"]

# By name: header, and whether it holds numbers.
COLUMNS: dict[str, tuple[str, bool]] = {
    "input_shape": ("Input Shape", False),
    "output_shape": ("Output Shape", False),
    "dtype": ("Dtype", False),
    "params": ("Param #", True),
    "trainable": ("Trainable", True),
    "flops": ("FLOPs", True),
    "bytes": ("Bytes", True),
    "connected_to": ("Connected to", False),
    "share": ("Param %", True),
    "macs": ("MACs", True),
    "output_bytes": ("Output Bytes", True),
    "arguments": ("Arguments", False),
    "is_trainable": ("Trainable", False),
}
TREE_DEPTH = 3


def is_numeric(column: str) -> bool:
    """Whether a column holds numbers, which are aligned to the right."""
    return COLUMNS[column][1]


@dataclass(frozen=True)
class View:
    """How a summary is shown.

    Attributes:
        depth: How many levels of nesting have rows of their own; None: all; "auto": all in Keras's layout, 3 in a tree.
        columns: Names out of `COLUMNS`; None lets the model decide.
        style: "keras" or "tree": what `str()` and `print_summary` give.
        fold: A tree shows equal siblings in one line.
        weights: Each parameter has a row of its own.
    """

    depth: int | Literal["auto"] | None = "auto"
    columns: tuple[str, ...] | None = None
    style: Style = "keras"
    fold: bool = True
    weights: bool = False

    @property
    def levels(self) -> int | None:
        """The depth that the rows have; None for all."""
        if self.depth == "auto":
            return TREE_DEPTH if self.style == "tree" else None
        return self.depth


def checked_view(depth: Any, columns: Sequence[str] | None, style: Any, fold: bool, weights: bool) -> View:
    """A view of arguments that a user gave.

    Raises:
        ValueError: A depth below 0, a column or a style that does not exist; the message names those that do.
    """
    if depth != "auto" and depth is not None and not _is_depth(depth):
        raise ValueError(f"depth must be 'auto', None or an int of 0 or more, got {depth!r}")
    if style not in get_args(Style):
        raise ValueError(f"style must be one of {', '.join(map(repr, get_args(Style)))}, got {style!r}")
    if columns is not None:
        columns = _checked_columns(columns)
    return View(depth, columns, style, bool(fold), bool(weights))


def _is_depth(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _checked_columns(columns: Sequence[str]) -> tuple[str, ...]:
    rule = f"columns must name some of {', '.join(COLUMNS)}; got {columns!r}"
    if isinstance(columns, str):
        raise ValueError(f"{rule}; write [{columns!r}]")
    for name in columns:
        if name not in COLUMNS:
            raise ValueError(f"{rule}{nearest(str(name), COLUMNS)}")
    return tuple(columns)
