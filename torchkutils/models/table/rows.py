"""A trace told as rows: what each module took, gave, holds and costs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torchkutils._typing import Shape
from torchkutils.models.records import Call, ModuleRecord, TensorRecord, Trace, Value, record, shape_text, tensors_in
from torchkutils.models.table.connections import inbound_names
from torchkutils.models.table.view import View
from torchkutils.models.tree.totals import Held, Operations, held_below


@record
class SummaryRow:
    """One module of a summary, or one parameter of a module.

    Attributes:
        path: "encoder.layers.0"; "" for the model itself.
        name: The last part of the path.
        class_name: Its class; "Parameter" for a parameter.
        depth: 1 for the model's children.
        calls: How often it was called.
        input_shapes: Text, of all calls: "(2, 8)"; "multiple" where calls differ, "?" when nothing ran.
        output_shapes: Likewise, of what it returned.
        dtypes: Of the tensors it returned.
        params: Parameters that this row adds to the total; None for those that a lazy module has not made yet.
        trainable_params: Those of them that require a gradient.
        flops: Two for a multiply-add, over all calls; a lower bound when `flops_known` is false.
        inbound: What it took its inputs from: `conv1[0][0]` is the first tensor of the first call of conv1.
        shared_with: Path of the row that shows the same module or its tensors; None elsewhere.
        param_bytes: Bytes of the counted parameters.
        flops_known: Whether `flops` is exact.
        failed: Whether forward raised here.
        parameter_kinds: What its own parameters are other than plain tensors: "sharded", "quantised 8 bit", "lazy".
        input_sizes: Shapes of the tensors that its first call took; None is an open size.
        output_sizes: Shapes of the tensors that its first call returned.
        output_bytes: Bytes of what all calls returned; of one sample where the batch axis is open.
        ran: Whether it or a module below it was called; a list of modules never is itself.
        hidden: How many modules below it have no rows.
        registered: False for a module that `model.parameters()` does not reach: its parameters do not count.
        arguments: How the module shows its arguments ("8, 4, kernel_size=(3, 3)"), where `columns` asked for them.
    """

    path: str
    name: str
    class_name: str
    depth: int
    calls: int
    input_shapes: str
    output_shapes: str
    dtypes: str
    params: int | None
    trainable_params: int
    flops: int
    inbound: tuple[str, ...]
    shared_with: str | None
    param_bytes: int = 0
    flops_known: bool = True
    failed: bool = False
    parameter_kinds: tuple[str, ...] = ()
    input_sizes: tuple[Shape, ...] = ()
    output_sizes: tuple[Shape, ...] = ()
    output_bytes: int = 0
    ran: bool = False
    hidden: int = 0
    registered: bool = True
    arguments: str = ""


def rows_of(trace: Trace, view: View, held: list[Held], sizes: Sequence[tuple[int, int]]) -> tuple[SummaryRow, ...]:
    """The rows of one trace, in the order in which modules ran first, within their parents.

    Args:
        trace: What ran.
        view: Which rows there are.
        held: What `held_by_each` gives.
        sizes: What `call_bytes` gives.
    """
    levels = view.levels
    below = held if levels is None else held_below(trace, held)
    first_run = _first_runs(trace)
    shown = _shown_modules(trace, levels, first_run)
    calls_of, operations, values = CallsOf(trace), Operations(trace), Values()
    inbound = inbound_names(trace, {module.index for module in shown})
    failed = None if trace.failure is None else trace.calls[trace.failure.call].module
    rows: list[SummaryRow] = []
    for module in shown:
        closed = bool(module.children) and levels is not None and module.depth >= levels
        own = below[module.index] if closed else held[module.index]
        first = module.index if module.same_as is None else module.same_as
        calls = calls_of.get(first)
        ran = calls if module.same_as is None else []
        # What is never called itself, and is closed, has the sum of what it hides.
        flops, known = operations.of(ran if ran or not closed else _outermost_calls(trace, module, calls_of))
        listed = [] if closed or not view.weights else list(_parameter_rows(module, trace))
        rows.append(
            SummaryRow(
                path=module.path,
                name=module.name,
                class_name=module.class_name,
                depth=module.depth,
                calls=len(ran),
                input_shapes=values.shapes([call.inputs for call in calls]),
                output_shapes=values.shapes([call.output for call in calls]),
                dtypes=values.dtypes(calls[0].output) if calls else "",
                params=_params(own, bool(listed)),
                trainable_params=0 if listed else own.trainable,
                flops=flops,
                inbound=inbound.get(module.index, ()),
                shared_with=_shared_with(trace, module, own),
                param_bytes=0 if listed else own.bytes,
                flops_known=known and trace.engine.ran != "structure",
                failed=failed == module.index,
                parameter_kinds=own.kinds,
                input_sizes=values.sizes(calls[0].inputs) if calls else (),
                output_sizes=values.sizes(calls[0].output) if calls else (),
                output_bytes=sum([sizes[call.index][1] for call in ran]),
                ran=first_run[module.index] < len(trace.calls),
                hidden=_number_below(trace, module) if closed else 0,
                registered=module.registered,
                arguments=module.extra_repr,
            )
        )
        rows += listed
    return tuple(rows)


def _params(own: Held, listed: bool) -> int | None:
    """What a row counts; parameters that have rows of their own count there."""
    if listed:
        return 0
    return None if own.lazy else own.elements


def _parameter_rows(module: ModuleRecord, trace: Trace) -> Iterator[SummaryRow]:
    for tensor in module.parameters:
        yield _parameter_row(module, tensor, trace)


def _parameter_row(module: ModuleRecord, tensor: TensorRecord, trace: Trace) -> SummaryRow:
    counts = tensor.same_as is None and module.registered
    return SummaryRow(
        path=f"{module.path}.{tensor.name}" if module.path else tensor.name,
        name=tensor.name,
        class_name="Parameter",
        depth=module.depth + 1,
        calls=0,
        input_shapes="",
        output_shapes="?" if tensor.shape is None else str(tuple(tensor.shape)),
        dtypes=tensor.dtype,
        params=(None if tensor.shape is None else tensor.elements) if counts else 0,
        trainable_params=tensor.elements if counts and tensor.requires_grad else 0,
        flops=0,
        inbound=(),
        shared_with=tensor.same_as,
        param_bytes=tensor.bytes if counts else 0,
        flops_known=trace.engine.ran != "structure",
        parameter_kinds=() if tensor.kind == "tensor" else (tensor.kind,),
        output_sizes=() if tensor.shape is None else (tuple(tensor.shape),),
        registered=module.registered,
    )


class CallsOf:
    """The calls of each module, in their order; most have one, which needs no list."""

    def __init__(self, trace: Trace) -> None:
        self._first: dict[int, Call] = {}
        self._more: dict[int, list[Call]] = {}
        for call in trace.calls:
            if self._first.setdefault(call.module, call) is not call:
                self._more.setdefault(call.module, []).append(call)

    def get(self, module: int) -> list[Call]:
        """The calls of the module at an index."""
        first = self._first.get(module)
        return [] if first is None else [first, *self._more.get(module, ())]


class Values:
    """Recorded values as text and as shapes; a trace shares equal ones, so each is written once."""

    def __init__(self) -> None:
        self._shapes: dict[int, str] = {}
        self._dtypes: dict[int, str] = {}
        self._sizes: dict[int, tuple[Shape, ...]] = {}

    def shapes(self, values: list[Value | None]) -> str:
        """The shape that all of them have, "multiple" where they differ, "?" where there are none."""
        if len(values) == 1:
            return self._shapes.get(id(values[0])) or self._write(values[0])
        texts = {self._shapes.get(id(value)) or self._write(value) for value in values}
        if len(texts) > 1:
            return "multiple"
        return texts.pop() if texts else "?"

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

    def sizes(self, value: Value | None) -> tuple[Shape, ...]:
        """The shapes of a value's tensors, from left to right."""
        found = self._sizes.get(id(value))
        if found is None:
            found = self._sizes[id(value)] = tuple([tuple(tensor.shape) for tensor in tensors_in(value)])
        return found


def _shown_modules(trace: Trace, levels: int | None, first_run: list[int]) -> list[ModuleRecord]:
    """The modules down to a depth; the model itself where it holds parameters, failed, or is all there is."""
    root = trace.modules[0]
    shown = [module for module in _in_order_of_first_runs(trace, levels, first_run) if module is not root]
    failed = trace.failure is not None and trace.calls[trace.failure.call].module == 0
    if not shown or root.parameters or failed:
        shown.insert(0, root)
    return shown


def _in_order_of_first_runs(trace: Trace, levels: int | None, first_run: list[int]) -> Iterator[ModuleRecord]:
    """The modules, a parent before its children, children as they ran first; those that never ran come last."""
    stack = [0]
    while stack:
        module = trace.modules[stack.pop()]
        yield module
        if module.children and (levels is None or module.depth < levels):
            # Sorting is stable: those that never ran keep the order of their definition.
            stack += sorted(module.children, key=first_run.__getitem__)[::-1]


def _first_runs(trace: Trace) -> list[int]:
    """For each module the index of the first call of it or of one below it; behind all calls where there is none."""
    never = len(trace.calls)
    first = [never] * len(trace.modules)
    callers: dict[tuple[int, int], int] = {}
    for call in trace.calls:
        if first[call.module] == never:
            first[call.module] = call.index
        if call.parent is not None:
            callers.setdefault((call.module, trace.calls[call.parent].module), call.index)
    called = [index < never for index in first]
    for module in trace.modules:
        if module.same_as is not None:
            caller = _holder_that_runs(trace, module, called)
            first[module.index] = callers.get((module.same_as, caller), never)
    for module in reversed(trace.modules):
        if module.parent is not None and first[module.index] < first[module.parent]:
            first[module.parent] = first[module.index]
    return first


def _holder_that_runs(trace: Trace, module: ModuleRecord, called: list[bool]) -> int:
    """The innermost module around another one that was called itself; lists of modules never are."""
    holder = module.parent or 0
    while holder and not called[holder]:
        holder = trace.modules[holder].parent or 0
    return holder


def _outermost_calls(trace: Trace, module: ModuleRecord, calls_of: CallsOf) -> list[Call]:
    """The calls of the modules below one that was never called, without those within such calls."""
    found: list[Call] = []
    stack = list(module.children)
    while stack:
        calls = calls_of.get(stack[-1])
        below = trace.modules[stack.pop()].children
        found += calls
        stack += () if calls else below
    return found


def _number_below(trace: Trace, module: ModuleRecord) -> int:
    number, stack = 0, list(module.children)
    while stack:
        number += 1
        stack += trace.modules[stack.pop()].children
    return number


def _shared_with(trace: Trace, module: ModuleRecord, own: Held) -> str | None:
    if module.same_as is not None:
        return trace.modules[module.same_as].path
    return None if own.first_holder is None else own.first_holder.rpartition(".")[0]
