"""Modules under `fully_shard`: whether their parameters are sharded, which torch keeps beside the modules."""

from __future__ import annotations

from typing import Any

import torch

from torchkutils._torch_versions import fsdp_state, is_fsdp_class, is_sharded_tensor
from torchkutils.models.restore.reachable import Held, Reachable
from torchkutils.models.restore.saved_containers import ContainerStates


class ShardStates:
    """Which modules hold sharded parameters and which whole ones, so that they can be told to go back.

    The first forward of such a model gathers the parameters of its outermost module and leaves them so. Only the
    module's own `reshard` and `unshard` exchange them; what torch notes beside is restored like any object.

    Args:
        modules: Each module once.
    """

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        # Models have many modules of few classes.
        classes = set(filter(is_fsdp_class, set(map(type, modules))))
        self._states: list[tuple[Any, Any]] = []
        if classes:
            self._states = [(module, fsdp_state(module)) for module in modules if type(module) in classes]
        self._were_sharded = [_is_sharded(module) for module, _ in self._states]

    def containers(self) -> ContainerStates:
        """What torch keeps beside the modules. Its tensors are buffers of torch's, whose memory comes and goes."""
        roots = [Held(state, "the state of fully_shard", None, None) for _, state in self._states]
        return ContainerStates([], [], Reachable(roots, ("torch.distributed",)))

    def restore(self) -> None:
        """Gather or shard each module whose parameters are not as they were."""
        for (module, _), before in zip(self._states, self._were_sharded, strict=True):
            now = _is_sharded(module)
            if before and not now:
                module.reshard()
            elif now and before is False:
                module.unshard()


def _is_sharded(module: torch.nn.Module) -> bool | None:
    """Whether the parameters that a module manages are sharded; None where it manages none."""
    stack = [module]
    while stack:
        top: Any = stack.pop()
        for tensor in filter(_is_given, top._parameters.values()):
            return is_sharded_tensor(tensor)
        # Modules below manage their own parameters if they are sharded themselves.
        stack += [child for child in filter(_is_given, top._modules.values()) if not is_fsdp_class(type(child))]
    return None


def _is_given(value: Any) -> bool:
    return value is not None
