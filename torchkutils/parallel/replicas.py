"""Replicas of a template that are kept between calls and follow it."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from torchkutils.parallel.broadcast import Broadcast, copy_to
from torchkutils.parallel.snapshot import Snapshot

_steps = 0
_step_hook: Any = None


def _count_step(*_: Any) -> None:
    global _steps
    _steps += 1


def _watch_optimizers() -> None:
    # Fused optimizers change weights without a new version number.
    global _step_hook
    if _step_hook is None:
        _step_hook = register_optimizer_step_post_hook(_count_step)


@dataclass
class OwnBuffer:
    """One buffer of the template and what stands for it in a replica."""

    module: nn.Module
    twin: nn.Module
    name: str
    own: Tensor
    version: int = 0

    @property
    def original(self) -> Tensor:
        """The template's buffer."""
        tensor = self.module._buffers[self.name]
        assert tensor is not None
        return tensor


class ReplicaSet:
    """One replica for each place in `devices`.

    Replicas on the template's own device share its Parameter objects; each other device holds one copy of the
    parameters for all of its replicas. Every replica has buffers of its own.

    Attributes:
        replicas: The replicas, in the order of the devices; empty before the first call.
        twins: For each replica, its module for each module of the template, by the latter's id.
        buffers: For each replica, its buffers.
        copies_made: How many parameters were copied between devices so far.
    """

    def __init__(self, template: nn.Module, devices: Sequence[torch.device]) -> None:
        self.template = template
        self.devices = list(devices)
        self.replicas: list[nn.Module] = []
        self.twins: list[dict[int, nn.Module]] = []
        self.buffers: list[list[OwnBuffer]] = []
        self.copies_made = 0
        self.generation = 0
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._stale = True
        self._remote: list[tuple[Tensor, Tensor]] = []
        self._seen: dict[str, Any] = {}
        _watch_optimizers()

    @property
    def modules(self) -> list[nn.Module]:
        """Every module that the template reaches, as of the last call."""
        return self._snapshot.modules if self._snapshot is not None else []

    def refresh(self) -> None:
        """Copy all weights and buffers anew at the next call."""
        self._stale = True

    def ready(self) -> list[nn.Module]:
        """The replicas, equal to the template as it is now."""
        tracking = torch.is_grad_enabled()
        with self._lock, torch.inference_mode(False), torch.no_grad():
            self._stale |= tracking
            if self._must_build():
                self._build()
            else:
                self._follow_values()
            # What follows a forward with grad (a backward, an optimizer) may change weights unseen.
            self._stale = tracking
            return self.replicas

    def _must_build(self) -> bool:
        snapshot = self._snapshot
        if snapshot is None:
            return True
        if not snapshot.still_holds():
            for module in snapshot.changed_modes():
                self._stale = True
                for twins in self.twins:
                    twins[id(module)].training = module.training
            if not snapshot.still_holds():
                return True
        return bool(self._seen["kinds"] != self._kinds())

    def _kinds(self) -> list[Any]:
        return [(p.shape, p.dtype, p.device, p.requires_grad) for p, _ in self._remote]

    def _build(self) -> None:
        snapshot = Snapshot(self.template)
        owners = {id(b): (m, name, b) for m in snapshot.modules for name, b in m._buffers.items() if b is not None}
        weights = [tensor for tensor in snapshot.tensors if id(tensor) not in owners]
        home = next((t.device for t in weights if isinstance(t, nn.Parameter)), self.devices[0])
        # A tensor attribute that lies elsewhere than the weights stays where its owner put it.
        moving = [tensor for tensor in weights if tensor.is_leaf and tensor.device == home]
        foreign = list(dict.fromkeys(device for device in self.devices if device != home))
        remote = _broadcast(foreign, moving)
        self.replicas, self.twins, self.buffers = [], [], []
        for device in self.devices:
            memo: dict[int, Any] = {id(t): t if t.is_leaf else t.detach().to(device) for t in weights}
            if device != home:
                memo.update({id(old): new for old, new in zip(moving, remote[device], strict=True)})
            memo.update({key: b.detach().to(device, copy=True) for key, (_, _, b) in owners.items()})
            self.replicas.append(copy_module(self.template, memo, snapshot.modules))
            twins = {id(m): memo[id(m)] for m in snapshot.modules if isinstance(memo.get(id(m)), nn.Module)}
            self.twins.append(twins)
            places = [(m, twins[id(m)], name) for m, name, _ in owners.values() if id(m) in twins]
            self.buffers.append([OwnBuffer(m, twin, name, memo[id(m._buffers[name])]) for m, twin, name in places])
        self._remote = [pair for copies in remote.values() for pair in zip(moving, copies, strict=True)]
        self.copies_made += len(self._remote)
        self.generation += 1
        self._snapshot = snapshot
        self._remember()

    def _follow_values(self) -> None:
        stale = self._stale or self._seen["steps"] != _steps
        versions = _versions([old for old, _ in self._remote])
        buffers = self.buffers[0]
        if not stale and versions == self._seen["weights"] and _buffer_versions(buffers) == self._seen["buffers"]:
            return
        if stale or versions != self._seen["weights"]:
            self._copy_weights(versions)
        for mine in self.buffers:
            for buffer in mine:
                buffer.twin._buffers[buffer.name] = buffer.own
                buffer.own.data.copy_(buffer.original.detach())
        self._remember()

    def _copy_weights(self, versions: list[Any]) -> None:
        for (old, new), version, seen in zip(self._remote, versions, self._seen["weights"], strict=True):
            # Through .data: two forwards before one backward stay valid, as on one device, unless weights changed.
            new.data.copy_(old.detach())
            if version != seen:
                torch.autograd.graph.increment_version(new)
        self.copies_made += len(self._remote)

    def _remember(self) -> None:
        weights = [old for old, _ in self._remote]
        for mine in self.buffers:
            for buffer in mine:
                buffer.version = buffer.own._version
        self._seen = {
            "steps": _steps,
            "kinds": self._kinds(),
            "weights": _versions(weights),
            "buffers": _buffer_versions(self.buffers[0]),
            # Held, so that a freed address cannot come back as another weight's.
            "storages": [weight.detach() for weight in weights],
        }


def _versions(tensors: Sequence[Tensor]) -> list[Any]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _buffer_versions(buffers: Sequence[OwnBuffer]) -> list[int]:
    return [buffer.original._version for buffer in buffers]


def _broadcast(devices: list[torch.device], tensors: list[Tensor]) -> dict[torch.device, list[Tensor]]:
    """Copies on each device, those of trained tensors inside the graph."""
    if not devices:
        return {}
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    frozen = [tensor for tensor in tensors if not tensor.requires_grad]
    with torch.enable_grad():
        flat = Broadcast.apply(devices, *trained) if trained else ()  # type: ignore[no-untyped-call]
    fixed = copy_to(devices, frozen)
    result: dict[torch.device, list[Tensor]] = {}
    for place, device in enumerate(devices):
        graph = iter(flat[place * len(trained) : (place + 1) * len(trained)])
        plain = iter(fixed[place])
        result[device] = [next(graph if tensor.requires_grad else plain) for tensor in tensors]
    return result


def copy_module(template: nn.Module, memo: dict[int, Any], modules: Sequence[nn.Module]) -> nn.Module:
    """Deep-copy a module, its tensors replaced by `memo`; attributes that cannot be copied (locks) are shared."""
    tensors = dict(memo)
    try:
        return copy.deepcopy(template, memo)
    except (TypeError, RuntimeError, NotImplementedError):
        memo.clear()
        memo.update(tensors)
    for module in modules:
        for value in module.__dict__.values():
            if isinstance(value, (Tensor, nn.Module, list, tuple, dict, set)) or callable(value):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                memo[id(value)] = value
    with contextlib.suppress(KeyError):
        del memo[id(template)]
    return copy.deepcopy(template, memo)
