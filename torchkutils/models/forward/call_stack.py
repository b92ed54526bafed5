"""A call in the making."""

from __future__ import annotations

import torch

from torchkutils.models.records import Call, Collection, Value


class RunningCall:
    """A call that has begun: what is known of it so far."""

    __slots__ = (
        *("flops", "flops_known", "functions", "index", "inputs", "leaf", "number", "output", "parent", "place"),
        *("point", "sources", "tensors", "was_on"),
    )

    def __init__(self, index: int, place: int, number: int, parent: int | None, inputs: Collection) -> None:
        self.index, self.place, self.number, self.parent, self.inputs = index, place, number, parent, inputs
        self.leaf, self.flops, self.flops_known, self.was_on = True, 0, True, True
        self.output: Value | None = None
        self.point: int | None = None
        self.sources: list[tuple[int, int]] = []
        self.tensors: list[torch.Tensor] = []
        self.functions: list[int] = []

    def finished(self) -> Call:
        """What is known of it as a plain record."""
        return Call(
            *(self.index, self.place, self.number, self.parent, self.inputs, self.output),
            *(self.flops, self.flops_known, self.leaf),
        )
