"""Equal modules that follow each other as one item, and lists that are too long for one picture in parts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Hashable

from torchkutils.models.page_tree.costs import total
from torchkutils.models.page_tree.items import Item
from torchkutils.models.records import Trace

FEWEST = 4
"""So many equal modules become one item; up to three are as quickly seen as a number before them."""
LONGEST_PATTERN = 6
LONGEST_LIST = 64
"""A module with more items inside has them in parts, so that opening it stays quick."""
PART = 40

# A name that counts: "3", "layer3", "blocks[3]", "layer.3"; and the number of a call: "act (2)".
_COUNTED_NAME = re.compile(r"^(.*?)\[?(\d+)\]?$")
_CALL = re.compile(r" \((\d+)\)$")


def grouped(root: Item, trace: Trace) -> None:
    """Put groups and parts into the tree."""
    prints = _Prints(trace)
    # Children are told apart by what lies in them: from the leaves up, without recursion.
    order, stack = [], [root]
    while stack:
        item = stack.pop()
        order.append(item)
        stack.extend(item.children)
    for item in reversed(order):
        prints.note(item)
        if item.children:
            item.children = _in_parts(_folded(item.children, prints), 1)


class _Prints:
    """A number for each module that equal ones share: the same class, arguments, shapes, costs, and so all below."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.known: dict[Hashable, int] = {}
        self.numbers: dict[int, int] = {}

    def note(self, item: Item) -> None:
        module = None if item.module is None else self.trace.modules[item.module]
        key = (
            item.kind,
            item.class_name,
            item.arguments,
            item.inputs,
            item.outputs,
            item.calls,
            item.failed,
            item.cost,
            "" if module is not None else item.name,
            () if module is None else tuple([(one.name, one.shape, one.dtype) for one in module.parameters]),
            tuple([(child.name, self.numbers[id(child)]) for child in item.children]),
        )
        self.numbers[id(item)] = self.known.setdefault(key, len(self.known))

    def of(self, item: Item) -> int:
        return self.numbers[id(item)]


def _folded(children: list[Item], prints: _Prints) -> list[Item]:
    """The children with each run of equal ones, or of a pattern of several, as one group."""
    modules = [position for position, child in enumerate(children) if child.kind == "module"]
    if len(modules) < FEWEST:
        return children
    numbers = [prints.of(children[position]) for position in modules]
    steps = [0, *(_counts_on(children[a], children[b]) for a, b in itertools.pairwise(modules))]
    folded: list[Item] = []
    done = at = 0
    while at < len(modules):
        period, repeats = _pattern(numbers, steps, at)
        if repeats >= FEWEST:
            first, last = modules[at], modules[at + period * repeats - 1]
            folded += children[done:first]
            # Functions that join one module to the next lie between them, and so in the group.
            folded.append(_group(children[first : last + 1], period, repeats))
            done, at = last + 1, at + period * repeats
        else:
            at += 1
    return folded + children[done:]


def _pattern(numbers: list[int], steps: list[int], at: int) -> tuple[int, int]:
    """The shortest pattern that begins at a position and repeats, and how often it does."""
    for period in range(1, LONGEST_PATTERN + 1):
        position = at + period
        # Beyond the first pattern each module must be as the one a period before it, and count on from its neighbour.
        if not all(steps[at + 1 : position]):
            return 1, 1
        while position < len(numbers) and steps[position] and numbers[position] == numbers[position - period]:
            position += 1
        repeats = (position - at) // period
        if repeats >= FEWEST:
            return period, repeats
    return 1, 1


def _counts_on(before: Item, item: Item) -> int:
    """1 where a name is the one before it plus one, or a call of a module follows the one before it."""
    if before.module == item.module:
        return int(_number_of_call(before) + 1 == _number_of_call(item))
    one, other = _COUNTED_NAME.match(before.name), _COUNTED_NAME.match(item.name)
    follows = one is not None and other is not None and one[1] == other[1] and int(one[2]) + 1 == int(other[2])
    return int(follows)


def _number_of_call(item: Item) -> int:
    found = _CALL.search(item.name)
    return 1 if found is None else int(found[1])


def _group(members: list[Item], period: int, repeats: int) -> Item:
    modules = [member for member in members if member.kind == "module"]
    classes = ", ".join(member.class_name for member in modules[:period])
    group = Item("group", _span(modules), class_name=classes if period == 1 else f"({classes})", count=repeats)
    _sum_up(group, members)
    group.children = _in_parts(members, period)
    return group


def _in_parts(children: list[Item], period: int) -> list[Item]:
    """A list in parts, and parts of parts, until it is short enough for one picture."""
    size = PART - PART % period
    while len(children) > LONGEST_LIST:
        children = [_part(children[start : start + size]) for start in range(0, len(children), size)]
    return children


def _part(members: list[Item]) -> Item:
    modules = [member for member in members if member.kind in ("module", "group", "range")] or members
    classes = {member.class_name for member in modules}
    count = sum(member.count or 1 for member in modules)
    part = Item("range", _span(modules), class_name=classes.pop() if len(classes) == 1 else "modules", count=count)
    _sum_up(part, members)
    part.children = members
    return part


def _span(members: list[Item]) -> str:
    """From the first name to the last."""
    first, last = members[0].name.split(" … ")[0], members[-1].name.split(" … ")[-1]
    return first if first == last else f"{first} … {last}"


def _sum_up(item: Item, members: list[Item]) -> None:
    item.cost = total(member.cost for member in members)
    item.inputs, item.outputs, item.dtype = members[0].inputs, members[-1].outputs, members[-1].dtype
    item.failed = any(member.failed for member in members)
