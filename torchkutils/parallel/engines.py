"""What carries a rank's forward and exchanges its gradients: DistributedDataParallel or `fully_shard`, with options."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkutils._torch_versions import without_exchange_of_values
from torchkutils.parallel.collectives import take_from_first
from torchkutils.parallel.sharding import is_sharded, shard, take_values_of_first

_is_trained = operator.attrgetter("requires_grad")
COMM_HOOK = "comm_hook"
"""An option that is no argument of DistributedDataParallel but of its method: a function, or (state, function)."""


def checked_options(strategy: str, options: Any) -> dict[str, Any]:
    """The caller's arguments for the engine.

    Raises:
        TypeError: No mapping.
        ValueError: A name that the engine does not take, or that is decided here.
    """
    if options is None:
        return {}
    if not isinstance(options, Mapping):
        raise TypeError(f"options must map names of arguments to values, got {type(options).__name__}")
    if strategy == "replicate":
        raise ValueError(f"options must be None under 'replicate', which has no engine, got {sorted(options)}")
    accepted = _accepted(strategy)
    for name in options:
        if name not in accepted:
            raise ValueError(
                f"options must name arguments of {_engine_name(strategy)}, got {name!r}; it takes {accepted}"
            )
    if options.get("delay_all_reduce_named_params"):
        raise ValueError("options must not hold delay_all_reduce_named_params: those gradients are exchanged here too")
    return dict(options)


def _accepted(strategy: str) -> list[str]:
    if strategy == "fsdp":
        from torch.distributed.fsdp import fully_shard

        return sorted(set(inspect.signature(fully_shard).parameters) - {"module"})
    taken = {"self", "module", "device_ids", "output_device", "dim", "process_group", "device_mesh", "check_reduction"}
    taken |= {"broadcast_buffers", "forward_sync_buffers", "init_sync"}
    return sorted({*inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters, COMM_HOOK} - taken)


def _engine_name(strategy: str) -> str:
    return "torch.distributed.fsdp.fully_shard" if strategy == "fsdp" else "DistributedDataParallel"


def plain_options(options: Mapping[str, Any]) -> str:
    """Options as text that is alike on all ranks."""
    plain = (bool, int, float, str, type(None))
    return repr({name: value if isinstance(value, plain) else type(value).__name__ for name, value in options.items()})


def replicated(template: nn.Module, device: torch.device) -> None:
    """Bring a template to its rank's device, with rank 0's values.

    Raises:
        ValueError: It is sharded.
    """
    if is_sharded(template):
        raise ValueError("model is spread over ranks already, which strategy='fsdp' goes on with, got strategy='ddp'")
    template.to(device)
    take_values_of_first(template, device)


def data_parallel(template: nn.Module, device: torch.device, options: Mapping[str, Any]) -> nn.Module | None:
    """DistributedDataParallel around a template; None where nothing is trained."""
    if not any(parameter.requires_grad for parameter in template.parameters()):
        return None
    arguments = {name: value for name, value in options.items() if name != COMM_HOOK}
    # Buffers are brought together after each forward, not before the next one.
    engine = nn.parallel.DistributedDataParallel(
        template,
        device_ids=[device.index] if device.type == "cuda" else None,
        **without_exchange_of_values(),
        **arguments,
    )
    hook = options.get(COMM_HOOK)
    if hook is not None:
        state, function = hook if isinstance(hook, tuple) else (None, hook)
        engine.register_comm_hook(state, function)
    return engine


def sharded(template: nn.Module, device: torch.device, options: Mapping[str, Any]) -> None:
    """Put a template under `fully_shard`, in place."""
    if any(True for _ in template.parameters()):
        shard(template, device, options)
    else:
        template.to(device)


class Structure:
    """Which parameters a template holds, and how they are trained: seen at each forward, in some microseconds.

    Args:
        template: The model.
        moves: Whether its values may lie elsewhere each time, as those that `fully_shard` gathers do.

    Attributes:
        buffers: The template's buffers, as they were when they were last looked at.
    """

    def __init__(self, template: nn.Module, *, moves: bool = False) -> None:
        self._modules = list(template.modules())
        self._holders: list[Any] = [held for one in self._modules for held in (one._parameters, one._modules)]
        self._held = self._now()
        self._parameters = list(template.parameters())
        self._moves = moves
        self._trained, self._addresses = self._state_now()
        self.buffers: list[Tensor] = []
        self._trained_buffers = self._buffers_that_train()

    def _now(self) -> list[Any]:
        return [value for held in self._holders for value in held.values()]

    def still_holds(self) -> bool:
        """Whether nothing was replaced, added, removed, frozen, unfrozen, converted or moved."""
        now = self._now()
        if len(now) != len(self._held) or not all(map(operator.is_, now, self._held)):
            return False
        if self._state_now() != (self._trained, self._addresses):
            return False
        return self._buffers_that_train() == self._trained_buffers

    def _state_now(self) -> tuple[list[bool], list[int]]:
        # Values that were put elsewhere (another dtype, another device and back) have lost the engine's hooks.
        addresses = [] if self._moves else list(map(Tensor.data_ptr, self._parameters))
        return list(map(_is_trained, self._parameters)), addresses

    def _buffers_that_train(self) -> list[int]:
        # Not compared by identity as parameters are: a forward may put a new buffer in place of the old one.
        held = [buffer for module in self._modules for buffer in module._buffers.values()]
        self.buffers = [buffer for buffer in held if buffer is not None]
        return [id(buffer) for buffer in self.buffers if buffer.requires_grad and buffer.is_leaf]

    def new_parameters(self, template: nn.Module) -> list[nn.Parameter]:
        """The parameters that were not there before."""
        known = {id(parameter) for parameter in self._parameters}
        return [parameter for parameter in template.parameters() if id(parameter) not in known]


def make_of(template: nn.Module, structure: Structure | None = None) -> bytes:
    """Names, shapes, dtypes and flags of a template's tensors, as text that is alike on all ranks.

    Args:
        template: The model.
        structure: What it was before; then it is also said which parameters are new.
    """
    tensors = [*template.named_parameters(), *template.named_buffers()]
    new = set(map(id, structure.new_parameters(template))) if structure is not None else set()
    return repr([(name, tuple(t.shape), str(t.dtype), t.requires_grad, id(t) in new) for name, t in tensors]).encode()


def bring_new_in(template: nn.Module, structure: Structure, device: torch.device) -> None:
    """Bring parameters that were put into a template, or moved, to its device; new ones get rank 0's values."""
    template.to(device)
    take_from_first(structure.new_parameters(template), device)
