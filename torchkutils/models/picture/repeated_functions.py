"""Patterns of functions that a forward repeats, as a loop in it does."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torchkutils.models.records import Node, Trace

# A loop's body is searched for up to this many functions and calls.
_LONGEST_PATTERN = 200


@dataclass(frozen=True)
class Run:
    """A part of a sequence that is one pattern several times.

    Attributes:
        start: Where the first repetition begins.
        length: Of the pattern.
        times: How often the pattern is repeated there.
    """

    start: int
    length: int
    times: int

    @property
    def end(self) -> int:
        """Behind the last repetition."""
        return self.start + self.length * self.times


def runs_in(sequence: Sequence[Hashable]) -> list[Run]:
    """The repeated parts of a sequence, the longest first found, without overlaps, in order.

    >>> [(run.start, run.length, run.times) for run in runs_in("xababab")]
    [(1, 2, 3)]
    """
    found: list[Run] = []
    parts = [(0, len(sequence))]
    while parts:
        start, end = parts.pop()
        run = _longest(sequence, start, end)
        if run is not None:
            found.append(run)
            parts += [(start, run.start), (run.end, end)]
    return sorted(found, key=lambda run: run.start)


def _longest(sequence: Sequence[Hashable], start: int, end: int) -> Run | None:
    """The run that covers most, with the shortest pattern among equals."""
    best: Run | None = None
    for length in range(1, min((end - start) // 2, _LONGEST_PATTERN) + 1):
        same = 0
        for position in range(start, end - length):
            same = same + 1 if sequence[position] == sequence[position + length] else 0
            times = same // length + 1
            if times > 1 and (best is None or times * length > best.times * best.length):
                best = Run(position - same + 1, length, times)
    return best


class RepeatedFunctions:
    """For each function between modules its position in the pattern that its call repeats."""

    def __init__(self, trace: Trace) -> None:
        self._places: dict[int, int] = {}
        self._several: set[int] = set()
        by_call: dict[int, list[tuple[Hashable, int | None]]] = {}
        entered: set[int] = set()
        for node in trace.nodes:
            if node.call is None:
                continue
            if node.kind == "function":
                by_call.setdefault(node.call, []).append((node.name, node.index))
            # Calls of modules belong to the pattern of whoever made them.
            inner = node.call
            while inner not in entered:
                entered.add(inner)
                parent = trace.calls[inner].parent
                if parent is None:
                    break
                by_call.setdefault(parent, []).append((trace.calls[inner].module, None))
                inner = parent
        for steps in by_call.values():
            self._number(steps)

    def _number(self, steps: list[tuple[Hashable, int | None]]) -> None:
        runs = runs_in([token for token, _ in steps])
        run_of = {position: run for run in runs for position in range(run.start, run.end)}
        for position, (_, node) in enumerate(steps):
            if node is None:
                continue
            run = run_of.get(position)
            self._places[node] = position if run is None else run.start + (position - run.start) % run.length
            if run is not None:
                self._several.add(node)

    def place_of(self, node: Node) -> int:
        """The position of the function, the same in each repetition."""
        return self._places[node.index]

    def is_one_of_several(self, node: Node) -> bool:
        """Whether the function is in a part that is repeated."""
        return node.index in self._several
