"""What the items of a page hold and cost: parameters, FLOPs, bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torchkutils.models.records import Call, Trace
from torchkutils.models.tree.totals import Operations, call_bytes, held_below, held_by_each


@dataclass(frozen=True)
class Cost:
    """Of one item with all that lies in it.

    Attributes:
        params: Elements of its parameters.
        trainable: Those of them that require a gradient.
        lazy: Whether some are not made yet.
        flops: Of its calls; two for a multiply-add.
        flops_known: Whether `flops` is exact, or else a lower bound.
        memory: Bytes of its parameters and of what the leaf modules in it returned.
    """

    params: int = 0
    trainable: int = 0
    lazy: bool = False
    flops: int = 0
    flops_known: bool = True
    memory: int = 0


def total(costs: Iterable[Cost]) -> Cost:
    """The sum of several."""
    listed = list(costs)
    return Cost(
        sum(cost.params for cost in listed),
        sum(cost.trainable for cost in listed),
        any(cost.lazy for cost in listed),
        sum(cost.flops for cost in listed),
        all(cost.flops_known for cost in listed),
        sum(cost.memory for cost in listed),
    )


class Costs:
    """The costs of each module of a trace."""

    def __init__(self, trace: Trace) -> None:
        self._held = held_below(trace, held_by_each(trace))
        self._operations = Operations(trace)
        sizes = call_bytes(trace)
        self._returned = [sizes[call.index][1] if call.leaf else 0 for call in trace.calls]
        # A call has a higher index than the call around it.
        for call in reversed(trace.calls):
            if call.parent is not None:
                self._returned[call.parent] += self._returned[call.index]

    def of(self, module: int, calls: list[Call]) -> Cost:
        """What a module holds, and what some of its calls run and return."""
        held, (flops, known) = self._held[module], self._operations.of(calls)
        returned = sum(self._returned[call.index] for call in calls)
        return Cost(held.elements, held.trainable, held.lazy, flops, known, held.bytes + returned)
