"""Everything that is private in torch, or that differs between its versions: nothing else in the package looks.

The package runs on torch 2.6 and newer. Each piece says from which version on it
can go, or that torch has no public way.
"""

from __future__ import annotations

import contextlib
import datetime
import inspect
import itertools
import re
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._library.custom_ops import CustomOpDef
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

# The base classes of torch's batch and instance normalisations, for `isinstance`. No public names.
BatchNormBase = _BatchNorm
InstanceNormBase = _InstanceNorm

TORCH_VERSION: tuple[int, int] = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))  # type: ignore[assignment]

# What torch.ops holds. Their schemas say what they write to. No public name up to 2.15.
OPERATORS: tuple[type[Any], ...] = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
OperatorOverload: Any = torch._ops.OpOverload
# Those, and what `torch.library.custom_op` gives.
NAMED_OPERATORS: tuple[type[Any], ...] = (*OPERATORS, CustomOpDef)


# What `nn.Module.__call__` is made of. Only a class that replaces it has another. No public name.
MODULE_CALL: Any = nn.Module._call_impl


def needs_torch(version: str, what: str) -> None:
    """Refuse what this torch is too old for.

    Raises:
        RuntimeError: The installed torch is older than `version` ("2.9").
    """
    if tuple(map(int, version.split("."))) > TORCH_VERSION:
        raise RuntimeError(f"{what} needs torch {version} or newer, got torch {torch.__version__}; upgrade torch")


# Hooks of all modules (`register_module_forward_hook` and its like). torch has public names only for setting them.
GLOBAL_HOOKS: tuple[Any, ...] = (
    nn.modules.module._global_forward_pre_hooks,
    nn.modules.module._global_forward_hooks,
    nn.modules.module._global_backward_pre_hooks,
    nn.modules.module._global_backward_hooks,
)


def any_global_hook() -> bool:
    """Whether hooks are set for all modules (`torch.nn.modules.module.register_module_forward_hook` and its like).

    torch has such a function since 2.9, a private one; before that its parts are looked at.
    """
    return any(GLOBAL_HOOKS)


def values_can_be_read(tensor: torch.Tensor) -> bool:
    """Whether code in Python may decide by a tensor's values: not on meta, in vmap, grad, compile or export."""
    return not (
        torch.compiler.is_compiling()
        or tensor.is_meta
        or type(tensor).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
        or torch._C._functorch.is_functorch_wrapped_tensor(tensor)
    )


# -- torch's stack of function modes: `TorchFunctionMode` can only be entered and left as a block; no public way ------


# Names of torch's own functions, not functions around them: two of them run in each call of a module.
# How many modes this thread's stack holds.
function_modes: Callable[[], int] = torch._C._len_torch_function_stack
# The mode at a level of the stack; 0 is the lowest.
function_mode_at: Callable[[int], Any] = torch._C._get_function_stack_at
# Put a mode on top of this thread's stack.
push_function_mode: Callable[[Any], None] = torch._C._push_on_torch_function_stack
# Take the top mode off this thread's stack, and give it.
pop_function_mode: Callable[[], Any] = torch._C._pop_torch_function_stack


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


def default_device() -> torch.device:
    """Where a factory function puts a tensor now.

    `torch.get_default_device()` sees a surrounding `with torch.device(…)` in 2.9 and newer; in 2.6 and 2.7 it does not.
    """
    return torch.empty(0).device if TORCH_VERSION < (2, 9) else torch.get_default_device()


# -- modules whose parameters are sharded by `fully_shard` -------------------------------------------------------------


def is_fsdp_class(kind: type[nn.Module]) -> bool:
    """Whether it is a class that `fully_shard` gave a module. torch 2.6 has no public name for it."""
    return hasattr(kind, "_get_fsdp_state")


def fsdp_state(module: Any) -> Any:
    """What `fully_shard` keeps of such a module beside it, shared by modules that were sharded together.

    Public are only `reshard` and `unshard`.
    """
    return module._get_fsdp_state()


def is_sharded_tensor(tensor: Any) -> bool:
    """Whether it is a DTensor; whoever made one has imported its module."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(tensor, kind)


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


def check_sharding_on(device: torch.device) -> None:
    """Refuse `fully_shard` on CPUs where torch cannot do it: in 2.6 its CPU streams know no events.

    Raises:
        RuntimeError: This torch shards on accelerators only.
    """
    if device.type == "cpu" and not hasattr(torch.cpu.Stream, "record_event"):
        raise RuntimeError(
            f"fully_shard (strategy='fsdp') on CPUs needs a newer torch, got {torch.__version__}; "
            "upgrade torch (2.9 can), or use strategy='ddp'"
        )


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


def group_timeout() -> datetime.timedelta:
    """How long operations of the default process group may take, torch's default where it is silent. No public way."""
    from torch import distributed

    group: Any = distributed.distributed_c10d._get_default_group()
    on_gpu = "cuda" in distributed.get_backend_config() and torch.cuda.is_available()
    found: Any
    try:
        found = group._get_backend(torch.device("cuda" if on_gpu else "cpu")).options._timeout
    except (RuntimeError, AttributeError):
        found = None
    return found if isinstance(found, datetime.timedelta) else distributed.constants.default_pg_timeout


def gathering(group: Any, parts: list[torch.Tensor], own: torch.Tensor) -> Any:
    """Begin to gather every rank's tensor into `parts`; what is returned has `wait`.

    What `torch.distributed.all_gather` does beside (it looks at each tensor's type, and logs) takes longer than to
    send some bytes. No public way.
    """
    return group.allgather([parts], [own])


# -- classes that came later -------------------------------------------------------------------------------------------


def newer_module_class(name: str) -> type[nn.Module] | None:
    """A class of `torch.nn` that older versions lack (`LinearCrossEntropyLoss`: 2.13); None where it is absent."""
    found: type[nn.Module] | None = getattr(nn, name, None)
    return found


# -- operators and torch.func, as the summary's FLOP count sees them --------------------------------------------------


def operator_name(operator: Any) -> str:
    """The name of an operator with its namespace and without its overload: "aten::mm". No public way."""
    if isinstance(operator, CustomOpDef):
        return str(operator._qualname)
    packet = operator.overloadpacket if isinstance(operator, OperatorOverload) else operator
    return str(packet._qualified_op_name)


# The innermost of `torch.vmap`, `torch.func.grad` and the other transforms that run in this thread; None where none
# runs. No public way.
running_transform: Callable[[], Any] = torch._C._functorch.peek_interpreter_stack


def inside_function_transform() -> bool:
    """Whether a transform runs in this thread."""
    return running_transform() is not None


def is_memory_of_others(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in memory that torch did not allocate: an array's, a file's. No public way."""
    try:
        return not tensor.untyped_storage().resizable()
    except (NotImplementedError, RuntimeError, ValueError):
        return False


def untransformed(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor that `torch.vmap`, `torch.func.grad` and other transforms have wrapped. No public way."""
    functorch = torch._C._functorch
    while functorch.is_functorch_wrapped_tensor(tensor):
        tensor = functorch.get_unwrapped(tensor)
    return tensor


def vmap_sizes(tensor: torch.Tensor) -> dict[int, int]:
    """By the level of each `torch.vmap` around a tensor, how many examples it runs at once. No public way."""
    functorch = torch._C._functorch
    sizes = {}
    while functorch.is_functorch_wrapped_tensor(tensor):
        inner = functorch.get_unwrapped(tensor)
        if functorch.is_batchedtensor(tensor):
            sizes[functorch.maybe_get_level(tensor)] = inner.shape[functorch.maybe_get_bdim(tensor)]
        tensor = inner
    return sizes


# -- functions that torch.compile made ---------------------------------------------------------------------------------

_COMPILED_CALLS = ("_TorchDynamoContext.__call__.<locals>.compile_wrapper", "_TorchDynamoContext.__call__.<locals>._fn")


def compiler_is_loaded() -> bool:
    """Whether something was compiled, or could be, in this process."""
    return "torch._dynamo" in sys.modules


_run_as_written: dict[Callable[..., Any], Callable[..., Any]] = {}


def outside_compiler(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that torch.compile leaves as it is, with all that it calls. (What was compiled itself stays so.)

    `torch.compiler.disable` loads the compiler, which takes a second: it is asked only where the compiler is loaded.
    """
    if not compiler_is_loaded():
        return function
    if function not in _run_as_written:
        _run_as_written[function] = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return _run_as_written[function]


def is_call_of_compiled_function(code: types.CodeType) -> bool:
    """Whether a frame with this code runs a function that `torch.compile` made. No public way."""
    return code.co_qualname in _COMPILED_CALLS


@contextlib.contextmanager
def told_of_compilations(callback: Callable[..., None]) -> Iterator[None]:
    """In the block, the callback is called when torch.compile begins to compile, in whatever thread."""
    handler = getattr(sys.modules.get("torch._dynamo.callback"), "callback_handler", None)
    if handler is None:
        yield
        return
    handler.register_start_callback(callback)
    try:
        yield
    finally:
        handler.remove_start_callback(callback)


# -- the workers of a DataLoader's iterator: no public way -------------------------------------------------------------


def loader_workers(iterator: Any) -> list[Any]:
    """The processes behind an iterator over a DataLoader."""
    workers: list[Any] = iterator._workers
    return workers


_watch_numbers = itertools.count(-1, -1)


def give_loader_patience(iterator: Any, seconds: float) -> None:
    """Let an iterator over a DataLoader wait so long at a time, and leave its workers' deaths to `next_of_loader`.

    torch raises a RuntimeError when a worker is killed, in whatever the main thread does then: also in a loop's body.
    """
    iterator._timeout = seconds
    if iterator._worker_pids_set:
        iterator._worker_pids_set = False
        torch._C._remove_worker_pids(id(iterator))


def next_of_loader(iterator: Any) -> Any:
    """The next thing that workers made.

    Raises:
        TimeoutError: Nothing came within the seconds of `give_loader_patience`; it may be asked again.
        RuntimeError: A worker was killed meanwhile or before.
    """
    # Only a signal gets a reader away from a message that a killed worker has written half of.
    number = next(_watch_numbers)
    torch._C._set_worker_pids(number, tuple([worker.pid for worker in iterator._workers]))
    try:
        torch._C._error_if_any_worker_fails()
        return next(iterator)
    except RuntimeError as error:
        if "timed out after" in str(error):
            raise TimeoutError from error
        raise
    finally:
        torch._C._remove_worker_pids(number)


def end_loader_workers(iterator: Any) -> None:
    """End them now, whoever else holds the iterator; they are given a few seconds, then killed."""
    iterator._shutdown_workers()
    for worker in loader_workers(iterator):
        if worker.is_alive():
            # One that is stopped, by a debugger or a batch system, does not get the signal to end.
            worker.kill()
            worker.join()


# -- process groups ----------------------------------------------------------------------------------------------------


def default_store() -> Any:
    """The key-value store of the default process group. No public way."""
    return torch.distributed.distributed_c10d._get_default_store()
