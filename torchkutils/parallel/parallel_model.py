"""The type that multi_gpu_model returns, whatever the strategy."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from torchkutils._torch_versions import outside_compiler
from torchkutils.parallel.batch_axes import BatchAxes
from torchkutils.parallel.losses import check_mergeable
from torchkutils.parallel.template_view import TemplateView

Weights = Callable[[Any], Any]
"""Gives the weight of a shard's loss from the shard's targets: a number or a 0-d tensor."""


@dataclass(frozen=True)
class Settings:
    """How batches are cut and outputs merged, by every strategy.

    Attributes:
        outputs: 'merged' or 'local'.
        split: 'even' or 'keras'.
        buffers: 'merged' or 'first'.
        cpu_merge: Whether merged outputs lie on the CPU.
        shared: Names of arguments that are not cut.
        batch_axes: Where the batch is, for arguments and outputs that the caller named.
    """

    outputs: str
    split: str
    buffers: str
    cpu_merge: bool
    shared: tuple[str, ...]
    batch_axes: BatchAxes


@dataclass(frozen=True)
class LossRequest:
    """What the caller of `sharded_loss` asked for: its arguments."""

    fn: Callable[[Any, Any], Tensor]
    inputs: Any
    targets: Any
    reduction: str
    weights: Weights | None

    def check(self) -> None:
        """Refuse what shards cannot merge exactly; see `check_mergeable`."""
        check_mergeable(self.fn, self.targets, self.reduction, self.weights)


class ParallelModel(TemplateView):
    """A model on several devices, made by `multi_gpu_model`; it is called as the model (the template) is.

    Attributes and methods that are not listed here are the template's, and run on the template.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward, its batch cut over the devices and its outputs merged."""
        # What cuts and merges is no code for a compiler: it looks at values, and speaks with other ranks.
        return outside_compiler(nn.Module.__call__)(self, *args, **kwargs)

    @property
    def module(self) -> nn.Module:
        """The template, by the name that DistributedDataParallel and DataParallel give it."""
        return self.template

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward on every device."""

    @abstractmethod
    def _loss_of(self, request: LossRequest) -> Tensor:
        """See `sharded_loss`."""

    def sharded_loss(
        self,
        fn: Callable[[Any, Any], Tensor],
        inputs: Any,
        targets: Any,
        *,
        reduction: str = "mean",
        weights: Weights | None = None,
    ) -> Tensor:
        """The loss of the whole batch, computed where the outputs are, so that no output travels.

        Args:
            fn: Called as `fn(output, target)` for each replica; a 0-d tensor, reduced over samples by `reduction`.
            inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments. Under 'ddp' and 'fsdp':
                the same batch on every rank with `outputs='merged'`, each rank's own with `outputs='local'`.
            targets: Cut as the inputs are, however nested.
            reduction: What `fn` does over samples: 'mean' or 'sum'.
            weights: Called as `weights(target)` for each replica; a number ≥ 0 or 0-d tensor. For a mean over anything
                but samples, such as tokens: `lambda labels: (labels != -100).sum()`.

        Returns:
            A 0-d tensor on the CPU (`cpu_merge=True`) or the first device (under 'ddp' and 'fsdp' on every rank);
            value and gradients are those of `fn` on all samples at once. Without `weights` that holds where each
            sample weighs the same: a mean with class weights, or one that leaves out samples by `ignore_index`, is
            refused where it can be seen.

        Raises:
            TypeError: `fn` returned no 0-d tensor, `weights` no number.
            ValueError: An unknown reduction, a loss that cannot be merged, tensors that cannot be cut, `weights` with
                a sum, or different batches with 'merged' on the ranks.
            RuntimeError: It failed on another rank.
        """
        request = LossRequest(fn, inputs, targets, reduction, weights)
        loss: Tensor = outside_compiler(_loss)(self, request)
        return loss

    def refresh(self) -> None:
        """Copy weights and buffers to the replicas at the next call, whatever seems unchanged.

        Needed only in one process, after edits that nothing records, between two calls without grad: through `.data`,
        through `.numpy()`, or to a list that a module holds. Ranks have no replica besides the template.
        """

    def no_sync(self) -> AbstractContextManager[None]:
        """A block whose backward passes exchange no gradients between ranks; the next one outside sends their sum.

        In one process there is nothing to save: gradients add up on the template in any case.
        """
        return contextlib.nullcontext()


def _loss(model: ParallelModel, request: LossRequest) -> Tensor:
    return model._loss_of(request)
