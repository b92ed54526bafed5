"""What a picture is made of: boxes, arrows and the texts in them, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torchkutils.models.records import Collection, Value, tensors_in

# More arrows than these between two boxes become one with a number.
DRAWN_ARROWS = 3


@dataclass
class Box:
    """What is drawn as one record: a module, a function, an input, a parameter or an output.

    Attributes:
        key: Its name in the graph.
        kind: The node's kind; "module" for calls.
        title: Path of the module, name of the function or of the argument.
        class_name: Class of the module; "Input", "Parameter" … for the rest, "" for functions.
        cluster: Key of the innermost open module's frame around it; None at the top.
        inputs: Shapes that it took, as text; "multiple" where its calls differ.
        outputs: Shapes that it gave, likewise.
        dtype: Of its outputs.
        module: Index of its module in `Trace.modules`; None for what is no module.
        calls: Numbers of the calls that it shows.
        failed: Whether forward raised in it.
        untraced: Nobody saw where its tensors come from: the arrows to it are guesses.
        repeated: It is part of a pattern that one call of forward repeats.
        folded: How many equal blocks it shows: its own and those that follow.
        until: The title of the last of them.
        order: Index of its first node in `Trace.nodes`.
    """

    key: str
    kind: str
    title: str
    class_name: str
    cluster: str | None
    inputs: str = "?"
    outputs: str = "?"
    dtype: str = ""
    module: int | None = None
    calls: set[int] = field(default_factory=set)
    failed: bool = False
    untraced: bool = False
    repeated: bool = False
    folded: int = 1
    until: str = ""
    order: int = 0

    def saw(self, inputs: str, outputs: str) -> None:
        """Take down the shapes of one more call."""
        self.inputs, self.outputs = agreed([self.inputs, inputs]), agreed([self.outputs, outputs])


@dataclass(frozen=True)
class Arrow:
    """Tensors on their way between two boxes.

    Attributes:
        source: Key of the box that they come from.
        target: Key of the box that takes them.
        count: How many of them.
        guessed: It follows the order of definition; nothing was observed.
    """

    source: str
    target: str
    count: int
    guessed: bool


def agreed(shapes: Iterable[str]) -> str:
    """What all calls have, "multiple" where they differ, as in Keras; "?" says nothing."""
    known = {text for text in shapes if text != "?"}
    if len(known) > 1:
        return "multiple"
    return known.pop() if known else "?"


def dtypes_of(value: Value | None) -> str:
    """The dtypes of a value's tensors, each once."""
    return ", ".join(dict.fromkeys(tensor.dtype for tensor in tensors_in(value)))


def arguments_text(inputs: Collection | None) -> str:
    """Shapes of a call's arguments; numbers, flags and None among them are left out where there are tensors."""
    if inputs is None:
        return "?"
    shapes = [str(tuple(tensor.shape)) for tensor in tensors_in(inputs)]
    return listed(shapes) if shapes else "none"


def listed(shapes: list[str]) -> str:
    """One shape as it is, several as a list."""
    return shapes[0] if len(shapes) == 1 else f"[{', '.join(shapes)}]"
