"""torchview's graph of operations, drawn from a copy of the model and by our own rendering."""

from __future__ import annotations

import copy
import threading
from typing import TYPE_CHECKING, Any

import torch

from torchkutils import _lazy
from torchkutils.models.records import EngineName, Mode, Run
from torchkutils.models.restore.restored import restored
from torchkutils.models.tree.example_inputs import model_arguments
from torchkutils.models.tree.given_model import given_model
from torchkutils.models.tree.module_tree import ModuleTree

if TYPE_CHECKING:
    from torchkutils.models.picture.digraph import ModelDigraph

# torchview patches nn.Module.__call__ and torch's factory functions while it looks: never two at once.
_PATCHING = threading.Lock()


def torchview_graph(
    model: torch.nn.Module,
    *,
    rankdir: str,
    dpi: float,
    show_shapes: bool,
    expand_nested: bool,
    depth: int | None,
    input_size: Any,
    input_data: Any,
    dtypes: Any,
    mode: Mode,
    engine: EngineName,
) -> ModelDigraph:
    """Draw every operation with torchview, which runs on a deep copy of the model.

    torchview patches `torch.nn.Module.__call__` of the process for the moment; only one call does so at a time.

    Raises:
        TypeError: The model is none.
        ValueError: No input was given, or an engine or mode that torchview does not have.
        RuntimeError: torchview or the model failed; the message has the cause, and the exception is chained.
    """
    from torchkutils.models.picture.digraph import ModelDigraph

    model = given_model(model)
    if engine not in ("auto", "real") or mode not in ("eval", "train"):
        raise ValueError(f"drawer='torchview' has engine 'real' and mode 'eval' or 'train', got {engine!r}, {mode!r}")
    if input_size is None and input_data is None:
        raise ValueError("drawer='torchview' runs the model: give input_size or input_data")
    with restored(ModuleTree(model)), _PATCHING:
        args, kwargs = copy.deepcopy(
            model_arguments(model, Run(input_size=input_size, input_data=input_data, dtypes=dtypes))
        )
        if args and kwargs:
            raise ValueError("drawer='torchview' takes positional or keyword arguments, not both")
        try:
            drawn = _lazy.torchview.draw_graph(
                copy.deepcopy(model),
                input_data=kwargs or args,
                graph_name=type(model).__name__,
                depth=1_000 if expand_nested and depth is None else 3 if depth is None else depth,
                device=_device(model),
                mode=mode,
                expand_nested=expand_nested,
                graph_dir=rankdir,
                show_shapes=show_shapes,
            )
        except Exception as error:
            cause = error.__cause__ or error
            raise RuntimeError(f"torchview could not draw the model: {type(cause).__name__}: {cause}") from cause
    graph = ModelDigraph(name=drawn.visual_graph.name)
    for kind in ("graph_attr", "node_attr", "edge_attr"):
        getattr(graph, kind).update(getattr(drawn.visual_graph, kind))
    graph.body.extend(drawn.visual_graph.body)
    graph.graph_attr["dpi"] = str(dpi)
    graph.model_name, graph.caption, graph.dots_per_inch = type(model).__name__, "torchview", dpi
    return graph


def _device(model: torch.nn.Module) -> torch.device:
    first = next(iter(model.parameters()), None)
    return torch.device("cpu") if first is None else first.device
