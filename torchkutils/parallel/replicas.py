"""Copies of a template on other devices, whose gradients reach the template's parameters."""

from __future__ import annotations

import copy
from typing import Any

import torch


class Replicas:
    """A replica of a template on each device; its parameters are differentiable copies of the template's."""

    def __init__(self, template: torch.nn.Module, devices: list[torch.device]) -> None:
        self.template, self.devices = template, devices
        self.kept: list[torch.nn.Module] = []
        self.versions: list[Any] = []

    def current(self, count: int) -> list[torch.nn.Module]:
        """Replicas that hold today's weights; the same ones again when nothing changed and no gradient is asked."""
        versions = self._versions()
        if torch.is_grad_enabled() or len(self.kept) < count or versions != self.versions:
            self.kept = [self._replica(device) for device in self.devices]
            self.versions = [] if torch.is_grad_enabled() else versions
        return self.kept

    def forget(self) -> None:
        """Make the replicas anew at the next call."""
        self.kept, self.versions = [], []

    def take_buffers_of_first(self) -> None:
        """The first replica's buffers become the template's, as in DataParallel."""
        if not self.kept:
            return
        with torch.no_grad():
            for mine, theirs in zip(self.template.buffers(), self.kept[0].buffers(), strict=True):
                if mine is not theirs:
                    mine.copy_(theirs)
        if self.versions:
            self.versions = self._versions()

    def _versions(self) -> list[Any]:
        tensors = [*self.template.parameters(), *self.template.buffers()]
        state = [module.training for module in self.template.modules()]
        return [(id(t), t._version, t.data_ptr()) for t in tensors] + state

    def _replica(self, device: torch.device) -> torch.nn.Module:
        memo: dict[int, Any] = {}
        for parameter in self.template.parameters():
            memo[id(parameter)] = _Broadcast.apply(device, parameter)  # type: ignore[no-untyped-call]
        for buffer in self.template.buffers():
            memo[id(buffer)] = buffer.detach().clone().to(device)
        # A module's table of parameters takes whatever deepcopy puts there, a differentiable copy too.
        return copy.deepcopy(self.template, memo)


class _Broadcast(torch.autograd.Function):
    """A parameter's copy on another device; gradients are added up on the parameter's own."""

    @staticmethod
    def forward(ctx: Any, device: torch.device, parameter: torch.Tensor) -> torch.Tensor:
        """Copy, also onto the same device: a replica never shares memory with the template."""
        ctx.home = parameter.device
        return parameter.detach().to(device, copy=True)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        """Send the gradient home."""
        return None, gradient.to(ctx.home)
