"""A trace told as rows: what each module took, gave, holds and costs."""

from __future__ import annotations

import dataclasses
import itertools

from torchkutils.models.model_summary import ModelSummary, SummaryRow
from torchkutils.models.records import Call, Module, Trace, shape_text, tensors_in


def summary_of(trace: Trace, depth: int | None, columns: tuple[str, ...] | None) -> ModelSummary:
    """The rows and totals of one trace; `depth` limits the levels that have rows of their own."""
    return _with_sizes(_summary(trace, depth, columns), trace)


def _with_sizes(summary: ModelSummary, trace: Trace) -> ModelSummary:
    """The summary with what its tensors take, and rows that name parameters of another kind."""
    by_dtype: dict[str, int] = {}
    buffer_bytes = 0
    kinds: dict[str, tuple[str, ...]] = {}
    for module in trace.modules:
        for tensor in itertools.chain(module.parameters, module.buffers):
            if tensor.same_as is None:
                by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.bytes
        buffer_bytes += sum(tensor.bytes for tensor in module.buffers if tensor.same_as is None)
        special = dict.fromkeys(tensor.kind for tensor in module.parameters if tensor.kind != "tensor")
        if special:
            kinds[module.path] = tuple(special)
    rows = summary.rows
    if kinds:
        rows = tuple(dataclasses.replace(row, parameter_kinds=kinds.get(row.path, ())) for row in rows)
    return dataclasses.replace(summary, rows=rows, buffer_bytes=buffer_bytes, bytes_by_dtype=by_dtype)


def _summary(trace: Trace, depth: int | None, columns: tuple[str, ...] | None) -> ModelSummary:
    seen: set[str] = set()
    counted = [_own(module, seen) for module in trace.modules]
    calls_of: dict[int, list[Call]] = {}
    for call in trace.calls:
        calls_of.setdefault(call.module, []).append(call)
    flops, known = _flops_below(trace)
    shown = _shown_modules(trace, depth)
    inbound = _inbound(trace, {module.index for module in shown})
    rows = []
    for module in shown:
        below = _family(trace, module) if not _has_shown_children(trace, module, depth) else [module]
        params = sum(counted[member.index][0] for member in below)
        lazy = any(tensor.shape is None for member in below for tensor in member.parameters)
        calls = calls_of.get(module.index if module.same_as is None else module.same_as, [])
        repeated = module.same_as is not None
        rows.append(
            SummaryRow(
                path=module.path,
                name=module.name,
                class_name=module.class_name,
                depth=module.depth,
                calls=0 if repeated else len(calls),
                input_shapes=_shapes(calls, "inputs"),
                output_shapes=_shapes(calls, "output"),
                dtypes=", ".join(dict.fromkeys(t.dtype for c in calls[:1] for t in tensors_in(c.output))),
                params=None if lazy else params,
                trainable_params=sum(counted[member.index][1] for member in below),
                flops=0 if repeated else sum(flops[call.index] for call in calls),
                inbound=inbound.get(module.index, ()),
                shared_with=_shared_with(trace, module),
                param_bytes=sum(counted[member.index][2] for member in below),
                flops_known=all(known[call.index] for call in calls) and trace.engine.ran != "structure",
                failed=trace.failure is not None and trace.calls[trace.failure.call].module == module.index,
            )
        )
    total = sum(own[0] for own in counted)
    trainable = sum(own[1] for own in counted)
    return ModelSummary(
        model_name=trace.model_name,
        rows=tuple(rows),
        total_params=total,
        trainable_params=trainable,
        non_trainable_params=total - trainable,
        param_bytes=sum(own[2] for own in counted),
        flops=sum(call.flops for call in trace.calls),
        engine=str(trace.engine),
        columns=columns,
    )


def _own(module: Module, seen: set[str]) -> tuple[int, int, int]:
    """Parameters, trainable ones and bytes that a module holds first."""
    own = [tensor for tensor in module.parameters if tensor.same_as is None]
    return (
        sum(tensor.elements for tensor in own),
        sum(tensor.elements for tensor in own if tensor.requires_grad),
        sum(tensor.bytes for tensor in own),
    )


def _flops_below(trace: Trace) -> tuple[list[int], list[bool]]:
    """FLOPs of each call with all calls within, and whether they are exact."""
    flops = [call.flops for call in trace.calls]
    known = [call.flops_known for call in trace.calls]
    for call in reversed(trace.calls):
        if call.parent is not None:
            flops[call.parent] += flops[call.index]
            known[call.parent] &= known[call.index]
    return flops, known


def _shown_modules(trace: Trace, depth: int | None) -> list[Module]:
    root = trace.modules[0]
    limit = depth if depth is not None else max(module.depth for module in trace.modules)
    shown = [module for module in trace.modules[1:] if module.depth <= limit]
    if not shown or root.parameters:
        shown.insert(0, root)
    return shown


def _has_shown_children(trace: Trace, module: Module, depth: int | None) -> bool:
    return bool(module.children) and (depth is None or module.depth < depth)


def _family(trace: Trace, module: Module) -> list[Module]:
    members, stack = [], [module.index]
    while stack:
        member = trace.modules[stack.pop()]
        members.append(member)
        stack.extend(member.children)
    return members


def _shapes(calls: list[Call], which: str) -> str:
    if not calls:
        return "?"
    texts = list(dict.fromkeys(shape_text(getattr(call, which)) for call in calls))
    return texts[0] if len(texts) == 1 else "multiple"


def _shared_with(trace: Trace, module: Module) -> str | None:
    if module.same_as is not None:
        return trace.modules[module.same_as].path
    for tensor in module.parameters:
        if tensor.same_as is not None:
            return tensor.same_as.rpartition(".")[0]
    return None


def _inbound(trace: Trace, shown: set[int]) -> dict[int, tuple[str, ...]]:
    """For each shown module what its calls took from other shown calls; functions between them are looked through."""
    if trace.engine.edges == "definition":
        return {}
    box = _boxes(trace, shown)
    before: dict[int, list[tuple[int, int]]] = {}
    for edge in trace.edges:
        before.setdefault(edge.target, []).append((edge.source, edge.tensor))
    # What reaches a function that is looked through, as (call, tensor); sources stand before their targets.
    reaching: dict[int, dict[tuple[int, int], None]] = {}
    inbound: dict[int, dict[str, None]] = {}
    for node in trace.nodes:
        found: dict[tuple[int, int], None] = {}
        for source, tensor in before.get(node.index, ()):
            call = box[source]
            found.update(reaching.get(source, {}) if call is None else {(call, tensor): None})
        here = box[node.index]
        if here is None:
            reaching[node.index] = found
            continue
        for call, tensor in found:
            if call != here:
                taken = trace.calls[call]
                name = f"{trace.modules[taken.module].path}[{taken.number}][{tensor}]"
                inbound.setdefault(trace.calls[here].module, {})[name] = None
    return {module: tuple(names) for module, names in inbound.items()}


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
