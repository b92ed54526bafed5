"""Sizes that an input leaves open: two traces at different sizes tell what varies with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchkutils.models.records import Call, Collection, Node, TensorValue, Trace, Value
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
    counted_for = []
    if more_samples is not None:
        counted_for.append("one sample")
    if open_size is not None:
        counted_for.append(f"open sizes of {open_size}")
    return dataclasses.replace(
        one,
        calls=tuple(map(_open_call, one.calls, other.calls, more.calls)),
        nodes=tuple(map(_open_node, one.nodes, other.nodes)),
        counted_for=", ".join(counted_for),
        call_bytes=tuple(map(_call_bytes, one.calls, more.calls)),
    )


def _open_node(one: Node, other: Node) -> Node:
    return dataclasses.replace(one, output=_open_value(one.output, other.output))


def _call_bytes(two: Call, three: Call) -> tuple[int, int]:
    return _bytes_of_one_sample(two.inputs, three.inputs), _bytes_of_one_sample(two.output, three.output)


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
    if two is three:
        return value_bytes(two)
    size, _ = _of_one_sample(value_bytes(two), value_bytes(three))
    return size


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
        return dataclasses.replace(one, shape=tuple(map(_open_size, one.shape, other.shape)))
    if isinstance(one, Collection) and isinstance(other, Collection):
        keys = [key for key, _ in one.items]
        values = map(_open_value, _values(one), _values(other))
        return dataclasses.replace(one, items=tuple(zip(keys, values, strict=False)))
    return one


def _open_size(one: int | None, other: int | None) -> int | None:
    return one if one == other else None


def _values(collection: Collection) -> list[Value]:
    return [value for _, value in collection.items]
