"""What differs between two summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torchkutils.models.table.rows import SummaryRow, leaves_of

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
    leaves = {row.path for row in leaves_of(rows[0])} & {row.path for row in leaves_of(rows[1])}
    changed: list[Change] = []
    for path in before:
        if path in after:
            changed += _changes(before[path], after[path], leaves)
    return SummaryComparison(
        names=names,
        added=_missing(after, before),
        removed=_missing(before, after),
        changed=tuple(changed),
        totals=tuple(_differing("", COMPARED_TOTALS, totals[0], totals[1])),
    )


def _missing(rows: Mapping[str, SummaryRow], others: Mapping[str, SummaryRow]) -> tuple[tuple[str, str], ...]:
    """Paths and classes of the rows whose paths the others do not have."""
    return tuple((path, row.class_name) for path, row in rows.items() if path not in others)


def _changes(before: SummaryRow, after: SummaryRow, leaves: set[str]) -> list[Change]:
    # The FLOPs of a module with others below it change wherever theirs do.
    facts = (*_FACTS, "flops") if before.path in leaves else _FACTS
    ones, others = [{fact: getattr(row, fact) for fact in facts} for row in (before, after)]
    return _differing(before.path, facts, ones, others)


def _differing(path: str, facts: Iterable[str], ones: Mapping[str, Any], others: Mapping[str, Any]) -> list[Change]:
    return [Change(path, fact, ones[fact], others[fact]) for fact in facts if ones[fact] != others[fact]]


def _text(value: Any) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else str(value)
