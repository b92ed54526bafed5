"""What a picture shows at one depth: boxes, frames around them and arrows, as plain data from a trace."""

from __future__ import annotations

from torchkutils.models.picture.arrows import Arrows
from torchkutils.models.picture.boxes import Arrow, Box, arguments_text, dtypes_of, listed
from torchkutils.models.picture.equal_blocks import equal_siblings, folded
from torchkutils.models.picture.frames import Frame, Frames
from torchkutils.models.picture.layer_range import boxes_in_range
from torchkutils.models.picture.pruning import without_loose_boxes, without_steering
from torchkutils.models.picture.repeated_functions import RepeatedFunctions
from torchkutils.models.records import Call, Edge, ModuleRecord, Node, Trace, shape_text, tensors_in

_CLASS_NAMES = {"input": "Input", "output": "Output", "parameter": "Parameter", "buffer": "Buffer"}


class PictureGraph:
    """The graph of a trace with modules open down to a depth.

    Attributes:
        trace: What it was made from.
        boxes: By key, in the order of the data flow.
        arrows: Between them.
        clusters: Key of each open module's frame to that of the frame around it.
        cluster_modules: The module of each frame.
        failed_cluster: Index of the open module whose own code raised.

    Args:
        trace: What ran.
        depth: How many levels are open.
        functions: Whether functions between modules have boxes.
        rolled: As in `Frames`. True also draws a pattern of functions that repeats once.
        fold: Whether equal blocks that follow each other are one box.
        layer_range: The first and the last layer that is kept, as in `boxes_in_range`.

    Raises:
        ValueError: No box is in the range of layers.
    """

    boxes: dict[str, Box]
    arrows: list[Arrow]

    def __init__(
        self,
        trace: Trace,
        depth: int,
        *,
        functions: bool = False,
        rolled: bool | None = None,
        fold: bool = False,
        layer_range: tuple[str, str] | None = None,
    ) -> None:
        self.trace: Trace = trace
        self.depth: int = depth
        self.functions: bool = functions
        self.rolled: bool | None = rolled
        self.boxes: dict[str, Box] = {}
        self.failed_cluster: int | None = None
        siblings = equal_siblings(trace) if fold else {}
        self._frames = Frames(trace, depth, rolled, siblings)
        self._repeated = RepeatedFunctions(trace) if rolled else None
        self._incoming: dict[int, list[Edge]] = {}
        for edge in trace.edges:
            self._incoming.setdefault(edge.target, []).append(edge)
        # How many functions of each call have been met.
        self._ordinals: dict[int, int] = {}
        self._flow = Arrows(trace, self._incoming)
        self._box_nodes()
        self.arrows = self._flow.between(self.boxes)
        self.boxes = without_loose_boxes(self.boxes, self.arrows)
        if trace.failure is None:
            self.boxes, self.arrows = without_steering(self.boxes, self.arrows, self._flow.boxes_of_outputs())
        if siblings:
            self.boxes, self.arrows = folded(self.boxes, self.arrows, siblings)
        self._mark_failure()
        if layer_range is not None:
            self.boxes, self.arrows = boxes_in_range(self.boxes, self.arrows, layer_range, trace)
        self.clusters: dict[str, str | None] = {}
        self.cluster_modules: dict[str, int] = {}
        self._list_frames()

    # -- for the page ----------------------------------------------------------------------------------------------

    def in_order_of_execution(self) -> list[Box]:
        """The boxes in the order in which their first nodes ran; one that failed is the last."""
        return sorted(self.boxes.values(), key=lambda box: box.order)

    def calls_of_frames(self) -> dict[str, list[Call]]:
        """The calls that each open module's frame shows."""
        calls: dict[str, list[Call]] = {}
        for call in self.trace.calls:
            place = self._frames.place_of(call.index)
            # A list of modules that is called has no frame of its own.
            if place.closed is None and place.frame is not None and place.frame.module == call.module:
                calls.setdefault(place.frame.key, []).append(call)
        return calls

    def suffix_of(self, call: Call) -> str:
        """What a title says of a call that has a box of its own: " (2)", or nothing."""
        number = self._frames.number_of(call)
        return f" ({number + 1})" if number else ""

    # -- boxes -----------------------------------------------------------------------------------------------------

    def _box_nodes(self) -> None:
        """Give each node of the trace a box, or the boxes that it is looked through to."""
        nodes = self.trace.nodes
        for node in nodes:
            self._box_call_or_input(node)
        # A parameter's frame is known when all frames are.
        self._box_held([node for node in nodes if node.kind in ("parameter", "buffer")])
        outputs_needed = self._outputs_needed()
        for node in nodes:
            if node.kind == "output" and outputs_needed:
                self._plain_box(node, None)
            elif not self._flow.knows(node):
                self._function(node)

    def _box_call_or_input(self, node: Node) -> None:
        """What lies in a closed module, comes from outside, or is never shown."""
        place = self._frames.place_of(node.call)
        if place.closed is not None:
            box = self._module_box(place.closed, place.frame, node.index)
            self._flow.starts_at(node, box.key, place.closed.index)
        elif node.kind == "input" or (node.kind == "constant" and self.functions):
            self._plain_box(node, place.frame)
        elif node.kind in ("constant", "output"):
            self._flow.is_hidden(node)

    def _box_held(self, held: list[Node]) -> None:
        """Parameters and buffers that a function takes directly: in the open module that holds them, or not at all."""
        if not held:
            return
        takers = self._closed_takers({node.index for node in held})
        index_of = {module.path: module.index for module in self.trace.modules}
        frame_of = {frame.module: frame for frame in reversed(self._frames.by_key.values())}
        for node in held:
            holders = self._module_and_holders(index_of.get(node.name.rpartition(".")[0], 0))
            if takers[node.index] and takers[node.index].issubset(holders):
                # What a closed module takes from itself is not shown.
                self._flow.is_hidden(node)
            else:
                self._plain_box(node, next(filter(None, map(frame_of.get, holders)), None))

    def _closed_takers(self, sources: set[int]) -> dict[int, set[int | None]]:
        """For each of some nodes the closed modules that take it; None for what takes it in the open."""
        takers: dict[int, set[int | None]] = {source: set() for source in sources}
        for edge in self.trace.edges:
            if edge.source in sources:
                closed = self._frames.place_of(self.trace.nodes[edge.target].call).closed
                takers[edge.source].add(None if closed is None else closed.module)
        return takers

    def _module_and_holders(self, module: int) -> list[int]:
        """A module and all those around it, from the inside out."""
        found = []
        here: int | None = module
        while here is not None:
            found.append(here)
            here = self.trace.modules[here].parent
        return found

    def _outputs_needed(self) -> bool:
        """Several outputs, or one that something else takes too: then the picture must say which they are."""
        outputs = {node.index for node in self.trace.nodes if node.kind == "output"}
        if len(outputs) > 1:
            return True
        returned: set[int] = set()
        elsewhere = {node.index for node in self.trace.nodes if node.kind == "input"}
        for edge in self.trace.edges:
            takers = returned if edge.target in outputs else elsewhere
            takers.add(edge.source)
        return not returned.isdisjoint(elsewhere)

    def _plain_box(self, node: Node, frame: Frame | None) -> None:
        """A box for an input, an output, a parameter, a buffer or a constant."""
        text = shape_text(node.output)
        box = Box(
            key=f"n{node.index}",
            kind=node.kind,
            title=node.name,
            class_name=_CLASS_NAMES.get(node.kind, ""),
            cluster=None if frame is None else frame.key,
            inputs=text,
            outputs=text,
            dtype=dtypes_of(node.output),
            order=node.index,
        )
        self.boxes[box.key] = box
        self._flow.starts_at(node, box.key, -1)

    def _module_box(self, call: Call, frame: Frame | None, order: int) -> Box:
        """The box of a closed call, which it may share with other calls of the module."""
        module, number = self.trace.modules[call.module], self._frames.number_of(call)
        prefix = "" if frame is None else frame.key_prefix
        key = f"m{prefix}{module.index}{self._frames.suffix_of(call)}"
        box = self.boxes.get(key)
        if box is None:
            box = self.boxes[key] = Box(
                key=key,
                kind="module",
                title=(module.path or module.name) + (f" ({number + 1})" if number else ""),
                class_name=module.class_name,
                cluster=None if frame is None else frame.key,
                dtype=dtypes_of(call.output),
                module=module.index,
                order=order,
            )
        if call.index not in box.calls:
            box.calls.add(call.index)
            box.saw(arguments_text(call.inputs), shape_text(call.output))
        return box

    def _function(self, node: Node) -> None:
        """A box for a function that joins what the picture shows; others are looked through."""
        origins = self._flow.origins_of(node)
        joins = node.joins or len({key for key, _ in origins}) > 1
        if not (self.functions or joins or node.untraced):
            self._flow.leads_back_to(node, origins)
            return
        box = self._function_box(node)
        box.saw(self._taken(node), shape_text(node.output))
        number = -1 if node.call is None else node.call
        if self._repeated is not None and self._repeated.is_one_of_several(node):
            # Each repetition counts as a call of the box.
            number = len(self.trace.calls) + node.index
            box.repeated = True
        if number >= 0:
            box.calls.add(number)
        self._flow.starts_at(node, box.key, number)

    def _function_box(self, node: Node) -> Box:
        """The box of a function, which it may share with the same function in other calls."""
        key = self._function_key(node)
        if key not in self.boxes:
            frame = self._frames.place_of(node.call).frame
            self.boxes[key] = Box(
                key=key,
                kind="function",
                title=node.name,
                class_name="",
                cluster=None if frame is None else frame.key,
                dtype=dtypes_of(node.output),
                untraced=node.untraced,
                order=node.index,
            )
        return self.boxes[key]

    def _function_key(self, node: Node) -> str:
        """The same function of a module called again shares the box, as the module itself does."""
        if node.call is None:
            return f"n{node.index}"
        frame = self._frames.place_of(node.call).frame
        frame_key = "" if frame is None else frame.key
        module = self.trace.calls[node.call].module
        if self._repeated is not None:
            return f"f{frame_key}_{module}_{self._repeated.place_of(node)}_{node.name}"
        ordinal = self._ordinals[node.call] = self._ordinals.get(node.call, -1) + 1
        return f"f{frame_key}_{module}_{ordinal}_{node.name}"

    def _taken(self, node: Node) -> str:
        """The shapes of the tensors that a function took."""
        shapes = []
        for edge in self._incoming.get(node.index, []):
            found = list(tensors_in(self.trace.nodes[edge.source].output))
            if edge.tensor < len(found):
                shapes += [str(tuple(found[edge.tensor].shape))] * edge.count
        return listed(shapes) if shapes else "?"

    # -- what is known when all boxes are there --------------------------------------------------------------------

    def _mark_failure(self) -> None:
        failure = self.trace.failure
        if failure is None:
            return
        call = self.trace.calls[failure.call]
        place = self._frames.place_of(call.index)
        if place.closed is None:
            self.failed_cluster = call.module
            return
        box = self._module_box(place.closed, place.frame, len(self.trace.nodes))
        box.failed = True
        box.inputs = arguments_text(failure.inputs if place.closed is call else place.closed.inputs)

    def _list_frames(self) -> None:
        """Keep the frames that hold a box, and those around them, each after the one around it."""
        needed = set()
        # A module that failed before anything in it ran holds no box.
        failed = [key for key, frame in self._frames.by_key.items() if frame.module == self.failed_cluster]
        for cluster in [*(box.cluster for box in self.boxes.values()), *failed]:
            frame = None if cluster is None else self._frames.by_key[cluster]
            while frame is not None and frame.key not in needed:
                needed.add(frame.key)
                frame = frame.around
        for key, frame in self._frames.by_key.items():
            if key in needed:
                self.clusters[key] = None if frame.around is None else frame.around.key
                self.cluster_modules[key] = frame.module

    def inside_path(self, cluster: str | None) -> str:
        """The path of the module of a frame; "" at the top."""
        return "" if cluster is None else self.trace.modules[self.cluster_modules[cluster]].path


def subtree(trace: Trace, module: int) -> list[ModuleRecord]:
    """A module and everything in it, in order of definition."""
    found, stack = [], [module]
    while stack:
        member = trace.modules[stack.pop()]
        found.append(member)
        stack.extend(reversed(member.children))
    return found
