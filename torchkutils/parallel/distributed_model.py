"""strategy='ddp' and 'fsdp': one process a device, gradients averaged over the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn

from torchkutils._random_state import random_state_kept
from torchkutils._torch_versions import no_join
from torchkutils.parallel.arguments import Arguments, positional_names
from torchkutils.parallel.collectives import add_ranks, take_from_first
from torchkutils.parallel.control import attempt, control_of_group
from torchkutils.parallel.distributed_buffers import RankBuffers
from torchkutils.parallel.engines import (
    COMM_HOOK,
    Structure,
    bring_new_in,
    data_parallel,
    make_of,
    plain_options,
    replicated,
    sharded,
)
from torchkutils.parallel.fingerprints import fingerprint
from torchkutils.parallel.gradient_exchange import GradientExchange
from torchkutils.parallel.joining import JoinHook
from torchkutils.parallel.losses import loss_on, weight_of
from torchkutils.parallel.output_axes import OutputAxes, Sizes, outline
from torchkutils.parallel.parallel_model import LossRequest, ParallelModel, Settings
from torchkutils.parallel.parameter_checks import ParameterChecks
from torchkutils.parallel.rank_merging import RankMerger
from torchkutils.parallel.ranks import own_random_numbers
from torchkutils.parallel.replicas import throw_away_copy
from torchkutils.parallel.scatter_gather import Shard, plan_shards
from torchkutils.parallel.sharded_checks import ShardedChecks, mode_of
from torchkutils.parallel.token_means import TokenMeans, leaves_tokens_out


@dataclass(frozen=True)
class _Part:
    """A rank's part of a step.

    Attributes:
        arguments: What the caller passed.
        shard: The rows that this rank computes.
        lengths: How many rows count, for each rank; 0 where a rank computes one only to keep pace.
    """

    arguments: Arguments
    shard: Shard
    lengths: list[int]

    @property
    def counts(self) -> bool:
        """Whether what this rank computes counts."""
        return self.lengths[distributed.get_rank()] > 0


class DistributedModel(ParallelModel):
    """One rank's part of a model under DistributedDataParallel or `fully_shard`."""

    own_names: ClassVar[frozenset[str]] = ParallelModel.own_names | {
        *("_strategy", "_settings", "_options", "_device", "_merge_on", "_control", "_names", "_axes", "_join_config"),
        *("_engine", "_structure", "_exchange", "_rank_buffers", "_coupled", "_evaluated", "_shards"),
    }

    def __init__(
        self, template: nn.Module, device: torch.device, strategy: str, settings: Settings, options: Mapping[str, Any]
    ) -> None:
        super().__init__(template)
        self._strategy = strategy
        self._settings = settings
        self._options = dict(options)
        self._device = device
        self._merge_on = torch.device("cpu") if settings.cpu_merge else device
        self._control = control_of_group()
        self._control.agree(
            "multi_gpu_model",
            content=repr((strategy, settings, plain_options(options), make_of(template))).encode(),
            unequal="model and options must be the same on every rank, got others than rank 0's on rank {ranks}",
        )
        self._names = positional_names(template)
        self._axes = OutputAxes(settings.batch_axes)
        self._rank_buffers = RankBuffers(template, settings.buffers, self._control)
        self._exchange = GradientExchange(template, self._control, device) if strategy == "ddp" else None
        self._shards: ShardedChecks | None = None
        self._evaluated: ParameterChecks | None = None
        if strategy == "fsdp":
            sharded(template, device, options)
            self._engine = template
            self._coupled = True
            self._structure = Structure(template, moves=True)
            self._shards = ShardedChecks(template, self._control, self._rank_buffers.edited)
        else:
            replicated(template, device)
            self._make_engine()

    def _make_engine(self) -> None:
        old = self.__dict__.get("_engine")
        if isinstance(old, nn.parallel.DistributedDataParallel):
            # Its hooks on the parameters go with it.
            old.__dict__.pop("reducer", None)
            old.__dict__.pop("logger", None)
        engine = data_parallel(self.template, self._device, self._options)
        self._engine = self.template if engine is None else engine
        self._structure = Structure(self.template)
        # Forwards that talk to each other: none may wait for one that never begins.
        self._coupled = any(isinstance(module, nn.SyncBatchNorm) for module in self.template.modules())
        if self._settings.outputs == "merged":
            self._evaluated = ParameterChecks([*self.template.parameters(), *self.template.buffers()], self._control)
        if self._exchange is not None:
            finds_itself = self._options.get("find_unused_parameters") or self._options.get("static_graph")
            self._exchange.watch(engine, completes=not finds_itself)

    def _begin_alone(self) -> None:
        """See to it that a forward with this rank's own batch runs with the engine that the template needs."""
        if self._shards is not None:
            # They agree on each of the template's forwards.
            return
        changed = not self._structure.still_holds()
        waits = self._coupled or (self._exchange is not None and self._exchange.sorts_now())
        if waits and not self._joining:
            self._agree_to_begin(changed)
        if changed:
            self._follow_structure()

    def _agree_to_begin(self, changed: bool, problem: Exception | None = None, **told: Any) -> None:
        """Begin a forward on all ranks, in one mode and with one model; or raise on all."""
        changes, sample = 0, (0.0, 0.0)
        checks: ShardedChecks | ParameterChecks | None = self._shards
        if self._shards is not None:
            problem, changes = problem or self._shards.problem(), self._shards.message()
        elif self._evaluated is not None and not torch.is_grad_enabled():
            # No backward pass will tell whether all ranks hold the same model.
            checks = self._evaluated
            changes, sample = self._evaluated.message()
            self._evaluated.start_next()
        point = f"a forward {mode_of(self.template)}{' of changed layers' if changed else ''}"
        everyone = self._control.agree(point, problem=problem, changes=changes, pair=sample, **told)
        if checks is not None:
            checks.check(everyone)

    def _follow_structure(self) -> None:
        """Take over layers that were replaced and parameters that were frozen or unfrozen; on every rank alike."""
        self._control.agree(
            "changing the layers or what is trained",
            content=make_of(self.template, self._structure),
            unequal="the model must change alike on every rank, got another one than rank 0's on rank {ranks}",
        )
        bring_new_in(self.template, self._structure, self._device)
        self._make_engine()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """This rank's outputs (`local`), or the whole batch's on every rank (`merged`)."""
        if self._settings.outputs == "local":
            self._begin_alone()
            return self._alone(lambda: self._run(*args, **kwargs))
        part = self._agreed_part(lambda: Arguments(self._names, self._settings, args, kwargs))
        [(places, names)] = part.arguments.calls([part.shard])
        tokens = TokenMeans() if leaves_tokens_out(part.arguments.named("labels")) else None
        merger = RankMerger(self._axes, part.lengths, self._control, self._merge_on, part.arguments.handed_in)

        def work() -> Any:
            with tokens or contextlib.nullcontext():
                return self._run(*places, **names)

        output = self._agreed(work, merger.make, part)
        if merger.learn(output, lambda: self._tried(part)):
            # What is inside of lists is looked at now that it is known what they are.
            self._agree_on_make("merging the outputs", merger.make, output)
        return merger.merge(output, tokens)

    def _loss_of(self, request: LossRequest) -> Tensor:
        def prepare() -> Arguments:
            request.check()
            return Arguments.of_inputs(self._names, self._settings, request.inputs, request.targets)

        part = self._agreed_part(prepare)
        [call], [goal] = part.arguments.calls([part.shard]), part.arguments.targets([part.shard])

        def work() -> tuple[Tensor, float]:
            own = weight_of(request.weights, goal) if request.weights is not None and part.counts else 0.0
            return loss_on(request.fn, self._run, call, goal, self._device), own

        if self._settings.outputs == "local":
            loss, own_weight = self._agreed_alone(work)
        else:
            loss, own_weight = self._agreed(work, lambda _: b"", part)
        return add_ranks(loss, self._loss_weight(part, request, own_weight)).to(self._merge_on)

    def _loss_weight(self, part: _Part, request: LossRequest, own_weight: float) -> float:
        if request.weights is not None:
            everyone = self._control.agree("weighing the losses", pair=(own_weight, 0.0))
            total = sum(one.pair[0] for one in everyone)
            return own_weight / total if total else float("nan")
        if request.reduction == "sum":
            return float(part.counts)
        return part.lengths[distributed.get_rank()] / sum(part.lengths)

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward through the engine."""
        if self._shards is not None:
            self._shards.begun = self._settings.outputs == "merged"
        try:
            output = self._engine(*args, **kwargs)
        except Exception:
            if self._shards is not None:
                self._shards.forward_failed()
            raise
        synced = torch.is_grad_enabled() and getattr(self._engine, "require_backward_grad_sync", False)
        if self._exchange is not None and synced:
            self._exchange.arm()
        return output

    def _agreed_part(self, prepare: Callable[[], Arguments]) -> _Part:
        """Which rows this rank computes of what; raises on every rank unless all have what they need."""
        merged, rank, world = self._settings.outputs == "merged", self._control.rank, self._control.world

        def read() -> tuple[Arguments, int, bytes]:
            arguments = prepare()
            return arguments, arguments.length, fingerprint(arguments.values) if merged else b""

        found, problem = attempt(read)
        arguments: Any
        arguments, length, content = found or (None, 0, b"")
        if not merged:
            everyone = self._control.agree("reading the arguments", problem=problem, number=length)
            self._begin_alone()
            # Each rank's batch is whole.
            return _Part(arguments, Shard(rank, self._device, 0, length), [one.number for one in everyone])
        changed = self._shards is None and not self._structure.still_holds()
        self._agree_to_begin(changed, problem, content=content, unequal=_ANOTHER_BATCH)
        if changed:
            # Not in the forward: there an exception waits for the other ranks' word, and they would not be there.
            self._follow_structure()
        lengths = [0] * world
        shard = Shard(rank, self._device, 0, 1)
        for one in plan_shards(length, [self._device] * world, self._settings.split):
            lengths[one.replica] = one.length
            shard = one if one.replica == rank else shard
        return _Part(arguments, shard, lengths)

    @property
    def _joining(self) -> bool:
        return bool(getattr(getattr(self._engine, "_join_config", None), "enable", False))

    def _alone(self, work: Callable[[], Any]) -> Any:
        """What this rank's work gives; what fails here reaches the others when this process ends."""
        result = self._recorded(work)
        self._settle_alone()
        return result

    def _recorded(self, work: Callable[[], Any]) -> Any:
        if self._joining or not self._structure.buffers:
            return work()
        with self._rank_buffers.recorded():
            return work()

    def _settle_alone(self) -> None:
        if self.training and torch.is_grad_enabled() and self._structure.buffers and not self._joining:
            self._rank_buffers.settle(self._device)

    def _agreed_alone(self, work: Callable[[], Any]) -> Any:
        """What this rank's work gives, once it is sure that no rank failed: what follows needs all of them."""
        result, problem = attempt(lambda: self._recorded(work))
        if problem is not None and self._coupled:
            raise problem
        self._control.agree("the loss", problem=problem)
        self._settle_alone()
        return result

    def _agreed(self, work: Callable[[], Any], make_of_result: Callable[[Any], bytes], part: _Part) -> Any:
        """What this rank's work gives, once it is sure that no rank failed and all results are of one make."""

        def recorded() -> Any:
            with self._rank_buffers.recorded(), own_random_numbers(self._device):
                return work()

        result, problem = attempt(recorded)
        if problem is not None and self._coupled:
            # One that failed cannot be waited for.
            raise problem
        self._agree_on_make("the forward", make_of_result, result, problem)
        if self.training:
            self._rank_buffers.settle(self._device, counts=part.counts)
        return result

    def _agree_on_make(
        self, point: str, make: Callable[[Any], bytes], output: Any, problem: Exception | None = None
    ) -> None:
        content: bytes | None = None
        if problem is None:
            content, problem = attempt(lambda: make(output))
        self._control.agree(point, problem=problem, content=content or b"", unequal=_ANOTHER_MAKE)

    def _tried(self, part: _Part) -> dict[str, Sizes] | None:
        """What rank 0's forward gives for one sample more; every rank runs it, where forwards talk to each other."""
        longer = Shard(self._control.rank, self._device, 0, max(part.lengths[0], 1) + 1)
        try:
            [(places, names)] = part.arguments.calls([longer])
            with torch.no_grad(), random_state_kept(), self._rank_buffers.kept():
                if self._strategy == "fsdp":
                    return outline(self._engine(*places, **names))
                return outline(throw_away_copy(self.template)(*places, **names))
        except Exception:
            return None

    def no_sync(self) -> AbstractContextManager[None]:
        """A block whose backward passes exchange no gradients between ranks; the next one outside sends their sum."""
        if self._strategy == "fsdp":
            return self._unsynced_shards()
        if isinstance(self._engine, nn.parallel.DistributedDataParallel):
            inside: AbstractContextManager[None] = self._engine.no_sync()
            return inside
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def _unsynced_shards(self) -> Iterator[None]:
        engine: Any = self._engine
        self._sync_shards(engine, False)
        try:
            yield
        finally:
            self._sync_shards(engine, True)

    def _sync_shards(self, engine: Any, synced: bool) -> None:
        engine.set_requires_gradient_sync(synced)
        if self._shards is not None:
            self._shards.synced = synced

    def register_comm_hook(self, state: Any, hook: Callable[..., Any]) -> None:
        """See `torch.nn.parallel.DistributedDataParallel.register_comm_hook`; on every rank alike.

        Raises:
            ValueError: Under 'fsdp', or where nothing is trained.
        """
        if not isinstance(self._engine, nn.parallel.DistributedDataParallel):
            raise ValueError("register_comm_hook needs strategy='ddp' and a parameter that is trained")
        self._engine.register_comm_hook(state, hook)
        self._options[COMM_HOOK] = (state, hook)

    # What torch.distributed.algorithms.join.Join asks of a model.

    @property
    def _join_config(self) -> Any:
        return self._joinable._join_config

    @_join_config.setter
    def _join_config(self, value: Any) -> None:
        self._joinable._join_config = value

    @property
    def join_device(self) -> torch.device:
        """This rank's device."""
        return self._device

    @property
    def join_process_group(self) -> Any:
        """The group of the ranks."""
        return self._joinable.join_process_group

    def join_hook(self, **kwargs: Any) -> Any:
        """What a rank without batches does for the others; see `torch.distributed.algorithms.join.Join`.

        Running statistics are not merged inside; at its end every rank has those of the rank with the most batches.

        Raises:
            ValueError: Another strategy than 'ddp', or merged outputs, which all ranks compute together.
        """
        return JoinHook(self._joined, self._joinable.join_hook(**kwargs))

    def _joined(self, was_last: bool) -> None:
        """Every rank's batches are used up: take the buffers of the rank with the most, and leave the block."""
        self._join_config = no_join()
        last = [rank for rank, one in enumerate(self._control.agree("the end of Join", number=was_last)) if one.number]
        take_from_first(list(self.template.buffers()), self._device, last[-1])

    @property
    def _joinable(self) -> Any:
        engine: Any = self._engine
        if not isinstance(engine, nn.parallel.DistributedDataParallel) or self._settings.outputs != "local":
            raise ValueError(
                f"Join needs strategy='ddp' with outputs='local', where each rank has its own batches, got "
                f"strategy={self._strategy!r} with outputs={self._settings.outputs!r}"
            )
        return engine

    def extra_repr(self) -> str:
        """The strategy and this rank's place, for printing."""
        return f"strategy={self._strategy!r}, world_size={distributed.get_world_size()}"

    def __reduce_ex__(self, protocol: Any) -> Any:
        self._refuse_copying()
        return super().__reduce_ex__(protocol)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        self._refuse_copying()
        return super().__deepcopy__(memo)

    def _refuse_copying(self) -> None:
        if self._strategy == "fsdp":
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
