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

from torchkutils.parallel.snapshot import Snapshot
from torchkutils.parallel.weight_traffic import WeightTraffic

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


@dataclass
class Replica:
    """A copy of the template.

    Attributes:
        module: The copy.
        twins: Its module for each module of the template, by the latter's id.
        buffers: Its buffers.
    """

    module: nn.Module
    twins: dict[int, nn.Module]
    buffers: list[OwnBuffer]


@dataclass
class _Seen:
    """What the template's tensors were like when the replicas were last made equal to them."""

    steps: int
    kinds: list[Any]
    weights: list[Any]
    buffers: list[int]
    # Held, so that a freed address cannot come back as another weight's.
    storages: list[Tensor]


@dataclass
class _Tensors:
    """A template's tensors, by what becomes of them in a replica.

    Attributes:
        home: The device of the weights.
        buffers: Every replica gets its own: by id, the owner, the name and the buffer.
        moving: Weights on `home`: shared there, copied to each other device.
        rest: Other tensors that the template reaches.
    """

    home: torch.device
    buffers: dict[int, tuple[nn.Module, str, Tensor]]
    moving: list[Tensor]
    rest: list[Tensor]

    @classmethod
    def of(cls, snapshot: Snapshot, fallback: torch.device) -> _Tensors:
        """Sort what a template holds."""
        buffers = _own_buffers(snapshot.modules)
        weights = [tensor for tensor in snapshot.tensors if id(tensor) not in buffers]
        home = next((tensor.device for tensor in weights if _is_trained(tensor)), fallback)
        moving: list[Tensor] = []
        rest: list[Tensor] = []
        for tensor in weights:
            # A tensor attribute that lies elsewhere than the weights stays where its owner put it.
            (moving if tensor.is_leaf and tensor.device == home else rest).append(tensor)
        return cls(home, buffers, moving, rest)


def _own_buffers(modules: Sequence[nn.Module]) -> dict[int, tuple[nn.Module, str, Tensor]]:
    return {
        id(buffer): (module, name, buffer)
        for module in modules
        for name, buffer in module._buffers.items()
        # A buffer that is trained is a weight: it has one gradient, summed over the replicas.
        if buffer is not None and not buffer.requires_grad
    }


def _is_trained(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter) or tensor.requires_grad


class ReplicaSet:
    """One replica for each place in `devices`.

    Replicas on the template's own device share its Parameter objects; each other device holds one copy of the
    parameters for all of its replicas. Every replica has buffers of its own.

    Attributes:
        replicas: The replicas, in the order of the devices; empty before the first call.
        generation: How often the replicas were built.
    """

    generation: int

    def __init__(self, template: nn.Module, devices: Sequence[torch.device]) -> None:
        self.template = template
        self.devices: list[torch.device] = list(devices)
        self.replicas: list[Replica] = []
        self.generation = 0
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._traffic = WeightTraffic([], [])
        self._copies_before = 0
        self._stale = True
        self._seen: _Seen | None = None
        _watch_optimizers()

    @property
    def modules(self) -> list[nn.Module]:
        """Every module that the template reaches, as of the last call."""
        return self._snapshot.modules if self._snapshot is not None else []

    @property
    def copies_made(self) -> int:
        """How many weights were copied between devices so far."""
        return self._copies_before + self._traffic.copies_made

    def refresh(self) -> None:
        """Copy all weights and buffers anew at the next call."""
        self._stale = True

    def ready(self) -> list[Replica]:
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
        snapshot, seen = self._snapshot, self._seen
        if snapshot is None or seen is None:
            return True
        if not snapshot.still_holds():
            for module in snapshot.changed_modes():
                self._stale = True
                for replica in self.replicas:
                    replica.twins[id(module)].training = module.training
            if not snapshot.still_holds():
                return True
        return seen.kinds != self._kinds()

    def _kinds(self) -> list[Any]:
        return [(t.shape, t.dtype, t.device, t.requires_grad) for t in self._traffic.tensors]

    def _build(self) -> None:
        snapshot = Snapshot(self.template)
        tensors = _Tensors.of(snapshot, self.devices[0])
        foreign = list(dict.fromkeys(device for device in self.devices if device != tensors.home))
        self._copies_before += self._traffic.copies_made
        self._traffic = WeightTraffic(tensors.moving if foreign else [], foreign)
        self.replicas = [self._replica_on(device, snapshot, tensors) for device in self.devices]
        self.generation += 1
        self._snapshot = snapshot
        self._remember()

    def _replica_on(self, device: torch.device, snapshot: Snapshot, tensors: _Tensors) -> Replica:
        memo: dict[int, Any] = {id(t): t if t.is_leaf else t.detach().to(device) for t in tensors.rest}
        copies = tensors.moving if device == tensors.home else self._traffic.copies[device]
        memo.update({id(old): new for old, new in zip(tensors.moving, copies, strict=True)})
        own = {key: b.detach().to(device, copy=True) for key, (_, _, b) in tensors.buffers.items()}
        memo.update(own)
        module = copy_module(self.template, memo, snapshot.modules)
        twins = {id(m): memo[id(m)] for m in snapshot.modules if isinstance(memo.get(id(m)), nn.Module)}
        # A buffer of a module that was not copied (it is only reached through a function, say) stays the template's.
        held = [(key, *entry) for key, entry in tensors.buffers.items() if id(entry[0]) in twins]
        return Replica(module, twins, [OwnBuffer(m, twins[id(m)], name, own[key]) for key, m, name, _ in held])

    def _follow_values(self) -> None:
        seen = self._seen
        assert seen is not None
        weights = _versions(self._traffic.tensors)
        moved = self._stale or seen.steps != _steps or weights != seen.weights
        if not moved and _buffer_versions(self.replicas[0].buffers) == seen.buffers:
            return
        if moved and self._traffic.devices:
            self._traffic.refresh([now != before for now, before in zip(weights, seen.weights, strict=True)])
        self._follow_buffers()
        self._remember()

    def _follow_buffers(self) -> None:
        for replica in self.replicas:
            for buffer in replica.buffers:
                buffer.twin._buffers[buffer.name] = buffer.own
                buffer.own.data.copy_(buffer.original.detach())

    def _remember(self) -> None:
        weights = self._traffic.tensors
        for replica in self.replicas:
            for buffer in replica.buffers:
                buffer.version = buffer.own._version
        buffers = _buffer_versions(self.replicas[0].buffers)
        held = [weight.detach() for weight in weights]
        self._seen = _Seen(_steps, self._kinds(), _versions(weights), buffers, held)


def _versions(tensors: Sequence[Tensor]) -> list[Any]:
    return [(tensor._version, tensor.data_ptr()) for tensor in tensors]


def _buffer_versions(buffers: Sequence[OwnBuffer]) -> list[int]:
    return [buffer.original._version for buffer in buffers]


def throw_away_copy(module: nn.Module) -> nn.Module:
    """A copy of a module for one trial: it shares the weights, has its own buffers, and runs no forward hooks."""
    snapshot = Snapshot(module)
    buffers = {id(buffer) for one in snapshot.modules for buffer in one._buffers.values() if buffer is not None}
    memo: dict[int, Any] = {id(t): t.detach().clone() if id(t) in buffers else t for t in snapshot.tensors}
    copied = copy_module(module, memo, snapshot.modules)
    for one in copied.modules():
        one._forward_hooks.clear()
        one._forward_hooks_with_kwargs.clear()
        one._forward_hooks_always_called.clear()
    return copied


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
            if isinstance(value, Tensor | nn.Module | list | tuple | dict | set) or callable(value):
                continue
            try:
                copy.deepcopy(value)
            except Exception:
                memo[id(value)] = value
    with contextlib.suppress(KeyError):
        del memo[id(template)]
    return copy.deepcopy(template, memo)
