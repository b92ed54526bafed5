"""What differs between two summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchkutils.models.table.rows import SummaryRow

_FACTS = ("class_name", "input_shapes", "output_shapes", "dtypes", "params", "trainable_params", "calls")
COMPARED_TOTALS = ("total_params", "trainable_params", "param_bytes", "flops")


@dataclass(frozen=True)
class Change:
    """One fact that differs.

    Attributes:
        path: Of the module; "" for a total.
        fact: What differs: "output_shapes", "params", "flops".
        before: In the first summary.
        after: In the second one.
    """

    path: str
    fact: str
    before: Any
    after: Any

    def __str__(self) -> str:
        return f"{self.fact}: {_text(self.before)} → {_text(self.after)}"


@dataclass(frozen=True)
class SummaryComparison:
    """What differs between two summaries, module by module; `str()` lists it.

    Attributes:
        names: The names of both models.
        added: Paths that only the second summary has, with their classes.
        removed: Paths that only the first one has, with their classes.
        changed: What differs in modules that both have.
        totals: What differs in the totals.
    """

    names: tuple[str, str]
    added: tuple[tuple[str, str], ...]
    removed: tuple[tuple[str, str], ...]
    changed: tuple[Change, ...]
    totals: tuple[Change, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.added or self.removed or self.changed or self.totals)

    def to_dict(self) -> dict[str, Any]:
        """Everything as what JSON can hold."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.names[0]} → {self.names[1]}" + (": no difference" if self.equal else "")]
        lines += [f"- {path} ({kind})" for path, kind in self.removed]
        lines += [f"+ {path} ({kind})" for path, kind in self.added]
        lines += [f"~ {change.path or 'the model'}: {change}" for change in self.changed]
        lines += [f"total {change}" for change in self.totals]
        return "\n".join(lines)

    def __repr__(self) -> str:
        # At a prompt the list is what one asked for.
        return str(self)


def compared(
    names: tuple[str, str],
    rows: tuple[Sequence[SummaryRow], Sequence[SummaryRow]],
    totals: tuple[Mapping[str, int], Mapping[str, int]],
) -> SummaryComparison:
    """Compare all rows of two summaries, and their totals."""
    before, after = [{row.path: row for row in side} for side in rows]
    leaves = set(_leaves(rows[0])) & set(_leaves(rows[1]))
    changed = [change for path in before if path in after for change in _changes(before[path], after[path], leaves)]
    return SummaryComparison(
        names=names,
        added=tuple((path, row.class_name) for path, row in after.items() if path not in before),
        removed=tuple((path, row.class_name) for path, row in before.items() if path not in after),
        changed=tuple(changed),
        totals=tuple(
            Change("", fact, totals[0][fact], totals[1][fact])
            for fact in COMPARED_TOTALS
            if totals[0][fact] != totals[1][fact]
        ),
    )


def _changes(before: SummaryRow, after: SummaryRow, leaves: set[str]) -> Iterator[Change]:
    # The FLOPs of a module with others below it change wherever theirs do.
    facts = (*_FACTS, "flops") if before.path in leaves else _FACTS
    for fact in facts:
        one, other = getattr(before, fact), getattr(after, fact)
        if one != other:
            yield Change(before.path, fact, one, other)


def _leaves(rows: Sequence[SummaryRow]) -> Iterator[str]:
    following: list[SummaryRow | None] = [*rows[1:], None]
    for row, after in zip(rows, following, strict=True):
        if after is None or after.depth <= row.depth:
            yield row.path


def _text(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else "?" if value is None else str(value)
