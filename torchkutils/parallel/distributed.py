"""multi_gpu_model on torch.distributed: one process a device, gradients averaged by DDP or FSDP."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchkutils._torch_versions import without_exchange_of_values
from torchkutils.parallel.arguments import Arguments
from torchkutils.parallel.collectives import (
    agree,
    lengths_of_everyone,
    merge_leaf,
    merge_scalar,
)
from torchkutils.parallel.distributed_buffers import RankBuffers
from torchkutils.parallel.fingerprints import fingerprint
from torchkutils.parallel.losses import check_mergeable, loss_on
from torchkutils.parallel.parallel_model import TemplateView
from torchkutils.parallel.ranks import own_random_numbers
from torchkutils.parallel.scatter_gather import Plan, Shard, plan_shards, scatter, shard_weights
from torchkutils.parallel.sharding import is_sharded, shard, take_values_of_first
from torchkutils.parallel.structure import Structure


@dataclass(frozen=True)
class RankOptions:
    """How the ranks work together; the same on all of them, but for the device.

    Attributes:
        strategy: 'ddp' or 'fsdp'.
        outputs: 'merged' or 'local'.
        split: 'even' or 'keras'.
        buffers: 'merged' or 'first'.
        cpu_merge: Whether merged outputs lie on the CPU.
        shared: Names of arguments that are not cut.
    """

    strategy: str
    outputs: str
    split: str
    buffers: str
    cpu_merge: bool
    shared: tuple[str, ...]


class DistributedModel(TemplateView):
    """One rank's part of a model under DistributedDataParallel or `fully_shard`; made by `multi_gpu_model`."""

    def __init__(self, template: nn.Module, device: torch.device, options: RankOptions) -> None:
        super().__init__(template)
        _check_templates(template, device, options)
        engine = _sharded(template, device) if options.strategy == "fsdp" else _replicated(template, device)
        # Where forwards talk to each other, one that failed cannot be waited for.
        coupled = options.strategy == "fsdp" or any(isinstance(m, nn.SyncBatchNorm) for m in template.modules())
        for name, value in {
            "_engine": engine,
            "_options": options,
            "_device": device,
            "_merge_on": torch.device("cpu") if options.cpu_merge else device,
            "_coupled": coupled,
            "_rank_buffers": RankBuffers(template, options.buffers),
        }.items():
            object.__setattr__(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """This rank's outputs (`local`), or the whole batch's on every rank (`merged`)."""
        if self._options.outputs == "local":
            return self._alone(lambda: self._run(*args, **kwargs))
        template, shared = self.__dict__["__template__"], self._options.shared
        plan, arguments, _ = self._agreed_plan(lambda: (Arguments(template, shared, args, kwargs), []))
        mine = plan[distributed.get_rank()]
        [(places, names)] = arguments.calls([mine])
        output = self._agreed(
            lambda: Structure(self._run(*places, **names), "output"), lambda found: _make_of_rows(found, mine.length)
        )
        weights, lengths = shard_weights(plan), [one.length for one in plan]
        merged = [merge_leaf(leaf, weights, lengths, self._device) for leaf in output.leaves]
        return output.filled([leaf.to(self._merge_on) if isinstance(leaf, Tensor) else leaf for leaf in merged])

    def sharded_loss(
        self, fn: Callable[[Any, Any], Tensor], inputs: Any, targets: Any, *, reduction: str = "mean"
    ) -> Tensor:
        """The loss of all ranks' samples together, each computed where its outputs are: one number travels.

        Args:
            fn: Called as `fn(output, target)` on each rank; a 0-d tensor, reduced over samples by `reduction`.
            inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments: the same batch on every
                rank with `outputs='merged'`, each rank's own with `outputs='local'`.
            targets: Of the inputs' length along axis 0, however nested.
            reduction: What `fn` does over samples: 'mean' or 'sum'.

        Returns:
            A 0-d tensor, the same on every rank. Value and gradients are those of `fn` on all samples at once, also
            where the ranks hold different numbers of them. What cannot be merged is refused as with one process.

        Raises:
            TypeError: `fn` returned no 0-d tensor.
            ValueError: An unknown reduction, a loss that cannot be merged, tensors that cannot be cut, or different
                batches with 'merged'.
            RuntimeError: It failed on another rank.
        """

        def prepare() -> tuple[Arguments, list[Structure]]:
            check_mergeable(fn, targets, reduction)
            inside = self.__dict__["__template__"]
            return Arguments.of_inputs(inside, self._options.shared, inputs), [Structure(targets, "targets")]

        plan, arguments, [goals] = self._agreed_plan(prepare)
        mine = plan[distributed.get_rank()]
        [call], [goal] = arguments.calls([mine]), scatter(goals, [mine])

        def work() -> Tensor:
            return loss_on(fn, self._run, call, goal, self._device)

        loss = self._alone(work) if self._options.outputs == "local" else self._agreed(work, lambda _: b"")
        weights = shard_weights(plan) if reduction == "mean" else [1.0] * len(plan)
        return merge_scalar(loss, weights).to(self._merge_on)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward through DDP or FSDP."""
        try:
            return self._engine(*args, **kwargs)
        except Exception:
            if self._options.strategy == "fsdp" and hasattr(self._engine, "reset_iter_state"):
                # Else FSDP would take the next forward for a part of this one. (It raises where none had begun.)
                with contextlib.suppress(RuntimeError):
                    self._engine.reset_iter_state()
            raise

    def _agreed_plan(
        self, prepare: Callable[[], tuple[Arguments, list[Structure]]]
    ) -> tuple[Plan, Arguments, list[Structure]]:
        """Which rank computes which rows of what; raises on every rank unless all have what they need."""
        world, merged = distributed.get_world_size(), self._options.outputs == "merged"
        problem: Exception | None = None
        length, content = 0, b""
        try:
            arguments, others = prepare()
            length = arguments.length(*others)
            if merged and length < world:
                raise ValueError(f"a merged batch must hold a sample for each of the {world} ranks, got {length}")
            content = fingerprint([*arguments.structures, *others]) if merged else b""
        except Exception as err:
            problem = err
        if merged:
            agree(problem, self._device, "reading the arguments", content=content, unequal=_ANOTHER_BATCH)
            return plan_shards(length, [self._device] * world, self._options.split), arguments, others
        lengths = lengths_of_everyone(length, problem, self._device)
        # Each rank's batch is whole: its shard begins at its own first row.
        plan = [Shard(rank, self._device, 0, length) for rank, length in enumerate(lengths)]
        return plan, arguments, others

    def _alone(self, work: Callable[[], Any]) -> Any:
        """What this rank's work gives; what fails here reaches the others when this process ends."""
        with self._rank_buffers.recorded():
            result = work()
        if self.training and torch.is_grad_enabled():
            self._rank_buffers.settle(self._device)
        return result

    def _agreed(self, work: Callable[[], Any], make_of: Callable[[Any], bytes]) -> Any:
        """What this rank's work gives, once it is sure that no rank failed and all results are of one make."""
        problem: Exception | None = None
        result: Any = None
        make = b""
        try:
            with self._rank_buffers.recorded(), own_random_numbers(self._device):
                result = work()
        except Exception as err:
            if self._coupled:
                raise
            problem = err
        try:
            make = make_of(result) if problem is None else b""
        except Exception as err:
            problem = err
        agree(problem, self._device, "the forward", content=make, unequal=_ANOTHER_MAKE)
        if self.training:
            self._rank_buffers.settle(self._device)
        return result

    def extra_repr(self) -> str:
        """The strategy and this rank's place, for printing."""
        return f"strategy={self._options.strategy!r}, world_size={distributed.get_world_size()}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._refuse_copying()
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self._refuse_copying()
        return super().__deepcopy__(memo)

    def _refuse_copying(self) -> None:
        if self._options.strategy == "fsdp":
            raise TypeError(
                "a model under 'fsdp' holds only this rank's part and cannot be pickled or copied; save_model, called "
                "on every rank, writes it whole"
            )


_ANOTHER_BATCH = (
    "outputs='merged' takes the same batch on every rank, got another one than rank 0's on rank {ranks}; use "
    "outputs='local' for each rank's own"
)


_ANOTHER_MAKE = (
    "outputs must have one structure on every rank to be merged, got another one than rank 0's on rank {ranks}; use "
    "outputs='local'"
)


def _check_templates(template: nn.Module, device: torch.device, options: RankOptions) -> None:
    """Raise on every rank unless the ranks want the same of models of the same make."""
    tensors = [*template.named_parameters(), *template.named_buffers()]
    make = [(name, tuple(t.shape), str(t.dtype), t.requires_grad) for name, t in tensors]
    agree(
        None,
        device,
        "multi_gpu_model",
        content=repr((options, make)).encode(),
        unequal="model and options must be the same on every rank, got others than rank 0's on rank {ranks}",
    )


def _replicated(template: nn.Module, device: torch.device) -> nn.Module:
    if is_sharded(template):
        raise ValueError("model is spread over ranks already, which strategy='fsdp' goes on with, got strategy='ddp'")
    template.to(device)
    take_values_of_first(template, device)
    if not any(parameter.requires_grad for parameter in template.parameters()):
        return template
    # The buffers are brought together after each forward, not before the next one.
    return nn.parallel.DistributedDataParallel(
        template,
        device_ids=[device.index] if device.type == "cuda" else None,
        **without_exchange_of_values(),
    )


def _sharded(template: nn.Module, device: torch.device) -> nn.Module:
    if any(True for _ in template.parameters()):
        shard(template, device)
    else:
        template.to(device)
    return template


def _make_of_rows(output: Structure, length: int) -> bytes:
    """What has to be the same on all ranks for outputs to be merged.

    Raises:
        ValueError: A tensor has not one row a sample.
    """
    make: list[Any] = []
    for path, leaf in zip(output.paths, output.leaves, strict=True):
        if isinstance(leaf, Tensor) and leaf.ndim and leaf.shape[0] != length:
            raise ValueError(
                f"{path} must have one row a sample to be merged over ranks, got shape {tuple(leaf.shape)} for "
                f"{length} samples; use outputs='local'"
            )
        kind = (leaf.dtype, tuple(leaf.shape[1:]), leaf.ndim) if isinstance(leaf, Tensor) else type(leaf).__qualname__
        make.append((path, kind))
    return repr(make).encode()
