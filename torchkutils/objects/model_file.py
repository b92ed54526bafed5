"""save_model and load_model: architecture and weights in one HDF5 file, without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from torchkutils._call_hints import explained, hinting
from torchkutils._caller_warnings import warn_caller
from torchkutils._dtypes import torch_dtype
from torchkutils._random_state import random_state_kept
from torchkutils._typing import PathLike
from torchkutils._wrapped_models import unwrapped
from torchkutils.objects.builtin_objects import is_stock_class
from torchkutils.objects.config import ConfigReader
from torchkutils.objects.described_model import describe_model
from torchkutils.objects.file_writer import write_model_file
from torchkutils.objects.metadata import metadata_document, read_document
from torchkutils.objects.model_tensors import StateToStore
from torchkutils.objects.optimizer_state import optimizer_documents
from torchkutils.objects.registry import check_names
from torchkutils.objects.scheduler_state import scheduler_documents
from torchkutils.objects.sharded_model import team_of, whole_model, whole_values
from torchkutils.objects.stored_file import check_ending, opened_model_file
from torchkutils.objects.stored_state import StoredState, assign_state
from torchkutils.objects.tree import count_paths

__all__ = ["load_model", "read_metadata", "save_model"]


@hinting(
    include_optimizer="give optimizer= itself",
    save_format="there is one: HDF5",
    overwrite="an older file is always replaced",
    epoch="give metadata={'epoch': …}",
)
def save_model(
    model: nn.Module,
    path: PathLike,
    *,
    optimizer: torch.optim.Optimizer | Mapping[str, torch.optim.Optimizer] | None = None,
    scheduler: Any = None,
    metadata: Any = None,
    timeout: float = 120.0,
) -> None:
    """Write a model to one HDF5 file: how it is built, its parameters and buffers, and what a training goes on with.

    Args:
        model: A torch.nn module, nested as you like, or one of a registered class. A wrapped model (several devices,
            DistributedDataParallel, compiled) is saved as the model inside, compiled children too.
            One that is spread over ranks (`strategy='fsdp'`, `fully_shard`, DTensors) is saved by a call on every rank:
            it is gathered tensor by tensor, the first rank writes, and all return, or raise, together.
        path: The file, a local path. It appears whole or not at all; an older one is replaced.
        optimizer: Its state is stored as well; `load_optimizer` reads it. A dict of names and optimizers stores
            several.
        scheduler: A learning-rate scheduler, or a dict of several; `load_scheduler` reads it. What `state_dict()`
            leaves out (the lambdas of LambdaLR) is left out here too.
        metadata: Any JSON value, NumPy scalars, and tensors of up to 1 MiB together; `read_metadata` gives it back.
        timeout: Seconds for which a rank waits for the others where the model is spread over ranks; at most the
            process group's own.

    Raises:
        ValueError: The model cannot be rebuilt as it is (named: the module's path, the attribute, a way out), or holds
            a tensor or value that cannot be stored. Nothing was written.
        TypeError: `model` is no module, `optimizer` no optimizer, or `scheduler` has no `state_dict`.
        RuntimeError: Not every rank made the call; the missing ones are named.
        OSError: The file cannot be written; an older one is as it was.

    A module that was changed since its constructor call (children exchanged, added or removed; plain attributes set;
    torch's parametrizations) is saved as the call and the differences: the tree is rebuilt and compared before anything
    is written. Attributes that the constructor did not make (an attention map that forward leaves) are no part of a
    model; they, and changed attributes that hold a tensor over 1 MiB or one with a graph, which go back to what the
    constructor made, are listed in one UserWarning.

    Differs from Keras 2.3.1: no function, class path or code is stored, so that a file can be opened whoever wrote it.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.Linear(2, 3), path, metadata={"epoch": 4})
    >>> load_model(path), read_metadata(path)
    (Linear(in_features=2, out_features=3, bias=True), {'epoch': 4})
    """
    template = checked_model(model)
    check_ending(path)
    optimizers = _by_name(optimizer, "optimizer", lambda one: isinstance(one, torch.optim.Optimizer))
    schedulers = _by_name(scheduler, "scheduler", lambda one: callable(getattr(one, "state_dict", None)))
    team = team_of(template)
    if team is not None:
        team.meet(timeout)
    states = {name: one.state_dict() for name, one in optimizers.items()}
    if team is None:
        _write_model(template, path, optimizers, states, schedulers, metadata)
        return
    whole, whole_states = whole_model(template, team), whole_values(states, team)
    team.by_first(lambda: _write_model(whole, path, optimizers, whole_states, schedulers, metadata))


def checked_model(model: Any) -> nn.Module:
    """The model inside its wrappers.

    Raises:
        TypeError: `model` is no module.
    """
    if isinstance(model, Mapping):
        raise TypeError("model must be a torch.nn.Module, got a dict; save_weights(tensors, path) stores a state dict")
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {explained(model, 'model')}")
    return unwrapped(model)


def _by_name(given: Any, argument: str, fits: Any) -> dict[str, Any]:
    """One object, or several by name; the only one has the name "".

    Raises:
        TypeError: It is of another kind.
    """
    if given is None:
        return {}
    named = dict(given) if isinstance(given, Mapping) else {"": given}
    for name, one in named.items():
        if not isinstance(name, str) or not fits(one):
            kind = "torch.optim.Optimizer" if argument == "optimizer" else "scheduler with a state_dict"
            raise TypeError(f"{argument} must be a {kind} or a dict of them by name, got {explained(one, argument)}")
    return named


@hinting(
    compile="torch.compile(load_model(path)) compiles it",
    safe_mode="nothing of a file is ever run",
    map_location="device",
    strict="all of a model is read; load_weights has it",
)
def load_model(
    path: PathLike,
    *,
    custom_objects: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
    dtype: Any = None,
    mmap: bool = False,
) -> nn.Module:
    """Rebuild a model that `save_model` wrote.

    Args:
        path: The file; it may come from a stranger.
        custom_objects: Classes by the names that the file uses; looked at before scope, registry and torch.nn.
        device: Where the model is to live; "meta" reads no tensor.
        dtype: What floating-point tensors are converted to; None keeps what the file has.
        mmap: Map the file instead of reading it: bytes come when they are used, and changes stay in memory. The file
            must not be written to or cut meanwhile (a new `save_model` to its path does neither).

    Returns:
        The module, with its tensors, ties, `requires_grad` and `training` as they were.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file (a Keras file is refused by name), of a newer format, damaged or hostile, names
            a class that is not known here, or `device` is none that this machine has.
        OSError: It cannot be read.
        TypeError: `dtype` is no dtype of floating-point numbers, or `custom_objects` no dict.

    Custom classes run their own constructors, with the arguments in the file; torch.nn's classes are checked against
    the stored shapes before memory is given to them. No other name of the file is imported or called.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), path)
    >>> [type(module).__name__ for module in load_model(path)]
    ['Linear', 'ReLU']
    """
    check_names(custom_objects)
    target, kind = checked_device(device), _floating_dtype(dtype)
    with opened_model_file(path, mapped=mmap) as file:
        architecture = file.document("architecture")
        if architecture is None:
            raise ValueError("it holds weights alone; build the model and use load_weights")
        state = StoredState(file, kind, target)
        with random_state_kept():
            model = _build(architecture, state, custom_objects, target)
        file.budget.paths(count_paths(model))
        if target.type != "meta":
            file.read_packed()
        assign_state(model, state)
    return model if target.type == "cpu" else model.to(target)


def checked_device(device: Any) -> torch.device:
    """The device.

    Raises:
        ValueError: There is no such device on this machine.
    """
    try:
        target = torch.device(device)
    except (RuntimeError, TypeError) as error:
        meant = "; did you mean 'cuda'?" if str(device).lower().startswith("gpu") else f": {error}"
        raise ValueError(f"device must name a torch device, got {device!r}{meant}") from error
    if target.type in ("cpu", "meta"):
        return target
    module = getattr(torch, target.type, None)
    there = module.device_count() if module is not None and hasattr(module, "device_count") else 0
    if (target.index or 0) >= there:
        raise ValueError(
            f"device must be on this machine, got {str(target)!r}: torch sees {there} of type {target.type}; "
            "device='cpu' works everywhere, and a GPU needs a torch built for it"
        )
    return target


def _floating_dtype(dtype: Any) -> torch.dtype | None:
    if dtype is None:
        return None
    kind = torch_dtype(dtype)
    if not kind.is_floating_point:
        raise TypeError(f"dtype must be one of floating-point numbers, got {dtype!r}")
    return kind


def read_metadata(path: PathLike) -> Any:
    """The metadata that `save_model` stored.

    Args:
        path: The file.

    Returns:
        The value, tensors included; {} when none was given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file, or a damaged one.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.ReLU(), path)
    >>> read_metadata(path)
    {}
    """
    with opened_model_file(path) as file:
        value = read_document(file, "metadata")
    return {} if value is None else value


def _write_model(
    template: nn.Module,
    path: PathLike,
    optimizers: Mapping[str, torch.optim.Optimizer],
    states: Mapping[str, Any],
    schedulers: Mapping[str, Any],
    metadata: Any,
) -> None:
    state = StateToStore()
    described = describe_model(template, state)
    documents: dict[str, Any] = {
        "architecture": described.architecture,
        "metadata": metadata_document(metadata, state),
        **optimizer_documents(optimizers, states, state),
        **scheduler_documents(schedulers, state),
    }
    state.find_views()
    documents["index"] = state.index()
    write_model_file(path, documents, state.tensors)
    if described.warning:
        warn_caller(described.warning)


def _build(
    architecture: Any, state: StoredState, custom_objects: Mapping[str, Any] | None, device: torch.device
) -> nn.Module:
    budget = state.file.budget
    all_stock, exact = _looked_at(architecture, custom_objects)
    shapes = {stored.shape for stored in state.file.tensors.values()} if exact else None
    room = 2 * state.file.nbytes + (16 << 20)
    real_device = device if device.type != "meta" else torch.device("cpu")

    def check(module: nn.Module) -> None:
        nonlocal room
        for tensor in [*module.parameters(), *module.buffers()]:
            if shapes is not None and tuple(tensor.shape) not in shapes:
                raise ValueError(
                    f"it would have a tensor of shape {tuple(tensor.shape)}, the file has none of that shape"
                )
            room -= tensor.numel() * tensor.element_size() if tensor.is_meta else 0
        if room < 0:
            raise ValueError("its modules would be larger than the tensors in the file")

    if not all_stock:
        reader = ConfigReader(state.read, custom_objects, budget, check, state.empty, real_device)
        return reader.module(architecture)
    with torch.device("meta"):
        reader = ConfigReader(
            _on_cpu(state.read), custom_objects, budget, None, state.empty, real_device, empty_parameters=True
        )
        return reader.module(architecture)


def _on_cpu(read: Callable[[Any], torch.Tensor]) -> Callable[[Any], torch.Tensor]:
    """The same function where modules are built on the meta device: arguments are read for real."""

    def reading(name: Any) -> torch.Tensor:
        with torch.device("cpu"):
            return read(name)

    return reading


def _looked_at(node: Any, custom_objects: Mapping[str, Any] | None) -> tuple[bool, bool]:
    """Whether all classes are torch.nn's, and whether the file has a tensor for whatever they build (no edits)."""
    reader = ConfigReader(lambda body: torch.empty(0), custom_objects)
    all_stock, exact, todo = True, True, [node]
    while todo:
        one = todo.pop()
        if isinstance(one, dict) and {"class_name", "config"} <= set(one):
            kind = reader.class_of(one)
            all_stock = all_stock and kind is not None and is_stock_class(kind)
            exact = exact and kind is not None and "edits" not in one
        if isinstance(one, dict):
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)
    return all_stock, exact
