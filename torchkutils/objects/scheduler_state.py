"""The state of learning-rate schedulers in a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchkutils._typing import PathLike
from torchkutils.objects.metadata import decoded, state_document
from torchkutils.objects.model_tensors import StateToStore
from torchkutils.objects.named_documents import chosen_document, named_documents
from torchkutils.objects.optimizer_state import alike
from torchkutils.objects.stored_file import opened_model_file

__all__ = ["load_scheduler", "scheduler_documents"]


def scheduler_documents(schedulers: Mapping[str, Any], state: StateToStore) -> dict[str, Any]:
    """The document of some schedulers, by name; tensors in their states are added to `state`."""
    return named_documents(
        "scheduler",
        {
            name: {
                "class_name": type(one).__name__,
                "state": state_document(one.state_dict(), f"scheduler{f' {name}' if name else ''}", state),
            }
            for name, one in schedulers.items()
        },
    )


def load_scheduler(path: PathLike, scheduler: Any, name: str | None = None) -> None:
    """Give a learning-rate scheduler the state that `save_model` stored.

    Args:
        path: The file.
        scheduler: One of the same class, with `state_dict` and `load_state_dict`. The lambdas of a LambdaLR are its
            own: no file holds them.
        name: Which of several; None where the file holds one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file holds no such scheduler, one of another class, or a state that does not fit it; or it is
            damaged. The scheduler is as it was.
        TypeError: `scheduler` is no scheduler.

    >>> import tempfile, pathlib, torch
    >>> from torchkutils import save_model
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> model = torch.nn.Linear(2, 3)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    >>> scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7)
    >>> save_model(model, path, scheduler=scheduler)
    >>> other = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3)
    >>> load_scheduler(path, other)
    >>> other.step_size
    7
    """
    if not callable(getattr(scheduler, "load_state_dict", None)) or not callable(
        getattr(scheduler, "state_dict", None)
    ):
        raise TypeError(f"scheduler must have state_dict and load_state_dict, got {type(scheduler).__name__}")
    with opened_model_file(path) as file:
        document = chosen_document(file, "scheduler", name)
        if document.get("class_name") != type(scheduler).__name__:
            raise ValueError(
                f"scheduler must be a {str(document.get('class_name'))[:60]}, got {type(scheduler).__name__}"
            )
        value, own = decoded(file, document.get("state"), "scheduler"), scheduler.state_dict()
        if not isinstance(value, dict):
            raise ValueError("its scheduler's state is malformed")
        for key, one in value.items():
            if key not in own or not alike(own[key], one):
                raise ValueError(f"its scheduler's state does not fit a {type(scheduler).__name__}: {str(key)[:60]!r}")
        before = dict(vars(scheduler))
        try:
            scheduler.load_state_dict(value)
        except Exception as error:
            vars(scheduler).clear()
            vars(scheduler).update(before)
            raise ValueError(f"its scheduler's state does not fit: {error}") from error
