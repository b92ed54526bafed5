"""The arguments of `summarize` and `plot_model` that integrations pass on, for type checkers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

from torchkutils._typing import ColumnName, InputDTypes, InputSize, Rankdir
from torchkutils.models.picture.look import PictureStyle, Splines
from torchkutils.models.records import EngineName, Mode
from torchkutils.models.table.view import Style

__all__ = ["GivenInput", "PictureOptions", "SummaryOptions"]


class GivenInput(TypedDict, total=False):
    """What a model is given, and how it runs: what tables, pictures and pages have in common."""

    input_size: InputSize | None
    input_data: Any
    input_kwargs: Mapping[str, Any] | None
    dtypes: InputDTypes | None
    mode: Mode
    engine: EngineName


class SummaryOptions(GivenInput, total=False):
    """Arguments of `summarize`."""

    depth: int | Literal["auto"] | None
    columns: Sequence[ColumnName] | None
    grad: bool
    style: Style
    fold: bool
    weights: bool


class PictureOptions(GivenInput, total=False):
    """Arguments of `plot_model` but for the model and the file."""

    show_shapes: bool
    show_layer_names: bool
    rankdir: Rankdir
    expand_nested: bool
    dpi: int
    depth: int | None
    show_dtype: bool
    show_params: bool
    show_trainable: bool
    show_ops: bool
    drawer: Literal["layers", "torchview"]
    rolled: bool | None
    fold: bool
    style: PictureStyle
    show_layer_activations: bool
    layer_range: Sequence[str] | None
    splines: Splines | None
