"""The text of one field of a table."""

from __future__ import annotations

from collections.abc import Callable

from torchkutils.models.table.rows import SummaryRow
from torchkutils.models.tree.totals import bounded

_PREFIXES = ("k", "M", "G", "T", "P", "E")


def label_of(row: SummaryRow) -> str:
    """`name (Class)`, and where forward failed."""
    return f"{row.name} ({row.class_name}){failed_mark(row)}"


def failed_mark(row: SummaryRow) -> str:
    """Where forward failed, what the module was given."""
    return f" FAILED at {row.input_shapes}" if row.failed else ""


def marks_of(row: SummaryRow) -> str:
    """What Keras's label does not say: several calls, sharing, parameters of another kind, modules not registered."""
    marks = []
    if row.calls > 1:
        marks.append(f"{row.calls} calls")
    if row.shared_with is not None:
        marks.append(f"shared with {row.shared_with or 'the model'}")
    marks += row.parameter_kinds
    if not row.registered and row.class_name != "Parameter":
        marks.append("not registered")
    return "".join(f" ({mark})" for mark in marks)


def field(row: SummaryRow, column: str, total_params: int) -> str:
    """One field with all of its digits; of several connections the first."""
    write = _FIELDS.get(column)
    if write is not None:
        return write(row)
    return share(row.params, total_params)


def trained_mark(row: SummaryRow) -> str:
    """ "Y" where all of a row's own parameters are trained, "N" where none is, "Y/N" for some; "-" without any."""
    if not row.params:
        return "-"
    if row.trainable_params == row.params:
        return "Y"
    return "Y/N" if row.trainable_params else "N"


# By the name of a column; a share needs the total too.
_FIELDS: dict[str, Callable[[SummaryRow], str]] = {
    "input_shape": lambda row: row.input_shapes,
    "output_shape": lambda row: row.output_shapes,
    "dtype": lambda row: row.dtypes,
    "params": lambda row: "?" if row.params is None else str(row.params),
    "trainable": lambda row: str(row.trainable_params),
    "flops": lambda row: bounded(row.flops, row.flops_known),
    "macs": lambda row: bounded(row.flops // 2, row.flops_known),
    "bytes": lambda row: f"{row.param_bytes:,}",
    "output_bytes": lambda row: f"{row.output_bytes:,}",
    "connected_to": lambda row: "".join(row.inbound[:1]),
    "arguments": lambda row: row.arguments,
    "is_trainable": trained_mark,
}


def share(params: int | None, total_params: int) -> str:
    """Parameters as a part of all: "12.5"; "?" where they are not made yet.

    >>> share(1, 8)
    '12.5'
    """
    if params is None:
        return "?"
    return f"{100 * params / total_params:.1f}" if total_params else "0.0"


def scaled(number: float, unit: str = "") -> str:
    """A number with three digits or a little more, and its unit.

    >>> scaled(1_234_567, "B"), scaled(999), scaled(85_054_464)
    ('1.23 MB', '999', '85.1 M')
    """
    if number < 1000:
        return f"{number:.0f} {unit}" if unit else f"{number:.0f}"
    number /= 1000
    power = 0
    # What rounds to 1000 is 1.00 with the next prefix.
    while number >= 999.5 and power < len(_PREFIXES) - 1:
        number /= 1000
        power += 1
    return f"{_three_digits(number)} {_PREFIXES[power]}{unit}"


def _three_digits(number: float) -> str:
    if number >= 100:
        return f"{number:.0f}"
    return f"{number:.1f}" if number >= 10 else f"{number:.2f}"
