"""What a model holds and costs, added up once for the table, the page and the labels of a picture."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Sequence
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
        found = None if module.packed else known.get(key)
        if found is None:
            found = known[key] = _held(module)
        held.append(found)
    return held


def _held(module: ModuleRecord) -> Held:
    elements, trainable, size, trainable_size = 0, 0, 0, 0
    lazy, first_holder = False, None
    kinds: list[str] = []
    for tensor in module.parameters:
        lazy = lazy or tensor.shape is None
        if tensor.kind != "tensor":
            kinds.append(tensor.kind)
        if tensor.same_as is not None:
            first_holder = first_holder or tensor.same_as
        elif module.registered:
            elements += tensor.elements
            size += tensor.bytes
            trainable += tensor.elements * tensor.requires_grad
            trainable_size += tensor.bytes * tensor.requires_grad
    for tensor in module.packed[:1]:
        kinds.append(f"{tensor.kind}: {tensor.name} {tensor.shape}")
    return Held(elements, trainable, size, trainable_size, lazy, tuple(dict.fromkeys(kinds)), first_holder)


def held_below(trace: Trace, held: list[Held]) -> list[Held]:
    """For each module what it and all below it hold, marked as it is itself."""
    sums = list(held)
    # A child has a higher index than its parent.
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
    registered = [module for module in trace.modules if module.registered]
    by_dtype: dict[str, int] = {}
    _add_bytes(by_dtype, [module.parameters for module in registered])
    of_parameters = sum(by_dtype.values())
    _add_bytes(by_dtype, [module.buffers for module in registered])
    of_buffers = sum(by_dtype.values()) - of_parameters
    return {dtype: size for dtype, size in by_dtype.items() if size}, of_buffers


def _add_bytes(by_dtype: dict[str, int], groups: Sequence[tuple[TensorRecord, ...]]) -> None:
    """Add the bytes of all tensors; modules that hold equal tensors share one tuple of records."""
    distinct = {id(group): group for group in groups}
    modules = collections.Counter(map(id, groups))
    for key, group in distinct.items():
        for dtype, size in _parts_of(group):
            by_dtype[dtype] = by_dtype.get(dtype, 0) + size * modules[key]


def _parts_of(group: tuple[TensorRecord, ...]) -> list[tuple[str, int]]:
    """Dtype and bytes of what these tensors consist of, if no other module held them before."""
    parts: list[tuple[str, int]] = []
    for tensor in group:
        if tensor.same_as is None:
            parts += tensor.parts or [(tensor.dtype, tensor.bytes)]
    return parts


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
    whole = _sum_of_equal([own for own, module in zip(held, trace.modules, strict=True) if module.registered])
    return Totals(
        params=whole.elements,
        trainable=whole.trainable,
        lazy=whole.lazy,
        param_bytes=whole.bytes,
        trainable_bytes=whole.trainable_bytes,
        buffer_bytes=of_buffers,
        bytes_by_dtype=by_dtype,
        flops=sum([call.flops for call in trace.calls]),
        flops_known=_ran_to_its_end(trace) and False not in [call.flops_known for call in trace.calls],
    )


def _sum_of_equal(held: list[Held]) -> Held:
    """The sum of records of which many are the same object."""
    distinct = {id(own): own for own in held}
    modules = collections.Counter(map(id, held))
    return functools.reduce(_sum, [_times(own, modules[key]) for key, own in distinct.items()], _NOTHING)


_NOTHING = Held(0, 0, 0, 0, False, (), None)


def _times(own: Held, number: int) -> Held:
    return Held(
        own.elements * number,
        own.trainable * number,
        own.bytes * number,
        own.trainable_bytes * number,
        own.lazy,
        own.kinds,
        own.first_holder,
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
    values: dict[int, Value | None] = {}
    for call in trace.calls:
        values[id(call.inputs)] = call.inputs
        values[id(call.output)] = call.output
    sizes = {key: value_bytes(value) for key, value in values.items()}
    return [(sizes[id(call.inputs)], sizes[id(call.output)]) for call in trace.calls]


def activation_bytes(trace: Trace, sizes: Sequence[tuple[int, int]]) -> tuple[int, int, int]:
    """Bytes of the model's inputs, of all that leaf calls returned, and the most that one leaf took and returned.

    `sizes` is what `call_bytes` gives.
    """
    leaves = [sizes[call.index] for call in trace.calls if call.leaf]
    inputs = sizes[0][0] if sizes else 0
    return inputs, sum([returned for _, returned in leaves]), max(map(sum, leaves), default=0)


def value_bytes(value: Value | None) -> int:
    """Bytes of the tensors in a recorded value; an open size counts once."""
    if isinstance(value, TensorValue):
        return _tensor_bytes(value)
    return sum(map(_tensor_bytes, tensors_in(value)))


def _tensor_bytes(tensor: TensorValue) -> int:
    size = _bytes_of_element(tensor.dtype)
    for length in tensor.shape:
        if length is not None:
            size *= length
    return size


@functools.lru_cache(maxsize=64)
def _bytes_of_element(dtype: str) -> int:
    if dtype in _BYTES:
        return _BYTES[dtype]
    # "float32", "float8_e4m3fn", "qint8": the first number is that of the bits.
    bits = re.search(r"\d+", dtype)
    return 1 if bits is None else max(int(bits[0]) // 8, 1)
