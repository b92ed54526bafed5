"""The result of one trace of a model: plain, frozen records without a tensor or a module.

A `Trace` has three layers, each a tuple whose positions are the keys of the others:

* `modules`: the tree, in order of definition (a parent before its children, `modules[0]` is the model).
* `calls`: each call of a module, in the order in which the calls began. `parent` is the call that was running.
* `nodes` and `edges`: the data flow. A node is an input of the model, a call of a module that called no other
  module (a *leaf call*), a function called between leaf calls, a parameter, buffer or constant that a function
  took directly, or an output of the model. Containers are no nodes: they are what `Node.calls` climbs through.

A graph at any depth: give each node the box of one of its enclosing calls, merge nodes that share a box, drop the
edges inside one box. `Trace.enclosing(node)` gives those calls from the model down to the innermost; for a leaf call
it ends with that call itself, for inputs, outputs, parameters, buffers and constants it is empty. Calls of one module
share a box when they are merged by `Call.module`; `ModuleRecord.depth` says how deep a box lies.

When nothing ran (`engine.ran == "structure"`), the same records are filled with what is known:

* by `torch.fx` (`engine.edges == "symbolic"`): calls, nodes and edges as above, every value `None`;
* in order of definition (`engine.edges == "definition"`): each module has one call, no functions, one input and one
  output; each leaf is joined to the next one by an edge with `guessed=True` (dashed in a picture).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeAlias, dataclass_transform, get_args

from torchkutils._typing import Shape

Mode: TypeAlias = Literal["eval", "train", "same"]
EngineName: TypeAlias = Literal["auto", "real", "meta", "structure"]


@dataclass_transform(frozen_default=True)
def record(cls: type[Any]) -> Any:
    """A record of which one trace makes many thousands.

    The type checker holds it frozen; to be frozen at run time too would make its construction five times as slow.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass(frozen=True)
class Run:
    """How a model is to be run once; the public functions make it from their arguments and hand it on as one value.

    Attributes:
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name.
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        input_kwargs: Keyword arguments beside `input_size` or `input_data`.
        dtypes: Of the inputs made from sizes; one, or a list or dict like `input_size`.
        mode: The training flag that forward sees; "same" leaves each module's own.
        engine: "real" runs the maths, "meta" shapes only, "structure" nothing; "auto" decides.
        grad: Run forward with gradients. Without it they are off, but for a forward that fails for want of a graph.
        module_arguments: Fill `ModuleRecord.extra_repr` too.

    Raises:
        ValueError: A mode or an engine that does not exist.
    """

    input_size: Any = None
    input_data: Any = None
    input_kwargs: Any = None
    dtypes: Any = None
    mode: Mode = "eval"
    engine: EngineName = "auto"
    grad: bool = False
    module_arguments: bool = False

    def __post_init__(self) -> None:
        _check_choice("mode", self.mode, get_args(Mode))
        _check_choice("engine", self.engine, get_args(EngineName))

    @staticmethod
    def asked_for(arguments: Mapping[str, Any], *, module_arguments: bool = True) -> Run:
        """The run that a public function was asked for: its arguments by name, those that are no field left out.

        Raises:
            ValueError: As the constructor.
        """
        return Run(**fields_among(Run, arguments), module_arguments=module_arguments)

    @property
    def has_inputs(self) -> bool:
        """Whether sizes or data were given: without them nothing runs."""
        return self.input_size is not None or self.input_data is not None or self.input_kwargs is not None


def fields_among(kind: type[Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the arguments that have the name of a field of this dataclass."""
    return {field.name: arguments[field.name] for field in fields(kind) if field.name in arguments}


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(repr(choice) for choice in choices[:-1])
        raise ValueError(f"{name} must be {listed} or {choices[-1]!r}, got {value!r}")


@dataclass(frozen=True, slots=True)
class TensorValue:
    """A tensor that was an argument or a result.

    Attributes:
        shape: Sizes of the axes; None is a size that is open, or that differs inside a nested tensor.
        dtype: Without the prefix: "float32".
        kind: "tensor", or what else it is: "sparse", "nested", "DTensor", the name of a tensor subclass.
    """

    shape: Shape
    dtype: str
    kind: str = "tensor"


@dataclass(frozen=True, slots=True)
class OtherValue:
    """Anything that is neither a tensor nor a collection, by the name of its class: "int", "NoneType", "Generator"."""

    class_name: str


@dataclass(frozen=True, slots=True)
class Collection:
    """A tuple, list, mapping, dataclass, named tuple or packed sequence.

    Attributes:
        class_name: "tuple", "dict", "BaseModelOutput", "PackedSequence".
        items: Values by position (tuple, list) or by key or field name, in their own order.
    """

    class_name: str
    items: tuple[tuple[int | str, Value], ...]


Value: TypeAlias = TensorValue | OtherValue | Collection


@record
class TensorRecord:
    """A parameter or buffer that a module holds itself.

    Attributes:
        name: As the module calls it: "weight".
        shape: None while a lazy module has not made it yet.
        elements: `numel()`; 0 while unmaterialised.
        bytes: Bytes that its elements take; 0 while unmaterialised.
        dtype: Without the prefix: "float32".
        requires_grad: Whether it is trainable.
        same_as: Full name ("encoder.weight") of the first holder of the same object; None for the first holder.
        kind: "tensor", or how it is held: "sharded", "quantised 8 bit", "lazy", "sparse", "nested".
        parts: Dtype and bytes of each tensor that it consists of, where it is not one plain tensor.
    """

    name: str
    shape: Shape | None
    elements: int
    bytes: int
    dtype: str
    requires_grad: bool
    same_as: str | None = None
    kind: str = "tensor"
    parts: tuple[tuple[str, int], ...] = ()


@record
class ModuleRecord:
    """A module of the tree, at one of the paths that lead to it.

    Attributes:
        index: Position in `Trace.modules`.
        path: "" for the model, else "encoder.layers.0"; a module in a plain list or dict has "blocks[0]".
        name: The last part of the path; the class's name for the model.
        class_name: As written in the code: "Linear".
        depth: 0 for the model, 1 for its children.
        parent: Index of the module that holds it; None for the model.
        children: Indexes of what it holds, in order of definition.
        parameters: Held by the module itself.
        buffers: Held by the module itself.
        extra_repr: "in_features=8, out_features=4, bias=True".
        training: The flag before the trace.
        same_as: Index of the first record of the same object, which alone has its calls, children and tensors.
        registered: False inside plain lists and dicts: `model.parameters()` does not know it.
        packed: Weights that a quantised module keeps packed; they are no parameters and count in no total.
    """

    index: int
    path: str
    name: str
    class_name: str
    depth: int
    parent: int | None
    children: tuple[int, ...]
    parameters: tuple[TensorRecord, ...]
    buffers: tuple[TensorRecord, ...]
    extra_repr: str
    training: bool
    same_as: int | None = None
    registered: bool = True
    packed: tuple[TensorRecord, ...] = ()


@record
class Call:
    """One call of one module.

    Attributes:
        index: Position in `Trace.calls`.
        module: Index of the module in `Trace.modules` (the first record of a shared one).
        number: 0 for the first call of this module, 1 for the second.
        parent: Index of the call that was running; None for the model's own.
        inputs: A collection with positional arguments by position and keyword arguments by name; None when unknown.
        output: What it returned; None when unknown or when it failed.
        flops: Operations run by this call itself, without those of the calls within; two for a multiply-add.
        flops_known: False when it ran something whose operations cannot be counted: `flops` is then a lower bound.
        leaf: It called no other module; its parametrizations, which make its weights, do not count.
    """

    index: int
    module: int
    number: int
    parent: int | None
    inputs: Collection | None
    output: Value | None
    flops: int
    flops_known: bool
    leaf: bool


NodeKind: TypeAlias = Literal["input", "call", "function", "parameter", "buffer", "constant", "output"]


@record
class Node:
    """A node of the data flow graph.

    Attributes:
        index: Position in `Trace.nodes`; inputs first, then in order of execution, outputs last.
        kind: What it is.
        name: Input: the argument ("x", "mask"). Call: the module's path. Function: "add", "cat", "view".
            Parameter or buffer: its full name. Constant: "constant". Output: "output", "output[0]", "output.logits".
        call: For a leaf call itself; for a function the innermost call that ran it; else None.
        output: What it gives; for an output, what arrived there; None when unknown.
        joins: A function that takes two or more tensors which were computed or came from outside (add, cat, mul,
            matmul …), parameters not counted.
        untraced: Forward made its tensors in a way that nobody saw (NumPy, a script, an `autograd.Function`). The
            edges to it are guesses.
    """

    index: int
    kind: NodeKind
    name: str
    call: int | None
    output: Value | None
    joins: bool = False
    untraced: bool = False


@record
class Edge:
    """Tensors that went from one node to another.

    Attributes:
        source: Index of the node that made (or last wrote) the tensor.
        target: Index of the node that took it.
        tensor: Which of the source's tensors, counted over its output from left to right.
        count: How often the target took it in one call: `x + x` has one edge of count 2.
        guessed: Nobody observed it: it follows the order of definition, or leads to a node that is `untraced`.
    """

    source: int
    target: int
    tensor: int = 0
    count: int = 1
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """Where forward raised.

    Attributes:
        call: Index of the innermost call that failed.
        inputs: What this call had been given.
        error: "RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)".
    """

    call: int
    inputs: Collection | None
    error: str


@dataclass(frozen=True, slots=True)
class Engine:
    """What ran, and why nothing better did.

    Attributes:
        ran: "real": the maths ran; "meta": shapes only; "structure": no forward.
        edges: "traced": by tensor provenance; "symbolic": by torch.fx; "definition": order of definition.
        reason: A sentence that says why another engine did not run; "" when there is nothing to say.
        own_example: No input was given, and forward took an example that the model brings along.
    """

    ran: Literal["real", "meta", "structure"]
    edges: Literal["traced", "symbolic", "definition"]
    reason: str = ""
    own_example: bool = False

    def __str__(self) -> str:
        """The text for captions: `structure (order of definition): no input was given`."""
        how = {"traced": "", "symbolic": " (torch.fx)", "definition": " (order of definition)"}[self.edges]
        return f"{self.ran}{how}" + (f": {self.reason}" if self.reason else "")


@dataclass(frozen=True, slots=True)
class Trace:
    """One forward of a model, or its structure alone; see the module's text for how the parts fit together.

    Attributes:
        model_name: The model's class name.
        modules: The tree in order of definition.
        calls: In the order in which they began.
        nodes: The nodes of the data flow.
        edges: The edges of the data flow; sorted by target, then source, then tensor.
        engine: What ran.
        mode: "eval", "train" or "same", as asked for.
        failure: Where forward raised; None when it ran to its end.
        notes: What a reader must know too: what forward changed and could not be put back.
        counted_for: What FLOPs and bytes are those of where sizes are open: "one sample"; "" where none is.
        call_bytes: Bytes of what each call took and returned where sizes are open; None where shapes tell them.
    """

    model_name: str
    modules: tuple[ModuleRecord, ...]
    calls: tuple[Call, ...]
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    engine: Engine
    mode: str
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    counted_for: str = ""
    call_bytes: tuple[tuple[int, int], ...] | None = None

    def enclosing(self, node: Node) -> tuple[Call, ...]:
        """The calls that a node lies in, from the model's own down; a leaf call's node ends with that call."""
        found: list[Call] = []
        index = node.call
        while index is not None:
            found.append(self.calls[index])
            index = self.calls[index].parent
        return tuple(reversed(found))


def tensors_in(value: Value | None) -> Iterator[TensorValue]:
    """The tensors of a nested value from left to right, the order that `Edge.tensor` counts in."""
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, TensorValue):
            yield top
        elif isinstance(top, Collection):
            stack += [item for _, item in reversed(top.items)]


def shape_text(value: Value | None) -> str:
    """Shapes as Keras writes them: "(2, 8)", "(None, 8)", "[(2, 8), (2, 4)]", "?" when nothing is known.

    >>> shape_text(TensorValue((None, 8), "float32"))
    '(None, 8)'
    """
    if value is None:
        return "?"
    if isinstance(value, OtherValue):
        return "None" if value.class_name == "NoneType" else value.class_name
    if isinstance(value, TensorValue):
        return str(tuple(value.shape))
    shapes = [str(tuple(tensor.shape)) for tensor in tensors_in(value)]
    if len(shapes) == 1:
        return shapes[0]
    return f"[{', '.join(shapes)}]" if shapes else value.class_name
