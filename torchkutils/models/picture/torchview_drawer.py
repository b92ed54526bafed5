"""torchview's graph of operations, drawn from a copy of the model and by our own rendering."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import torch

from torchkutils import _lazy
from torchkutils.models.picture.look import Look
from torchkutils.models.records import Run
from torchkutils.models.restore.restored import restored
from torchkutils.models.tree.example_inputs import model_arguments
from torchkutils.models.tree.given_model import given_model
from torchkutils.models.tree.module_tree import ModuleTree

if TYPE_CHECKING:
    from torchkutils.models.picture.digraph import ModelDigraph

# torchview patches nn.Module.__call__ and torch's factory functions while it looks: never two at once.
_PATCHING = threading.Lock()
# torchview's own default, and what is deeper than any model.
_TORCHVIEW_DEPTH = 3
_ALL_LEVELS = 1_000


def torchview_graph(model: torch.nn.Module, run: Run, look: Look) -> ModelDigraph:
    """Draw every operation with torchview, which runs on a deep copy of the model.

    torchview patches `torch.nn.Module.__call__` of the process for the moment; only one call does so at a time. Of the
    look it takes `show_shapes`, `expand_nested`, `depth`, `rankdir`, `dpi` and `splines`.

    Raises:
        TypeError: The model is none.
        ValueError: No input was given, or an engine or mode that torchview does not have.
        RuntimeError: torchview or the model failed; the message has the cause, and the exception is chained.
    """
    model = given_model(model)
    _check_run(run)
    with restored(ModuleTree(model)), _PATCHING:
        args, kwargs = copy.deepcopy(model_arguments(model, run))
        if args and kwargs:
            raise ValueError("drawer='torchview' takes positional or keyword arguments, not both")
        try:
            drawn = _lazy.torchview.draw_graph(
                copy.deepcopy(model),
                input_data=kwargs or args,
                graph_name=type(model).__name__,
                depth=_depth(look),
                device=_device(model),
                mode=run.mode,
                expand_nested=look.expand_nested,
                graph_dir=look.rankdir,
                show_shapes=look.show_shapes,
            )
        except Exception as error:
            cause = error.__cause__ or error
            raise RuntimeError(f"torchview could not draw the model: {type(cause).__name__}: {cause}") from cause
    return _as_digraph(drawn.visual_graph, type(model).__name__, look)


def _check_run(run: Run) -> None:
    if run.engine not in ("auto", "real") or run.mode not in ("eval", "train"):
        raise ValueError(
            f"drawer='torchview' has engine 'real' and mode 'eval' or 'train', got {run.engine!r}, {run.mode!r}"
        )
    if run.input_size is None and run.input_data is None:
        raise ValueError("drawer='torchview' runs the model: give input_size or input_data")


def _as_digraph(drawn: Any, model_name: str, look: Look) -> ModelDigraph:
    """torchview's graph, which the dot program would have to draw, as one that draws itself."""
    from torchkutils.models.picture.digraph import ModelDigraph

    graph = ModelDigraph(name=drawn.name)
    for kind in ("graph_attr", "node_attr", "edge_attr"):
        getattr(graph, kind).update(getattr(drawn, kind))
    graph.body.extend(drawn.body)
    graph.graph_attr["dpi"] = str(look.dpi)
    if look.splines is not None:
        graph.graph_attr["splines"] = look.splines
    graph.model_name, graph.caption, graph.dots_per_inch = model_name, "torchview", look.dpi
    return graph


def _depth(look: Look) -> int:
    if look.depth is not None:
        return look.depth
    return _ALL_LEVELS if look.expand_nested else _TORCHVIEW_DEPTH


def _device(model: torch.nn.Module) -> torch.device:
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device
