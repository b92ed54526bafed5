"""Models whose tensors are sharded over ranks (DTensors, `fully_shard`): gathered on the first, and filled from it.

Nothing here imports torch.distributed for a model that is whole.
"""

from __future__ import annotations

import datetime
import sys
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchkutils import _nested, _torch_versions

__all__ = ["Team", "is_sharded", "team_of", "whole_model", "whole_values"]

_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")
_ERRORS = {kind.__name__: kind for kind in (ValueError, TypeError, FileNotFoundError)}


def is_sharded(value: Any) -> bool:
    """Whether a value is a DTensor."""
    return isinstance(value, torch.Tensor) and hasattr(value, "full_tensor")


def team_of(model: nn.Module) -> Team | None:
    """The ranks over which a model is spread; None for a model that is whole here."""
    sharded = _sharded_class()
    for module in model.modules():
        if sharded is not None and isinstance(module, sharded):
            # Where it was left gathered after a forward, its own parameters would be hidden.
            module.reshard()
    for tensor in [*model.parameters(), *model.buffers()]:
        if is_sharded(tensor):
            return Team.of(tensor)
    return None


def _sharded_class() -> Any:
    """FSDPModule, None while nobody imported it."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)


class Team:
    """The ranks of one device mesh. Every rank makes the same calls in the same order.

    Attributes:
        first: Whether this is the rank that reads and writes files: the mesh's first, rank 0 as a rule.
    """

    _meetings = 0

    def __init__(self, mesh: Any) -> None:
        self._mesh = mesh
        self.first: bool = not any(mesh.get_coordinate())

    @classmethod
    def of(cls, spread: Any) -> Team:
        """The ranks over which a DTensor is spread."""
        return cls(spread.device_mesh)

    def meet(self, timeout: float) -> None:
        """Wait until every rank has made this call: a collective call without one of them would never return.

        Raises:
            RuntimeError: Some ranks did not come; they are named.
        """
        store: Any = _torch_versions.default_store()
        ranks = self._mesh.mesh.flatten().tolist()
        rank = torch.distributed.get_rank()
        key = f"torchkutils/meeting/{'-'.join(map(str, ranks))[:200]}/{Team._meetings}"
        store.set(f"{key}/{rank}", "here")
        limit = min(timeout, _torch_versions.group_timeout().total_seconds())
        try:
            store.wait([f"{key}/{one}" for one in ranks], datetime.timedelta(seconds=limit))
        except Exception as error:  # its class differs between torch's versions and stores
            missing = [one for one in ranks if not store.check([f"{key}/{one}"])]
            store.delete_key(f"{key}/{rank}")
            raise RuntimeError(
                f"a sharded model is saved and loaded by a call on every rank: after {limit:.0f} s the ranks "
                f"{missing} have not made it; call it on all ranks, not under `if rank == 0`"
            ) from error
        Team._meetings += 1

    def by_first(self, work: Callable[[], Any]) -> Any:
        """What `work`, done on the first rank, gives, on every rank; it must be plain and picklable.

        Raises:
            Exception: On every rank what it raised on the first: the original there, one of the same kind and text
                (ValueError, TypeError, FileNotFoundError, else OSError) elsewhere.
        """
        problem: Exception | None = None
        told: list[Any] = [None, None, None]
        if self.first:
            try:
                told[2] = work()
            except Exception as error:
                problem = error
                told = [type(error).__name__, str(error), None]
        self._tell(told)
        if problem is not None:
            raise problem
        if told[0] is not None:
            raise _ERRORS.get(told[0], OSError)(f"{told[1]} (on the rank that reads and writes files)")
        return told[2]

    def _tell(self, told: list[Any]) -> None:
        for axis in range(self._mesh.ndim):
            torch.distributed.broadcast_object_list(told, group=self._mesh.get_group(axis), group_src=0)

    def whole(self, value: torch.Tensor) -> torch.Tensor:
        """A tensor made whole: on the CPU of the first rank; elsewhere one on the meta device."""
        if is_sharded(value):
            with torch.no_grad():
                full: torch.Tensor = value.detach().full_tensor()  # type: ignore[attr-defined]
        else:
            full = value.detach()
        # One tensor at a time: the accelerator need not hold the whole model.
        return full.cpu() if self.first else torch.empty_like(full, device="meta")

    @torch.no_grad()
    def fill(self, target: torch.Tensor, value: torch.Tensor | None) -> None:
        """Write the first rank's value into every rank's tensor, into a DTensor its own part."""
        if not is_sharded(target):
            target.copy_(self._from_first(target, value))
            return
        from torch.distributed.tensor import distribute_tensor

        spread: Any = target
        whole = torch.empty(target.shape, dtype=target.dtype) if value is None else value.to(target.dtype)
        parts = distribute_tensor(whole, spread.device_mesh, spread.placements)
        spread.to_local().copy_(parts.to_local())

    def sharded_like(self, value: torch.Tensor, like: torch.Tensor | None) -> torch.Tensor:
        """A tensor of every rank, spread as `like` is, or whole everywhere: to be filled."""
        if like is not None and is_sharded(like) and like.shape == value.shape:
            return torch.empty_like(like.detach(), dtype=value.dtype)
        return torch.empty(value.shape, dtype=value.dtype)

    def _from_first(self, target: torch.Tensor, value: torch.Tensor | None) -> torch.Tensor:
        source = torch.empty(target.shape, dtype=target.dtype) if value is None else value.to(target.dtype)
        whole = source.to(self._mesh.device_type).contiguous().clone()
        for axis in range(self._mesh.ndim if whole.numel() else 0):
            # As bytes: gloo knows neither int16 nor float8.
            as_bytes = whole.view(-1).view(torch.uint8)
            torch.distributed.broadcast(as_bytes, group=self._mesh.get_group(axis), group_src=0)
        return whole


def whole_values(value: Any, team: Team) -> Any:
    """Nested containers with every tensor made whole; each rank meets them in the same order."""
    return _nested.map_leaves(value, team.whole, kind=torch.Tensor)


def _drop_hooks_of_sharding(held: dict[str, Any]) -> None:
    """Leave out of a module's attributes the hooks that sharding set, and the flags beside them."""
    for name, hooks in held.items():
        if name.endswith("_hooks") and isinstance(hooks, dict):
            held[name] = OrderedDict((key, hook) for key, hook in hooks.items() if not _is_of_sharding(hook))
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        kept = held[f"{name}_with_kwargs"]
        held[f"{name}_with_kwargs"] = OrderedDict((key, flag) for key, flag in kept.items() if key in held[name])


def whole_model(model: nn.Module, team: Team) -> nn.Module:
    """A model of the original classes with whole tensors, to be written by the first rank; every rank calls this.

    It shares everything but modules and tensors with the model. What `fully_shard` added (classes, hooks, marks) is
    left out.
    """
    tensors = {id(t): _whole_tensor(t, team) for t in [*model.parameters(), *model.buffers()]}
    twins: dict[int, nn.Module] = {id(module): object.__new__(_plain_class(module)) for module in model.modules()}
    for module in model.modules():
        held = {
            name: _swapped(value, tensors, twins)
            for name, value in module.__dict__.items()
            if name not in _MARKS and not name.startswith("__composable_api")
        }
        _drop_hooks_of_sharding(held)
        twins[id(module)].__dict__.update(held)
    return twins[id(model)]


def _whole_tensor(tensor: torch.Tensor, team: Team) -> torch.Tensor:
    whole = team.whole(tensor)
    return nn.Parameter(whole, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else whole


def _plain_class(module: nn.Module) -> type:
    sharded = _sharded_class()
    order = type(module).__mro__
    return order[order.index(sharded) + 1] if sharded in order else order[0]


def _is_of_sharding(hook: Any) -> bool:
    # Those of `fully_shard`, and of the model under strategy='fsdp'.
    module = str(getattr(getattr(hook, "hook", hook), "__module__", ""))
    return module.startswith(("torch.distributed.", "torchkutils.parallel."))


def _swapped(value: Any, tensors: dict[int, torch.Tensor], twins: dict[int, nn.Module]) -> Any:
    def other(one: Any) -> Any:
        known: dict[int, Any] = twins if isinstance(one, nn.Module) else tensors
        return known.get(id(one), one) if isinstance(one, nn.Module | torch.Tensor) else one

    return _nested.map_leaves(value, other, rigid=True)
