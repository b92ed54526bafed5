"""The text of one field of a table."""

from __future__ import annotations

from torchkutils.models.table.rows import SummaryRow
from torchkutils.models.tree.totals import bounded

_UNITS = ("", " k", " M", " G", " T", " P", " E")


def label_of(row: SummaryRow) -> str:
    """`name (Class)`, and where forward failed."""
    failed = f" FAILED at {row.input_shapes}" if row.failed else ""
    return f"{row.name} ({row.class_name}){failed}"


def marks_of(row: SummaryRow) -> str:
    """What Keras's label has no place for: calls, sharing, parameters of another kind or out of reach."""
    marks = [f"{row.calls} calls"] if row.calls > 1 else []
    if row.shared_with is not None:
        marks.append(f"shared with {row.shared_with or 'the model'}")
    marks += row.parameter_kinds
    if not row.registered and row.class_name != "Parameter":
        marks.append("not registered")
    return "".join(f" ({mark})" for mark in marks)


def field(row: SummaryRow, column: str, total_params: int) -> str:
    """One field with all of its digits; of several connections the first."""
    if column == "is_trainable":
        return trained_mark(row)
    if column == "connected_to":
        return row.inbound[0] if row.inbound else ""
    if column == "params":
        return "?" if row.params is None else str(row.params)
    if column == "share":
        return share(row.params, total_params)
    texts = {
        "input_shape": row.input_shapes,
        "output_shape": row.output_shapes,
        "dtype": row.dtypes,
        "trainable": str(row.trainable_params),
        "flops": bounded(row.flops, row.flops_known),
        "macs": bounded(row.flops // 2, row.flops_known),
        "bytes": f"{row.param_bytes:,}",
        "output_bytes": f"{row.output_bytes:,}",
        "arguments": row.arguments,
    }
    return texts[column]


def trained_mark(row: SummaryRow) -> str:
    """ "Y" where all of a row's own parameters are trained, "N" where none is, "Y/N" for some; "-" without any."""
    if not row.params:
        return "-"
    if row.trainable_params == row.params:
        return "Y"
    return "Y/N" if row.trainable_params else "N"


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
    power = 0
    while number >= 1000 and power < len(_UNITS) - 1:
        number /= 1000
        power += 1
    digits = f"{number:.0f}" if power == 0 or number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"
    prefix = _UNITS[power] if unit or power else ""
    if power and digits == "1000":
        digits, prefix = "1.00", _UNITS[min(power + 1, len(_UNITS) - 1)]
    return f"{digits}{prefix or (' ' if unit else '')}{unit}"
