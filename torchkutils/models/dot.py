"""model_to_dot: the traced data flow as a Graphviz graph in Keras's look."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from torchkutils._call_hints import hinting, meant, shown
from torchkutils._typing import InputDTypes, InputSize, Rankdir
from torchkutils.models.forward.raised_errors import attach
from torchkutils.models.picture.dot_text import draw
from torchkutils.models.picture.drawing import Drawing
from torchkutils.models.picture.layer_kinds import LayerFacts, layer_facts
from torchkutils.models.picture.look import Look, PictureStyle, Splines
from torchkutils.models.records import EngineName, Mode, Run, Trace
from torchkutils.models.trace import trace_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torchkutils.models.picture.digraph import ModelDigraph


@hinting(input_shape="input_size", device="the model runs where it is: model.to(device)")
def model_to_dot(
    model: torch.nn.Module,
    show_shapes: bool = False,
    show_layer_names: bool = True,
    rankdir: Rankdir = "TB",
    expand_nested: bool = False,
    dpi: int = 96,
    subgraph: bool = False,
    *,
    input_size: InputSize | None = None,
    input_data: Any = None,
    dtypes: InputDTypes | None = None,
    depth: int | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    show_dtype: bool = False,
    show_params: bool = False,
    show_trainable: bool = False,
    show_ops: bool = False,
    show_layer_activations: bool = False,
    rolled: bool | None = None,
    fold: bool = False,
    layer_range: Sequence[str] | None = None,
    splines: Splines | None = None,
    style: PictureStyle = "keras",
    input_kwargs: Any = None,
) -> ModelDigraph:
    """A model as a `graphviz.Digraph`, with the edges that its tensors take.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        show_shapes: Input and output shapes in each box; "?" without an input.
        show_layer_names: Names before the classes.
        rankdir: "TB", "BT", "LR" or "RL".
        expand_nested: Nested modules as clusters down to the leaves, instead of one box each.
        dpi: Dots per inch of a bitmap.
        subgraph: Give a cluster that can be put into another graph by its `subgraph` method.
        input_size, input_data, input_kwargs, dtypes, mode, engine: As in `summarize`.
        depth: How many levels to open; beats `expand_nested`. 0 is one box. `ModuleList` and `ModuleDict` are no level.
        show_dtype, show_params, show_trainable: More facts in each box.
        show_ops: Functions between modules too; without it only those that join tensors. Comparisons that only decide
            what Python does are left out.
        rolled: None: the calls of a module share one box, which says how many, if it holds parameters; else each
            call has a box. True: always one box, and a repeated pattern of functions once with "× n". False: never.
        show_layer_activations: The activation that a module holds as an attribute, as nn.TransformerEncoderLayer does.
        fold: Equal blocks that follow each other are one box, "12 × BertLayer".
        layer_range: The first and the last layer that is drawn, both included: paths, or regular expressions that match
            from the beginning of a path. Inputs, outputs and parameters of these layers are drawn too.
        splines: How arrows run: "ortho", "curved", "polyline", "spline" or "line"; None: Graphviz's own way.
        style: "keras", or "color": boxes have a colour for their kind of layer (convolution, attention, normalisation,
            activation, recurrent, embedding, linear, pooling, dropout), out of Okabe and Ito's palette.

    Returns:
        A `graphviz.Digraph` whose `pipe`, `render`, inline display and pydot-like `create` and `write` need no
        `dot` program where pygraphviz has a wheel. Its `caption` says what ran. More than three arrows between two
        boxes are one with a number.

    Raises:
        TypeError, ValueError: An argument that cannot be.
        Exception: What forward raised, with the graph of the part that ran as its attribute `dot`, the module that
            failed in red.

    Differs from Keras: the graph is graphviz's and not pydot's; functions that join tensors are boxes.

    >>> graph = model_to_dot(torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU()), input_size=(1, 4))
    >>> graph.caption
    'real'
    """
    if meant(show_shapes):
        raise TypeError(f"show_shapes must be True or False, got {shown(show_shapes)}{meant(show_shapes)}")
    look, run = Look.asked_for(locals()), Run.asked_for(locals())
    return drawn(model, run, look, subgraph=subgraph)


def drawn(model: torch.nn.Module, run: Run, look: Look, *, subgraph: bool = False) -> ModelDigraph:
    """The graph of one run of a model.

    Raises:
        TypeError, ValueError, Exception: As `model_to_dot`.
    """
    facts = layer_facts(model) if look.coloured or look.show_layer_activations else LayerFacts()
    try:
        trace = trace_model(model, run)
    except Exception as error:
        partial = getattr(error, "trace", None)
        if isinstance(partial, Trace):
            # The range's end may be what did not run.
            whole = replace(look, layer_range=None)
            attach(error, "dot", draw(Drawing(partial, whole, facts), subgraph=subgraph))
        raise
    return draw(Drawing(trace, look, facts), subgraph=subgraph)
