"""A summary in Keras's layout: byte for byte where a width is given, else widened so that nothing is cut."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torchkutils._call_hints import meant, shown
from torchkutils.models.table.cells import field, label_of, marks_of
from torchkutils.models.table.rows import SummaryRow, leaves_of
from torchkutils.models.table.text_table import fitting_positions, print_table
from torchkutils.models.table.view import COLUMNS

# Where Keras's columns end, as parts of a line, and how long the line is: by the number of columns.
_POSITIONS = {3: (0.45, 0.85, 1.0), 4: (0.33, 0.55, 0.67, 1.0)}
_WIDTHS = {3: 65, 4: 98}


def check_layout(line_length: int | None, positions: Sequence[float] | None, columns: int | None) -> None:
    """Refuse lines and positions that cannot be.

    Raises:
        ValueError: `line_length` under 10, positions that do not ascend, or too few or too many of them.
    """
    if line_length is not None and not _is_length(line_length):
        raise ValueError(f"line_length must be an int of at least 10, got {shown(line_length)}{meant(line_length)}")
    if positions is None:
        return
    if not len(positions) or not _ascend([0, *positions]):
        raise ValueError(f"positions must ascend from above 0, got {list(positions)!r}")
    allowed = (3, 4) if columns is None else (columns,)
    if len(positions) not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise ValueError(f"positions has {len(positions)} entries, and the table has {wanted} columns")


def _is_length(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 10


def _ascend(positions: Sequence[float]) -> bool:
    return all(a < b for a, b in itertools.pairwise(positions))


def keras_columns(rows: Sequence[SummaryRow]) -> tuple[str, ...]:
    """Keras's columns: a chain does not need to say what is connected to what."""
    base = ("output_shape", "params")
    return base if _is_chain(rows) else (*base, "connected_to")


def _is_chain(rows: Sequence[SummaryRow]) -> bool:
    """Each row that ran takes what the row before it gave and nothing else, or no edges are known."""
    ran = [row for row in rows if row.calls or row.inbound]
    if not any(row.inbound for row in ran):
        return True
    if any(row.calls > 1 for row in ran):
        return False
    expected: tuple[str, ...] = ()
    for row in leaves_of(ran):
        if row.inbound != expected:
            return False
        expected = (f"{row.path}[0][0]",)
    return True


def header_of(columns: Sequence[str]) -> list[str]:
    """The headers: the name of a row, and those of the columns."""
    return ["Layer (type)", *[COLUMNS[column][0] for column in columns]]


def blocks_of(
    rows: Sequence[SummaryRow], columns: Sequence[str], total_params: int, *, marked: bool
) -> list[list[list[str]]]:
    """For each row its lines of fields: one, and one more for each further connection.

    Args:
        rows: In the order of the table.
        columns: By name.
        total_params: What shares are parts of.
        marked: Labels say more than Keras's: see `marks_of`.
    """
    shallowest = min((row.depth for row in rows), default=0)
    blocks = []
    for row in rows:
        label = "  " * (row.depth - shallowest) + label_of(row)
        if marked:
            label += marks_of(row)
        block = [[label, *[field(row, column, total_params) for column in columns]]]
        if "connected_to" in columns:
            block += [_further_line(connection, columns) for connection in row.inbound[1:]]
        blocks.append(block)
    return blocks


def _further_line(connection: str, columns: Sequence[str]) -> list[str]:
    fields = [""] * (len(columns) + 1)
    fields[1 + columns.index("connected_to")] = connection
    return fields


def print_keras_table(
    title: str,
    rows: Sequence[SummaryRow],
    columns: Sequence[str],
    totals: Sequence[str],
    *,
    total_params: int,
    line_length: int | None,
    positions: Sequence[float] | None,
    print_line: Callable[[str], object],
) -> None:
    """Print the table; columns are as wide as they need to be, unless a length or positions are given."""
    asked = line_length is not None or positions is not None
    header, blocks = header_of(columns), blocks_of(rows, columns, total_params, marked=not asked)
    width = line_length or _WIDTHS.get(len(header), 20 * len(header))
    ends = _ends(width, positions or _positions(len(header)))
    if not asked:
        ends = fitting_positions([header, *itertools.chain.from_iterable(blocks)], ends)
        width = max(width, ends[-1])
    print_table(title, header, blocks, totals, ends, width, print_line)


def _positions(columns: int) -> Sequence[float]:
    """Where columns end, as parts of a line."""
    return _POSITIONS.get(columns) or [(column + 1) / columns for column in range(columns)]


def _ends(width: int, positions: Sequence[float]) -> list[int]:
    """Where columns end in characters; positions are parts of the width, or characters already."""
    unit = width if positions[-1] <= 1 else 1
    return [int(unit * position) for position in positions]
