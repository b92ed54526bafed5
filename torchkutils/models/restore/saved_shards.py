"""Modules under `fully_shard`: whether their parameters are sharded, which torch keeps beside the modules."""

from __future__ import annotations

from collections.abc import Iterator
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
        classes = {kind for kind in set(map(type, modules)) if is_fsdp_class(kind)}
        sharded = [module for module in modules if type(module) in classes] if classes else []
        self._states = [(module, fsdp_state(module)) for module in sharded]
        self._were_sharded = [_is_sharded(module) for module, _ in self._states]

    def containers(self) -> ContainerStates:
        """What torch keeps beside the modules. Its tensors are buffers of torch's, whose memory comes and goes."""
        roots = [Held(state, "the state of fully_shard", None, None) for _, state in self._states]
        return ContainerStates([], [], Reachable(roots, ("torch.distributed",)))

    def restore(self) -> None:
        """Gather or shard each module whose parameters are not as they were."""
        for (module, _), was_sharded in zip(self._states, self._were_sharded, strict=True):
            managed: Any = module
            if was_sharded and not _is_sharded(module):
                managed.reshard()
            elif was_sharded is False and _is_sharded(module):
                managed.unshard()


def _is_sharded(module: torch.nn.Module) -> bool | None:
    """Whether the parameters that a module manages are sharded; None where it manages none."""
    return next((is_sharded_tensor(tensor) for tensor in _managed_parameters(module)), None)


def _managed_parameters(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Those of the module and of modules below, but for modules that manage their own."""
    stack = [module]
    while stack:
        top = stack.pop()
        yield from (tensor for tensor in top._parameters.values() if tensor is not None)
        stack.extend(child for child in top._modules.values() if child is not None and not is_fsdp_class(type(child)))
