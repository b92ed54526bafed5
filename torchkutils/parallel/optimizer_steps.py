"""Who is told when an optimizer of this process steps: hooks that are registered once, and hold nobody alive."""

from __future__ import annotations

import weakref
from typing import Any, Protocol

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class StepWatcher(Protocol):
    """What is told of every optimizer's step."""

    def before_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step is about to begin."""

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """A step has ended."""


# In the order in which they were made, which is the same on all ranks.
_watchers: list[weakref.ref[StepWatcher]] = []
_hooks: list[Any] = []


def watch_steps(watcher: StepWatcher) -> None:
    """Tell `watcher` of every optimizer's step as long as it lives."""
    _watchers.append(weakref.ref(watcher, _watchers.remove))
    if not _hooks:
        _hooks.append(register_optimizer_step_pre_hook(_before_step))
        _hooks.append(register_optimizer_step_post_hook(_after_step))


def _living() -> list[StepWatcher]:
    return [watcher for watcher in (reference() for reference in _watchers) if watcher is not None]


def _before_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for watcher in _living():
        watcher.before_step(optimizer)


def _after_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    for watcher in _living():
        watcher.after_step(optimizer)
