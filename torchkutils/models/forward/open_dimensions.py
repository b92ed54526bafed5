"""Sizes that an input leaves open: two traces at different sizes tell what varies with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from torchkutils.models.records import Collection, TensorValue, Trace, Value


def with_open_dimensions(one: Trace, other: Trace) -> Trace:
    """The first trace with each size open that differs in the second."""
    if _course(one) != _course(other):
        raise ValueError("input_size has open dimensions, and the model takes another way at another size: give sizes")
    calls = tuple(
        dataclasses.replace(a, inputs=_open_value(a.inputs, b.inputs), output=_open_value(a.output, b.output))
        for a, b in zip(one.calls, other.calls, strict=True)
    )
    nodes = tuple(
        dataclasses.replace(a, output=_open_value(a.output, b.output))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )
    return dataclasses.replace(one, calls=calls, nodes=nodes)


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
