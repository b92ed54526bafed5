"""What a picture shows at one depth: boxes, clusters around them and arrows, as plain data from a trace."""

from __future__ import annotations

from torchkutils.models.picture.boxes import Arrow, Box, arguments_text, dtypes_of, listed
from torchkutils.models.picture.equal_blocks import equal_siblings, folded
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
        rolled: Whether the calls of one module share a box. None: they do where the module holds parameters; the calls
            of a module without any have a box each, where its parent makes several of them in one call. True also
            draws a pattern of functions that repeats once.
        fold: Whether equal blocks that follow each other are one box.
    """

    arrows: list[Arrow]

    def __init__(
        self, trace: Trace, depth: int, *, functions: bool = False, rolled: bool | None = None, fold: bool = False
    ) -> None:
        self.trace: Trace = trace
        self.depth: int = depth
        self.functions: bool = functions
        self.rolled: bool | None = rolled
        self.boxes: dict[str, Box] = {}
        self.clusters: dict[str, str | None] = {}
        self.cluster_modules: dict[str, int] = {}
        self._numbers = _numbers_within_parents(trace)
        self._holding = _holding_parameters(trace)
        self._repeated = RepeatedFunctions(trace) if rolled else None
        self._siblings = equal_siblings(trace) if fold else {}
        self.failed_cluster: int | None = None
        self._around: dict[int | None, tuple[Call | None, str | None]] = {None: (None, None)}
        self._incoming: dict[int, list[Edge]] = {}
        for edge in trace.edges:
            self._incoming.setdefault(edge.target, []).append(edge)
        self._ordinals: dict[int, int] = {}
        # For each node the boxes that its tensors come from, each with the number of the call that gave them.
        self._origins: dict[int, tuple[tuple[str, int], ...]] = {}
        self._own: dict[int, tuple[str, int]] = {}
        self._place_nodes()
        self.arrows = self._arrows()
        self._drop_loose_boxes()
        self._drop_steering()
        if self._siblings:
            self.boxes, self.arrows = folded(self.boxes, self.arrows, self._siblings)
        self._mark_failure()

    # -- boxes -----------------------------------------------------------------------------------------------------

    def _place(self, call: int | None) -> tuple[Call | None, str | None]:
        """The outermost closed call around a call (or itself), and the innermost open module around that."""
        chain = []
        while call not in self._around:
            assert call is not None
            chain.append(call)
            call = self.trace.calls[call].parent
        for index in reversed(chain):
            here = self.trace.calls[index]
            closed, cluster = self._around[here.parent]
            if closed is None:
                deep = self.trace.modules[here.module].depth >= self.depth
                if here.leaf or deep or here.module in self._siblings:
                    closed = here
                elif here.module != 0:
                    frame = self._frame(here, cluster)
                    self.clusters.setdefault(frame, cluster)
                    self.cluster_modules[frame] = here.module
                    cluster = frame
            self._around[index] = (closed, cluster)
            call = index
        return self._around[call]

    def _frame(self, call: Call, around: str | None) -> str:
        """The key of an open module's frame."""
        # Frames of one module in two frames around it are two.
        inside = f"{around}_" if around is not None and "c" in around else ""
        return f"{inside}{call.module}{self._suffix(call)}"

    def _suffix(self, call: Call) -> str:
        """What tells a call's box from that of another call of the module; empty where they share one."""
        if self.rolled or call.module == 0:
            return ""
        if self.rolled is None and call.module in self._holding:
            return ""
        number = call.number if self.rolled is False else self._numbers[call.index]
        return f"c{number}" if number else ""

    def _place_nodes(self) -> None:
        nodes = self.trace.nodes
        needed = self._outputs_needed()
        for node in nodes:
            closed, cluster = self._place(node.call)
            if closed is not None:
                box = self._module_box(closed, cluster)
                self._boxed(node, box.key, closed.index)
            elif node.kind == "input" or (node.kind == "constant" and self.functions):
                self._plain_box(node, cluster)
            elif node.kind in ("constant", "output"):
                self._origins[node.index] = ()
        self._place_held([node for node in nodes if node.kind in ("parameter", "buffer")])
        for node in nodes:
            if node.kind == "output" and needed:
                self._plain_box(node, None)
            elif node.index not in self._origins:
                self._function(node)

    def _place_held(self, held: list[Node]) -> None:
        """Parameters and buffers that a function takes directly: in the open module that holds them, or not at all."""
        if not held:
            return
        wanted = {node.index for node in held}
        takers: dict[int, list[Call | None]] = {}
        for edge in self.trace.edges:
            if edge.source in wanted:
                takers.setdefault(edge.source, []).append(self._place(self.trace.nodes[edge.target].call)[0])
        index_of = {module.path: module.index for module in self.trace.modules}
        for node in held:
            owner: int | None = index_of.get(node.name.rpartition(".")[0], 0)
            around = []
            while owner is not None:
                around.append(owner)
                owner = self.trace.modules[owner].parent
            closed = takers.get(node.index, [])
            if closed and all(call is not None and call.module in around for call in closed):
                # What a closed module takes from itself is its own affair.
                self._origins[node.index] = ()
            else:
                frames = {module: frame for frame, module in reversed(self.cluster_modules.items())}
                self._plain_box(node, next((frames[index] for index in around if index in frames), None))

    def _boxed(self, node: Node, key: str, call: int) -> None:
        self._own[node.index] = (key, call)
        self._origins[node.index] = ((key, call),)

    def _outputs_needed(self) -> bool:
        """Several outputs, or one that something else takes too: then the picture must say which they are."""
        outputs = {node.index for node in self.trace.nodes if node.kind == "output"}
        sources = [edge.source for edge in self.trace.edges if edge.target in outputs]
        elsewhere = {edge.source for edge in self.trace.edges if edge.target not in outputs}
        return len(outputs) > 1 or any(
            source in elsewhere or self.trace.nodes[source].kind == "input" for source in sources
        )

    def _plain_box(self, node: Node, cluster: str | None) -> None:
        text = shape_text(node.output)
        box = Box(f"n{node.index}", node.kind, node.name, _CLASS_NAMES.get(node.kind, ""), cluster, text, text)
        box.dtype = dtypes_of(node.output)
        self.boxes[box.key] = box
        self._boxed(node, box.key, -1)

    def _module_box(self, call: Call, cluster: str | None) -> Box:
        module, suffix = self.trace.modules[call.module], self._suffix(call)
        inside = f"{cluster}_" if cluster is not None and "c" in cluster else ""
        key = f"m{inside}{module.index}{suffix}"
        box = self.boxes.get(key)
        if box is None:
            title = module.path or module.name
            if suffix:
                title = f"{title} ({int(suffix[1:]) + 1})"
            box = Box(key, "module", title, module.class_name, cluster, module=module.index)
            box.dtype = dtypes_of(call.output)
            self.boxes[box.key] = box
        if call.index not in box.calls:
            box.calls.add(call.index)
            box.saw(arguments_text(call.inputs), shape_text(call.output))
        return box

    def _function(self, node: Node) -> None:
        """A box for a function that joins what the picture shows; others are looked through."""
        origins = tuple(
            dict.fromkeys(
                origin for edge in self._edges_to(node.index) for origin in self._origins.get(edge.source, ())
            )
        )
        if not (self.functions or node.joins or node.untraced or len({key for key, _ in origins}) > 1):
            self._origins[node.index] = origins
            return
        key = self._function_key(node)
        box = self.boxes.get(key)
        if box is None:
            box = Box(key, "function", node.name, "", self._place(node.call)[1], untraced=node.untraced)
            box.dtype = dtypes_of(node.output)
            self.boxes[key] = box
        box.saw(self._taken(node), shape_text(node.output))
        number = -1 if node.call is None else node.call
        if self._repeated is not None and self._repeated.is_one_of_several(node):
            # Each repetition counts as a call of the box.
            number = len(self.trace.calls) + node.index
            box.repeated = True
        if number >= 0:
            box.calls.add(number)
        self._boxed(node, key, number)

    def _function_key(self, node: Node) -> str:
        """The same function of a module called again shares the box, as the module itself does."""
        if node.call is None:
            return f"n{node.index}"
        call = self.trace.calls[node.call]
        frame = self._place(node.call)[1] or ""
        if self._repeated is not None:
            return f"f{frame}_{call.module}_{self._repeated.place_of(node)}_{node.name}"
        ordinal = self._ordinals[node.call] = self._ordinals.get(node.call, -1) + 1
        return f"f{frame}_{call.module}_{ordinal}_{node.name}"

    def _taken(self, node: Node) -> str:
        shapes = []
        for edge in self._edges_to(node.index):
            found = list(tensors_in(self.trace.nodes[edge.source].output))
            if edge.tensor < len(found):
                shapes += [str(tuple(found[edge.tensor].shape))] * edge.count
        return listed(shapes) if shapes else "?"

    def _edges_to(self, node: int) -> list[Edge]:
        return self._incoming.get(node, [])

    # -- arrows ----------------------------------------------------------------------------------------------------

    def _arrows(self) -> list[Arrow]:
        """Arrows between boxes; what two boxes exchange in each of several calls counts once, as the boxes do."""
        counts: dict[tuple[str, str, bool], dict[tuple[int, int], int]] = {}
        entered: set[tuple[tuple[str, int], int, int]] = set()
        for node in self.trace.nodes:
            own = self._own.get(node.index)
            if own is None:
                continue
            whole = node.kind == "call" and node.call == own[1]
            for edge in self._edges_to(node.index):
                taken = edge.count
                if own[1] >= 0 and self.boxes[own[0]].kind == "module" and not whole:
                    # A closed module is given a tensor once, however many inside it take it.
                    taken = int((own, edge.source, edge.tensor) not in entered)
                    entered.add((own, edge.source, edge.tensor))
                for origin in self._origins.get(edge.source, ()) if taken else ():
                    if origin != own:
                        calls = counts.setdefault((origin[0], own[0], edge.guessed), {})
                        calls[origin[1], own[1]] = calls.get((origin[1], own[1]), 0) + taken
        return [
            Arrow(source, target, self._merged(source, target, calls), guessed)
            for (source, target, guessed), calls in counts.items()
        ]

    def _merged(self, source: str, target: str, calls: dict[tuple[int, int], int]) -> int:
        repeated = len(self.boxes[source].calls) > 1 and len(self.boxes[target].calls) > 1
        return max(calls.values()) if repeated else sum(calls.values())

    def _drop_loose_boxes(self) -> None:
        linked = {key for arrow in self.arrows for key in (arrow.source, arrow.target)}
        loose = [k for k, b in self.boxes.items() if k not in linked and b.kind in ("parameter", "buffer", "constant")]
        for key in loose:
            del self.boxes[key]

    def _drop_steering(self) -> None:
        """Leave out functions whose result only decides what Python does: comparisons that nothing takes up."""
        if self.trace.failure is not None:
            return
        outputs = {node.index for node in self.trace.nodes if node.kind == "output"}
        kept = {
            key for edge in self.trace.edges if edge.target in outputs for key, _ in self._origins.get(edge.source, ())
        }
        taken = {arrow.source for arrow in self.arrows}
        ends = [
            key
            for key, box in self.boxes.items()
            if box.kind == "function" and box.dtype == "bool" and key not in taken and key not in kept
        ]
        while ends:
            end = ends.pop()
            del self.boxes[end]
            before = {arrow.source for arrow in self.arrows if arrow.target == end}
            self.arrows = [arrow for arrow in self.arrows if arrow.target != end]
            taken = {arrow.source for arrow in self.arrows}
            ends += [
                key
                for key in before - taken - kept
                if key in self.boxes and self.boxes[key].kind == "function" and key not in ends
            ]

    def _mark_failure(self) -> None:
        failure = self.trace.failure
        if failure is None:
            return
        call = self.trace.calls[failure.call]
        closed, cluster = self._place(call.index)
        if closed is not None:
            box = self._module_box(closed, cluster)
            box.failed = True
            box.inputs = arguments_text(failure.inputs if closed is call else closed.inputs)
        else:
            self.failed_cluster = call.module


def _numbers_within_parents(trace: Trace) -> list[int]:
    """For each call, how many calls of its module the same call of the parent made before it."""
    seen: dict[tuple[int, int | None], int] = {}
    numbers = []
    for call in trace.calls:
        key = call.module, call.parent
        numbers.append(seen.get(key, 0))
        seen[key] = numbers[-1] + 1
    return numbers


def _holding_parameters(trace: Trace) -> set[int]:
    """The modules that hold parameters, or a module that does."""
    holding: set[int] = set()
    for module in reversed(trace.modules):
        if module.parameters or any(child in holding for child in module.children):
            holding.add(module.index)
            if module.same_as is not None:
                holding.add(module.same_as)
        if module.same_as is not None and module.same_as in holding:
            holding.add(module.index)
    return holding


def subtree(trace: Trace, module: int) -> list[ModuleRecord]:
    """A module and everything in it, in order of definition."""
    found, stack = [], [module]
    while stack:
        member = trace.modules[stack.pop()]
        found.append(member)
        stack.extend(reversed(member.children))
    return found
