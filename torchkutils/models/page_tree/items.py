"""The items of a page: a trace's boxes inside their open modules, as one tree in order of execution."""

from __future__ import annotations

from dataclasses import dataclass, field

from torchkutils.models.page_tree.costs import Cost, Costs
from torchkutils.models.picture.boxes import Box, agreed, arguments_text, dtypes_of
from torchkutils.models.picture.picture_graph import PictureGraph
from torchkutils.models.records import Call, Trace, shape_text


@dataclass(eq=False)
class Item:
    """One thing that a page can show.

    Attributes:
        kind: "module", "function", "input", "output", "parameter", "buffer", "constant"; "group" for equal modules that
            follow each other, "range" for a part of a long list.
        name: The text in its box: for a module the part of its path that its parent's does not have.
        path: The module's path; "" for what is no module, and for the model.
        class_name: The module's class; of a group the class of its members.
        module: Index of its module in `Trace.modules`; None for what is no module.
        inputs: Shapes that it took.
        outputs: Shapes that it gave.
        dtype: Of its outputs.
        arguments: The module's `extra_repr`.
        calls: How many calls it shows.
        cost: What it holds and runs.
        failed: Forward raised in it.
        untraced: Nobody saw where its tensors come from.
        children: What lies in it, in order of execution.
        count: Of a group how many modules it shows.
    """

    kind: str
    name: str
    path: str = ""
    class_name: str = ""
    module: int | None = None
    inputs: str = ""
    outputs: str = ""
    dtype: str = ""
    arguments: str = ""
    calls: int = 0
    cost: Cost = field(default_factory=Cost)
    failed: bool = False
    untraced: bool = False
    children: list[Item] = field(default_factory=list)
    count: int = 0


@dataclass(frozen=True)
class ItemTree:
    """The model as the root of all items, and the arrows between those that hold no others.

    Attributes:
        root: The model.
        arrows: Source, target, number of tensors, and whether it is a guess.
    """

    root: Item
    arrows: list[tuple[Item, Item, int, bool]]


def item_tree(trace: Trace, *, functions: bool, rolled: bool | None) -> ItemTree:
    """The items of a trace down to the leaves."""
    deepest = max((module.depth for module in trace.modules), default=0)
    graph = PictureGraph(trace, deepest + 1, functions=functions, rolled=rolled)
    return _Builder(trace, graph).tree()


class _Builder:
    def __init__(self, trace: Trace, graph: PictureGraph) -> None:
        self.trace, self.graph = trace, graph
        self.costs = Costs(trace)
        self.calls_of_frames = graph.calls_of_frames()
        self.frames: dict[str | None, Item] = {}

    def tree(self) -> ItemTree:
        root = self._module_item(0, [call for call in self.trace.calls if call.module == 0], "")
        root.name = self.trace.modules[0].class_name
        root.failed = self.graph.failed_cluster == 0
        self.frames[None] = root
        placed = {}
        for box in self.graph.in_order_of_execution():
            around = self._frame(box.cluster)
            placed[box.key] = self._box_item(box, around)
            around.children.append(placed[box.key])
        for frame in self.graph.clusters:
            # What failed before anything in it had run is shown too.
            self._frame(frame)
        arrows = [
            (placed[arrow.source], placed[arrow.target], arrow.count, arrow.guessed) for arrow in self.graph.arrows
        ]
        return ItemTree(root, arrows)

    def _frame(self, key: str | None) -> Item:
        """The item of an open module, with those around it."""
        missing = []
        while key not in self.frames:
            missing.append(key)
            key = self.graph.clusters[key] if key is not None else None
        around = self.frames[key]
        for frame in reversed(missing):
            assert frame is not None
            module = self.graph.cluster_modules[frame]
            calls = self.calls_of_frames.get(frame, [])
            item = self._module_item(module, calls, around.path)
            number = self.graph.suffix_of(calls[0]) if calls else ""
            item.name += number
            item.path += number
            item.failed = self.graph.failed_cluster == module
            around.children.append(item)
            self.frames[frame] = around = item
        return around

    def _module_item(self, module: int, calls: list[Call], around: str) -> Item:
        record = self.trace.modules[module]
        return Item(
            kind="module",
            name=_relative(record.path, around) or record.name,
            path=record.path,
            class_name=record.class_name,
            module=module,
            inputs=agreed(arguments_text(call.inputs) for call in calls) if calls else "",
            outputs=agreed(shape_text(call.output) for call in calls) if calls else "",
            dtype=dtypes_of(calls[0].output) if calls else "",
            arguments=record.extra_repr,
            calls=len(calls),
            cost=self.costs.of(module, calls),
        )

    def _box_item(self, box: Box, around: Item) -> Item:
        if box.module is None:
            return Item(
                kind=box.kind,
                name=box.title,
                class_name=box.class_name,
                inputs=box.inputs,
                outputs=box.outputs,
                dtype=box.dtype,
                calls=len(box.calls),
                untraced=box.untraced,
            )
        calls = [self.trace.calls[number] for number in sorted(box.calls)]
        item = self._module_item(box.module, calls, around.path)
        number = self.graph.suffix_of(calls[0]) if calls else ""
        item.name += number
        item.path += number
        item.inputs, item.outputs, item.failed = box.inputs, box.outputs, box.failed
        return item


def _relative(path: str, around: str) -> str:
    """A path inside another one; the whole path where it lies elsewhere.

    >>> _relative("encoder.layer.0", "encoder"), _relative("net.blocks[0]", "net"), _relative("a.b", "c")
    ('layer.0', 'blocks[0]', 'a.b')
    """
    return path.removeprefix(f"{around}.") if around else path
