"""Rows as the lines of a tree: branches, equal siblings folded into one, sums of what is closed."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from torchkutils.models.records import ModuleRecord, Trace
from torchkutils.models.table.rows import CallsOf, CallValues, SummaryRow
from torchkutils.models.tree.totals import Operations, Totals, call_bytes

# What a connection says behind the path: which call, and which of its tensors.
_CALL = re.compile(r"\[\d+\]\[\d+\]$")
# A name that counts: "3", "layer3", "blocks[3]".
_COUNTED_NAME = re.compile(r"^(.*?)\[?(\d+)\]?$")
# Of rows that are no modules, and of all rows where nothing is folded: they equal nothing.
_NO_KIND = -1


@dataclass
class _Branch:
    """A row with the rows below it; equal modules have the same kind."""

    row: SummaryRow
    kind: int
    below: list[_Branch] = field(default_factory=list)

    def rows(self) -> Iterator[SummaryRow]:
        """Its row and all below it."""
        stack = [self]
        while stack:
            branch = stack.pop()
            yield branch.row
            stack += branch.below


@dataclass(frozen=True)
class TreeLine:
    """One line: a row, or several equal ones.

    Attributes:
        level: 0 for the model.
        prefix: The branches before the label: "│  ├─ ".
        rows: The row; of equal siblings each one.
        params: What the line counts; of equal siblings their sum; None where some are not made yet.
        each: What one of equal siblings counts.
        trainable: Of `params`, those that require a gradient.
        bytes: That `params` take.
        inbound: What the row took its inputs from; equal siblings that are hidden by one line have its name.
        closed: Modules below it are not shown.
        opens: The next line lies below this one.
        of_one: It lies below a line of equal siblings: its numbers are those of one of them.
    """

    level: int
    prefix: str
    rows: tuple[SummaryRow, ...]
    params: int | None
    each: int | None
    trainable: int
    bytes: int
    inbound: tuple[str, ...]
    closed: bool
    opens: bool
    of_one: bool


def tree_lines(trace: Trace, rows: Sequence[SummaryRow], totals: Totals, *, fold: bool) -> list[TreeLine]:
    """The lines below the model, and the model's own as the first, which has the totals."""
    root = _branches(trace, rows, _kinds(trace) if fold else {})
    first = TreeLine(
        level=0,
        prefix="",
        rows=(root.row,),
        params=totals.params,
        each=totals.params,
        trainable=totals.trainable,
        bytes=totals.param_bytes,
        inbound=(),
        closed=root.row.hidden > 0,
        opens=bool(root.below),
        of_one=False,
    )
    return _with_shown_names([first, *_lines(root.below)])


def _with_shown_names(lines: list[TreeLine]) -> list[TreeLine]:
    """Connections to siblings that have no line of their own name the line that shows them."""
    names: dict[str, str] = {}
    for line in lines:
        label = f"{line.rows[0].path}–{line.rows[-1].name}"
        names.update((row.path, label) for row in line.rows[1:])
    if not names:
        return lines
    return [
        replace(line, inbound=tuple(dict.fromkeys(_shown_name(name, names) for name in line.inbound))) for line in lines
    ]


def _shown_name(connection: str, names: dict[str, str]) -> str:
    path = _CALL.sub("", connection)
    while path:
        if path in names:
            return names[path]
        path = path.rpartition(".")[0]
    return connection


def _branches(trace: Trace, rows: Sequence[SummaryRow], kinds: dict[str, int]) -> _Branch:
    root_row = rows[0] if rows and rows[0].depth == 0 else model_row(trace)
    stack = [_Branch(root_row, _NO_KIND)]
    for row in rows:
        if row.depth == 0:
            continue
        branch = _Branch(row, kinds.get(row.path, _NO_KIND))
        while stack[-1].row.depth >= row.depth:
            stack.pop()
        stack[-1].below.append(branch)
        stack.append(branch)
    return stack[0]


def model_row(trace: Trace) -> SummaryRow:
    """The row of the model itself, with what all of it runs and nothing that it holds."""
    root, calls = trace.modules[0], CallsOf(trace).get(0)
    values = CallValues().of(calls)
    flops, known = Operations(trace).of(calls)
    sizes = call_bytes(trace)
    return SummaryRow(
        path="",
        name=root.name,
        class_name=root.class_name,
        depth=0,
        calls=len(calls),
        input_shapes=values.input_shapes,
        output_shapes=values.output_shapes,
        dtypes=values.dtypes,
        params=0,
        trainable_params=0,
        flops=flops,
        inbound=(),
        shared_with=None,
        flops_known=known and trace.engine.ran != "structure",
        output_bytes=sum(sizes[call.index][1] for call in calls),
        ran=bool(calls),
    )


def _lines(branches: list[_Branch]) -> Iterator[TreeLine]:
    """The lines of branches and of all below them."""
    waiting = _waiting(branches, "", 1, False)
    while waiting:
        line = waiting.pop()
        first, folded = line.group[0], len(line.group) > 1
        # A line of equal siblings counts all that lies below them; another line counts its own row only.
        counted = _rows_of_all(line.group) if folded else [first.row]
        params = _sum_of_params(counted)
        yield TreeLine(
            level=line.level,
            prefix=line.prefix + ("└─ " if line.last else "├─ "),
            rows=tuple([branch.row for branch in line.group]),
            params=params,
            each=None if params is None else params // len(line.group),
            trainable=sum([row.trainable_params for row in counted]),
            bytes=sum([row.param_bytes for row in counted]),
            inbound=first.row.inbound,
            closed=first.row.hidden > 0,
            opens=bool(first.below),
            of_one=line.of_one,
        )
        prefix = line.prefix + ("   " if line.last else "│  ")
        waiting += _waiting(first.below, prefix, line.level + 1, line.of_one or folded)


def _rows_of_all(branches: list[_Branch]) -> list[SummaryRow]:
    return list(itertools.chain.from_iterable(branch.rows() for branch in branches))


class _Waiting(NamedTuple):
    """A line that is to be made: equal siblings, the prefix around them, and whether no sibling follows them."""

    group: list[_Branch]
    prefix: str
    level: int
    last: bool
    of_one: bool


def _waiting(branches: list[_Branch], prefix: str, level: int, of_one: bool) -> list[_Waiting]:
    """The lines that siblings are to have, the first one at the end of the list."""
    lines = [_Waiting(group, prefix, level, False, of_one) for group in _groups(branches)]
    if lines:
        lines[-1] = lines[-1]._replace(last=True)
    return lines[::-1]


def _sum_of_params(rows: list[SummaryRow]) -> int | None:
    """None where some are not made yet."""
    numbers = [row.params for row in rows if row.params is not None]
    return sum(numbers) if len(numbers) == len(rows) else None


def _groups(branches: list[_Branch]) -> Iterator[list[_Branch]]:
    """Neighbours that are equal and counted by their names, together."""
    group: list[_Branch] = []
    for branch in branches:
        if group and not _continues(branch, group):
            yield group
            group = []
        group.append(branch)
    if group:
        yield group


def _continues(branch: _Branch, group: list[_Branch]) -> bool:
    equal = branch.kind == group[0].kind and branch.kind != _NO_KIND
    return equal and _follows(branch.row.name, group[-1].row.name)


def _follows(name: str, before: str) -> bool:
    """Whether both names count, and this one is the next: "layer3" behind "layer2"."""
    one, other = _COUNTED_NAME.match(before), _COUNTED_NAME.match(name)
    if one is None or other is None:
        return False
    return one[1] == other[1] and int(one[2]) + 1 == int(other[2])


def _kinds(trace: Trace) -> dict[str, int]:
    """A number for each module by its path: equal ones hold, ran and gave the same, and so do all below them."""
    calls_of, operations, values = CallsOf(trace), Operations(trace), CallValues()
    known: dict[tuple[object, ...], int] = {}
    kinds = [0] * len(trace.modules)
    failed = None if trace.failure is None else trace.calls[trace.failure.call].module
    for module in reversed(trace.modules):
        calls = calls_of.get(module.index if module.same_as is None else module.same_as)
        shown = values.of(calls)
        key = (
            module.class_name,
            module.registered,
            module.same_as,
            module.index == failed,
            _held_shapes(module),
            tuple([(trace.modules[child].name, kinds[child]) for child in module.children]),
            len(calls),
            shown.input_shapes,
            shown.output_shapes,
            operations.of(calls),
        )
        kinds[module.index] = known.setdefault(key, len(known))
    return {module.path: kinds[module.index] for module in trace.modules}


def _held_shapes(module: ModuleRecord) -> tuple[object, ...]:
    held = (*module.parameters, *module.buffers, *module.packed)
    return tuple([(one.name, one.shape, one.dtype, one.kind, one.requires_grad, one.same_as is None) for one in held])
