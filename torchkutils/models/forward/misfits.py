"""What a function that failed says of the inputs that were made for it: which one it is, and what would do instead.

A model does not tell what its inputs are. They are made as floats, or as indices where it begins with a table; the
first function that cannot take one of them knows better: a lookup wants integers inside of its table, a mask bools.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from torchkutils.models.records import Run
from torchkutils.models.tree.example_inputs import Key, MadeAs
from torchkutils.models.tree.nested_values import storage_of, tensors_of

# Functions that take positions.
_INDEXING = frozenset(
    [
        *(
            "embedding",
            "embedding_bag",
            "__getitem__",
            "__setitem__",
            "index",
            "index_put",
            "index_select",
            "index_add",
        ),
        *("index_copy", "index_fill", "index_reduce", "gather", "scatter", "scatter_add", "scatter_reduce", "take"),
        *("take_along_dim", "put", "one_hot", "bincount", "cross_entropy", "nll_loss", "repeat_interleave"),
    ]
)
# Functions that take masks.
_MASKING = frozenset(
    [
        *("masked_fill", "masked_select", "masked_scatter", "where", "__invert__", "bitwise_not", "logical_not"),
        *("__and__", "__or__", "__xor__", "__rand__", "__ror__", "bitwise_and", "bitwise_or", "bitwise_xor"),
        *("scaled_dot_product_attention", "multi_head_attention_forward"),
    ]
)
_PACKING = "_pack_padded_sequence"
# Those of them that take data, the number of an axis of it, and positions along that axis.
_ALONG_AN_AXIS = frozenset(
    [
        *("index_select", "index_add", "index_copy", "index_fill", "index_reduce", "gather", "scatter", "scatter_add"),
        "scatter_reduce",
    ]
)
_TABLES = ("embedding", "embedding_bag")

_ABOUT_KIND = re.compile(
    r"dtype|scalar type|data type|tensors? of type|[Ii]nteger|\b[Ll]ong|\bInt\b|[Bb]ool|not implemented for|LongTensor"
)
_ABOUT_RANGE = re.compile(r"out of (range|bounds)|offsets\[0\]|smaller than num_classes|Class values|Target \d+ is")

FLOAT = MadeAs(None)
MASK = MadeAs(torch.bool, 1, 1)


class Misfit(NamedTuple):
    """An input that a function could not take.

    Attributes:
        key: The argument of the model, by position or by name.
        instead: What may do, the likelier first.
    """

    key: Key
    instead: tuple[MadeAs, ...]


class InputFit:
    """What the inputs of one model are made as, from what its functions could not take.

    Args:
        run: Gives the sizes; without any, nothing is made.

    Attributes:
        made_as: What single inputs are made as, for `model_arguments`.
        misfit: What the last forward could not take; None where it is not known.
    """

    def __init__(self, run: Run) -> None:
        self.made_as: dict[Key, MadeAs] = {}
        self.misfit: Misfit | None = None
        self._makes_any = run.input_size is not None
        self._tried: set[tuple[Key, MadeAs]] = set()

    def told(self, names: Sequence[str]) -> list[str]:
        """What was made otherwise than as floats, or as the indices that a model begins with, for a summary's notes."""
        found = []
        for key, made in self.made_as.items():
            name = key
            if isinstance(key, int):
                name = names[key] if key < len(names) else f"input {key}"
            dtype = "floats" if made.dtype is None else str(made.dtype).removeprefix("torch.")
            found.append(f"{name} was made as {dtype}, which forward wants; dtypes= decides otherwise")
        return found

    def another(self, error: Exception) -> bool:
        """Make one input otherwise than in the forward that raised this; False where no way is left."""
        misfit, self.misfit = self.misfit, None
        if not self._makes_any or misfit is None:
            return False
        for made in misfit.instead:
            if (misfit.key, made) not in self._tried:
                self._tried.add((misfit.key, made))
                self.made_as[misfit.key] = made
                return True
        return False


def misfit_of(
    text: str, function: str, args: tuple[Any, ...], named: Mapping[str, Any], inputs: Mapping[Key, Any]
) -> Misfit | None:
    """Which of the model's inputs a function failed on; None where that cannot be told.

    Args:
        text: What it said.
        function: Its name, without the underscore of an in-place variant.
        args: What it was given by position.
        named: What it was given by name.
        inputs: The arguments of the model that were made.
    """
    for tensor in _suspects(function, args, named, text):
        key = _input_behind(tensor, inputs)
        instead = () if key is None else _instead(function, args, tensor, text)
        if key is not None and instead:
            return Misfit(key, instead)
    return None


def _suspects(function: str, args: tuple[Any, ...], named: Mapping[str, Any], text: str) -> list[torch.Tensor]:
    """The tensors that a function was given, those first that it is likelier to have failed on."""
    given = tensors_of(*args, *named.values())
    if function == "embedding_bag" and "offsets" in text:
        return tensors_of(*args[2:], *named.values())
    # Data come first among the arguments, what selects from them behind. A table stands behind its indices.
    return given if function in _TABLES or len(given) < 2 else [*given[1:], given[0]]


def _input_behind(tensor: torch.Tensor, inputs: Mapping[Key, Any]) -> Key | None:
    """The input that a tensor is, or a view of; else the only one of its shape."""
    storage = storage_of(tensor)
    made = {key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)}
    for key, value in made.items():
        if storage_of(value) == storage:
            return key
    alike = [key for key, value in made.items() if value.shape == tensor.shape]
    return alike[0] if len(alike) == 1 else None


def _instead(function: str, args: tuple[Any, ...], tensor: torch.Tensor, text: str) -> tuple[MadeAs, ...]:
    if function == _PACKING:
        return _lengths(args)
    if not tensor.is_floating_point():
        return _instead_of_integers(function, args, tensor, text)
    largest = MadeAs(torch.int64, 0, _largest(function, args, tensor))
    if function in _MASKING or (function == "__getitem__" and _selects(args[0], tensor)):
        return MASK, largest
    if function in _INDEXING:
        return largest, MASK
    return (MadeAs(torch.int64, 0, 0), MASK) if _ABOUT_KIND.search(text) else ()


def _instead_of_integers(function: str, args: tuple[Any, ...], tensor: torch.Tensor, text: str) -> tuple[MadeAs, ...]:
    if _ABOUT_RANGE.search(text):
        largest = 0 if "offsets" in text else _largest(function, args, tensor)
        return MadeAs(tensor.dtype, 0, largest), MadeAs(tensor.dtype, 0, 0)
    if not _ABOUT_KIND.search(text):
        return ()
    return (MASK, FLOAT) if function in _MASKING else (FLOAT, MASK)


def _lengths(args: tuple[Any, ...]) -> tuple[MadeAs, ...]:
    """All sequences are as long as the longest: `_pack_padded_sequence(input, lengths, batch_first)`."""
    length = int(args[0].shape[1 if args[2] else 0])
    return (MadeAs(torch.int64, length, length),)


def _selects(data: Any, mask: torch.Tensor) -> bool:
    """Whether a tensor of several axes has the shape of a mask of the first axes of some data."""
    return isinstance(data, torch.Tensor) and mask.ndim > 1 and data.shape[: mask.ndim] == mask.shape


def _largest(function: str, args: tuple[Any, ...], tensor: torch.Tensor) -> int:
    """The largest position that a function can take; 0, which is in every table, where it does not tell."""
    length: Any = 1
    if function in _TABLES:
        length = args[1].shape[0]
    elif function == "one_hot":
        length = max([1, *(value for value in args[1:] if isinstance(value, int))])
    elif function in ("__getitem__", "__setitem__", "index") and isinstance(args[0], torch.Tensor):
        length = _indexed_length(args[0], args[1], tensor)
    elif function in _ALONG_AN_AXIS and len(args) > 1 and isinstance(args[1], int):
        length = args[0].shape[args[1]]
    return max(int(length), 1) - 1


def _indexed_length(data: torch.Tensor, key: Any, tensor: torch.Tensor) -> int:
    """The length of the axis that a tensor inside of square brackets selects from."""
    parts = list(key) if isinstance(key, tuple | list) else [key]
    axis = next((place for place, part in enumerate(parts) if part is tensor), 0)
    if any(part is None or part is Ellipsis for part in parts[:axis]) or axis >= data.ndim:
        return 1
    return int(data.shape[axis])
