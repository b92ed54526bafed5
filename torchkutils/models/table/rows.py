"""A trace told as rows: what each module took, gave, holds and costs."""

from __future__ import annotations

import collections

from torchkutils.models.records import Call, ModuleRecord, TensorRecord, Trace, Value, record, shape_text, tensors_in
from torchkutils.models.table.connections import inbound_names
from torchkutils.models.table.model_summary import ModelSummary, SummaryRow


@record
class _Held:
    """What a module's own parameters come to; a tensor that stands elsewhere too counts at its first place.

    Attributes:
        elements: Of all of them.
        trainable: Of those that require a gradient.
        bytes: That they take.
        lazy: Whether one of them is not made yet.
        kinds: What they are other than plain tensors.
        first_holder: Full name of a tensor that stands elsewhere first.
    """

    elements: int
    trainable: int
    bytes: int
    lazy: bool
    kinds: tuple[str, ...]
    first_holder: str | None


def summary_of(trace: Trace, depth: int | None, columns: tuple[str, ...] | None) -> ModelSummary:
    """The rows and totals of one trace; `depth` limits the levels that have rows of their own."""
    held = _held_by_each(trace)
    elements, trainable = sum(own.elements for own in held), sum(own.trainable for own in held)
    by_dtype, buffer_bytes = _sizes(trace)
    return ModelSummary(
        model_name=trace.model_name,
        rows=_rows(trace, depth, held),
        total_params=elements,
        trainable_params=trainable,
        non_trainable_params=elements - trainable,
        param_bytes=sum(own.bytes for own in held),
        flops=sum(call.flops for call in trace.calls),
        flops_known=trace.engine.ran != "structure" and all(call.flops_known for call in trace.calls),
        engine=str(trace.engine),
        columns=columns,
        buffer_bytes=buffer_bytes,
        bytes_by_dtype=by_dtype,
    )


def _rows(trace: Trace, depth: int | None, held: list[_Held]) -> tuple[SummaryRow, ...]:
    shown = _shown_modules(trace, depth)
    calls_of = _Calls(trace)
    below = _Operations(trace)
    inbound = inbound_names(trace, {module.index for module in shown})
    text = _Texts()
    executed = trace.engine.ran != "structure"
    failed = None if trace.failure is None else trace.calls[trace.failure.call].module
    rows = []
    for module in shown:
        own = held[module.index]
        if module.children and depth is not None and module.depth >= depth:
            own = _together([held[member] for member in _family(trace, module)], own)
        first = module.index if module.same_as is None else module.same_as
        calls = calls_of.get(first)
        ran = calls if module.same_as is None else []
        flops, exact = below.of(ran)
        rows.append(
            SummaryRow(
                path=module.path,
                name=module.name,
                class_name=module.class_name,
                depth=module.depth,
                calls=len(ran),
                input_shapes=text.shapes([call.inputs for call in calls]),
                output_shapes=text.shapes([call.output for call in calls]),
                dtypes=text.dtypes(calls[0].output) if calls else "",
                params=None if own.lazy else own.elements,
                trainable_params=own.trainable,
                flops=flops,
                inbound=inbound.get(module.index, ()),
                shared_with=_shared_with(trace, module, own),
                param_bytes=own.bytes,
                flops_known=exact and executed,
                failed=failed == module.index,
                parameter_kinds=own.kinds,
            )
        )
    return tuple(rows)


class _Calls:
    """The calls of each module, in their order; most have one, which needs no list."""

    def __init__(self, trace: Trace) -> None:
        self._first: dict[int, Call] = {}
        self._more: dict[int, list[Call]] = {}
        for call in trace.calls:
            if self._first.setdefault(call.module, call) is not call:
                self._more.setdefault(call.module, []).append(call)

    def get(self, module: int) -> list[Call]:
        first = self._first.get(module)
        return [] if first is None else [first, *self._more.get(module, ())]


class _Texts:
    """Values as text; the trace shares equal ones, so each is written once."""

    def __init__(self) -> None:
        self._shapes: dict[int, str] = {}
        self._dtypes: dict[int, str] = {}

    def shapes(self, values: list[Value | None]) -> str:
        """The shape that all of them have, "multiple" where they differ, "?" where there are none."""
        if len(values) == 1:
            return self._shapes.get(id(values[0])) or self._write(values[0])
        texts = {self._shapes.get(id(value)) or self._write(value) for value in values}
        return "multiple" if len(texts) > 1 else texts.pop() if texts else "?"

    def _write(self, value: Value | None) -> str:
        text = self._shapes[id(value)] = shape_text(value)
        return text

    def dtypes(self, value: Value | None) -> str:
        """The dtypes of a value's tensors, each once."""
        found = self._dtypes.get(id(value))
        if found is None:
            found = ", ".join(dict.fromkeys([tensor.dtype for tensor in tensors_in(value)]))
            self._dtypes[id(value)] = found
        return found


def _held_by_each(trace: Trace) -> list[_Held]:
    """For each module; equal parameters share one record in a trace, and so they do here."""
    known: dict[int, _Held] = {}
    held = []
    for module in trace.modules:
        found = known.get(id(module.parameters))
        if found is None:
            found = known[id(module.parameters)] = _held(module.parameters)
        held.append(found)
    return held


def _held(parameters: tuple[TensorRecord, ...]) -> _Held:
    own = [tensor for tensor in parameters if tensor.same_as is None]
    return _Held(
        sum(tensor.elements for tensor in own),
        sum(tensor.elements for tensor in own if tensor.requires_grad),
        sum(tensor.bytes for tensor in own),
        any(tensor.shape is None for tensor in parameters),
        tuple(dict.fromkeys(tensor.kind for tensor in parameters if tensor.kind != "tensor")),
        next((tensor.same_as for tensor in parameters if tensor.same_as is not None), None),
    )


def _together(members: list[_Held], own: _Held) -> _Held:
    """What a module and all below it hold, where those have no rows of their own."""
    return _Held(
        sum(member.elements for member in members),
        sum(member.trainable for member in members),
        sum(member.bytes for member in members),
        any(member.lazy for member in members),
        own.kinds,
        own.first_holder,
    )


def _sizes(trace: Trace) -> tuple[dict[str, int], int]:
    """Bytes of parameters and buffers by dtype, and of the buffers."""
    by_dtype: dict[str, int] = {}
    buffer_bytes = 0
    # Modules that hold equal tensors share one tuple of records.
    parameters = collections.Counter(id(module.parameters) for module in trace.modules)
    buffers = collections.Counter(id(module.buffers) for module in trace.modules)
    groups = {id(group): group for module in trace.modules for group in (module.parameters, module.buffers)}
    for group, held in groups.items():
        for tensor in held:
            if tensor.same_as is None:
                count = parameters[group] + buffers[group]
                by_dtype[tensor.dtype] = by_dtype.get(tensor.dtype, 0) + tensor.bytes * count
                buffer_bytes += tensor.bytes * buffers[group]
    return by_dtype, buffer_bytes


class _Operations:
    """FLOPs of calls with all calls within them."""

    def __init__(self, trace: Trace) -> None:
        self._flops = [call.flops for call in trace.calls]
        self._exact = [call.flops_known for call in trace.calls]
        for call in reversed(trace.calls):
            if call.parent is not None:
                self._flops[call.parent] += self._flops[call.index]
                self._exact[call.parent] &= self._exact[call.index]

    def of(self, calls: list[Call]) -> tuple[int, bool]:
        """Their sum, and whether it is exact."""
        if len(calls) == 1:
            return self._flops[calls[0].index], self._exact[calls[0].index]
        return sum(self._flops[call.index] for call in calls), all(self._exact[call.index] for call in calls)


def _shown_modules(trace: Trace, depth: int | None) -> list[ModuleRecord]:
    root = trace.modules[0]
    shown = list(trace.modules[1:])
    if depth is not None:
        shown = [module for module in shown if module.depth <= depth]
    failed = trace.failure is not None and trace.calls[trace.failure.call].module == 0
    if not shown or root.parameters or failed:
        shown.insert(0, root)
    return shown


def _family(trace: Trace, module: ModuleRecord) -> list[int]:
    members, stack = [], [module.index]
    while stack:
        members.append(stack.pop())
        stack.extend(trace.modules[members[-1]].children)
    return members


def _shared_with(trace: Trace, module: ModuleRecord, own: _Held) -> str | None:
    if module.same_as is not None:
        return trace.modules[module.same_as].path
    return None if own.first_holder is None else own.first_holder.rpartition(".")[0]
