"""What benchmarks/results/*.json hold, as the page and its plots want it."""

from __future__ import annotations

import ast
import json
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

FOLDER = pathlib.Path(__file__).parent
ORDER = (
    *("import", "to_categorical", "normalize", "scopes", "model_file"),
    *("hdf5", "chunk_shuffle", "sequence", "epoch", "pydataset", "get_file", "archive"),
    *("summary", "plot", "page", "parallel", "distributed", "cost_model"),
)
"""Subjects in the order of the README; others follow, by name."""


@dataclass(frozen=True)
class Comparison:
    """Ours beside one baseline: times in seconds, the ratio ours / baseline with its quartiles."""

    question: str
    baseline: str
    floor: bool
    clock: str
    ours: float
    theirs: float
    ratio: float
    low: float
    high: float
    target: float | None
    note: str

    @property
    def slower(self) -> bool:
        """We take longer, by more than the spread of the paired ratios leaves in doubt."""
        return self.ratio > 1 and self.low > 1

    @property
    def missed(self) -> bool:
        return self.target is not None and self.ratio > self.target


@dataclass(frozen=True)
class Figure:
    """One number that is no ratio of times, with its quartiles if it was taken more than once."""

    question: str
    value: float
    unit: str
    target: float | None
    at_least: bool
    spread: Mapping[str, float] | None
    note: str

    @property
    def missed(self) -> bool:
        if self.target is None:
            return False
        return self.value < self.target if self.at_least else self.value > self.target


@dataclass(frozen=True)
class Subject:
    """One results file, and the question that its benchmark asks."""

    name: str
    question: str
    document: Mapping[str, Any]

    @property
    def comparisons(self) -> list[Comparison]:
        return [comparison for row in self.document["results"] if "ratios" in row for comparison in comparisons_of(row)]

    @property
    def figures(self) -> list[Figure]:
        return [figure for row in self.document["results"] if "ratios" not in row for figure in figures_of(row)]


def figures_of(row: Mapping[str, Any]) -> list[Figure]:
    """One stored number, or the times of each contestant where nobody was compared."""
    note = row.get("note", "")
    if "value" not in row:
        return [
            Figure(f"{row['question']}: {name}", times["median"], "s", None, False, times, note)
            for name, times in row.get("seconds", {}).items()
        ]
    target, at_least = row.get("target"), row.get("at_least", False)
    spread = row.get("spread") or row.get("paired")
    return [Figure(row["question"], row["value"], row.get("unit", ""), target, at_least, spread, note)]


def comparisons_of(row: Mapping[str, Any]) -> list[Comparison]:
    """The baselines of one stored question."""
    seconds = {name: times["median"] for name, times in row["seconds"].items()}
    return [
        Comparison(
            question=row["question"],
            baseline=name,
            floor=ratio.get("floor", False),
            clock=row["clock"],
            ours=seconds["ours"],
            theirs=seconds[name],
            ratio=ratio["ratio_of_medians"],
            low=ratio["paired"]["p25"],
            high=ratio["paired"]["p75"],
            target=ratio["target"],
            note=row.get("note", ""),
        )
        for name, ratio in row["ratios"].items()
    ]


def subjects() -> list[Subject]:
    """All that is stored, whatever it is called, in the order of the page."""
    paths = sorted((FOLDER / "results").glob("*.json"), key=lambda path: (place(path.stem), path.stem))
    return [Subject(path.stem, question(path.stem), json.loads(path.read_text(encoding="utf-8"))) for path in paths]


def place(name: str) -> int:
    return ORDER.index(name) if name in ORDER else len(ORDER)


def question(name: str) -> str:
    """The first paragraph of the docstring of the program that stored these results."""
    programs = [path for path in (FOLDER / f"bench_{name}.py", FOLDER / f"{name}.py") if path.exists()]
    if not programs:
        return ""
    described = ast.get_docstring(ast.parse(programs[0].read_text(encoding="utf-8"))) or ""
    return " ".join(described.split("\n\n")[0].split())
