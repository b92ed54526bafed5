"""Whether ranks that hold parts of one model (strategy='fsdp') do the same: asked before they wait for each other.

Their parts differ, so that no values can be compared: what is compared is how often each rank changed its part in
place, and how many optimizer steps it took, since the last message. `fully_shard` itself changes no part.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from torchkutils._nested import leaves
from torchkutils._torch_versions import after_backward
from torchkutils.parallel.control import Control, Message
from torchkutils.parallel.optimizer_steps import watch_steps

_version = operator.attrgetter("_version")


class ShardedChecks:
    """Tells what this rank did to its part of a template, and refuses to go on where others did something else.

    Args:
        template: The sharded model.
        control: How the ranks agree.
    """

    def __init__(self, template: nn.Module, control: Control) -> None:
        self._template = template
        self._control = control
        self._counted = self._versions()
        self._steps = 0
        self._in_backward = False
        watch_steps(self)

    def _versions(self) -> int:
        return sum(map(_version, self._template.parameters()))

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to do: gradients are exchanged already."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count a step, if it is one of this template's optimizer."""
        own = set(map(id, self._template.parameters()))
        self._steps += any(id(tensor) in own for group in optimizer.param_groups for tensor in group["params"])

    def message(self) -> int:
        """What was done since the last message, as a number."""
        now = self._versions()
        state = hash((now - self._counted, self._steps))
        self._counted, self._steps = now, 0
        return state

    def check(self, everyone: Sequence[Message]) -> None:
        """Refuse to go on where a rank did something else; every rank calls it with the same messages.

        Raises:
            RuntimeError: A rank changed its part of the parameters alone.
        """
        others = [str(rank) for rank, one in enumerate(everyone) if one.changes != everyone[0].changes]
        if others:
            raise RuntimeError(
                "ranks must change their parts of a sharded model alike, got other optimizer steps or other changes in "
                f"place than rank 0's on rank {', '.join(others)}; step, load and edit on every rank"
            )

    def announce_backward(self, output: Any) -> None:
        """See to it that a backward pass through `output` begins on all ranks or raises on all."""
        trained = [leaf for leaf in leaves(output) if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
        if trained and self._control.world > 1:
            torch.autograd.graph.register_multi_grad_hook(trained, self._backward_begins, mode="any")

    def _backward_begins(self, gradient: torch.Tensor) -> None:
        if self._in_backward:
            return
        self._in_backward = True
        after_backward(self._backward_ended)
        self._control.agree("a backward pass of the parallel model")

    def _backward_ended(self) -> None:
        self._in_backward = False
