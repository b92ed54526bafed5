"""How a picture is to look: the arguments of `plot_model` and `model_to_dot`, checked once, handed on as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from torchkutils.models.records import Trace, fields_among

Direction: TypeAlias = Literal["TB", "BT", "LR", "RL"]
Splines: TypeAlias = Literal["ortho", "curved", "polyline", "spline", "line"]
PictureStyle: TypeAlias = Literal["keras", "color"]

# Containers without a forward of their own: the picture shows what they hold, never them.
LISTS_OF_MODULES = frozenset({"ModuleList", "ModuleDict"})


@dataclass(frozen=True)
class Look:
    """What a picture shows, and how.

    Attributes:
        show_shapes: Input and output shapes in each box; a box that failed always shows them.
        show_layer_names: The name before the class.
        rankdir: The direction of the arrows; one of `Direction`.
        expand_nested: Open every module.
        dpi: Dots per inch of a bitmap.
        depth: How many levels are open; beats `expand_nested`.
        show_dtype: The dtypes of what a box gives.
        show_params: How many parameters a box holds, those below it among them.
        show_trainable: Whether they require a gradient.
        show_layer_activations: The activation that a module holds as an attribute.
        show_ops: Functions between modules have boxes; without it only those that join tensors.
        rolled: Whether the calls of one module share a box. None: where it holds parameters.
        fold: Equal blocks that follow each other are one box.
        layer_range: The first and the last layer that is drawn, as names or regular expressions.
        splines: How arrows are drawn; one of `Splines`. None leaves it to Graphviz.
        style: "keras", or "color" for boxes coloured by kind of layer.

    Raises:
        ValueError: A value that no picture can have; the message says which there are.
        TypeError: A layer range of something else than text.
    """

    show_shapes: bool = False
    show_layer_names: bool = True
    rankdir: str = "TB"
    expand_nested: bool = False
    dpi: float = 96
    depth: int | None = None
    show_dtype: bool = False
    show_params: bool = False
    show_trainable: bool = False
    show_layer_activations: bool = False
    show_ops: bool = False
    rolled: bool | None = None
    fold: bool = False
    layer_range: tuple[str, str] | None = None
    splines: str | None = None
    style: str = "keras"

    def __post_init__(self) -> None:
        _check_choice("rankdir", self.rankdir, get_args(Direction))
        _check_choice("style", self.style, get_args(PictureStyle))
        if self.splines is not None:
            _check_choice("splines", self.splines, get_args(Splines))
        if isinstance(self.dpi, bool) or not isinstance(self.dpi, int | float) or not 0 < self.dpi < 10_000:
            raise ValueError(f"dpi must be a number above 0 and below 10,000, got {self.dpi!r}")
        if self.depth is not None and not _is_depth(self.depth):
            raise ValueError(f"depth must be None or an int of 0 or more, got {self.depth!r}")
        if self.rolled not in (None, True, False):
            raise ValueError(f"rolled must be None, True or False, got {self.rolled!r}")
        if self.layer_range is not None:
            object.__setattr__(self, "layer_range", checked_range(self.layer_range))

    @staticmethod
    def asked_for(arguments: Mapping[str, Any]) -> Look:
        """The look that a public function was asked for: its arguments by name, those that are no field left out.

        Raises:
            ValueError, TypeError: As the constructor.
        """
        return Look(**fields_among(Look, arguments))

    @property
    def across(self) -> bool:
        """Whether the graph runs from left to right or back, where Graphviz turns records by a right angle."""
        return self.rankdir in ("LR", "RL")

    @property
    def coloured(self) -> bool:
        """Whether boxes have the colour of their kind of layer."""
        return self.style == "color"

    def opened_depth(self, trace: Trace) -> int:
        """The depth below which the modules of a trace are closed boxes."""
        if self.depth is not None:
            return self.depth
        if self.expand_nested:
            return max(module.depth for module in trace.modules)
        # A model that only wraps one other module is opened, and so is that one.
        limit, root = 1, trace.modules[0]
        while len(root.children) == 1 and trace.modules[root.children[0]].children:
            root = trace.modules[root.children[0]]
            limit += root.class_name not in LISTS_OF_MODULES
        return limit


def _is_depth(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


def checked_range(layer_range: Any) -> tuple[str, str]:
    """Two names or regular expressions.

    Raises:
        ValueError: It has not two elements, or one is no regular expression.
        TypeError: It is no list or tuple of text.
    """
    if not isinstance(layer_range, list | tuple):
        raise TypeError(f"layer_range must be a list or tuple of two names, got {layer_range!r}")
    if len(layer_range) != 2:
        raise ValueError(f"layer_range must be a list or tuple of two names, got {layer_range!r}")
    first, last = layer_range
    if not (isinstance(first, str) and isinstance(last, str)):
        raise TypeError(f"layer_range must hold names or regular expressions as text, got {layer_range!r}")
    for pattern in (first, last):
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"layer_range: {pattern!r} is no regular expression: {error}") from error
    return first, last
