"""Everything that is private in torch, or that differs between its versions: nothing else in the package looks.

The package runs on torch 2.6 and newer. Each piece says from which version on it
can go, or that torch has no public way.
"""

from __future__ import annotations

import datetime
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

TORCH_VERSION: tuple[int, int] = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))  # type: ignore[assignment]

# What torch.ops holds. Their schemas say what they write to. No public name up to 2.15.
OPERATORS: tuple[type[Any], ...] = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
OperatorOverload: Any = torch._ops.OpOverload


def needs_torch(version: str, what: str) -> None:
    """Refuse what this torch is too old for.

    Raises:
        RuntimeError: The installed torch is older than `version` ("2.9").
    """
    if tuple(map(int, version.split("."))) > TORCH_VERSION:
        raise RuntimeError(f"{what} needs torch {version} or newer, got torch {torch.__version__}; upgrade torch")


_GLOBAL_HOOKS: tuple[Any, ...] = (
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_backward_pre_hooks,
    nn.modules.module._global_backward_hooks,
)


def any_global_hook() -> bool:
    """Whether hooks are set for all modules (`torch.nn.modules.module.register_module_forward_hook` and its like).

    torch has such a function since 2.9, a private one; before that its parts are looked at.
    """
    return any(_GLOBAL_HOOKS)


# -- torch's stack of function modes: `TorchFunctionMode` can only be entered and left as a block; no public way ------


def function_modes() -> int:
    """How many modes this thread's stack holds."""
    return int(torch._C._len_torch_function_stack())


def function_mode_at(level: int) -> Any:
    """The mode at a level of the stack; 0 is the lowest."""
    return torch._C._get_function_stack_at(level)


def push_function_mode(mode: Any) -> None:
    """Put a mode on top of this thread's stack."""
    torch._C._push_on_torch_function_stack(mode)


def pop_function_mode() -> Any:
    """Take the top mode off this thread's stack, and give it."""
    return torch._C._pop_torch_function_stack()


def without_torch_function() -> Any:
    """A guard: while it exists, `__torch_function__` of classes and modes is not asked in this thread."""
    return torch._C.DisableTorchFunction()


def set_version_counters(tensors: Any, versions: Any) -> None:
    """Set back how often tensors were written to, as autograd counts. No public way; torch 2.6 takes one at a time."""
    set_counters = torch._C._autograd._unsafe_set_version_counter
    try:
        set_counters(tensors, versions)
    except TypeError:
        for tensor, version in zip(tensors, versions, strict=True):
            set_counters(tensor, version)


# -- several devices ---------------------------------------------------------------------------------------------------


def scatter_function() -> Any:
    """The autograd function under `torch.nn.parallel.scatter`, which takes sizes. No public way."""
    from torch.nn.parallel._functions import Scatter

    return Scatter


def gather_function() -> Any:
    """The autograd function under `torch.nn.parallel.gather`. No public way."""
    from torch.nn.parallel._functions import Gather

    return Gather


def without_exchange_of_values() -> dict[str, Any]:
    """Arguments for DistributedDataParallel, so that it exchanges gradients and nothing else.

    `init_sync` (absent in torch 2.6: there the equal values are sent once more) and `forward_sync_buffers` (2.13;
    older have `broadcast_buffers`, which does the same in forward).
    """
    accepted = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in accepted else "broadcast_buffers"
    return {name: False for name in ("init_sync", buffers) if name in accepted}


def run_early(node: Any) -> None:
    """Let backward run a node of the graph before all others that are ready, as it runs those that add up gradients.

    It goes by sequence numbers: the higher, the earlier. No public way; where there is none, the node runs last.
    """
    set_number = getattr(node, "_set_sequence_nr", None)
    if set_number is not None:
        set_number(2**62)


def after_backward(work: Callable[[], None]) -> None:
    """Run `work` when the backward pass that runs in this thread has ended. No public way."""
    torch.autograd.Variable._execution_engine.queue_callback(work)


def inside_function_backward() -> bool:
    """Whether the `backward` of an autograd function written in Python is running in this thread. No public way.

    So it is in a backward pass that such a function starts itself (reentrant checkpointing).
    """
    code = torch.autograd.function.BackwardCFunction.apply.__code__
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            return True
        frame = frame.f_back
    return False


def no_join() -> Any:
    """The setting of a model that is in no block of `torch.distributed.algorithms.join.Join`. No public way."""
    from torch.distributed.algorithms.join import _JoinConfig

    return _JoinConfig.construct_disabled_join_config()  # type: ignore[no-untyped-call]


def group_timeout() -> datetime.timedelta | None:
    """How long the default process group waits; None where it does not say. No public way."""
    from torch import distributed

    try:
        world: Any = distributed.group.WORLD
        device = torch.device(
            "cuda" if "cuda" in distributed.get_backend_config() and torch.cuda.is_available() else "cpu"
        )
        timeout = world._get_backend(device).options._timeout
    except Exception:
        return None
    return timeout if isinstance(timeout, datetime.timedelta) else None


# -- classes that came later -------------------------------------------------------------------------------------------


def newer_module_class(name: str) -> type[nn.Module] | None:
    """A class of `torch.nn` that older versions lack (`LinearCrossEntropyLoss`: 2.13); None where it is absent."""
    found: type[nn.Module] | None = getattr(nn, name, None)
    return found
