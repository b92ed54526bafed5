"""Whether ranks that hold parts of one model (strategy='fsdp') do the same: asked before they wait for each other.

Each forward and each backward pass of a sharded model begins with a collective operation. So each begins with a message
before: that all ranks are here, in one mode, with the layers that were sharded. Their parts differ, so that no values
can be compared: what is compared is how often each rank changed its part in place, and how many optimizer steps it
took, since the last message. (`fully_shard` itself changes no part.)
"""

from __future__ import annotations

import contextlib
import operator
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchkutils._nested import of_kind
from torchkutils._torch_versions import after_backward, outside_compiler
from torchkutils.parallel.control import Control, Message
from torchkutils.parallel.engines import Structure
from torchkutils.parallel.optimizer_steps import watch_steps
from torchkutils.parallel.sharding import check_still_sharded

_version = operator.attrgetter("_version")


class ShardedChecks:
    """Tells what this rank did to its part of a template, and refuses to go on where others did something else.

    Args:
        template: The sharded model. What it runs, by whatever method, begins on all ranks or raises on all.
        control: How the ranks agree.
        edited: Whether this rank's buffers were changed between two forwards. In training they become rank 0's.

    Attributes:
        begun: Whether the ranks have agreed on the forward that comes next.
        synced: Whether backward passes exchange gradients.
    """

    def __init__(self, template: nn.Module, control: Control, edited: Callable[[], bool]) -> None:
        self.begun: bool = False
        self.synced = True
        self._template = template
        self._control = control
        self._edited = edited
        # The template's layers between two calls, and with gathered parameters, which stay after a forward where
        # options hold reshard_after_forward=False.
        self._structures = [Structure(template, moves=True)]
        self._counted = self._versions()
        self._steps = 0
        self._in_backward = False
        watch_steps(self)
        if control.world > 1:
            me = weakref.ref(self)
            # Each before `fully_shard`'s own: before its collective operations, and before the hooks that it puts on
            # outputs for the backward pass.
            template.register_forward_pre_hook(_telling_of_forward(me), prepend=True)
            template.register_forward_hook(_telling_of_output(me), prepend=True)

    def _versions(self) -> int:
        return sum(map(_version, self._template.parameters()))

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to do: gradients are exchanged already."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count a step, if it is one of this template's optimizer."""
        own = set(map(id, self._template.parameters()))
        self._steps += any(id(tensor) in own for group in optimizer.param_groups for tensor in group["params"])

    def problem(self) -> ValueError | None:
        """What is wrong with the layers of this rank."""
        # Checkpointing runs forward once more in the backward pass, where parameters are gathered.
        if self._in_backward or self._holds():
            return None
        try:
            check_still_sharded(self._template)
        except ValueError as error:
            return error
        return ValueError(
            "layers must stay those that were sharded, and trained or frozen as they were, got others; replace "
            "layers (SyncBatchNorm.convert_sync_batchnorm does) and set requires_grad before multi_gpu_model"
        )

    def _holds(self) -> bool:
        return any(structure.still_holds() for structure in self._structures)

    def message(self) -> int:
        """What was done since the last message, as a number."""
        now = self._versions()
        edited = not self._template.training and self._edited()
        state = hash((now - self._counted, self._steps, edited))
        self._counted, self._steps = now, 0
        return state

    def check(self, everyone: Sequence[Message]) -> None:
        """Refuse to go on where a rank did something else; every rank calls it with the same messages.

        Raises:
            RuntimeError: A rank changed its part of the parameters, or buffers in evaluation, alone.
        """
        others = [str(rank) for rank, one in enumerate(everyone) if one.changes != everyone[0].changes]
        if others:
            raise RuntimeError(
                "ranks must change their parts of a sharded model alike, got other optimizer steps or other changes in "
                f"place than rank 0's on rank {', '.join(others)}; step, load and edit on every rank"
            )

    def forward_begins(self) -> None:
        """Agree on a forward, unless the ranks did so already."""
        begun, self.begun = self.begun, False
        if not begun:
            point = f"a forward {mode_of(self._template)}"
            self.check(self._control.agree(point, problem=self.problem(), changes=self.message()))

    def forward_ended(self, output: Any) -> None:
        """See to it that a backward pass through the output begins on all ranks or raises on all."""
        trained = [tensor for tensor in of_kind(Tensor, output) if tensor.requires_grad]
        if trained:
            torch.autograd.graph.register_multi_grad_hook(trained, self._backward_begins, mode="any")

    def gathered(self) -> None:
        """Learn the template's layers inside of a forward."""
        if len(self._structures) == 1 and not self._holds():
            self._structures.append(Structure(self._template, moves=True))

    def forward_failed(self) -> None:
        """Begin anew: else `fully_shard` would take the next forward for a part of the one that raised."""
        template: Any = self._template
        # Checkpointing ends a forward inside of backward by an exception of its own. (An older torch cannot reset.)
        if not self._in_backward and hasattr(template, "reset_iter_state"):
            # It raises where none had begun.
            with contextlib.suppress(RuntimeError):
                template.reset_iter_state()

    def _backward_begins(self, gradient: Tensor) -> None:
        if self._in_backward:
            return
        self._in_backward = True
        after_backward(self._backward_ended)
        trained = bytes(parameter.requires_grad for parameter in self._template.parameters())
        self._control.agree(
            f"a backward pass of the parallel model{'' if self.synced else ' inside no_sync'}",
            content=trained,
            unequal="what is trained must be alike on every rank, got other parameters than rank 0's on rank {ranks}",
        )

    def _backward_ended(self) -> None:
        self._in_backward = False


def mode_of(template: nn.Module) -> str:
    """What must be alike on all ranks for their forwards to be one: 'in training with grad'."""
    mode = "in training" if template.training else "in evaluation"
    return f"{mode} with grad" if torch.is_grad_enabled() else mode


def _telling_of_forward(me: weakref.ref[ShardedChecks]) -> Any:
    @outside_compiler
    def begins(module: nn.Module, arguments: Any) -> None:
        checks = me()
        if checks is not None:
            checks.forward_begins()

    return begins


def _telling_of_output(me: weakref.ref[ShardedChecks]) -> Any:
    @outside_compiler
    def ended(module: nn.Module, arguments: Any, output: Any) -> None:
        checks = me()
        if checks is not None:
            checks.gathered()
            checks.forward_ended(output)

    return ended
