"""Sizes that an input leaves open: two traces at different sizes tell what varies with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchkutils.models.records import Call, Collection, TensorValue, Trace, Value
from torchkutils.models.tree.totals import value_bytes


def with_open_dimensions(one: Trace, other: Trace, more_samples: Trace | None, open_size: int | None) -> Trace:
    """The first trace with each size open that differs in the second.

    Args:
        one: At smaller sizes; its batch has two samples where the batch axis is open.
        other: At larger sizes.
        more_samples: At the first one's sizes with a third sample; FLOPs and bytes are then those of one sample. None
            where the batch axis is not open.
        open_size: The size of other open axes in the first trace; None where there are none.

    Raises:
        ValueError: The model ran other modules or functions at another size.
    """
    more = one if more_samples is None else more_samples
    if not _course(one) == _course(other) == _course(more):
        raise ValueError("input_size has open dimensions, and the model takes another way at another size: give sizes")
    nodes = tuple(
        dataclasses.replace(a, output=_open_value(a.output, b.output))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )
    counted_for = [] if more_samples is None else ["one sample"]
    counted_for += [] if open_size is None else [f"open sizes of {open_size}"]
    return dataclasses.replace(
        one,
        calls=tuple(map(_open_call, one.calls, other.calls, more.calls)),
        nodes=nodes,
        counted_for=", ".join(counted_for),
        call_bytes=tuple(
            (_bytes_of_one_sample(a.inputs, b.inputs), _bytes_of_one_sample(a.output, b.output))
            for a, b in zip(one.calls, more.calls, strict=True)
        ),
    )


def _open_call(one: Call, other: Call, more: Call) -> Call:
    flops, known = (one.flops, True) if more is one else _of_one_sample(one.flops, more.flops)
    return dataclasses.replace(
        one,
        inputs=_open_value(one.inputs, other.inputs),
        output=_open_value(one.output, other.output),
        flops=flops,
        flops_known=one.flops_known and known,
    )


def _bytes_of_one_sample(two: Value | None, three: Value | None) -> int:
    return value_bytes(two) if two is three else _of_one_sample(value_bytes(two), value_bytes(three))[0]


def _of_one_sample(two: int, three: int) -> tuple[int, bool]:
    """What one sample takes, from what two and three take, and whether it is exact.

    What does not depend on the batch is taken once, what grows with each sample once more. What grows with the square
    alone (each sample with each other one) is told too; anything else is not.
    """
    if two and 4 * three == 9 * two:
        return two // 4, True
    each = three - two
    constant = two - 2 * each
    return max(constant + each, 0), constant >= 0 and each >= 0


def _course(trace: Trace) -> tuple[Any, ...]:
    """Which modules and functions ran, and what they took."""
    return (
        [(call.module, call.parent) for call in trace.calls],
        [(node.kind, node.name) for node in trace.nodes],
        [(edge.source, edge.target, edge.tensor) for edge in trace.edges],
    )


def _open_value(one: Any, other: Any) -> Any:
    if isinstance(one, TensorValue) and isinstance(other, TensorValue) and len(one.shape) == len(other.shape):
        shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
        return dataclasses.replace(one, shape=shape)
    if isinstance(one, Collection) and isinstance(other, Collection):
        pairs: list[tuple[int | str, Value]] = [
            (key, _open_value(a, b)) for (key, a), (_, b) in zip(one.items, other.items, strict=False)
        ]
        return dataclasses.replace(one, items=tuple(pairs))
    return one
