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
    items = _Items(tree.root)
    arrows = sorted([items.arrow(*arrow) for arrow in tree.arrows])
    return {
        "strings": list(items.strings),
        "items": {name: column for name, column in items.columns.items() if any(column)},
        "size": len(items.numbers),
        "paths": items.paths,
        "arrows": [list(column) for column in zip(*arrows, strict=True)] or [[], [], [], []],
        "kinds": KINDS,
        "layers": LAYERS,
    }


class _Items:
    """The items of a tree, numbered in preorder.

    Attributes:
        strings: Every text that an item has, each once, with its number.
        numbers: The number of each item, by `id`.
        columns: A list of numbers for each fact.
        paths: The paths of modules that do not follow from their names, by the number of the item.
    """

    def __init__(self, root: Item) -> None:
        self.strings: dict[str, int] = {"": 0}
        self.numbers: dict[int, int] = {}
        self.columns: dict[str, list[int]] = {name: [] for name in _COLUMNS}
        self.paths: dict[str, str] = {}
        stack: list[tuple[Item, int, str]] = [(root, -1, "")]
        while stack:
            item, parent, around = stack.pop()
            number = self.numbers[id(item)] = len(self.numbers)
            for column, value in zip(self.columns.values(), self._values(item, parent), strict=True):
                column.append(value)
            if item.kind == "module":
                inside = f"{around}.{item.name}" if around else item.name
                if parent >= 0 and inside != item.path:
                    self.paths[str(number)] = item.path
                around = item.path
            stack += [(child, number, around) for child in reversed(item.children)]

    def _values(self, item: Item, parent: int) -> tuple[int, ...]:
        """The facts of an item in the order of `_COLUMNS`."""
        texts = (item.name, item.class_name, item.arguments, item.inputs, item.outputs, item.dtype)
        return (
            KINDS.index(item.kind),
            LAYERS.index(_layer(item)),
            parent,
            *map(self._text, texts),
            *(item.cost.params, item.cost.trainable, item.cost.flops, item.cost.memory),
            *(item.calls, item.count, _flags(item)),
        )

    def _text(self, value: str) -> int:
        return self.strings.setdefault(value, len(self.strings))

    def arrow(self, source: Item, target: Item, count: int, guessed: bool) -> tuple[int, int, int, int]:
        """An arrow between two items, as numbers."""
        return self.numbers[id(source)], self.numbers[id(target)], count, int(guessed)


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
