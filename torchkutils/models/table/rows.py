"""A trace told as rows: what each module took, gave, holds and costs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

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
    made = _Rows(trace, view, held, sizes)
    rows: list[SummaryRow] = []
    for module in made.shown:
        parameters = made.parameter_rows(module) if view.weights else []
        rows.append(made.row(module, bool(parameters)))
        rows += parameters
    return tuple(rows)


class _Rows:
    """Makes the rows of one trace, of what `rows_of` is given.

    Attributes:
        shown: The modules that have rows.
    """

    def __init__(self, trace: Trace, view: View, held: list[Held], sizes: Sequence[tuple[int, int]]) -> None:
        self._trace, self._levels, self._held, self._sizes = trace, view.levels, held, sizes
        self._below = held if view.levels is None else held_below(trace, held)
        self._first_run = _first_runs(trace)
        self.shown = _shown_modules(trace, view.levels, self._first_run)
        self._calls_of, self._operations, self._values = CallsOf(trace), Operations(trace), CallValues()
        self._inbound = inbound_names(trace, {module.index for module in self.shown})
        self._failed = None if trace.failure is None else trace.calls[trace.failure.call].module
        self._ran = trace.engine.ran != "structure"

    def row(self, module: ModuleRecord, parameters_have_rows: bool) -> SummaryRow:
        """The row of a module."""
        index = module.index
        closed = self._is_closed(module)
        own = self._below[index] if closed else self._held[index]
        calls = self._calls_of.get(index if module.same_as is None else module.same_as)
        ran = calls if module.same_as is None else []
        counted = ran
        if closed and not ran:
            # It is never called itself, and counts what it hides.
            counted = _outermost_calls(self._trace, module, self._calls_of)
        flops, flops_known = self._operations.of(counted)
        values = self._values.of(calls)
        return SummaryRow(
            path=module.path,
            name=module.name,
            class_name=module.class_name,
            depth=module.depth,
            calls=len(ran),
            input_shapes=values.input_shapes,
            output_shapes=values.output_shapes,
            dtypes=values.dtypes,
            params=_params(own, parameters_have_rows),
            trainable_params=0 if parameters_have_rows else own.trainable,
            flops=flops,
            inbound=self._inbound.get(index, ()),
            shared_with=_shared_with(self._trace, module, own),
            param_bytes=0 if parameters_have_rows else own.bytes,
            flops_known=flops_known and self._ran,
            failed=self._failed == index,
            parameter_kinds=own.kinds,
            input_sizes=values.input_sizes,
            output_sizes=values.output_sizes,
            output_bytes=sum([self._sizes[call.index][1] for call in ran]),
            ran=self._first_run[index] < len(self._trace.calls),
            hidden=_number_below(self._trace, module) if closed else 0,
            registered=module.registered,
            arguments=module.extra_repr,
        )

    def _is_closed(self, module: ModuleRecord) -> bool:
        """Whether modules below it have no rows."""
        return self._levels is not None and module.depth >= self._levels and bool(module.children)

    def parameter_rows(self, module: ModuleRecord) -> list[SummaryRow]:
        """A row for each parameter of a module; none where the module's row counts what lies below it too."""
        if self._is_closed(module):
            return []
        return [self._parameter_row(module, tensor) for tensor in module.parameters]

    def _parameter_row(self, module: ModuleRecord, tensor: TensorRecord) -> SummaryRow:
        row = SummaryRow(
            path=f"{module.path}.{tensor.name}" if module.path else tensor.name,
            name=tensor.name,
            class_name="Parameter",
            depth=module.depth + 1,
            calls=0,
            input_shapes="",
            output_shapes="?",
            dtypes=tensor.dtype,
            params=0,
            trainable_params=0,
            flops=0,
            inbound=(),
            shared_with=tensor.same_as,
            flops_known=self._ran,
            parameter_kinds=() if tensor.kind == "tensor" else (tensor.kind,),
            registered=module.registered,
        )
        made = tensor.shape is not None
        if tensor.shape is not None:
            shape = tuple(tensor.shape)
            row = replace(row, output_shapes=str(shape), output_sizes=(shape,))
        if tensor.same_as is not None or not module.registered:
            return row
        return replace(
            row,
            params=tensor.elements if made else None,
            trainable_params=tensor.elements if tensor.requires_grad else 0,
            param_bytes=tensor.bytes,
        )


def _params(own: Held, parameters_have_rows: bool) -> int | None:
    """What a row counts; parameters that have rows of their own count there."""
    if parameters_have_rows:
        return 0
    return None if own.lazy else own.elements


def leaves_of(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    """The rows without other rows below them."""
    leaves = [row for row, after in itertools.pairwise(rows) if after.depth <= row.depth]
    return [*leaves, *rows[-1:]]


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


@record
class ShownValues:
    """What the calls of one module took and returned, as a row shows it.

    Attributes:
        input_shapes: The shapes that all calls took; "multiple" where calls differ, "?" where there is none.
        output_shapes: Likewise, of what they returned.
        dtypes: Of the tensors that the first call returned, each once.
        input_sizes: Shapes of the tensors that the first call took.
        output_sizes: Shapes of the tensors that the first call returned.
    """

    input_shapes: str
    output_shapes: str
    dtypes: str
    input_sizes: tuple[Shape, ...]
    output_sizes: tuple[Shape, ...]


_NO_CALLS = ShownValues("?", "?", "", (), ())


class CallValues:
    """Makes `ShownValues`. A trace shares equal values, so calls with the same values share what is shown of them."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], ShownValues] = {}
        self._texts: dict[int, str] = {}

    def of(self, calls: list[Call]) -> ShownValues:
        """What is shown of these calls of one module."""
        if not calls:
            return _NO_CALLS
        first = calls[0]
        key = (id(first.inputs), id(first.output))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._of_one(first)
        if len(calls) == 1:
            return found
        return replace(
            found,
            input_shapes=self._common_text([call.inputs for call in calls]),
            output_shapes=self._common_text([call.output for call in calls]),
        )

    def _of_one(self, call: Call) -> ShownValues:
        returned = list(tensors_in(call.output))
        return ShownValues(
            self._text(call.inputs),
            self._text(call.output),
            ", ".join(dict.fromkeys([tensor.dtype for tensor in returned])),
            tuple([tuple(tensor.shape) for tensor in tensors_in(call.inputs)]),
            tuple([tuple(tensor.shape) for tensor in returned]),
        )

    def _common_text(self, values: list[Value | None]) -> str:
        texts = set(map(self._text, values))
        return texts.pop() if len(texts) == 1 else "multiple"

    def _text(self, value: Value | None) -> str:
        text = self._texts.get(id(value))
        if text is None:
            text = self._texts[id(value)] = shape_text(value)
        return text


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
    for call in reversed(trace.calls):
        first[call.module] = call.index
    shared = [module for module in trace.modules if module.same_as is not None]
    if shared:
        _set_first_runs_of_shared(trace, shared, first)
    # A child has a higher index than its parent.
    for module in reversed(trace.modules):
        if module.parent is not None and first[module.index] < first[module.parent]:
            first[module.parent] = first[module.index]
    return first


def _set_first_runs_of_shared(trace: Trace, shared: list[ModuleRecord], first: list[int]) -> None:
    """A module that several paths lead to ran first at a path when the module there called it."""
    never = len(trace.calls)
    called = [index < never for index in first]
    callers: dict[tuple[int, int], int] = {}
    for call in trace.calls:
        if call.parent is not None:
            callers.setdefault((call.module, trace.calls[call.parent].module), call.index)
    for module in shared:
        caller = _holder_that_runs(trace, module, called)
        first[module.index] = callers.get((module.same_as or 0, caller), never)


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
        below = stack.pop()
        calls = calls_of.get(below)
        found += calls
        if not calls:
            stack += trace.modules[below].children
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
