"""The state of optimizers in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from torchkutils import _nested
from torchkutils._call_hints import explained
from torchkutils._typing import PathLike
from torchkutils.objects.metadata import decoded, state_document
from torchkutils.objects.model_tensors import StateToStore
from torchkutils.objects.named_documents import chosen_document, named_documents
from torchkutils.objects.sharded_model import Team, is_sharded
from torchkutils.objects.stored_file import opened_model_file

__all__ = ["alike", "load_optimizer", "optimizer_documents"]

# What the step of each of torch's optimizers reads from the state of a parameter; more may be there.
_NEEDED: dict[type, tuple[str, ...]] = {
    torch.optim.Adadelta: ("step", "square_avg", "acc_delta"),
    torch.optim.Adagrad: ("step", "sum"),
    torch.optim.Adam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.AdamW: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.Adamax: ("step", "exp_avg", "exp_inf"),
    torch.optim.ASGD: ("step", "eta", "mu", "ax"),
    torch.optim.NAdam: ("step", "mu_product", "exp_avg", "exp_avg_sq"),
    torch.optim.RAdam: ("step", "exp_avg", "exp_avg_sq"),
    torch.optim.RMSprop: ("step", "square_avg"),
    torch.optim.Rprop: ("step", "prev", "step_size"),
    torch.optim.SparseAdam: ("step", "exp_avg", "exp_avg_sq"),
}
# Tensors of one element, whatever the shape of the parameter.
_SCALARS = {"step", "eta", "mu", "mu_product"}


def optimizer_documents(
    optimizers: Mapping[str, torch.optim.Optimizer], states: Mapping[str, Any], state: StateToStore
) -> dict[str, Any]:
    """The document of some optimizers and their state dicts, by name; the tensors are added to `state`."""
    return named_documents(
        "optimizer",
        {
            name: {
                "class_name": type(one).__name__,
                "shapes": _shapes(one),
                "state": state_document(states[name], f"optimizer{f' {name}' if name else ''}", state),
            }
            for name, one in optimizers.items()
        },
    )


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def load_optimizer(path: PathLike, optimizer: torch.optim.Optimizer, name: str | None = None) -> None:
    """Give an optimizer the state that `save_model` stored: its next step is the one that would have followed.

    Args:
        path: The file.
        optimizer: One of the same class, over parameters of the same shapes in the same order and groups. Where they
            are spread over ranks, every rank makes the call; the first rank alone reads the file.
        name: Which of several; None where the file holds one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no such optimizer, or one of another class or other parameters, or a state that does
            not fit it; or it is damaged. The optimizer is as it was.
        TypeError: `optimizer` is no optimizer.

    >>> import tempfile, pathlib
    >>> from torchkutils import save_model
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> model = torch.nn.Linear(2, 3)
    >>> save_model(model, path, optimizer=torch.optim.Adam(model.parameters(), lr=0.5))
    >>> optimizer = torch.optim.Adam(model.parameters())
    >>> load_optimizer(path, optimizer)
    >>> optimizer.param_groups[0]["lr"]
    0.5
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {explained(optimizer, 'optimizer')}")
    sharded = [one for group in optimizer.param_groups for one in group["params"] if is_sharded(one)]
    if sharded:
        _load_sharded(path, optimizer, Team.of(sharded[0]), name)
        return
    with opened_model_file(path) as file:
        document = _fitting_document(chosen_document(file, "optimizer", name), optimizer)
        state = decoded(file, document.get("state"), "optimizer")
        _check_state(state, optimizer)
        _load(optimizer, state)


def _fitting_document(document: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    if document.get("class_name") != type(optimizer).__name__:
        raise ValueError(f"optimizer must be a {str(document.get('class_name'))[:60]}, got {type(optimizer).__name__}")
    if document.get("shapes") != _shapes(optimizer):
        raise ValueError("optimizer must hold parameters of the same shapes, groups and order as the saved one")
    return document


def _load(optimizer: torch.optim.Optimizer, state: Any) -> None:
    before = dict(vars(optimizer))
    groups = [dict(group) for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except Exception as error:
        vars(optimizer).update(before)
        for group, old in zip(optimizer.param_groups, groups, strict=True):
            group.clear()
            group.update(old)
        raise ValueError(f"its optimizer's state does not fit: {error}") from error


def alike(own: Any, found: Any) -> bool:
    """Whether a value from a file is of the kind of the optimizer's own: a number for a number, a tuple for a tuple.

    None means "not set": any value that cannot be called may replace it.
    """
    if own is None:
        return not callable(found)
    if isinstance(own, bool):
        return found is None or _is_number(found)
    if _is_number(own):
        return _is_number(found)
    if isinstance(own, list | tuple) and isinstance(found, list | tuple):
        return _sequences_alike(own, found)
    if isinstance(own, Mapping):
        return isinstance(found, Mapping)
    return isinstance(found, type(own)) or isinstance(own, type(found))


def _sequences_alike(own: list[Any] | tuple[Any, ...], found: list[Any] | tuple[Any, ...]) -> bool:
    """A tuple has a fixed length (betas), a list may grow (the learning rates that a scheduler has had)."""
    if isinstance(own, tuple):
        return len(own) == len(found) and all(map(alike, own, found))
    return not all(map(_is_number, own)) or all(map(_is_number, found))


def _is_number(value: Any) -> bool:
    if isinstance(value, torch.Tensor | np.ndarray):
        return int(np.prod(value.shape)) == 1
    return isinstance(value, int | float | complex | np.number)


def _check_state(state: Any, optimizer: torch.optim.Optimizer) -> None:
    """Check a decoded state dict against the optimizer that it is meant for.

    Raises:
        ValueError: It would break the next step.
    """
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        raise ValueError("its optimizer's state must have param_groups")
    if not isinstance(state.get("state"), dict):
        raise ValueError("its optimizer's state must have a dict 'state'")
    parameters = _numbered_parameters(state["param_groups"], optimizer)
    for key, values in state["state"].items():
        if isinstance(key, int | str) and key in parameters:
            _check_values(values, parameters[key], optimizer)


def _numbered_parameters(groups: list[Any], optimizer: torch.optim.Optimizer) -> dict[Any, torch.Tensor]:
    """The optimizer's parameters by the numbers that a state gives them."""
    if len(groups) != len(optimizer.param_groups):
        raise ValueError("its optimizer's state has another number of groups")
    parameters: dict[Any, torch.Tensor] = {}
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        _check_group(group, own, optimizer)
        for key, parameter in zip(group["params"], own["params"], strict=True):
            if type(key) not in (int, str) or key in parameters:
                raise ValueError(f"its optimizer's groups name the parameter {str(key)[:40]} twice, or not by a number")
            parameters[key] = parameter
    return parameters


def _check_group(group: Any, own: dict[str, Any], optimizer: torch.optim.Optimizer) -> None:
    if not isinstance(group, dict) or not isinstance(group.get("params"), list):
        raise ValueError("its optimizer's groups must be dicts with a list 'params'")
    if len(group["params"]) != len(own["params"]):
        raise ValueError("its optimizer's groups have other numbers of parameters")
    for key, value in own.items():
        if key in ("params", "param_names"):
            continue
        if key not in group:
            group[key] = value  # written by an older torch: the optimizer's own value stays
        elif key in optimizer.defaults and not alike(value, group[key]):
            raise ValueError(f"its optimizer's option {key!r} must be of the kind of {value!r}, got {group[key]!r:.60}")


def _check_values(values: Any, parameter: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer)
    if not isinstance(values, dict):
        raise ValueError("its optimizer's state of a parameter must be a dict")
    needed = _NEEDED.get(kind, ()) if values else ()
    missing = [key for key in needed if not isinstance(values.get(key), torch.Tensor | float | int)]
    if missing:
        raise ValueError(f"its optimizer's state of a parameter must have tensors {missing}")
    # LBFGS keeps lists and flat tensors of all parameters; other libraries keep what they like.
    if kind.__module__.startswith("torch.optim") and kind is not torch.optim.LBFGS:
        for key, value in values.items():
            _check_value(str(key), value, parameter, needed)


def _check_value(key: str, value: Any, parameter: torch.Tensor, needed: tuple[str, ...]) -> None:
    may_be_number = key in _SCALARS or key not in needed
    if not isinstance(value, torch.Tensor | int | float | None if may_be_number else torch.Tensor):
        raise ValueError(f"its optimizer's state {key[:40]!r} must be a tensor, got {type(value).__name__}")
    if isinstance(value, torch.Tensor) and not _fits(key, value, parameter):
        raise ValueError(
            f"its optimizer's state {key[:40]!r} must have the shape {tuple(parameter.shape)} of its parameter, "
            f"got {tuple(value.shape)}"
        )


def _fits(key: str, value: torch.Tensor, parameter: torch.Tensor) -> bool:
    if key in _SCALARS:
        return value.numel() == 1
    if value.ndim != parameter.ndim:
        return False
    # Adafactor keeps rows and columns: one axis of length 1.
    if key in ("row_var", "col_var"):
        return all(found in (1, wanted) for found, wanted in zip(value.shape, parameter.shape, strict=True))
    return value.shape == parameter.shape


class _Placeholder:
    """Stands, in a state that goes to all ranks, for a tensor that only the first rank has read."""

    def __init__(self, tensor: torch.Tensor, number: int) -> None:
        self.number = number
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype


def _load_sharded(path: PathLike, optimizer: torch.optim.Optimizer, team: Team, name: str | None) -> None:
    """The first rank reads; each rank gets its part of what belongs to a parameter, and the rest whole."""
    tensors: list[torch.Tensor] = []

    def placeholder(tensor: torch.Tensor) -> _Placeholder:
        tensors.append(tensor)
        return _Placeholder(tensor, len(tensors) - 1)

    def read() -> Any:
        with opened_model_file(path) as file:
            document = _fitting_document(chosen_document(file, "optimizer", name), optimizer)
            state = decoded(file, document.get("state"), "optimizer")
            _check_state(state, optimizer)
        return _nested.map_leaves(state, placeholder, kind=torch.Tensor)

    state = team.by_first(read)

    def received(values: Any, parameter: torch.Tensor | None) -> Any:
        """The values with tensors of this rank, sharded as their parameter is."""

        def tensor(told: _Placeholder) -> torch.Tensor:
            target = team.sharded_like(torch.empty(told.shape, dtype=told.dtype, device="meta"), parameter)
            team.fill(target, tensors[told.number] if team.first else None)
            return target

        return _nested.map_leaves(values, tensor, kind=_Placeholder)

    owners = _owners(state["param_groups"], optimizer)
    state["state"] = {number: received(values, owners.get(number)) for number, values in state["state"].items()}
    state["param_groups"] = received(state["param_groups"], None)
    _load(optimizer, state)


def _owners(groups: list[dict[str, Any]], optimizer: torch.optim.Optimizer) -> dict[Any, torch.Tensor]:
    """The optimizer's parameters by the numbers that the groups of a checked state give them."""
    owners: dict[Any, torch.Tensor] = {}
    for group, own in zip(groups, optimizer.param_groups, strict=True):
        owners.update(zip(group["params"], own["params"], strict=True))
    return owners
