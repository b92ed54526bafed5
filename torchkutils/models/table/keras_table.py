"""A summary in Keras's layout: to the byte where a width is given, else widened and marked so that nothing is lost."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from torchkutils._call_hints import meant, shown
from torchkutils.models.table.cells import field, label_of, marks_of
from torchkutils.models.table.rows import SummaryRow
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
    if line_length is not None and (
        isinstance(line_length, bool) or not isinstance(line_length, int) or line_length < 10
    ):
        raise ValueError(f"line_length must be an int of at least 10, got {shown(line_length)}{meant(line_length)}")
    if positions is None:
        return
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if not ascending or not len(positions) or positions[0] <= 0:
        raise ValueError(f"positions must ascend from above 0, got {list(positions)!r}")
    allowed = (3, 4) if columns is None else (columns,)
    if len(positions) not in allowed:
        wanted = " or ".join(str(number) for number in allowed)
        raise ValueError(f"positions has {len(positions)} entries, and the table has {wanted} columns")


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
    following: list[SummaryRow | None] = [*ran[1:], None]
    leaves = [row for row, after in zip(ran, following, strict=True) if after is None or after.depth <= row.depth]
    expected = [(), *((f"{row.path}[0][0]",) for row in leaves)]
    return all(row.inbound == before for row, before in zip(leaves, expected, strict=False))


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
        marked: Labels say what Keras's have no place for.
    """
    shallowest = min((row.depth for row in rows), default=0)
    blocks = []
    for row in rows:
        label = "  " * (row.depth - shallowest) + label_of(row) + (marks_of(row) if marked else "")
        block = [[label, *[field(row, column, total_params) for column in columns]]]
        if "connected_to" in columns:
            for connection in row.inbound[1:]:
                block.append(["", *[connection if column == "connected_to" else "" for column in columns]])
        blocks.append(block)
    return blocks


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
    number = len(header)
    parts = positions
    if parts is None:
        parts = _POSITIONS.get(number) or [(column + 1) / number for column in range(number)]
    width = line_length or _WIDTHS.get(number, 20 * number)
    ends = [int(width * part) for part in parts] if parts[-1] <= 1 else [int(part) for part in parts]
    if not asked:
        ends = fitting_positions([header, *(fields for block in blocks for fields in block)], ends)
        width = max(width, ends[-1])
    print_table(title, header, blocks, totals, ends, width, print_line)
