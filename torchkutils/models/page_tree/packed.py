"""The items of a page as the few flat lists of numbers that its script reads."""

from __future__ import annotations

from typing import Any

from torchkutils.models.page_tree.items import Item, ItemTree
from torchkutils.models.picture.layer_kinds import PALETTE, kind_of, kind_of_function

KINDS = ("module", "group", "range", "function", "input", "output", "parameter", "buffer", "constant")
LAYERS = ("other", *PALETTE, "block", "end")
"""Kinds of layers in the order of the legend; "block" holds other modules, "end" is an input, output or parameter."""

_COLUMNS = (
    *("kind", "layer", "parent", "name", "class", "arguments", "inputs", "outputs", "dtype"),
    *("params", "trainable", "flops", "memory", "calls", "count", "flags"),
)

# Bits of an item's flags.
FAILED, UNTRACED, FLOPS_AT_LEAST, LAZY = 1, 2, 4, 8
_ENDS = ("input", "output", "parameter", "buffer", "constant")


def packed(tree: ItemTree) -> dict[str, Any]:
    """Columns of the items in preorder, so that what lies in an item follows it, and the arrows by their numbers."""
    strings: dict[str, int] = {"": 0}
    numbers: dict[int, int] = {}
    columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
    paths: dict[str, str] = {}

    def text(value: str) -> int:
        return strings.setdefault(value, len(strings))

    stack: list[tuple[Item, int, str]] = [(tree.root, -1, "")]
    while stack:
        item, parent, around = stack.pop()
        number = numbers[id(item)] = len(numbers)
        values = (
            KINDS.index(item.kind),
            LAYERS.index(_layer(item)),
            parent,
            *(text(value) for value in (item.name, item.class_name, item.arguments)),
            *(text(value) for value in (item.inputs, item.outputs, item.dtype)),
            *(item.cost.params, item.cost.trainable, item.cost.flops, item.cost.memory),
            *(item.calls, item.count, _flags(item)),
        )
        for column, value in zip(columns.values(), values, strict=True):
            column.append(value)
        if item.kind == "module":
            inside = f"{around}.{item.name}" if around else item.name
            if parent >= 0 and inside != item.path:
                paths[str(number)] = item.path
            around = item.path
        stack.extend((child, number, around) for child in reversed(item.children))
    arrows = sorted(
        (numbers[id(source)], numbers[id(target)], count, int(guessed))
        for source, target, count, guessed in tree.arrows
    )
    return {
        "strings": list(strings),
        "items": {name: column for name, column in columns.items() if any(column)},
        "size": len(numbers),
        "paths": paths,
        "arrows": [list(column) for column in zip(*arrows, strict=True)] or [[], [], [], []],
        "kinds": KINDS,
        "layers": LAYERS,
    }


def _flags(item: Item) -> int:
    flags = (FAILED, item.failed), (UNTRACED, item.untraced), (FLOPS_AT_LEAST, not item.cost.flops_known)
    return sum(bit for bit, on in (*flags, (LAZY, item.cost.lazy)) if on)


def _layer(item: Item) -> str:
    if item.kind in _ENDS:
        return "end"
    if item.kind == "function":
        return kind_of_function(item.name) or "other"
    found = kind_of([item.class_name.strip("()").split(",")[0]])
    return found or ("block" if item.children else "other")
