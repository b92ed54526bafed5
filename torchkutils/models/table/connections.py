"""Keras's last column: what each shown module took its inputs from."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable
from typing import TypeAlias

from torchkutils.models.records import Edge, Trace

Taken: TypeAlias = tuple[tuple[int, int], ...]
"""Calls, each with which of the tensors in its output is meant."""


def inbound_names(trace: Trace, shown: set[int]) -> dict[int, tuple[str, ...]]:
    """For each shown module what its calls took from other shown calls; functions between them are looked through.

    `encoder.norm[0][1]` is the second tensor that the first call of `encoder.norm` gave. Where a function joins what
    another one has joined (a sum with a running sum), only the latest call of the earlier one is named: each residual
    block would otherwise name all blocks before it.
    """
    if trace.engine.edges == "definition":
        return {}
    box = _boxes(trace, shown)
    reaching: dict[int, Taken] = {}
    inbound: dict[int, tuple[str, ...]] = {}
    # Edges are sorted by their targets, and a source has a lower index than its target.
    for target, edges in itertools.groupby(trace.edges, operator.attrgetter("target")):
        taken = _taken(edges, box, reaching, trace.nodes[target].joins)
        here = box[target]
        if here is None:
            reaching[target] = taken
            continue
        names = [_name(trace, call, tensor) for call, tensor in taken if call != here]
        module = trace.calls[here].module
        if names:
            inbound[module] = tuple(dict.fromkeys([*inbound.get(module, ()), *names]))
    return inbound


def _taken(edges: Iterable[Edge], box: list[int | None], reaching: dict[int, Taken], joins: bool) -> Taken:
    """What the target of these edges takes.

    Args:
        edges: All edges to one node.
        box: What `_boxes` gives.
        reaching: What reaches each function that is looked through.
        joins: Whether the node joins tensors.
    """
    taken: Taken = ()
    for edge in edges:
        call = box[edge.source]
        came = reaching.get(edge.source, ()) if call is None else ((call, edge.tensor),)
        if joins and len(came) > 1:
            came = (max(came),)
        taken = tuple(dict.fromkeys(taken + came)) if taken else came
    return taken


def _name(trace: Trace, call: int, tensor: int) -> str:
    taken = trace.calls[call]
    return f"{trace.modules[taken.module].path}[{taken.number}][{tensor}]"


def _boxes(trace: Trace, shown: set[int]) -> list[int | None]:
    """For each node the innermost shown call around it; None for what lies outside, or between shown calls."""
    innermost: list[int | None] = []
    # Shown calls with other shown calls inside: functions in there lie between these.
    holding = set()
    for call in trace.calls:
        around = None if call.parent is None else innermost[call.parent]
        if call.module not in shown or call.module == 0:
            innermost.append(around)
            continue
        innermost.append(call.index)
        if around is not None:
            holding.add(around)
    boxes: list[int | None] = []
    for node in trace.nodes:
        found = None if node.call is None else innermost[node.call]
        if found in holding and node.kind != "call":
            found = None
        boxes.append(found)
    return boxes
