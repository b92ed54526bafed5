"""The plots of docs/benchmarks.md, as SVG whose bytes depend on the results alone."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks._stored import Comparison, Subject

FASTER, SLOWER, GREY = "#1f6f9c", "#c8541b", "#666666"
RULE = "#eeeeee"
DARK = {"#000000": "#d7dce2", GREY: "#9aa4af", RULE: "#2b323b", FASTER: "#4fa8dc", SLOWER: "#f08a4b"}
"""What each colour is where the reader's page is dark; the ground is the page's own."""
# Text stays text, and ids are drawn from the salt: the same results give the same bytes.
SETTINGS = {
    **{key: value for key, value in matplotlib.rcParamsDefault.items() if not key.startswith("backend")},
    "svg.hashsalt": "torchkutils",
    "svg.fonttype": "none",
    "font.size": 9.0,
}
WIDTH, LINE, MARGIN = 8.2, 0.2, 0.75
"""Inches: of a plot, of a line of labels, and of what stands above and below the rows."""


def overview(found: Sequence[Subject]) -> str:
    """One line a baseline that a user could take instead; a dot is one question."""
    lines = {}
    for subject in found:
        for comparison in subject.comparisons:
            if not comparison.floor:
                lines.setdefault(f"{subject.name} / {comparison.baseline}", []).append(comparison)
    canvas, axes = empty(len(lines) * LINE * 1.15, list(lines))
    for row, comparisons in enumerate(lines.values()):
        axes.hlines(row, 0.001, 1000, color=RULE, linewidth=0.8, zorder=0)
        for comparison in comparisons:
            axes.plot(comparison.ratio, row, "o", color=colour(comparison), markersize=5, alpha=0.75)
    return drawn(canvas, axes, [c.ratio for comparisons in lines.values() for c in comparisons])


def of_subject(subject: Subject) -> str | None:
    """One line a comparison: the ratio of medians, the quartiles of the paired ratios, the target."""
    rows = subject.comparisons
    if not rows:
        return None
    labels = [textwrap.fill(f"{row.question} / {row.baseline}", 52) for row in rows]
    heights = [label.count("\n") + 1.7 - 0.4 * ("\n" in label) for label in labels]
    canvas, axes = empty(sum(heights) * LINE, labels, heights)
    for middle, height, row in zip(middles(heights), heights, rows, strict=True):
        axes.hlines(middle, row.low, row.high, color=colour(row), linewidth=2)
        filled = "none" if row.floor else colour(row)
        axes.plot(row.ratio, middle, "o", color=colour(row), markerfacecolor=filled, markersize=6)
        if row.target is not None:
            axes.vlines(row.target, middle - 0.4 * height, middle + 0.4 * height, color=GREY, linewidth=1.2)
    return drawn(canvas, axes, [value for row in rows for value in (row.low, row.high, row.ratio, row.target or 1)])


def empty(height: float, labels: Sequence[str], heights: Sequence[float] = ()) -> tuple[Canvas, Axes]:
    """A canvas with one labelled row each, the first on top, and the line at 1."""
    with matplotlib.rc_context(SETTINGS):
        canvas = Canvas(figsize=(WIDTH, height + MARGIN), layout="constrained")
        axes = canvas.add_subplot()
        heights = heights or [1.0] * len(labels)
        axes.set_yticks(middles(heights), labels)
        axes.set_ylim(sum(heights) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.axvline(1, color="black", linewidth=1)
    return canvas, axes


def middles(heights: Sequence[float]) -> list[float]:
    """Where rows of these heights have their middles, the first row's at 0 for a height of 1."""
    return [sum(heights[:row]) + height / 2 - 0.5 for row, height in enumerate(heights)]


def colour(comparison: Comparison) -> str:
    return SLOWER if comparison.ratio > 1 else FASTER


def drawn(canvas: Canvas, axes: Axes, values: Iterable[float]) -> str:
    """The SVG, with a logarithmic axis that holds the values and 1."""
    low, high = min(1.0, *values), max(1.0, *values)
    with matplotlib.rc_context(SETTINGS):
        axes.set_xscale("log")
        axes.set_xlim(low / 1.3, high * 1.3)
        # Few ticks where the axis is long, more where it is short.
        steps = (1,) if high / low > 300 else (1, 3) if high / low > 20 else (1, 1.5, 2, 3, 5, 7)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("our time / theirs: left of 1 we are faster")
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        written = io.StringIO()
        canvas.savefig(written, format="svg", metadata={"Date": None}, transparent=True)
    return "\n".join(line.rstrip() for line in for_both_themes(written.getvalue()).splitlines()) + "\n"


def for_both_themes(svg: str) -> str:
    """The drawing with a second set of colours, which browsers take for a page with a dark ground."""
    rules = [f"text {{fill: {DARK['#000000']}}}"]
    for light, dark in DARK.items():
        rules += [f'[style*="{use}: {light}"] {{{use}: {dark} !important}}' for use in ("stroke", "fill")]
    style = "\n   ".join(["@media (prefers-color-scheme: dark) {", *rules, "}"])
    return svg.replace("</style>", f"\n   {style}</style>", 1)
