"""Keras's last column: what each shown module took its inputs from."""

from __future__ import annotations

from torchkutils.models.records import Trace


def inbound_names(trace: Trace, shown: set[int]) -> dict[int, tuple[str, ...]]:
    """For each shown module what its calls took from other shown calls; functions between them are looked through.

    `encoder.norm[0][1]` is the second tensor that the first call of `encoder.norm` gave. Where a function joins what
    another one has joined (a sum with a running sum), the latest call of the earlier one stands for it: each residual
    block would otherwise name all blocks before it.
    """
    if trace.engine.edges == "definition":
        return {}
    box = _boxes(trace, shown)
    # What reaches a function that is looked through, as (call, tensor); sources stand before their targets.
    reaching: dict[int, tuple[tuple[int, int], ...]] = {}
    inbound: dict[int, tuple[str, ...]] = {}
    edges, position = trace.edges, 0
    for node in trace.nodes:
        found: tuple[tuple[int, int], ...] = ()
        while position < len(edges) and edges[position].target == node.index:
            edge = edges[position]
            position += 1
            call = box[edge.source]
            came = reaching.get(edge.source, ()) if call is None else ((call, edge.tensor),)
            if node.joins and len(came) > 1:
                came = (max(came),)
            found = tuple(dict.fromkeys(found + came)) if found else came
        here = box[node.index]
        if here is None:
            reaching[node.index] = found
            continue
        names = tuple([_name(trace, call, tensor) for call, tensor in found if call != here])
        if names:
            module = trace.calls[here].module
            before = inbound.get(module)
            inbound[module] = names if before is None else tuple(dict.fromkeys(before + names))
    return inbound


def _name(trace: Trace, call: int, tensor: int) -> str:
    taken = trace.calls[call]
    return f"{trace.modules[taken.module].path}[{taken.number}][{tensor}]"


def _boxes(trace: Trace, shown: set[int]) -> list[int | None]:
    """For each node the innermost shown call around it; None for what lies outside, or between shown calls."""
    innermost: list[int | None] = []
    between = set()
    for call in trace.calls:
        around = None if call.parent is None else innermost[call.parent]
        if call.module in shown and call.module != 0:
            innermost.append(call.index)
            if around is not None:
                between.add(around)
        else:
            innermost.append(around)
    boxes: list[int | None] = []
    for node in trace.nodes:
        found = None if node.call is None else innermost[node.call]
        boxes.append(None if node.kind != "call" and found in between else found)
    return boxes
