"""save_model and load_model: architecture and weights in one HDF5 file, without pickle."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from torchkutils._typing import PathLike
from torchkutils.objects.builtin_objects import is_stock_class
from torchkutils.objects.comparison import refuse_difference
from torchkutils.objects.config import ConfigReader, ConfigWriter
from torchkutils.objects.model_tensors import StateToStore, assign_state, copy_into, read_state, template_of
from torchkutils.objects.optimizer_state import optimizer_document
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.spread_model import team_of, whole_model, whole_values
from torchkutils.objects.stored_file import ModelFile, open_model_file, write_model_file

__all__ = ["load_model", "load_weights", "read_metadata", "save_model", "save_weights"]


def save_model(
    model: nn.Module, path: PathLike, *, optimizer: torch.optim.Optimizer | None = None, metadata: Any = None
) -> None:
    """Write a model to one HDF5 file: how it is built, its parameters and buffers, and what a training goes on with.

    Args:
        model: A torch.nn module, nested as you like, or one of a registered class. A wrapped model (several devices,
            DistributedDataParallel, compiled) is saved as the model inside.
            One that is spread over ranks (`strategy='fsdp'`, `fully_shard`, DTensors) is saved by a call on every rank:
            it is gathered tensor by tensor, the first rank writes, and all return, or raise, together.
        path: The file. It appears whole or not at all; an older one is replaced.
        optimizer: Its state is stored as well; `load_optimizer` reads it.
        metadata: Any JSON value; `read_metadata` gives it back.

    Raises:
        ValueError: The model cannot be rebuilt as it is (named: the module's path and why), or holds a tensor or value
            that cannot be stored. Nothing was written.
        TypeError: `model` is no module, or `optimizer` no optimizer.
        OSError: The file cannot be written; an older one is as it was.

    Differs from Keras 2.3.1: no function, class path or code is stored, so that a file can be opened whoever wrote it.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.Linear(2, 3), path, metadata={"epoch": 4})
    >>> load_model(path), read_metadata(path)
    (Linear(in_features=2, out_features=3, bias=True), {'epoch': 4})
    """
    template = template_of(model)
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    team = team_of(template)
    optimizer_state = None if optimizer is None else optimizer.state_dict()
    if team is None:
        _write_model(template, path, optimizer, optimizer_state, metadata)
        return
    whole, whole_state = whole_model(template, team), whole_values(optimizer_state, team)
    team.by_first(lambda: _write_model(whole, path, optimizer, whole_state, metadata))


def save_weights(model: nn.Module, path: PathLike) -> None:
    """Write the parameters and buffers of any model to one HDF5 file.

    Args:
        model: Any module; a wrapped one is saved as the model inside, one that is spread over ranks as by `save_model`.
        path: The file. It appears whole or not at all.

    Raises:
        ValueError: The model holds a tensor that cannot be stored.
        TypeError: `model` is no module.
        OSError: The file cannot be written; an older one is as it was.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.h5"
    >>> save_weights(torch.nn.Linear(2, 3), path)
    >>> load_weights(torch.nn.Linear(2, 3), path)
    """
    template = template_of(model)
    team = team_of(template)
    if team is None:
        _write_weights(template, path)
        return
    whole = whole_model(template, team)
    team.by_first(lambda: _write_weights(whole, path))


def load_model(
    path: PathLike, *, custom_objects: Mapping[str, Any] | None = None, device: torch.device | str = "cpu"
) -> nn.Module:
    """Rebuild a model that `save_model` wrote.

    Args:
        path: The file; it may come from a stranger.
        custom_objects: Classes by the names that stand in the file; looked at before scope, registry and torch.nn.
        device: Where the model is to live.

    Returns:
        The module, with its tensors, ties, `requires_grad` and `training` as they were.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no such file (a Keras file is refused by name), of a newer format, damaged or hostile, or it
            names a class that is not known here.
        OSError: It cannot be read.

    Custom classes run their own constructors, with the arguments in the file; torch.nn's classes are checked against
    the stored shapes before memory is given to them. No other name of the file is imported or called.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU()), path)
    >>> [type(module).__name__ for module in load_model(path)]
    ['Linear', 'ReLU']
    """
    target = torch.device(device)
    with open_model_file(path) as file:
        architecture = file.document("architecture")
        if architecture is None:
            raise ValueError("it holds weights alone; build the model and use load_weights")
        with _untouched_random_state():
            model = _build(architecture, file, custom_objects)
        assign_state(model, file)
    return model.to(target)


def load_weights(model: nn.Module, path: PathLike, *, strict: bool = True) -> None:
    """Read parameters and buffers into a model, in place.

    Args:
        model: The model; a wrapped one is loaded through. Where it is spread over ranks, every rank makes the call; the
            first rank alone reads the file, and sends each its part.
        path: A file of `save_model` or `save_weights`.
        strict: Whether the names must be the same. With False what both have is loaded, and nothing else is read:
            `load_weights(nn.ModuleDict({"head": head}), path, strict=False)` reads one part of a large file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names (with `strict`) or shapes differ, or the file is no model file, damaged or hostile; the model
            is as it was.
        TypeError: `model` is no module.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.h5"
    >>> save_weights(torch.nn.Linear(2, 3), path)
    >>> other = torch.nn.Linear(2, 3)
    >>> load_weights(other, path)
    """
    template = template_of(model)
    team = team_of(template)
    wanted = template.state_dict()
    read: dict[str, torch.Tensor] = {}

    def read_all() -> list[str]:
        with open_model_file(path) as file:
            read.update(read_state(file, wanted, strict=strict))
        return list(read)

    if team is not None:
        for name in team.by_first(read_all):
            team.fill(wanted[name], read.pop(name, None))
        return
    read_all()
    with torch.no_grad():
        for name, tensor in read.items():
            copy_into(wanted[name], tensor)


def read_metadata(path: PathLike) -> Any:
    """The metadata that `save_model` stored.

    Args:
        path: The file.

    Returns:
        The value; {} when none was given.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file, or a damaged one.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> save_model(torch.nn.ReLU(), path)
    >>> read_metadata(path)
    {}
    """
    with open_model_file(path) as file:
        value = decode(file.document("metadata"))
    return {} if value is None else value


def _write_model(
    template: nn.Module,
    path: PathLike,
    optimizer: torch.optim.Optimizer | None,
    optimizer_state: Any,
    metadata: Any,
) -> None:
    state = StateToStore(template)
    writer = ConfigWriter(state.argument)
    architecture = writer.node(template, "model")
    _verify(template, architecture, writer, state)
    documents: dict[str, Any] = {"architecture": architecture, "metadata": encode(metadata, "metadata")}
    if optimizer is not None:
        documents["optimizer"] = optimizer_document(optimizer, optimizer_state, state)
    documents["index"] = state.index()
    write_model_file(path, documents, state.tensors)


def _write_weights(template: nn.Module, path: PathLike) -> None:
    state = StateToStore(template)
    write_model_file(path, {"index": state.index()}, state.tensors)


def _verify(template: nn.Module, architecture: Any, writer: ConfigWriter, state: StateToStore) -> None:
    """Build the tree anew and compare it, before anything is written."""
    stock = all(is_stock_class(kind) for kind in writer.classes.values())
    with _untouched_random_state():
        try:
            with torch.device("meta") if stock else contextlib.nullcontext():
                rebuilt = ConfigReader(state.read_argument, writer.classes).module(architecture)
        except ValueError as err:
            raise ValueError(f"the model cannot be rebuilt from its config: {err}") from err
    refuse_difference(template, rebuilt)


def _build(architecture: Any, file: ModelFile, custom_objects: Mapping[str, Any] | None) -> nn.Module:
    limit = len(file.index.get("names", {}))
    shapes = {stored.shape for stored in file.tensors.values()}
    budget = 4 * sum(stored.nbytes for stored in file.tensors.values()) + (16 << 20)

    def check(module: nn.Module) -> None:
        nonlocal budget
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if tuple(tensor.shape) not in shapes:
                raise ValueError(f"{name} would have shape {tuple(tensor.shape)}, no tensor in the file has it")
        budget -= sum(one.numel() * one.element_size() for one in module.state_dict().values() if one.is_meta)
        if budget < 0:
            raise ValueError("its modules would be larger than the tensors in the file")

    if not _all_stock(architecture, custom_objects):
        return ConfigReader(_reader(file, "cpu"), custom_objects, limit, check).module(architecture)
    with torch.device("meta"):
        return ConfigReader(_reader(file, "meta"), custom_objects, limit).module(architecture)


def _all_stock(node: Any, custom_objects: Mapping[str, Any] | None) -> bool:
    reader = ConfigReader(lambda body: torch.empty(0), custom_objects)
    found, todo = True, [node]
    while todo:
        one = todo.pop()
        if isinstance(one, dict) and {"class_name", "config"} <= set(one):
            found = found and is_stock_class(reader.class_of(one))
        todo.extend(one.values() if isinstance(one, dict) else one if isinstance(one, list) else ())
    return found


def _reader(file: ModelFile, device: str) -> Any:
    def read(name: Any) -> torch.Tensor:
        stored = file.tensors.get(name) if isinstance(name, str) else None
        if stored is None:
            raise ValueError(f"its config refers to a tensor {str(name)[:60]!r} that it does not hold")
        if device == "meta":
            return torch.empty(stored.shape, dtype=stored.dtype, device="meta")
        return file.read(stored.name)

    return read


@contextlib.contextmanager
def _untouched_random_state() -> Iterator[None]:
    """Constructors draw initial values: the caller's generators must not notice."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
