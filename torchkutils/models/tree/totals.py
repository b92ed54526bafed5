"""What a model holds and costs, added up once for the table, the page and the labels of a picture."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torchkutils.models.records import Call, ModuleRecord, TensorRecord, TensorValue, Trace, Value, record, tensors_in

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


def buffer_bytes(trace: Trace) -> int:
    """Bytes of all buffers that the model registers."""
    return sum(tensor.bytes * times for tensor, times, is_buffer in _counted_tensors(trace) if is_buffer)


def bytes_by_dtype(trace: Trace) -> dict[str, int]:
    """Bytes of parameters and buffers by the dtype that holds them."""
    found: dict[str, int] = {}
    for tensor, times, _ in _counted_tensors(trace):
        for dtype, size in tensor.parts or ((tensor.dtype, tensor.bytes),):
            found[dtype] = found.get(dtype, 0) + size * times
    return found


def _counted_tensors(trace: Trace) -> Iterator[tuple[TensorRecord, int, bool]]:
    """Each record, how many tensors of the model it stands for, and whether those are buffers."""
    # Modules that hold equal tensors share one tuple of records.
    groups: dict[tuple[int, bool], tuple[TensorRecord, ...]] = {}
    times: collections.Counter[tuple[int, bool]] = collections.Counter()
    for module in trace.modules:
        for group, is_buffer in ((module.parameters, False), (module.buffers, True)):
            if group and module.registered:
                groups[id(group), is_buffer] = group
                times[id(group), is_buffer] += 1
    for key, group in groups.items():
        for tensor in group:
            if tensor.same_as is None:
                yield tensor, times[key], key[1]


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


def totals_of(trace: Trace) -> Totals:
    """The totals of a trace."""
    held = held_by_each(trace)
    registered = [own for own, module in zip(held, trace.modules, strict=True) if module.registered]
    return Totals(
        params=sum(own.elements for own in registered),
        trainable=sum(own.trainable for own in registered),
        lazy=any(own.lazy for own in registered),
        param_bytes=sum(own.bytes for own in registered),
        trainable_bytes=sum(own.trainable_bytes for own in registered),
        buffer_bytes=buffer_bytes(trace),
        bytes_by_dtype=bytes_by_dtype(trace),
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
    known: dict[int, int] = {}
    return [(_known_bytes(call.inputs, known), _known_bytes(call.output, known)) for call in trace.calls]


def activation_bytes(trace: Trace) -> tuple[int, int, int]:
    """Bytes of the model's inputs, of all that leaf calls returned, and the most that one leaf took and returned."""
    sizes = call_bytes(trace)
    leaves = [sizes[call.index] for call in trace.calls if call.leaf]
    inputs = sizes[0][0] if sizes else 0
    return inputs, sum(returned for _, returned in leaves), max(map(sum, leaves), default=0)


def _known_bytes(value: Value | None, known: dict[int, int]) -> int:
    found = known.get(id(value))
    if found is None:
        found = known[id(value)] = value_bytes(value)
    return found


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
