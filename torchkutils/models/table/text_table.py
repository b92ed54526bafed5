"""Keras's table of layers: rules, fields cut at positions, totals."""

from __future__ import annotations

from collections.abc import Callable, Sequence


def row_text(fields: Sequence[str], positions: Sequence[int]) -> str:
    """One line: each field ends at its position; what is longer is cut, a space stays between neighbours.

    >>> row_text(["dense", "(None, 4)", "1234567"], [8, 16, 20])
    'dense   (None,  1234'
    """
    line = ""
    for number, (field, position) in enumerate(zip(fields, positions, strict=True)):
        if number:
            line = line[:-1] + " "
        line = (line + field)[:position]
        line += " " * (position - len(line))
    return line


def fitting_positions(rows: Sequence[Sequence[str]], positions: Sequence[int]) -> list[int]:
    """The positions, moved to the right where a field would be cut."""
    fitting: list[int] = []
    for column, position in enumerate(positions):
        width = max((len(row[column]) for row in rows), default=0)
        begin = fitting[-1] if fitting else 0
        standard = position - (positions[column - 1] if column else 0)
        # A field after the first begins at the previous position; its last character is replaced by a space.
        fitting.append(begin + max(standard, width + 1))
    return fitting


def print_table(
    title: str,
    header: Sequence[str],
    blocks: Sequence[Sequence[Sequence[str]]],
    totals: Sequence[str],
    positions: Sequence[int],
    line_length: int,
    print_line: Callable[[str], object],
) -> None:
    """Title, header, a block of lines a row with rules between, totals."""
    print_line(title)
    print_line("_" * line_length)
    print_line(row_text(header, positions))
    print_line("=" * line_length)
    for number, block in enumerate(blocks):
        for fields in block:
            print_line(row_text(fields, positions))
        print_line(("=" if number == len(blocks) - 1 else "_") * line_length)
    for total in totals:
        print_line(total)
    print_line("_" * line_length)
