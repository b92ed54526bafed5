"""How much memory a model takes: an estimate from shapes and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchkutils.models.records import Trace
from torchkutils.models.table.cells import scaled
from torchkutils.models.tree.totals import Totals, activation_bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes that a model takes, worked out from shapes; allocators, libraries and temporaries take more.

    Attributes:
        parameters: All parameters.
        buffers: All buffers.
        gradients: One value for each trainable parameter, in its dtype.
        optimizer: The states of Adam or AdamW, which is assumed: two values for each trainable parameter.
        inputs: The tensors given to forward.
        activations: What leaf modules returned, all of which training keeps for the backward pass.
        largest_activation: The largest sum of what one leaf module took and returned: inference needs no more at once.
        sample: What inputs and activations are those of: "one sample" where the batch axis is open, else "this input".
        known: Whether a forward ran, so that activations are known.
    """

    parameters: int
    buffers: int
    gradients: int
    optimizer: int
    inputs: int
    activations: int
    largest_activation: int
    sample: str
    known: bool

    @property
    def inference(self) -> int:
        """Parameters, buffers, inputs and the largest activation."""
        return self.parameters + self.buffers + self.inputs + self.largest_activation

    @property
    def training(self) -> int:
        """Parameters, buffers, gradients, the optimizer's states, inputs and all activations."""
        held = self.parameters + self.buffers + self.gradients + self.optimizer
        return held + self.inputs + self.activations

    def lines(self) -> list[str]:
        """What a footer says of it."""
        held = f"parameters {scaled(self.parameters, 'B')}, buffers {scaled(self.buffers, 'B')}"
        trained = f"gradients {scaled(self.gradients, 'B')}, Adam {scaled(self.optimizer, 'B')}"
        if not self.known:
            return [f"Estimated memory without activations: {held}; in training also {trained}"]
        largest = f"largest activation {scaled(self.largest_activation, 'B')}"
        return [
            f"Estimated memory for {self.sample}: {scaled(self.inference, 'B')} in inference ({held}, {largest}), "
            f"{scaled(self.training, 'B')} in training ({trained}, activations {scaled(self.activations, 'B')})"
        ]


def memory_of(trace: Trace, totals: Totals, sizes: Sequence[tuple[int, int]]) -> MemoryEstimate:
    """The estimate of one trace; `sizes` is what `call_bytes` gives."""
    inputs, activations, largest = activation_bytes(trace, sizes)
    return MemoryEstimate(
        parameters=totals.param_bytes,
        buffers=totals.buffer_bytes,
        gradients=totals.trainable_bytes,
        optimizer=2 * totals.trainable_bytes,
        inputs=inputs,
        activations=activations,
        largest_activation=largest,
        sample=trace.counted_for or "this input",
        known=trace.engine.ran != "structure",
    )
