"""save_weights and load_weights: the tensors of any model, without how it is built."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchkutils._call_hints import hinting
from torchkutils._caller_warnings import warn_caller
from torchkutils._typing import PathLike
from torchkutils.objects.file_writer import write_model_file
from torchkutils.objects.model_file import checked_model
from torchkutils.objects.model_tensors import EXTRA, StateToStore
from torchkutils.objects.other_files import is_hdf5, kind_of_file
from torchkutils.objects.plain_values import decode
from torchkutils.objects.safetensors_file import write_safetensors
from torchkutils.objects.sharded_model import team_of, whole_model
from torchkutils.objects.stored_file import check_ending, checked_path, errors_with_path, opened_model_file
from torchkutils.objects.stored_state import StoredState, put
from torchkutils.objects.tensors import stored_dtype
from torchkutils.objects.tree import Slot, plain_keys, slots_of
from torchkutils.objects.weight_sources import WeightSource, foreign_source

__all__ = ["LoadedWeights", "load_weights", "save_weights"]


class LoadedWeights(NamedTuple):
    """What `load_weights` did not read, by state-dict key.

    Attributes:
        missing_keys: In the model, not in the file; they are as they were.
        unexpected_keys: In the file, not in the model.
        mismatched_keys: In both, of another shape; with `skip_mismatch=True` they are as they were.
    """

    missing_keys: list[str]
    unexpected_keys: list[str]
    mismatched_keys: list[str]


def save_weights(
    model_or_tensors: nn.Module | Mapping[str, torch.Tensor], path: PathLike, *, timeout: float = 120.0
) -> None:
    """Write the parameters and buffers of any model, or a dict of tensors, to one file.

    Args:
        model_or_tensors: Any module, or a dict of names and tensors (a state dict, moving averages, features). A
            wrapped model is saved as the model inside, one that is spread over ranks as by `save_model`.
        path: The file, a local path. It appears whole or not at all. Ending in `.safetensors`: in that format, tied
            tensors once for each name; otherwise HDF5.
        timeout: Seconds for which a rank waits for the others where the model is spread over ranks.

    Raises:
        ValueError: A tensor, or the extra state of a module, cannot be stored.
        TypeError: `model_or_tensors` is neither a module nor a dict of tensors.
        RuntimeError: Not every rank made the call.
        OSError: The file cannot be written; an older one is as it was.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.h5"
    >>> save_weights(torch.nn.Linear(2, 3), path)
    >>> load_weights(torch.nn.Linear(2, 3), path)
    LoadedWeights(missing_keys=[], unexpected_keys=[], mismatched_keys=[])
    """
    name = check_ending(path, also=(".safetensors",))
    if isinstance(model_or_tensors, Mapping):
        _write(_checked_tensors(model_or_tensors), lambda key: key, name)
        return
    template = checked_model(model_or_tensors)
    team = team_of(template)
    if team is None:
        _write(template.state_dict(keep_vars=True), plain_keys(template), name)
        return
    team.meet(timeout)
    whole = whole_model(template, team)
    team.by_first(lambda: _write(whole.state_dict(keep_vars=True), plain_keys(whole), name))


def _checked_tensors(tensors: Mapping[Any, Any]) -> Mapping[str, torch.Tensor]:
    for key, value in tensors.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise TypeError(
                f"model_or_tensors must be a module or a dict of tensors by name, got {type(value).__name__} at {key!r}"
            )
    return tensors


def _write(values: Mapping[str, Any], plain: Callable[[str], str], name: str) -> None:
    if name.endswith(".safetensors"):
        write_safetensors(name, {plain(key): value for key, value in values.items()})
        return
    state = StateToStore()
    for key, value in values.items():
        short = plain(key)
        if isinstance(value, torch.Tensor) and not short.endswith(EXTRA):
            state.names[short] = state.add(value, short)
        else:
            state.add_extra(short, value)
    state.find_views()
    write_model_file(name, {"index": state.index()}, state.tensors)


@hinting(
    by_name="strict=False loads what both have, by name",
    map_location="tensors go to where the model lies",
    assign="tensors are copied into the model's",
)
def load_weights(
    model: nn.Module, path: PathLike, *, strict: bool = True, skip_mismatch: bool = False
) -> LoadedWeights:
    """Read parameters and buffers into a model, in place.

    Args:
        model: The model; a wrapped one is loaded through. Tensors on the meta device are replaced by those of the file.
            Where it is spread over ranks, every rank makes the call; the first rank alone reads the file, and sends
            each its part.
        path: A file of `save_model` or `save_weights`; a `.safetensors` file; a checkpoint of `torch.save` that holds a
            state dict (read with `weights_only=True`); or a Keras file of weights (`.weights.h5`, `.h5`): its layers
            are matched with the model's in order, kind by kind, and their layouts are turned into torch's.
        strict: Whether the names must be the same. With False what both have is loaded, and nothing else is read:
            `load_weights(nn.ModuleDict({"head": head}), path, strict=False)` reads one part of a large file. If the two
            have no name in common, there is a warning.
        skip_mismatch: Leave out tensors of another shape instead of raising; for names `strict` decides.

    Returns:
        The names that were missing in the file, unexpected, and of another shape.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: Names (with `strict`) or shapes differ, a tensor of the model cannot be written to, or the file is
            of another kind (named), damaged or hostile. All of this is found before the first value is changed.
        TypeError: `model` is no module.

    Differs from Keras 2.3.1: there is no `by_name`; names always decide in files of torch.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "weights.h5"
    >>> save_weights(torch.nn.Linear(2, 3), path)
    >>> other = torch.nn.Linear(2, 3)
    >>> load_weights(other, path).missing_keys
    []
    """
    template = checked_model(model)
    target = _Target(template)
    team = team_of(template)
    read: dict[str, torch.Tensor] = {}
    if team is None:
        with _opened(path, template) as source:
            found = _compared(target, source, path, strict=strict, skip_mismatch=skip_mismatch)
            target.fill(source, _both(target, source, found))
        return found

    def read_all() -> LoadedWeights:
        with _opened(path, template) as source:
            found = _compared(target, source, path, strict=strict, skip_mismatch=skip_mismatch)
            read.update((key, source.read(key)) for key in _both(target, source, found))
        return found

    report: LoadedWeights = team.by_first(read_all)
    skipped = {*report.missing_keys, *report.mismatched_keys}
    for key, tensor in target.tensors.items():
        if key not in skipped:
            team.fill(tensor, read.pop(key, None))
    return report


@contextlib.contextmanager
def _opened(path: PathLike, model: nn.Module) -> Iterator[WeightSource]:
    """A file of weights, opened as what it is."""
    name = checked_path(path)
    with errors_with_path(name):
        kind = "HDF5" if is_hdf5(name) else kind_of_file(name)
        foreign = foreign_source(name, kind, model)
        if foreign is not None:
            yield foreign
            return
        with opened_model_file(name) as file:
            yield _own_source(file)


def _own_source(file: Any) -> WeightSource:
    state = StoredState(file)

    def special(tag: str, body: Any) -> Any:
        if tag != "__tensor__":
            raise ValueError(f"unknown value {tag!r} in its extra state")
        return state.read(body)

    def read_into(key: str, target: Any) -> bool:
        name = file.names[key]
        if name not in file.tensors or file.tensors[name].dtype != target.dtype:
            return False
        file.read_into(name, target.view(stored_dtype(target.dtype)).numpy())
        return True

    extra = file.index.get("extra", {})
    return WeightSource(
        shapes={key: state.shape(name) for key, name in file.names.items()},
        read=lambda key: state.read(file.names[key]),
        check=lambda key: state.check(file.names[key]),
        read_into=read_into,
        extra=lambda: {key: decode(value, special) for key, value in dict(extra).items()},
        extra_keys=set(extra),
    )


class _Target:
    """The tensors and the extra state of a model that a file may fill, by plain state-dict key."""

    def __init__(self, model: nn.Module) -> None:
        plain = plain_keys(model)
        state = {plain(key): value for key, value in model.state_dict(keep_vars=True).items()}
        self.tensors = {
            key: value for key, value in state.items() if isinstance(value, torch.Tensor) and not key.endswith(EXTRA)
        }
        self.extra = [key for key in state if key not in self.tensors]
        self.keys = [*self.tensors, *self.extra]
        self._model = model

    def check(self, keys: list[str]) -> dict[str, Slot]:
        """Find the parameters and buffers that must be replaced by a new tensor; nothing is changed.

        Raises:
            ValueError: A tensor cannot be written to.
        """
        on_meta = [key for key in keys if self.tensors[key].is_meta]
        for key in keys:
            _check_writable(key, self.tensors[key])
        slots = {slot.key: slot for slot in slots_of(self._model)} if on_meta else {}
        for key in on_meta:
            if key not in slots:
                raise ValueError(f"{key!r} lies on the meta device and is no tensor of a module; use to_empty first")
        return {key: slots[key] for key in on_meta}

    def fill(self, source: WeightSource, keys: list[str]) -> None:
        """Write what was found to fit."""
        new = self.check(keys)
        made: dict[int, torch.Tensor] = {}
        with torch.no_grad():
            for key in keys:
                tensor = self.tensors[key]
                if key in new:
                    _materialise(new[key], tensor, source, key, made)
                elif not (_is_plain(tensor) and source.read_into(key, tensor.data)):
                    tensor.copy_(source.read(key))
                else:
                    torch.autograd.graph.increment_version(tensor)
        self._set_extra_state(source.extra() if self.extra else {})

    def _set_extra_state(self, found: Mapping[str, Any]) -> None:
        for key in self.extra:
            if key in found:
                path = key.removesuffix(EXTRA).rstrip(".")
                self._model.get_submodule(path).set_extra_state(found[key])


def _check_writable(key: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise ValueError(f"{key!r} has no shape yet; call the model once before loading")
    if not tensor.is_meta and _writes_twice(tensor):
        raise ValueError(
            f"{key!r} is expanded: several of its elements are one in memory; make it whole with .clone() first"
        )


def _materialise(
    slot: Slot, tensor: torch.Tensor, source: WeightSource, key: str, made: dict[int, torch.Tensor]
) -> None:
    """Replace a tensor on the meta device by a real one; tied ones are replaced by one tensor."""
    if id(tensor) not in made:
        value = source.read(key).to(tensor.dtype)
        made[id(tensor)] = (
            nn.Parameter(value, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
        )
    put(slot, made[id(tensor)])


def _is_plain(tensor: torch.Tensor) -> bool:
    plain = tensor.device.type == "cpu" and tensor.is_contiguous() and not tensor.is_conj() and not tensor.is_neg()
    return plain and type(tensor.data) is torch.Tensor


def _writes_twice(tensor: torch.Tensor) -> bool:
    """Whether several elements share one address in memory."""
    if tensor.layout != torch.strided or tensor.is_contiguous() or hasattr(tensor, "full_tensor"):
        return False
    sizes = [(stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if size > 1]
    reach = 0
    for stride, size in sorted(sizes):
        if stride <= reach:
            return True
        reach += stride * (size - 1)
    return False


def _both(target: _Target, source: WeightSource, report: LoadedWeights) -> list[str]:
    skipped = set(report.mismatched_keys)
    return [key for key in target.tensors if key in source.shapes and key not in skipped]


def _compared(
    target: _Target, source: WeightSource, path: PathLike, *, strict: bool, skip_mismatch: bool
) -> LoadedWeights:
    """What of the model the file does not fill, and what of the file the model does not have.

    Raises:
        ValueError: Names (with `strict`) or shapes (without `skip_mismatch`) differ, or a tensor cannot be written to.
    """
    report = _differences(target, source)
    if strict and (report.missing_keys or report.unexpected_keys):
        raise ValueError(
            f"the names must be the model's: missing in the file {report.missing_keys[:5]}, "
            f"not in the model {report.unexpected_keys[:5]}; strict=False loads what both have"
        )
    if report.mismatched_keys and not skip_mismatch:
        key = report.mismatched_keys[0]
        raise ValueError(
            f"{key!r} must have shape {tuple(target.tensors[key].shape)}, the file has {source.shapes[key]}; "
            "skip_mismatch=True leaves it out"
        )
    fitting = _both(target, source, report)
    target.check(fitting)
    for key in fitting:
        source.check(key)
    if target.keys and not fitting:
        warn_caller(
            f"load_weights read nothing: {os.fspath(path)} has no tensor that fits; the model has {target.keys[:3]}, "
            f"the file {report.unexpected_keys[:3]}"
        )
    return report


def _differences(target: _Target, source: WeightSource) -> LoadedWeights:
    wanted, there = target.keys, [*source.shapes, *source.extra_keys]
    return LoadedWeights(
        missing_keys=_without(wanted, there),
        unexpected_keys=_without(there, wanted),
        mismatched_keys=[
            key
            for key, tensor in target.tensors.items()
            if key in source.shapes and not is_lazy(tensor) and source.shapes[key] != tuple(tensor.shape)
        ],
    )


def _without(keys: list[str], others: list[str]) -> list[str]:
    """The keys that are none of the others, in their order."""
    known = set(others)
    return [key for key in keys if key not in known]
