"""A trace told as rows: what each module took, gave, holds and costs."""

from __future__ import annotations

from torchkutils.models.records import Call, ModuleRecord, Trace, Value, shape_text, tensors_in
from torchkutils.models.table.connections import inbound_names
from torchkutils.models.table.model_summary import ModelSummary, SummaryRow
from torchkutils.models.tree.totals import Held, Operations, held_below, held_by_each, totals_of


def summary_of(trace: Trace, depth: int | None, columns: tuple[str, ...] | None) -> ModelSummary:
    """The rows and totals of one trace; `depth` limits the levels that have rows of their own."""
    totals = totals_of(trace)
    return ModelSummary(
        model_name=trace.model_name,
        rows=_rows(trace, depth),
        total_params=totals.params,
        trainable_params=totals.trainable,
        non_trainable_params=totals.params - totals.trainable,
        param_bytes=totals.param_bytes,
        flops=totals.flops,
        flops_known=totals.flops_known,
        engine=str(trace.engine),
        columns=columns,
        buffer_bytes=totals.buffer_bytes,
        bytes_by_dtype=totals.bytes_by_dtype,
        notes=trace.notes,
    )


def _rows(trace: Trace, depth: int | None) -> tuple[SummaryRow, ...]:
    held = held_by_each(trace)
    together = held_below(trace, held)
    shown = _shown_modules(trace, depth)
    calls_of = _Calls(trace)
    operations = Operations(trace)
    inbound = inbound_names(trace, {module.index for module in shown})
    text = _Texts()
    executed = trace.engine.ran != "structure"
    failed = None if trace.failure is None else trace.calls[trace.failure.call].module
    rows = []
    for module in shown:
        own = held[module.index]
        if module.children and depth is not None and module.depth >= depth:
            own = together[module.index]
        first = module.index if module.same_as is None else module.same_as
        calls = calls_of.get(first)
        ran = calls if module.same_as is None else []
        flops, exact = operations.of(ran)
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


def _shown_modules(trace: Trace, depth: int | None) -> list[ModuleRecord]:
    root = trace.modules[0]
    shown = list(trace.modules[1:])
    if depth is not None:
        shown = [module for module in shown if module.depth <= depth]
    failed = trace.failure is not None and trace.calls[trace.failure.call].module == 0
    if not shown or root.parameters or failed:
        shown.insert(0, root)
    return shown


def _shared_with(trace: Trace, module: ModuleRecord, own: Held) -> str | None:
    if module.same_as is not None:
        return trace.modules[module.same_as].path
    return None if own.first_holder is None else own.first_holder.rpartition(".")[0]
