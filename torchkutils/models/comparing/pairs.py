"""Which module of one model is which of another: by path, then by class, contents and position.

1. The two models are a pair. In each pair, children of the same name are a pair. A name that is only a number
   ("0", "1") is a position and says nothing of the module: there the cheapest alignment decides, so that one inserted
   layer is one added layer, and not a change of all layers behind it.
2. Children that are left over are paired by what they are (all that is in them), then by their class, in order: a
   parent that was renamed keeps what is in it.
3. What is left over anywhere is paired where all that is in it is equal: it was moved.
"""

from __future__ import annotations

import collections
import difflib
from collections.abc import Callable, Hashable

from torchkutils.models.records import ModuleRecord, Trace

# A moved module without parameters must hold more modules than these: a ReLU alone is found everywhere.
_FEWEST_INSIDE = 1
# Longer lists are not aligned by costs: the product of their lengths.
_LONGEST_ALIGNMENT = 40_000
# What a pair costs, where a module without its like costs 1: two modules of one class that differ (a block that differs
# a little: the least), two of other classes with the same name, another name, and what is never a pair.
_CHANGED, _LEAST_CHANGED, _OTHER_CLASS, _OTHER_PLACE, _NEVER = 0.5, 0.25, 1.5, 0.2, 3.0


class _Side:
    """One model's tree, with a number for each module that equal ones share."""

    def __init__(self, trace: Trace, known: dict[Hashable, int]) -> None:
        self.modules = trace.modules
        self.prints = [0] * len(trace.modules)
        self.sizes = [1] * len(trace.modules)
        for module in reversed(trace.modules):
            inside = tuple([(trace.modules[child].name, self.prints[child]) for child in module.children])
            tensors = tuple([(one.name, one.shape, one.dtype) for one in (*module.parameters, *module.buffers)])
            key = (module.class_name, module.extra_repr, tensors, inside)
            self.prints[module.index] = known.setdefault(key, len(known))
            self.sizes[module.index] += sum(self.sizes[child] for child in module.children)

    def holds(self, index: int) -> bool:
        """Whether a module is more than one of many equal ones."""
        return bool(self.modules[index].parameters) or self.sizes[index] > _FEWEST_INSIDE


class _Pairing:
    def __init__(self, before: Trace, after: Trace) -> None:
        known: dict[Hashable, int] = {}
        self.before, self.after = _Side(before, known), _Side(after, known)
        self.pairs: dict[int, int] = {}
        self.taken: set[int] = set()

    def join(self, one: int, other: int) -> None:
        """Make two modules a pair, and all that is in them."""
        waiting = [(one, other)]
        while waiting:
            one, other = waiting.pop()
            self.pairs[one] = other
            self.taken.add(other)
            waiting += self._children(self.before.modules[one], self.after.modules[other])

    def _children(self, one: ModuleRecord, other: ModuleRecord) -> list[tuple[int, int]]:
        firsts = [child for child in one.children if child not in self.pairs]
        seconds = [child for child in other.children if child not in self.taken]
        if self._count(self.before, firsts) and self._count(self.after, seconds):
            found = self._aligned(firsts, seconds)
        else:
            found = self._in_steps(firsts, seconds, (_name, _print, _class))
        return found

    def _in_steps(
        self, firsts: list[int], seconds: list[int], steps: tuple[Callable[[_Side, int], Hashable], ...]
    ) -> list[tuple[int, int]]:
        """Pairs by one property after the other, each of what the ones before it left over."""
        found = []
        for step in steps:
            pairs = self._same(firsts, seconds, step)
            found += pairs
            taken = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
            firsts = [child for child in firsts if child not in taken[0]]
            seconds = [child for child in seconds if child not in taken[1]]
        return found

    @staticmethod
    def _count(side: _Side, children: list[int]) -> bool:
        return all(side.modules[child].name.isdigit() for child in children)

    def _same(
        self, firsts: list[int], seconds: list[int], step: Callable[[_Side, int], Hashable]
    ) -> list[tuple[int, int]]:
        found = _in_order(
            [step(self.before, child) for child in firsts], [step(self.after, child) for child in seconds]
        )
        pairs = [(firsts[one], seconds[other]) for one, other in found]
        return [pair for pair in pairs if step is not _class or self._alike(*pair)]

    def _alike(self, one: int, other: int) -> bool:
        """Whether two modules of one class but of other names hold about the same: half of their children's classes."""
        inside = [
            collections.Counter(side.modules[child].class_name for child in side.modules[index].children)
            for side, index in ((self.before, one), (self.after, other))
        ]
        return 2 * (inside[0] & inside[1]).total() >= max(inside[0].total(), inside[1].total())

    # -- lists -----------------------------------------------------------------------------------------------------

    def _aligned(self, firsts: list[int], seconds: list[int]) -> list[tuple[int, int]]:
        """The pairs of two lists, in order, that leave the least to be said; equal ends are taken off first."""
        found = []
        while firsts and seconds and self._cost(firsts[0], seconds[0]) == 0:
            found.append((firsts.pop(0), seconds.pop(0)))
        if len(firsts) * len(seconds) > _LONGEST_ALIGNMENT:
            return found + self._roughly_aligned(firsts, seconds)
        return found + self._cheapest(firsts, seconds)

    def _cheapest(self, firsts: list[int], seconds: list[int]) -> list[tuple[int, int]]:
        """The pairs of the alignment that costs the least: at each step both go on, or one of them alone."""
        costs = self._costs_of_rests(firsts, seconds)
        found = []
        row = column = 0
        while row < len(firsts) and column < len(seconds):
            here = costs[row][column]
            if here == self._cost(firsts[row], seconds[column]) + costs[row + 1][column + 1]:
                found.append((firsts[row], seconds[column]))
                row, column = row + 1, column + 1
            elif here == costs[row + 1][column] + 1:
                row += 1
            else:
                column += 1
        return found

    def _costs_of_rests(self, firsts: list[int], seconds: list[int]) -> list[list[float]]:
        """`costs[i][j]`: of the cheapest alignment of `firsts[i:]` and `seconds[j:]`."""
        rows, columns = len(firsts), len(seconds)
        costs = [[float(rows - row + columns - column) for column in range(columns + 1)] for row in range(rows + 1)]
        for row in reversed(range(rows)):
            for column in reversed(range(columns)):
                joined = self._cost(firsts[row], seconds[column]) + costs[row + 1][column + 1]
                costs[row][column] = min(joined, costs[row + 1][column] + 1, costs[row][column + 1] + 1)
        return costs

    def _roughly_aligned(self, firsts: list[int], seconds: list[int]) -> list[tuple[int, int]]:
        """As `_aligned`, in little time: lists of one length by their places, others from both ends."""
        if len(firsts) == len(seconds):
            return self._in_steps(firsts, seconds, (_print_and_name, _name))
        found = []
        while firsts and seconds and self.before.prints[firsts[-1]] == self.after.prints[seconds[-1]]:
            found.append((firsts.pop(), seconds.pop()))
        return found + self._in_steps(firsts, seconds, (_print, _name))

    def _cost(self, one: int, other: int) -> float:
        """What it costs to call two modules the same, where one that is missing costs 1."""
        before, after = self.before.modules[one], self.after.modules[other]
        elsewhere = 0.0 if before.name == after.name else _OTHER_PLACE
        if self.before.prints[one] == self.after.prints[other]:
            return elsewhere
        if before.class_name == after.class_name:
            return self._changed(one, other) + elsewhere
        return _OTHER_CLASS if before.name == after.name else _NEVER

    def _changed(self, one: int, other: int) -> float:
        """What a change of two modules of one class costs: the less of what lies in them is equal, the more."""
        inside = [
            collections.Counter(side.prints[child] for child in side.modules[index].children)
            for side, index in ((self.before, one), (self.after, other))
        ]
        most = max(inside[0].total(), inside[1].total())
        return _CHANGED if most == 0 else max(_LEAST_CHANGED, 1 - (inside[0] & inside[1]).total() / most)

    def moved(self) -> None:
        """Pair equal modules that were moved elsewhere in the tree."""
        left: dict[int, list[ModuleRecord]] = {}
        for module in self.after.modules:
            if module.index not in self.taken and self.after.holds(module.index):
                left.setdefault(self.after.prints[module.index], []).append(module)
        for module in self.before.modules:
            if module.index not in self.pairs and self.before.holds(module.index):
                equal = [one for one in left.get(self.before.prints[module.index], ()) if one.index not in self.taken]
                # The first one of the same name; without such, the first one.
                equal.sort(key=lambda one: one.name != module.name)
                if equal:
                    self.join(module.index, equal[0].index)


def paired(before: Trace, after: Trace) -> dict[int, int]:
    """For each module of the first model that has its like in the second one, which it is, by their indexes."""
    pairing = _Pairing(before, after)
    pairing.join(0, 0)
    pairing.moved()
    return pairing.pairs


def _print(side: _Side, index: int) -> Hashable:
    return side.prints[index]


def _print_and_name(side: _Side, index: int) -> Hashable:
    return side.prints[index], side.modules[index].name


def _name(side: _Side, index: int) -> Hashable:
    return side.modules[index].name


def _class(side: _Side, index: int) -> Hashable:
    return side.modules[index].class_name


def _in_order(firsts: list[Hashable], seconds: list[Hashable]) -> list[tuple[int, int]]:
    """Positions of equal entries of two lists, in an order that both have."""
    blocks = difflib.SequenceMatcher(None, firsts, seconds, autojunk=False).get_matching_blocks()
    return [(block.a + step, block.b + step) for block in blocks for step in range(block.size)]
