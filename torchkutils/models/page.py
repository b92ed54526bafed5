"""A model as one interactive HTML file: its modules and arrows as data, and a script that lays out what is open."""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import html
import importlib.resources
import json
import re
from dataclasses import dataclass
from typing import Any

from torchkutils.models.page_tree.groups import grouped
from torchkutils.models.page_tree.items import item_tree
from torchkutils.models.page_tree.packed import packed
from torchkutils.models.picture.layer_kinds import PALETTE
from torchkutils.models.picture.look import Look
from torchkutils.models.records import Trace
from torchkutils.models.tree.totals import bounded, totals_of

# The pages' script: each file has one subject, and they are read in this order.
_SHARED_SCRIPTS = (
    *("elements", "model", "arrows", "layout", "measure", "boxes", "paths", "picture", "view"),
    *("theme", "app", "search", "save", "keys"),
)
_PAGE_SCRIPTS = ("colours", "table", "facts", "map", "link", "main")
_COMPARISON_SCRIPTS = ("differences", "compare")
_MOST_UNCALLED = 50
# The papers of page.css, and how much of a kind's colour is mixed into each, so that the page's text is readable on it.
_LIGHT, _DARK = ("#ffffff", 0.5), ("#0d1117", 0.35)
_MARK = re.compile("@([A-Z_]+)@")


@dataclass(frozen=True)
class ModelPage:
    """One HTML file that shows a model: modules that open in place, search, colours, a table; it needs no network.

    Attributes:
        html: The whole file.
        model_name: The model's class name.
    """

    html: str
    model_name: str = ""

    def _repr_html_(self) -> str:
        return in_frame(self.html, "the model")

    def __repr__(self) -> str:
        return f"ModelPage({self.model_name!r}, {len(self.html.encode()) / 1000:,.0f} KB of HTML)"


def in_frame(page: str, title: str) -> str:
    """A page for a notebook's cell, in a sandbox: its script reaches nothing of the notebook."""
    text = html.escape(page, quote=True)
    return (
        f'<iframe srcdoc="{text}" sandbox="allow-scripts allow-modals allow-downloads" '
        f'style="width:100%;height:640px;border:1px solid #888" title="{html.escape(title, quote=True)}"></iframe>'
    )


def make_page(
    trace: Trace, look: Look, *, rankdir: str, functions: bool, depth: int, rolled: bool | None = None
) -> ModelPage:
    """Put the items of a trace, the layout library and the script into one file.

    Args:
        trace: What ran.
        look: What is written in a box.
        rankdir: "TB", "BT", "LR" or "RL".
        functions: Show functions between modules too.
        depth: Down to where modules are open at first.
        rolled: As in `PictureGraph`.
    """
    data = _facts(trace, look, rankdir=rankdir, functions=functions, depth=depth, rolled=rolled)
    return ModelPage(filled("page.html", trace.model_name, data, (*_SHARED_SCRIPTS, *_PAGE_SCRIPTS)), trace.model_name)


def comparison_page(traces: tuple[Trace, Trace], pairs: dict[int, int], differences: dict[str, Any]) -> ModelPage:
    """Two models side by side, what differs marked in both.

    Args:
        traces: What ran.
        pairs: Indexes of the modules of the first trace that are the same in the second one.
        differences: What `ModelComparison.to_dict` gives.
    """
    back = {other: one for one, other in pairs.items()}
    changed = [one for one in differences["differences"] if one["status"] == "changed"]
    sides = []
    for trace, known, there, path in (
        (traces[0], pairs, traces[1], "path"),
        (traces[1], back, traces[0], "other_path"),
    ):
        side = _facts(trace, Look(), rankdir="TB", functions=False, depth=1, rolled=None)
        alone = {module.path: "alone" for module in trace.modules if module.index not in known}
        side["statuses"] = alone | {one[path]: "changed" for one in changed}
        side["pairs"] = {trace.modules[one].path: there.modules[other].path for one, other in known.items()}
        sides.append(side)
    title = f"{traces[0].model_name} → {traces[1].model_name}"
    data = {"name": title, "sides": sides, "comparison": differences}
    return ModelPage(filled("compare.html", title, data, (*_SHARED_SCRIPTS, *_COMPARISON_SCRIPTS)), title)


def _facts(
    trace: Trace, look: Look, *, rankdir: str, functions: bool, depth: int, rolled: bool | None
) -> dict[str, Any]:
    """What a page holds of one model."""
    tree = item_tree(trace, functions=functions, rolled=rolled)
    grouped(tree.root, trace)
    failure = trace.failure
    failed = None if failure is None else trace.modules[trace.calls[failure.call].module]
    return {
        "name": trace.model_name,
        "totals": totals_text(trace),
        "ran": trace.engine.ran != "structure",
        "rankdir": rankdir,
        "depth": depth,
        "names": look.show_layer_names,
        "shapes": look.show_shapes,
        "dtype": look.show_dtype,
        "params": look.show_params,
        "trainable": look.show_trainable,
        "failure": None if failure is None else failure.error,
        "failed_path": None if failed is None else failed.path or trace.model_name,
        "uncalled": _uncalled(trace),
        "tree": packed(tree),
    }


def _uncalled(trace: Trace) -> list[str]:
    """Paths of the outermost modules in which nothing ran, the first of them where they are very many."""
    ran = [False] * len(trace.modules)
    for call in trace.calls:
        ran[call.module] = True
    for module in reversed(trace.modules):
        if module.parent is not None and (ran[module.index] or module.same_as is not None):
            # The calls of a shared module are those of its first record.
            ran[module.parent] = ran[module.index] = True
    idle = [
        module.path
        for module in trace.modules
        if module.parent is not None and not ran[module.index] and ran[module.parent]
    ]
    return [*idle[:_MOST_UNCALLED], "…"] if len(idle) > _MOST_UNCALLED else idle


def filled(template: str, title: str, data: dict[str, Any], scripts: tuple[str, ...]) -> str:
    """A page's file: head and template with styles, scripts and data, and the hashes that let only those run."""
    styles = {"STYLE": f"{_palette()}\n{_asset('page.css')}", "PICTURE_STYLE": _asset("picture.css")}
    script = _script(scripts)
    # JSON packed as base64 has no mark that ends the element.
    content = gzip.compress(json.dumps(data, separators=(",", ":")).encode(), mtime=0)
    parts = styles | {
        "SCRIPT": script,
        "STYLE_HASHES": " ".join(map(_hash, styles.values())),
        "SCRIPT_HASHES": _hash(script),
        "DATA": base64.b64encode(content).decode(),
        "TITLE": html.escape(title),
    }
    # One pass: a mark in the name of a model or a module is not replaced.
    return _MARK.sub(lambda mark: parts[mark[1]], f"{_asset('head.html')}\n{_asset(template)}")


@functools.cache
def _palette() -> str:
    """The colours of kinds of layers as variables of CSS: the picture's, mixed with the page's paper."""
    lines = [
        f"  --{kind}: light-dark({colour.mixed(*_LIGHT)}, {colour.mixed(*_DARK)});" for kind, colour in PALETTE.items()
    ]
    return "\n".join([":root {", *lines, "}"])


@functools.cache
def _script(names: tuple[str, ...]) -> str:
    own = "\n".join(_asset(f"script/{name}.js") for name in names)
    return f'{_asset("dagre/dagre.min.js")}\n(async () => {{\n"use strict";\n{own}\n}})();\n'


@functools.cache
def _asset(name: str) -> str:
    return (importlib.resources.files(__package__) / "page_assets" / name).read_text(encoding="utf-8").rstrip()


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def totals_text(trace: Trace) -> str:
    """The summary's totals in one line."""
    totals = totals_of(trace)
    made = not totals.lazy
    parts = [f"{bounded(totals.params, made)} parameters", f"{bounded(totals.trainable, made)} trainable"]
    if trace.engine.ran != "structure":
        parts.append(f"{bounded(totals.flops, totals.flops_known)} FLOPs")
    return " · ".join([*parts, f"engine: {trace.engine}"])
