"""What a model holds and costs, added up once for the table, the page and the labels of a picture."""

from __future__ import annotations

import collections
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from torchkutils.models.records import Call, ModuleRecord, TensorValue, Trace, Value, record, tensors_in

_BYTES = {"bool": 1, "complex32": 4, "complex64": 8, "complex128": 16, "bfloat16": 2}


@record
class Held:
    """What modules hold in parameters; a tensor that several hold counts at its first holder.

    Attributes:
        elements: Of all of them; those of modules that `model.parameters()` does not reach count nothing.
        trainable: Of those that require a gradient.
        bytes: That they take.
        trainable_bytes: That those take which require a gradient.
        lazy: Whether one of them is not made yet: `elements` is then a lower bound.
        kinds: What they are other than plain tensors.
        first_holder: Full name of a tensor that another module holds first.
    """

    elements: int
    trainable: int
    bytes: int
    trainable_bytes: int
    lazy: bool
    kinds: tuple[str, ...]
    first_holder: str | None


def held_by_each(trace: Trace) -> list[Held]:
    """For each module of a trace what it holds itself; equal parameters share one record, and so they do here."""
    known: dict[tuple[int, bool], Held] = {}
    held = []
    for module in trace.modules:
        key = id(module.parameters), module.registered
        found = known.get(key) if not module.packed else None
        if found is None:
            found = known[key] = _held(module)
        held.append(found)
    return held


def _held(module: ModuleRecord) -> Held:
    parameters = module.parameters
    counted = [tensor for tensor in parameters if tensor.same_as is None] if module.registered else []
    trainable = [tensor for tensor in counted if tensor.requires_grad]
    kinds = [tensor.kind for tensor in parameters if tensor.kind != "tensor"]
    packed = [f"{tensor.kind}: {tensor.name} {tensor.shape}" for tensor in module.packed[:1]]
    return Held(
        sum(tensor.elements for tensor in counted),
        sum(tensor.elements for tensor in trainable),
        sum(tensor.bytes for tensor in counted),
        sum(tensor.bytes for tensor in trainable),
        any(tensor.shape is None for tensor in parameters),
        tuple(dict.fromkeys([*kinds, *packed])),
        next((tensor.same_as for tensor in parameters if tensor.same_as is not None), None),
    )


def held_below(trace: Trace, held: list[Held]) -> list[Held]:
    """For each module what it and all below it hold, marked as it is itself."""
    sums = list(held)
    # Children stand behind their parents.
    for module in reversed(trace.modules):
        if module.parent is not None:
            sums[module.parent] = _sum(sums[module.parent], sums[module.index])
    return sums


def held_in(trace: Trace, module: int) -> Held:
    """What one module and all below it hold."""
    members, stack = [], [module]
    while stack:
        member = trace.modules[stack.pop()]
        members.append(_held(member))
        stack.extend(member.children)
    return functools.reduce(_sum, members)


def _sum(own: Held, other: Held) -> Held:
    return Held(
        own.elements + other.elements,
        own.trainable + other.trainable,
        own.bytes + other.bytes,
        own.trainable_bytes + other.trainable_bytes,
        own.lazy or other.lazy,
        own.kinds,
        own.first_holder,
    )


def bytes_by_dtype(trace: Trace) -> tuple[dict[str, int], int]:
    """Bytes of registered parameters and buffers by the dtype that holds them, and the bytes of the buffers."""
    # Modules that hold equal tensors share one tuple of records.
    parameters = collections.Counter([id(module.parameters) for module in trace.modules if module.registered])
    buffers = collections.Counter([id(module.buffers) for module in trace.modules if module.registered])
    groups = {id(group): group for module in trace.modules for group in (module.parameters, module.buffers) if group}
    by_dtype: dict[str, int] = {}
    of_buffers = 0
    for key, group in groups.items():
        for tensor in group:
            if tensor.same_as is None:
                of_buffers += tensor.bytes * buffers[key]
                for dtype, size in tensor.parts or ((tensor.dtype, tensor.bytes),):
                    by_dtype[dtype] = by_dtype.get(dtype, 0) + size * (parameters[key] + buffers[key])
    return {dtype: size for dtype, size in by_dtype.items() if size}, of_buffers


class Operations:
    """FLOPs of calls with all calls within them."""

    def __init__(self, trace: Trace) -> None:
        self._flops = [call.flops for call in trace.calls]
        self._known = [call.flops_known for call in trace.calls]
        for call in reversed(trace.calls):
            if call.parent is not None:
                self._flops[call.parent] += self._flops[call.index]
                self._known[call.parent] &= self._known[call.index]

    def of(self, calls: list[Call]) -> tuple[int, bool]:
        """Their sum, and whether it is exact."""
        if len(calls) == 1:
            return self._flops[calls[0].index], self._known[calls[0].index]
        return sum(self._flops[call.index] for call in calls), all(self._known[call.index] for call in calls)


@dataclass(frozen=True)
class Totals:
    """Of a whole model.

    Attributes:
        params: `sum(p.numel() for p in model.parameters())`.
        trainable: Those of them that require a gradient.
        lazy: Whether some are not made yet: the numbers are then lower bounds.
        param_bytes: Bytes that the parameters take.
        trainable_bytes: Bytes of those that require a gradient.
        buffer_bytes: Bytes that the buffers take.
        bytes_by_dtype: Bytes of parameters and buffers by the dtype that holds them.
        flops: Of one forward, two for a multiply-add.
        flops_known: Whether `flops` is exact, or else a lower bound.
    """

    params: int
    trainable: int
    lazy: bool
    param_bytes: int
    trainable_bytes: int
    buffer_bytes: int
    bytes_by_dtype: dict[str, int]
    flops: int
    flops_known: bool


def totals_of(trace: Trace, held: list[Held] | None = None) -> Totals:
    """The totals of a trace; `held` is what `held_by_each` gives, where the caller has it."""
    held = held_by_each(trace) if held is None else held
    by_dtype, of_buffers = bytes_by_dtype(trace)
    registered = [own for own, module in zip(held, trace.modules, strict=True) if module.registered]
    return Totals(
        params=sum(own.elements for own in registered),
        trainable=sum(own.trainable for own in registered),
        lazy=any(own.lazy for own in registered),
        param_bytes=sum(own.bytes for own in registered),
        trainable_bytes=sum(own.trainable_bytes for own in registered),
        buffer_bytes=of_buffers,
        bytes_by_dtype=by_dtype,
        flops=sum(call.flops for call in trace.calls),
        flops_known=_ran_to_its_end(trace) and all(call.flops_known for call in trace.calls),
    )


def _ran_to_its_end(trace: Trace) -> bool:
    return trace.engine.ran != "structure" and trace.failure is None


def bounded(number: int, known: bool) -> str:
    """A number with thousands separators, marked where it is a lower bound.

    >>> bounded(1234, True), bounded(5, False)
    ('1,234', '≥ 5')
    """
    return f"{'' if known else '≥ '}{number:,}"


def call_bytes(trace: Trace) -> Sequence[tuple[int, int]]:
    """Bytes of what each call took and returned; of one sample where the batch axis is open."""
    if trace.call_bytes is not None:
        return trace.call_bytes
    # A trace shares equal values, so each is counted once.
    known: dict[int, int] = {id(None): 0}
    for call in trace.calls:
        for value in (call.inputs, call.output):
            if id(value) not in known:
                known[id(value)] = value_bytes(value)
    return [(known[id(call.inputs)], known[id(call.output)]) for call in trace.calls]


def activation_bytes(trace: Trace, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Bytes of the model's inputs, of all that leaf calls returned, and the most that one leaf took and returned.

    `sizes` is what `call_bytes` gives.
    """
    leaves = [sizes[call.index] for call in trace.calls if call.leaf]
    inputs = sizes[0][0] if sizes else 0
    return inputs, sum(returned for _, returned in leaves), max(map(sum, leaves), default=0)


def value_bytes(value: Value | None) -> int:
    """Bytes of the tensors in a recorded value; an open size counts once."""
    return sum(_tensor_bytes(tensor) for tensor in tensors_in(value))


def _tensor_bytes(tensor: TensorValue) -> int:
    size = _BYTES.get(tensor.dtype)
    if size is None:
        # "float32", "float8_e4m3fn", "qint8": what stands first are bits.
        digits = "".join(mark if mark.isdigit() else " " for mark in tensor.dtype).split()
        size = max(int(digits[0]) // 8, 1) if digits else 1
    for length in tensor.shape:
        size *= 1 if length is None else length
    return size
