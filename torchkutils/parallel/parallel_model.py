"""The module that multi_gpu_model returns: the template to look at, many replicas to call."""

from __future__ import annotations

import copy
import copyreg
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from torchkutils.parallel import scatter_gather
from torchkutils.parallel.arguments import Arguments
from torchkutils.parallel.batch_norm import StatisticsMerger
from torchkutils.parallel.launch import LaunchChoice, Work, run_all
from torchkutils.parallel.losses import check_mergeable, loss_on
from torchkutils.parallel.replicas import ReplicaSet
from torchkutils.parallel.structure import Structure

_OWN = frozenset({"_replicas", "_merger", "_choice", "_settings"})


class TemplateView(nn.Module):
    """A module that shows another one, its template, as itself: parameters, keys, attributes, modes, pickling."""

    def __init__(self, template: nn.Module) -> None:
        object.__setattr__(self, "__template__", template)
        super().__init__()
        object.__setattr__(self, "_non_persistent_buffers_set", template._non_persistent_buffers_set)

    @property
    def _parameters(self) -> Any:
        return self.__dict__["__template__"]._parameters

    @_parameters.setter
    def _parameters(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def _buffers(self) -> Any:
        return self.__dict__["__template__"]._buffers

    @_buffers.setter
    def _buffers(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def _modules(self) -> Any:
        return self.__dict__["__template__"]._modules

    @_modules.setter
    def _modules(self, value: Any) -> None:
        """Belongs to the template."""

    @property
    def training(self) -> bool:
        """The template's mode."""
        return bool(self.__dict__["__template__"].training)

    @training.setter
    def training(self, value: bool) -> None:
        if "_forward_hooks" in self.__dict__:
            self.__dict__["__template__"].training = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["__template__"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN or "_forward_hooks" not in self.__dict__ or name == "training":
            object.__setattr__(self, name, value)
        else:
            setattr(self.__dict__["__template__"], name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__dict__["__template__"], name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *dir(self.__dict__["__template__"])})

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The template's, by its own keys."""
        return self.__dict__["__template__"].state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Into the template."""
        return self.__dict__["__template__"].load_state_dict(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Set the template's mode; the replicas follow at the next call."""
        self.__dict__["__template__"].train(mode)
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        self.__dict__["__template__"]._apply(fn, recurse)
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is pickled is the template: reading it back needs no torchkutils and no second device."""
        make, arguments, *rest = self.__dict__["__template__"].__reduce_ex__(protocol)
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            # pickle lets __newobj__ make only instances of the pickled object's own class.
            make = arguments[0].__new__
        return (make, arguments, *rest)

    def __len__(self) -> int:
        return len(self.__dict__["__template__"])

    def __bool__(self) -> bool:
        return bool(self.__dict__["__template__"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return copy.deepcopy(self.__dict__["__template__"], memo)


class ParallelModel(TemplateView):
    """Calls replicas of a template on several devices of one process; made by `multi_gpu_model`."""

    def __init__(
        self,
        template: nn.Module,
        devices: Sequence[torch.device],
        *,
        merge_on: torch.device,
        outputs: str,
        split: str,
        buffers: str,
        launch: str,
        shared: tuple[str, ...],
    ) -> None:
        super().__init__(template)
        layers = sum(1 for module in template.modules() if not any(True for _ in module.children()))
        self._replicas = ReplicaSet(template, devices)
        self._merger = StatisticsMerger(self._replicas, buffers)
        self._choice = LaunchChoice(launch, layers)
        self._settings: dict[str, Any] = {"merge_on": merge_on, "outputs": outputs, "split": split, "shared": shared}

    def refresh(self) -> None:
        """Copy weights and buffers to the replicas at the next call, whatever seems unchanged.

        Needed only after edits that nothing records, between two calls without grad: through `.data`, through
        `.numpy()`, or to a list that a module holds.
        """
        self._replicas.refresh()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The template's forward, its batch cut over the devices and its outputs merged."""
        arguments = Arguments(self.__dict__["__template__"], self._settings["shared"], args, kwargs)
        plan = self._plan(arguments.length())
        calls = arguments.calls(plan)
        replicas = self._replicas.ready()
        works = [partial(replicas[s.replica], *call[0], **call[1]) for s, call in zip(plan, calls, strict=True)]
        outputs = self._run(works, plan)
        if self._settings["outputs"] == "local":
            return outputs
        return scatter_gather.gather(outputs, plan, self._settings["merge_on"])

    def sharded_loss(
        self, fn: Callable[[Any, Any], Tensor], inputs: Any, targets: Any, *, reduction: str = "mean"
    ) -> Tensor:
        """The loss of the whole batch, computed where the outputs are, so that no output travels.

        Args:
            fn: Called as `fn(output, target)` for each replica; a 0-d tensor, reduced over samples by `reduction`.
            inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
            targets: Cut along axis 0 as the inputs are, however nested.
            reduction: What `fn` does over samples: 'mean' or 'sum'.

        Returns:
            A 0-d tensor on the CPU (`cpu_merge=True`) or the first device; value and gradients are those of `fn` on
            the merged output. That holds where each sample weighs the same: a mean with class weights, or one that
            leaves out samples by `ignore_index`, is refused where it can be seen; use `reduction='sum'` and divide.

        Raises:
            TypeError: `fn` returned no 0-d tensor.
            ValueError: An unknown reduction, a loss that cannot be merged, or tensors that cannot be cut.
        """
        check_mergeable(fn, targets, reduction)
        arguments = Arguments.of_inputs(self.__dict__["__template__"], self._settings["shared"], inputs)
        goals = Structure(targets, "targets")
        plan = self._plan(arguments.length(goals))
        calls = arguments.calls(plan)
        replicas = self._replicas.ready()
        works = [
            partial(loss_on, fn, replicas[shard.replica], call, target, shard.device)
            for shard, call, target in zip(plan, calls, scatter_gather.scatter(goals, plan), strict=True)
        ]
        losses = self._run(works, plan)
        weights = scatter_gather.shard_weights(plan) if reduction == "mean" else [1.0] * len(plan)
        return scatter_gather.weighted_sum(losses, weights, self._settings["merge_on"])

    def _plan(self, length: int) -> scatter_gather.Plan:
        return scatter_gather.plan_shards(length, self._replicas.devices, self._settings["split"])

    def _run(self, works: Sequence[Work], plan: scatter_gather.Plan) -> list[Any]:
        devices = [shard.device for shard in plan]
        key = (self.training, torch.is_grad_enabled(), plan[0].length.bit_length())
        threads = self._choice.threads(key, devices)
        self._merger.prepare()
        if threads is None:
            state, start = torch.get_rng_state(), time.perf_counter()
            results = run_all(works, plan, threads=False)
            seconds = (time.perf_counter() - start) / len(plan)
            self._choice.learn(key, seconds, not torch.equal(state, torch.get_rng_state()))
        else:
            results = run_all(works, plan, threads=threads)
        self._merger.settle([shard.replica for shard in plan])
        return results

    def extra_repr(self) -> str:
        """The devices, for printing."""
        return f"devices={[str(device) for device in self._replicas.devices]}"

    def __iter__(self) -> Iterator[Any]:
        return iter(self.__dict__["__template__"])

    def __getitem__(self, key: Any) -> Any:
        return self.__dict__["__template__"][key]
