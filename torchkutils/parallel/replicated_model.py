"""strategy='replicate': many replicas of a template on the devices of one process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchkutils._random_state import random_state_kept
from torchkutils.parallel.arguments import Arguments, positional_names
from torchkutils.parallel.batch_norm import StatisticsMerger
from torchkutils.parallel.launch import LaunchChoice, Work, run_all
from torchkutils.parallel.losses import loss_on, weight_of
from torchkutils.parallel.merging import Merger
from torchkutils.parallel.output_axes import OutputAxes, Sizes, outline
from torchkutils.parallel.parallel_model import LossRequest, ParallelModel, Settings
from torchkutils.parallel.replicas import ReplicaSet, throw_away_copy
from torchkutils.parallel.scatter_gather import Plan, Shard, plan_shards, shard_weights, weighted_sum
from torchkutils.parallel.token_means import TokenMeans, leaves_tokens_out
from torchkutils.parallel.written_attributes import WrittenAttributes


class ReplicatedModel(ParallelModel):
    """Calls replicas of a template on several devices of one process."""

    own_names: ClassVar[frozenset[str]] = ParallelModel.own_names | {
        *("_replicas", "_merger", "_choice", "_settings", "_axes", "_merge_on", "_written", "_names"),
    }

    def __init__(self, template: nn.Module, devices: Sequence[torch.device], settings: Settings, launch: str) -> None:
        super().__init__(template)
        layers = sum(1 for module in template.modules() if not any(True for _ in module.children()))
        self._settings = settings
        self._names = positional_names(template)
        self._merge_on = torch.device("cpu") if settings.cpu_merge else devices[0]
        self._replicas = ReplicaSet(template, devices)
        self._merger = StatisticsMerger(self._replicas, settings.buffers)
        self._choice = LaunchChoice(launch, layers)
        self._axes = OutputAxes(settings.batch_axes)
        self._written = WrittenAttributes()

    def refresh(self) -> None:
        """Copy weights and buffers to the replicas at the next call, whatever seems unchanged."""
        self._replicas.refresh()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward, its batch cut over the devices and its outputs merged."""
        arguments = Arguments(self._names, self._settings, args, kwargs)
        plan = self._plan(arguments)
        tokens = [TokenMeans() for _ in plan] if leaves_tokens_out(arguments.named("labels")) else []
        replicas = self._replicas.ready()
        works: list[Work] = []
        for place, (shard, (places, names)) in enumerate(zip(plan, arguments.calls(plan), strict=True)):
            run: Work = partial(replicas[shard.replica].module, *places, **names)
            works.append(partial(_noting, tokens[place], run) if tokens else run)
        outputs = self._run(works, plan)
        if self._settings.outputs == "local":
            return outputs
        trial = partial(self._tried, arguments, plan[0])
        merger = Merger(self._axes, plan, self._merge_on, trial, arguments.handed_in, tokens)
        return merger.merge(outputs)

    def _loss_of(self, request: LossRequest) -> Tensor:
        request.check()
        arguments = Arguments.of_inputs(self._names, self._settings, request.inputs, request.targets)
        plan = self._plan(arguments)
        replicas = self._replicas.ready()
        goals = arguments.targets(plan)
        works: list[Work] = [
            partial(loss_on, request.fn, replicas[shard.replica].module, call, target, shard.device)
            for shard, call, target in zip(plan, arguments.calls(plan), goals, strict=True)
        ]
        losses = self._run(works, plan)
        if request.weights is not None:
            each = [weight_of(request.weights, target) for target in goals]
            shares = [one / sum(each) if sum(each) else 0.0 for one in each]
        else:
            shares = shard_weights(plan) if request.reduction == "mean" else [1.0] * len(plan)
        return weighted_sum(losses, shares, self._merge_on)

    def _plan(self, arguments: Arguments) -> Plan:
        return plan_shards(arguments.length, self._replicas.devices, self._settings.split)

    def _run(self, works: Sequence[Work], plan: Plan) -> list[Any]:
        devices = [shard.device for shard in plan]
        key = (self.training, torch.is_grad_enabled(), plan[0].length.bit_length())
        threads = self._choice.threads(key, devices)
        self._merger.prepare()
        self._written.look_before(self._replicas.replicas[plan[0].replica].module, self._replicas.generation)
        if threads is None:
            state, start = torch.get_rng_state(), time.perf_counter()
            trial = self._choice.trial(key)
            results = run_all(works, plan, threads=trial)
            seconds = (time.perf_counter() - start) / len(plan)
            drew = not torch.equal(state, torch.get_rng_state())
            on_cpu = all(device.type == "cpu" for device in devices)
            self._choice.learn(key, seconds, drew, on_cpu=on_cpu, threads=trial)
        else:
            results = run_all(works, plan, threads=threads)
        self._merger.settle([shard.replica for shard in plan])
        self._written.warn_after(self.template)
        return results

    def _tried(self, arguments: Arguments, first: Shard) -> dict[str, Sizes] | None:
        """What the first replica gives for one sample more; None where its forward cannot be tried."""
        longer = Shard(first.replica, first.device, first.start, first.length + 1)
        [(places, names)] = arguments.calls([longer])
        try:
            with torch.no_grad(), random_state_kept():
                output = throw_away_copy(self._replicas.replicas[first.replica].module)(*places, **names)
            return outline(output)
        except Exception:
            return None

    def extra_repr(self) -> str:
        """The devices, for printing."""
        return f"devices={[str(device) for device in self._replicas.devices]}"


def _noting(tokens: TokenMeans, run: Work) -> Any:
    with tokens:
        return run()
