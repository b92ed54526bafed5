"""A model as one interactive HTML file: Graphviz's layouts, one a nesting depth, and a script that moves in them."""

from __future__ import annotations

import base64
import gzip
import html
import importlib.resources
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from torchkutils.models.picture.boxes import agreed, arguments_text, dtypes_of
from torchkutils.models.picture.dot_text import draw
from torchkutils.models.picture.drawing import Drawing
from torchkutils.models.picture.look import Look
from torchkutils.models.picture.picture_graph import PictureGraph
from torchkutils.models.records import Call, Trace, shape_text
from torchkutils.models.render import render
from torchkutils.models.tree.totals import Operations, bounded, held_below, held_by_each, totals_of

# Deeper nesting than this is drawn at the leaves at once: a slider with more stops helps no one.
_MOST_LEVELS = 12


@dataclass(frozen=True)
class ModelPage:
    """One HTML file that shows a model: zoom, pan, depth, search, facts; it needs no network.

    Attributes:
        html: The whole file.
        model_name: The model's class name.
    """

    html: str
    model_name: str = ""

    def _repr_html_(self) -> str:
        # srcdoc in a sandbox: the page's script reaches nothing of the notebook.
        text = html.escape(self.html, quote=True)
        return (
            f'<iframe srcdoc="{text}" sandbox="allow-scripts allow-modals" '
            'style="width:100%;height:640px;border:1px solid #888" title="the model"></iframe>'
        )

    def __repr__(self) -> str:
        return f"ModelPage({self.model_name!r}, {len(self.html.encode()) / 1000:,.0f} KB of HTML)"


def make_page(
    trace: Trace, look: Look, *, rankdir: str, functions: bool, depth: int, rolled: bool | None = None
) -> ModelPage:
    """Draw every depth of a trace and put the drawings, the facts and the script into one file.

    Args:
        trace: What ran.
        look: What stands in a box.
        rankdir: "TB", "BT", "LR" or "RL".
        functions: Show functions between modules too.
        depth: The depth shown first.
        rolled: As in `PictureGraph`.

    Raises:
        RuntimeError: Neither `dot` nor pygraphviz is there, or Graphviz refused the graph.
    """
    pictures = _pictures(trace, functions, rolled)
    # Each layout is a process of its own: they run side by side.
    with ThreadPoolExecutor(max_workers=4) as pool:
        drawn = list(pool.map(lambda picture: _svg(picture, look, rankdir), pictures))
    data = _facts(trace) | {
        "boxes": {key: _box_facts(box) for picture in pictures for key, box in picture.boxes.items()},
        "frames": {frame: module for picture in pictures for frame, module in picture.cluster_modules.items()},
        "levels": [
            {"svg": svg, "arrows": [[a.source, a.target, a.count] for a in picture.arrows]}
            for svg, picture in zip(drawn, pictures, strict=True)
        ],
        "depth": min(depth, len(pictures) - 1),
    }
    packed = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    parts = {
        "@TITLE@": html.escape(trace.model_name),
        "@STYLE@": _asset("page.css"),
        "@SCRIPT@": _asset("page.js"),
        "@DATA@": base64.b64encode(packed).decode(),
    }
    page = _asset("page.html")
    # The model's name goes in last: nothing is put into what a stranger named.
    for mark in ("@STYLE@", "@SCRIPT@", "@DATA@", "@TITLE@"):
        page = page.replace(mark, parts[mark])
    return ModelPage(page, trace.model_name)


def _asset(name: str) -> str:
    return (importlib.resources.files(__package__) / "page_assets" / name).read_text(encoding="utf-8").rstrip()


def _pictures(trace: Trace, functions: bool, rolled: bool | None) -> list[PictureGraph]:
    """One graph for each depth, as deep as something opens."""
    deepest = max((trace.modules[call.module].depth for call in trace.calls), default=0)
    last = min(deepest, _MOST_LEVELS)
    depths = [*range(last), deepest]
    return [PictureGraph(trace, depth, functions=functions, rolled=rolled) for depth in depths]


def _svg(picture: PictureGraph, look: Look, rankdir: str) -> str:
    drawing = Drawing(picture.trace, replace(look, rankdir=rankdir, dpi=72))
    return render(draw(drawing, picture, tooltips=False).source, "svg").decode()


def _box_facts(box: Any) -> dict[str, Any]:
    facts = {
        "module": box.module,
        "kind": box.kind,
        "title": box.title,
        "class_name": box.class_name,
        "inputs": box.inputs,
        "outputs": box.outputs,
        "dtype": box.dtype,
    }
    if box.cluster is not None:
        facts["cluster"] = box.cluster
    return facts | ({"failed": True} if box.failed else {})


def _facts(trace: Trace) -> dict[str, Any]:
    """The model's name, totals, modules and failure, as JSON holds them."""
    failure = trace.failure
    failed = None if failure is None else trace.calls[failure.call].module
    return {
        "name": trace.model_name,
        "totals": totals_text(trace),
        "modules": _modules(trace),
        "failure": None if failure is None else failure.error,
        "failed": failed,
        "failed_path": None if failed is None else trace.modules[failed].path or trace.model_name,
    }


def _modules(trace: Trace) -> list[dict[str, Any]]:
    calls: dict[int, list[Call]] = {}
    for call in trace.calls:
        calls.setdefault(call.module, []).append(call)
    operations, below = Operations(trace), held_below(trace, held_by_each(trace))
    facts = []
    for module in trace.modules:
        own = calls.get(module.index, [])
        held, (flops, known) = below[module.index], operations.of(own)
        facts.append(
            {
                "index": module.index,
                "path": module.path,
                "class_name": module.class_name,
                "depth": module.depth,
                "parent": module.parent,
                "extra_repr": module.extra_repr,
                "inputs": agreed(arguments_text(call.inputs) for call in own) if own else "",
                "outputs": agreed(shape_text(call.output) for call in own) if own else "",
                "dtype": dtypes_of(own[0].output) if own else "",
                "calls": len(own),
                "params": "?" if held.lazy else f"{held.elements:,}",
                "trainable": f"{held.trainable:,}",
                "flops": bounded(flops, known) if own else "",
                "opens": any(not call.leaf for call in own),
            }
        )
    return facts


def totals_text(trace: Trace) -> str:
    """The summary's totals in one line."""
    totals = totals_of(trace)
    made = not totals.lazy
    parts = [f"{bounded(totals.params, made)} parameters", f"{bounded(totals.trainable, made)} trainable"]
    if trace.engine.ran != "structure":
        parts.append(f"{bounded(totals.flops, totals.flops_known)} FLOPs")
    return " · ".join([*parts, str(trace.engine)])
