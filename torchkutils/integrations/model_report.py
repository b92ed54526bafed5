"""A model's summary, picture and page, as files and in the loggers that people have.

Loggers are known by what they can do, so that none of them is imported here: a TensorBoard `SummaryWriter`, a run of
Weights & Biases, `mlflow` itself or a client of it, and Lightning's loggers around these.

    log_summary(SummaryWriter(), model, input_size=(None, 3, 224, 224))
    log_picture(wandb.init(), model, input_size=(None, 3, 224, 224))
"""

from __future__ import annotations

import inspect
import io
import json
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Iterable
from typing import Any, Literal, Unpack

import numpy as np
import torch

from torchkutils import _lazy
from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.integrations.look_options import GivenInput, PictureOptions, SummaryOptions
from torchkutils.models.plot import ModelPlot, plot_model
from torchkutils.models.summary import ModelSummary, summarize

__all__ = ["log_picture", "log_summary", "write_report"]

Kind = Literal["tensorboard", "wandb", "mlflow"]


def log_summary(
    logger: Any,
    model: torch.nn.Module | ModelSummary,
    *,
    name: str = "model",
    step: int = 0,
    **look: Unpack[SummaryOptions],
) -> ModelSummary:
    """Log a model's table and its totals.

    Args:
        logger: A TensorBoard SummaryWriter, a W&B run, `mlflow` or an MlflowClient, or a Lightning logger around one.
        model: The model, or its summary.
        name: What it is called there.
        step: The step it is logged at, where a logger has steps.
        **look: Arguments of `summarize`.

    Returns:
        The summary.

    Raises:
        TypeError: `logger` is none of these.
        Exception: As `summarize`.
    """
    kind, target, run_id = _known(logger)
    summary = model if isinstance(model, ModelSummary) else summarize(model, **look)
    totals = {
        f"{name}/parameters": summary.total_params,
        f"{name}/trainable_parameters": summary.trainable_params,
        f"{name}/flops": summary.flops,
    }
    if kind == "tensorboard":
        target.add_text(f"{name}/summary", f"```\n{summary}\n```", step)
    elif kind == "wandb":
        target.summary.update(totals)
        target.log({f"{name}/summary": sys.modules["wandb"].Html(summary._repr_html_())}, step=step)
    else:
        target.log_text(*run_id, str(summary), f"{name}/summary.txt")
        target.log_text(*run_id, json.dumps(summary.to_dict()), f"{name}/summary.json")
    return summary


def log_picture(
    logger: Any,
    model: torch.nn.Module | ModelPlot,
    *,
    name: str = "model",
    step: int = 0,
    **look: Unpack[PictureOptions],
) -> ModelPlot:
    """Log a model's picture.

    Args:
        logger: As in `log_summary`.
        model: The model, or its plot.
        name: What it is called there.
        step: The step it is logged at, where a logger has steps.
        **look: Arguments of `plot_model`.

    Returns:
        The plot.

    Raises:
        TypeError: `logger` is none of those.
        ImportError: Pillow is missing, which TensorBoard's pictures need (`pip install 'torchkutils[images]'`).
        RuntimeError: Graphviz is missing.
    """
    kind, target, run_id = _known(logger)
    plot = model if isinstance(model, ModelPlot) else plot_model(model, None, **look)
    with tempfile.TemporaryDirectory() as folder:
        picture = pathlib.Path(folder) / ("model.svg" if kind == "mlflow" else "model.png")
        plot.save(picture)
        if kind == "tensorboard":
            image = _lazy.optional("PIL.Image", "images").open(io.BytesIO(picture.read_bytes())).convert("RGB")
            target.add_image(f"{name}/picture", np.asarray(image), step, dataformats="HWC")
        elif kind == "wandb":
            target.log({f"{name}/picture": sys.modules["wandb"].Image(str(picture))}, step=step)
        else:
            target.log_text(*run_id, picture.read_text(encoding="utf-8"), f"{name}/model.svg")
    return plot


def write_report(
    model: torch.nn.Module,
    folder: PathLike,
    *,
    loggers: Iterable[Any] = (),
    name: str = "model",
    **look: Unpack[GivenInput],
) -> ModelSummary:
    """Write `<name>_summary.txt` and the page `<name>.html` into a folder, and log both where a logger takes them.

    What goes wrong is a warning: a report must not end the training that it reports on. Where forward fails, the
    report shows the structure alone.

    Args:
        model: The model.
        folder: Where the files go; it is made where it is missing.
        loggers: As in `log_summary`; one that is not known is left out.
        name: Of the files and in the loggers.
        **look: Arguments of `summarize` that say what the model is given.

    Returns:
        The summary.
    """
    try:
        summary = summarize(model, **look)
    except Exception as error:
        warnings.warn(f"the model's forward failed, the report shows its structure alone: {error}", stacklevel=3)
        look = {"engine": "structure"}
        summary = summarize(model, **look)
    target = pathlib.Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with replacing(target / f"{name}_summary.txt") as file:
        file.write_text(f"{summary}\n", encoding="utf-8")
    known = [logger for logger in loggers if _kind_of(_inside(logger)) is not None]
    for logger in known:
        log_summary(logger, summary, name=name)
    try:
        plot = plot_model(model, target / f"{name}.html", **look)
        for logger in known:
            log_picture(logger, plot, name=name)
    except (ImportError, RuntimeError, ValueError) as error:
        warnings.warn(f"the model's picture was not made: {error}", stacklevel=3)
    return summary


def _inside(logger: Any) -> Any:
    """What a Lightning logger wraps."""
    return logger.experiment if hasattr(logger, "experiment") else logger


def _kind_of(target: Any) -> Kind | None:
    if hasattr(target, "add_text") and hasattr(target, "add_image"):
        return "tensorboard"
    if hasattr(target, "log_text") and hasattr(target, "log_artifact"):
        return "mlflow"
    if hasattr(target, "log") and hasattr(target, "summary") and "wandb" in sys.modules:
        return "wandb"
    return None


def _known(logger: Any) -> tuple[Kind, Any, tuple[str, ...]]:
    """The kind of a logger, the object to call, and the run's id where that object serves many runs."""
    target = _inside(logger)
    kind = _kind_of(target)
    if kind is None:
        raise TypeError(
            "logger must be a TensorBoard SummaryWriter, a run of wandb, mlflow or a client of it, or a Lightning "
            f"logger around one, got {type(logger).__name__}"
        )
    return kind, target, _run_id(logger, target) if kind == "mlflow" else ()


def _run_id(logger: Any, target: Any) -> tuple[str, ...]:
    """The first argument of a client's methods; `mlflow` itself knows its run."""
    parameter = inspect.signature(target.log_text).parameters.get("run_id")
    if parameter is None or parameter.default is not parameter.empty:
        return ()
    if getattr(logger, "run_id", None) is None:
        raise TypeError("logger must know its run: give mlflow itself, inside a run, or Lightning's MLFlowLogger")
    return (logger.run_id,)
