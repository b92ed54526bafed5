"""Draw docs/benchmarks.md, its plots and the README's table from benchmarks/results/*.json.

`python -m benchmarks.make_page` writes all of them.
"""

from __future__ import annotations

import collections
import datetime
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks import _plots, readme_table
from benchmarks._stored import Comparison, Figure, Subject, subjects

DOCS = pathlib.Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"
PAGE = "benchmarks.md"
IMAGES = "images/benchmarks"

INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks.make_page` from benchmarks/results/*.json: change those, not this page. -->

What our calls cost beside what you could use instead. {standing}

![Our time over theirs, one dot a question; left of 1 we are faster]({images}/overview.svg)

[Where we are slower or missed a target](#where-we-are-slower-or-missed-a-target) comes first, then every subject with
all its figures.

## How it is measured

- `make bench` repeats everything on your machine, `make bench ONLY=hdf5` one subject. The programs lie in
  `benchmarks/`, one a subject, the figures with quartiles and extremes in `benchmarks/results/`.
- Ours and the peers run in turn in one process, every other round backwards. What is given is the ratio of the medians,
  ours / theirs, and in brackets the quartiles of the ratios of each round: below 1 we are faster, and a bracket that
  holds 1 decides nothing.
- Peers are installed from PyPI at the versions below and used in the best way that we know for them. Both sides do the
  same work, down to the sync to disk; where that cannot be, a note says what differs.
- Some baselines are floors, not alternatives: a bare forward, a copy in memory. No call can come below them, and the
  question is how near it comes. They are hollow dots in the plots, and *italic* in the tables.
- Targets were set before the code was written. They stay where they are when they are missed; grey lines in the plots.
- Times are elapsed seconds, or CPU seconds where it says CPU.

## On what

{machine}

"""

SLOWER = "## Where we are slower or missed a target\n\n"


def drawn() -> dict[str, str]:
    """Every file that belongs to the page, by its path in docs/."""
    found = subjects()
    files = {f"{IMAGES}/overview.svg": _plots.overview(found)}
    for subject in found:
        if (plot := _plots.of_subject(subject)) is not None:
            files[f"{IMAGES}/{subject.name}.svg"] = plot
    sections = "\n".join(section(subject, found) for subject in found)
    introduction = INTRODUCTION.format(standing=standing(found), images=IMAGES, machine=on_what(found))
    return {PAGE: introduction + shortfalls(found) + sections, **files}


def write() -> None:
    files = drawn()
    for path in (DOCS / IMAGES).glob("*.svg"):
        if f"{IMAGES}/{path.name}" not in files:
            path.unlink()
    for name, text in files.items():
        path = DOCS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    README.write_text(readme(), encoding="utf-8")


def readme() -> str:
    """The README with its table as the results give it."""
    return readme_table.in_readme(README.read_text(encoding="utf-8"), subjects())


def standing(found: Sequence[Subject]) -> str:
    """How many comparisons went which way."""
    peers = [row for subject in found for row in subject.comparisons if not row.floor]
    faster = sum(row.ratio < 1 and row.high < 1 for row in peers)
    slower = sum(row.slower for row in peers)
    rows: list[Comparison | Figure] = [row for s in found for row in (*s.comparisons, *s.figures)]
    aimed = [row for row in rows if row.target is not None]
    return (
        f"Of {len(peers)} comparisons with peers we are faster in {faster}, slower in {slower}, and in "
        f"{len(peers) - faster - slower} the spread leaves it open. Of {len(aimed)} targets that the project had set "
        f"itself, {sum(not row.missed for row in aimed)} were met."
    )


def shortfalls(found: Sequence[Subject]) -> str:
    """What a reader should know before choosing us."""
    lines = []
    for subject in found:
        for row in subject.comparisons:
            if (row.slower and not row.floor) or row.missed:
                what = f"[{subject.name}](#{subject.name}): {row.question}"
                lines.append([what, f"{ratio(row)} × {name_of(row)}", target_of(row)])
        for figure in subject.figures:
            if figure.missed:
                what = f"[{subject.name}](#{subject.name}): {figure.question}"
                lines.append([what, value_of(figure), target_of(figure)])
    if not lines:
        return SLOWER + "Nowhere, in what was measured.\n\n"
    return SLOWER + table(["Question", "Ours", "Target"], lines) + "\n\nNotes stand with the subjects.\n\n"


def section(subject: Subject, found: Sequence[Subject]) -> str:
    """Heading, where the figures come from, plot, tables, notes."""
    parts = [f"## {subject.name}", subject.question, provenance(subject, found)]
    if subject.comparisons:
        parts.append(f"![{subject.name}: our time over theirs]({IMAGES}/{subject.name}.svg)")
        heads = ["Question", "Ours", "Theirs", "Ours / theirs", "Target"]
        parts.append(table(heads, [line_of(row) for row in subject.comparisons]))
    if subject.figures:
        lines = [[row.question, value_of(row), target_of(row)] for row in subject.figures]
        parts.append(table(["Figure", "Ours", "Target"], lines))
    parts += [f"{question}: {note}" for question, note in notes(subject).items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def notes(subject: Subject) -> dict[str, str]:
    """Each note once, after the questions that it belongs to."""
    rows: list[Comparison | Figure] = [*subject.comparisons, *subject.figures]
    questions: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.note:
            questions.setdefault(row.note, {})[row.question] = None
    return {"; ".join(f"*{question}*" for question in found): note for note, found in questions.items()}


def line_of(row: Comparison) -> list[str]:
    clock = " CPU" if row.clock.startswith("process") else ""
    return [
        row.question,
        seconds(row.ours) + clock,
        f"{name_of(row)} {seconds(row.theirs)}",
        ratio(row),
        target_of(row),
    ]


def name_of(row: Comparison) -> str:
    return f"*{row.baseline}*" if row.floor else row.baseline


def ratio(row: Comparison) -> str:
    return f"{row.ratio:.3g} [{row.low:.3g}, {row.high:.3g}]"


def value_of(row: Figure) -> str:
    given = f"{row.value:.4g} {row.unit}".strip()
    return given if row.spread is None else f"{given} [{row.spread['p25']:.3g}, {row.spread['p75']:.3g}]"


def target_of(row: Comparison | Figure) -> str:
    if row.target is None:
        return ""
    sign = "≥" if isinstance(row, Figure) and row.at_least else "≤"
    return f"{sign} {row.target:.3g}, {'**missed**' if row.missed else 'met'}"


def seconds(value: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1e6:.3g} µs"


def table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    cells = [heads, ["---"] * len(heads), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in cells)


def on_what(found: Sequence[Subject]) -> str:
    """The machine and the versions that most subjects share."""
    machine, versions = most_common(map(machine_of, found)), most_common(map(versions_of, found))
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{describe(machine)} Versions: {listed}. Each subject says what was different there."


def provenance(subject: Subject, found: Sequence[Subject]) -> str:
    """The file, the day, and what was not as in `on_what`."""
    document = subject.document
    date = datetime.date.fromisoformat(document["date"])
    details = document["machine"]
    threads = f"torch on {details['torch_threads']} thread{'s' * (details['torch_threads'] > 1)}"
    says = [f"`benchmarks/results/{subject.name}.json`, {date.day} {date:%B %Y}, {threads}"]
    if details.get("other_work") is not None:
        says.append(f"other work took {details['other_work']:.0%} of the machine meanwhile")
    elif details.get("shared_and_noisy"):
        says.append("on a machine shared with other work")
    if (machine := machine_of(subject)) != most_common(map(machine_of, found)):
        says.append(f"on {describe(machine).rstrip('.')}")
    usual, versions = most_common(map(versions_of, found)), versions_of(subject)
    other = [f"{name} {version}" for name, version in versions.items() if usual.get(name, version) != version]
    return "; ".join(says + other) + "."


def machine_of(subject: Subject) -> dict[str, object]:
    kept = ("system", "processor", "cores", "memory_gb")
    return {key: subject.document["machine"][key] for key in kept if key in subject.document["machine"]}


def versions_of(subject: Subject) -> dict[str, str]:
    return {"Python": subject.document["python"], **subject.document["versions"]}


def describe(machine: Mapping[str, object]) -> str:
    memory = f", {machine['memory_gb']} GB of memory" if "memory_gb" in machine else ""
    processor = f"{machine['processor']}, " if machine.get("processor") else ""
    return f"{processor}{machine['cores']} cores{memory}, {machine['system']}."


def most_common(values: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The mapping that occurs most often, the first of several."""
    counted = collections.Counter(json.dumps(value) for value in values)
    return json.loads(counted.most_common(1)[0][0])


if __name__ == "__main__":
    write()
