"""An optimizer's state in a model file."""

from __future__ import annotations

from typing import Any

import torch

from torchkutils._typing import PathLike
from torchkutils.objects.plain_values import decode, encode
from torchkutils.objects.stored_file import open_model_file

__all__ = ["load_optimizer", "optimizer_document"]


def optimizer_document(optimizer: torch.optim.Optimizer, state: Any) -> dict[str, Any]:
    """The optimizer's class, state and parameter shapes; its tensors are added to `state`."""

    def store(value: Any, where: str) -> Any:
        if not isinstance(value, torch.Tensor):
            raise ValueError(f"{where} must be plain, got a {type(value).__name__}")
        return {"__tensor__": state.add(value, where)}

    return {
        "class_name": type(optimizer).__name__,
        "shapes": _shapes(optimizer),
        "state": encode(optimizer.state_dict(), "optimizer", store),
    }


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[list[int]]]:
    return [[list(parameter.shape) for parameter in group["params"]] for group in optimizer.param_groups]


def load_optimizer(path: PathLike, optimizer: torch.optim.Optimizer) -> None:
    """Give an optimizer the state that `save_model` stored: its next step is the one that would have followed.

    Args:
        path: The file.
        optimizer: One of the same class, over parameters of the same shapes in the same order and groups.

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

        def read(tag: str, body: Any) -> torch.Tensor:
            if tag != "__tensor__" or not isinstance(body, str):
                raise ValueError(f"unknown value {tag!r} in the optimizer's state")
            return file.read(body)

        state = decode(document.get("state"), read)
    optimizer.load_state_dict(state)
