"""An optimizer's state in a model file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchkutils._typing import PathLike
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.spread_model import Team, is_spread
from torchkutils.objects.stored_file import open_model_file

__all__ = ["load_optimizer", "optimizer_document"]


def optimizer_document(optimizer: torch.optim.Optimizer, values: Any, state: Any) -> dict[str, Any]:
    """The optimizer's class, parameter shapes and `values`, its state dict; the tensors in it are added to `state`."""

    def store(value: Any, where: str) -> Any:
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{where} must be plain, got a {type(value).__name__}")
        return {"__tensor__": state.add(value, where)}

    return {
        "class_name": type(optimizer).__name__,
        "shapes": _shapes(optimizer),
        "state": encode(values, "optimizer", store),
    }


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def load_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the state that `save_model` stored: its next step is the one that would have followed.

    Args:
        path: The file.
        optimizer: One of the same class, over parameters of the same shapes in the same order and groups. Where they
            are spread over ranks, every rank makes the call; the first rank alone reads the file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no optimizer, or one of another class or other parameters; or it is damaged. The
            optimizer is as it was.
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
        raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
    spread = [one for group in optimizer.param_groups for one in group["params"] if is_spread(one)]
    if spread:
        _load_spread(path, optimizer, Team.of(spread[0]))
        return
    document, tensors = _read(path, optimizer)
    optimizer.load_state_dict(_decoded(document, tensors.__getitem__))


def _read(path: PathLike, optimizer: torch.optim.Optimizer) -> tuple[Any, dict[str, torch.Tensor]]:
    """The stored state, not yet decoded, and the tensors that it names."""
    with open_model_file(path) as file:
        document = file.document("optimizer")
        if not isinstance(document, dict):
            raise ValueError("it holds no optimizer; give save_model its optimizer argument")
        if document.get("class_name") != type(optimizer).__name__:
            raise ValueError(
                f"optimizer must be a {str(document.get('class_name'))[:60]}, got {type(optimizer).__name__}"
            )
        if document.get("shapes") != _shapes(optimizer):
            raise ValueError("optimizer must hold parameters of the same shapes, groups and order as the saved one")
        tensors: dict[str, torch.Tensor] = {}

        def read(name: str) -> torch.Tensor:
            tensors[name] = file.read(name)
            return tensors[name]

        _decoded(document.get("state"), read)
    return document.get("state"), tensors


def _decoded(document: Any, tensor_of: Callable[[str], torch.Tensor]) -> Any:
    def read(tag: str, body: Any) -> torch.Tensor:
        if tag != "__tensor__" or not isinstance(body, str):
            raise ValueError(f"unknown value {tag!r} in the optimizer's state")
        return tensor_of(body)

    return decode(document, read)


def _load_spread(path: PathLike, optimizer: torch.optim.Optimizer, team: Team) -> None:
    """The first rank reads; each rank gets its part of what belongs to a parameter, and the rest whole."""
    tensors: dict[str, torch.Tensor] = {}

    def read() -> Any:
        document, found = _read(path, optimizer)
        tensors.update(found)
        return document, {name: (tuple(one.shape), one.dtype) for name, one in found.items()}

    document, kinds = team.by_first(read)
    names: dict[int, str] = {}

    def placeholder(name: str) -> torch.Tensor:
        shape, dtype = kinds[name]
        empty = torch.empty(shape, dtype=dtype, device="meta")
        names[id(empty)] = name
        return empty

    def filled(value: Any, like: torch.Tensor | None) -> Any:
        if isinstance(value, dict):
            return {key: filled(one, like) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(filled(one, like) for one in value)
        if not isinstance(value, torch.Tensor):
            return value
        target = team.spread_like(value, like)
        team.fill(target, tensors.get(names[id(value)]))
        return target

    state = _decoded(document, placeholder)
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    owners = dict(zip(numbers, parameters, strict=True))
    state["state"] = {number: filled(values, owners.get(number)) for number, values in state["state"].items()}
    state["param_groups"] = filled(state["param_groups"], None)
    optimizer.load_state_dict(state)
