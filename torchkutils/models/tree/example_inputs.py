"""From sizes or data to the arguments of one forward."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch

from torchkutils import _nested
from torchkutils._call_hints import meant, shown
from torchkutils._dtypes import torch_dtype
from torchkutils.models.records import Run
from torchkutils.models.tree.offloaded import execution_device

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Sizes: TypeAlias = Sequence[int | None]
Key: TypeAlias = int | str
"""An argument of the model, by position or by name."""


class MadeAs(NamedTuple):
    """How an input is made.

    Attributes:
        dtype: None for the model's own floating dtype.
        smallest: Of integers and bools.
        largest: Likewise.
    """

    dtype: torch.dtype | None
    smallest: int = 0
    largest: int = 1


# The sizes that open dimensions have in two runs: small ones for a first axis, which is the batch; large ones for other
# axes, since layers with a stride shorten a small axis to 1 at any size.
OPEN_SIZES = (((2, 64), (3, 96)), ((2, 2), (3, 3)))


def model_arguments(
    model: torch.nn.Module,
    run: Run,
    *,
    open_sizes: tuple[int, int] = OPEN_SIZES[0][0],
    made_as: Mapping[Key, MadeAs] | None = None,
) -> Arguments:
    """Positional and keyword arguments for one call of the model, from the sizes or the data of a run.

    NumPy arrays become tensors on the model's device, floating ones in the model's own floating dtype.

    Args:
        model: Whose forward is to be called.
        run: Gives `input_size` or `input_data`, `input_kwargs` and `dtypes`.
        open_sizes: The size of an open first axis, and of other open axes.
        made_as: What single inputs are made as; the model decides on the others. A dtype that was asked for stays.

    Raises:
        ValueError: Both sizes and data, a negative size, as many dtypes as there are not sizes, an argument twice.
        TypeError: A size that is no int, an `input_kwargs` that is no dict of names.
    """
    if run.input_size is not None and run.input_data is not None:
        raise ValueError("input_size and input_data were both given; give one of them")
    if run.input_size is None:
        args, kwargs = _from_data(model, run.input_data)
    else:
        args, kwargs = _Made(model, run.dtypes, open_sizes, made_as or {}).arguments(run.input_size)
    return args, _joined(kwargs, _named(model, run.input_kwargs))


def positional_names(model: torch.nn.Module) -> list[str]:
    """The names of the arguments that forward takes by position; none where that cannot be told."""
    try:
        arguments = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [argument.name for argument in arguments if argument.kind in kinds]


def has_open_dimensions(input_size: Any) -> bool:
    """Whether some size is None."""
    return any(open_axes(input_size))


def open_axes(input_size: Any) -> tuple[bool, bool]:
    """Whether first axes are open, and whether others are."""
    shapes = list(input_size.values()) if isinstance(input_size, Mapping) else _list_of_sizes(input_size)
    first = any(None in shape[:1] for shape in shapes)
    return first, any(None in shape[1:] for shape in shapes)


def pairs_of_open_sizes(input_size: Any) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """What to try in the place of open dimensions; all the same where only first axes are open."""
    return OPEN_SIZES if open_axes(input_size)[1] else OPEN_SIZES[:1]


def made_inputs(run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[Key, Any]:
    """The arguments that were made from sizes."""
    if run.input_size is None:
        return {}
    given = run.input_kwargs or {}
    return {**dict(enumerate(args)), **{name: value for name, value in kwargs.items() if name not in given}}


def wrapping_hint(model: torch.nn.Module, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """How `input_data` or the names of a dict may have been meant, where they do not fit forward; None elsewhere."""
    unknown = _unknown_name(model, run) or _missing_names(model, args, kwargs)
    if run.input_size is None:
        return unknown or _hint_about_data(model, run.input_data)
    # A dict of sizes may have been meant as names, or as the keys of one argument.
    hints = [hint for hint in (unknown, _hint_about_sizes(model, run.input_size)) if hint is not None]
    return ". ".join(hints) or None


def _hint_about_data(model: torch.nn.Module, data: Any) -> str | None:
    """How to give one argument that is a dict or a list, where its items were taken for arguments."""
    if not isinstance(data, Mapping | list) or not _accepts(model, [None], {}):
        return None
    kind, taken_as = ("dict", "keyword") if isinstance(data, Mapping) else ("list", "positional")
    return (
        f"input_data is a {kind}, and its items were the {taken_as} arguments of forward; "
        f"for one argument that is a {kind}, wrap it: input_data=(batch,)"
    )


def _hint_about_sizes(model: torch.nn.Module, sizes: Any) -> str | None:
    """How to give one argument that is a dict or a list of tensors, where sizes were given."""
    if isinstance(sizes, Mapping):
        kind, accepted = "dict", _accepts(model, [], dict(sizes))
    else:
        count = len(_list_of_sizes(sizes))
        kind, accepted = "list", count < 2 or _accepts(model, [None] * count, {})
    if accepted or not _accepts(model, [None], {}):
        return None
    return f"For one argument that is a {kind} of tensors, give the tensors: input_data=(batch,)"


def _unknown_name(model: torch.nn.Module, run: Run) -> str | None:
    """What forward takes, where a name that was given is none of it."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    names = [*(run.input_size if isinstance(run.input_size, Mapping) else ()), *(run.input_kwargs or ())]
    for name in names:
        if name not in parameters:
            return f"forward has no argument {name!r}; it takes ({', '.join(parameters)})"
    return None


def _missing_names(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str | None:
    """What forward needs beside what it was given."""
    try:
        signature = inspect.signature(model.forward)
        bound = signature.bind_partial(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return None
    missing = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and parameter.name not in bound
    ]
    if not missing:
        return None
    example = ", ".join(f"{name!r}: ..." for name in missing)
    return f"forward needs {' and '.join(missing)} too: numbers, strings, flags and tensors by name go into " + (
        f"input_kwargs={{{example}}}"
    )


# -- data ----------------------------------------------------------------------------------------------------------


def _from_data(model: torch.nn.Module, data: Any) -> Arguments:
    given = _tensors_for_arrays(model, data)
    if given is None:
        return (), {}
    if _is_pair(model, given):
        return tuple(given[0]), dict(given[1])
    if isinstance(given, Mapping):
        return (), dict(given)
    return tuple(given) if type(given) in (tuple, list) else (given,), {}


def _is_pair(model: torch.nn.Module, data: Any) -> bool:
    """Whether it can only be meant as positional and keyword arguments: forward takes them so, and no two others."""
    if type(data) is not tuple or len(data) != 2 or not isinstance(data[0], tuple | list):
        return False
    args, kwargs = data
    if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        return False
    return not _accepts(model, data, {}) and _accepts(model, args, kwargs)


def _accepts(model: torch.nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether forward can be called with these arguments."""
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _named(model: torch.nn.Module, input_kwargs: Any) -> dict[str, Any]:
    if input_kwargs is None:
        return {}
    if not isinstance(input_kwargs, Mapping) or not all(isinstance(name, str) for name in input_kwargs):
        raise TypeError(f"input_kwargs must be a dict of keyword arguments by name, got {input_kwargs!r:.200}")
    return dict(_tensors_for_arrays(model, dict(input_kwargs)))


def _joined(kwargs: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    twice = [name for name in more if name in kwargs]
    if twice:
        raise ValueError(f"input_kwargs names {twice[0]!r}, which was given already; give each argument once")
    return {**kwargs, **more}


def _tensors_for_arrays(model: torch.nn.Module, data: Any) -> Any:
    return _nested.map_leaves(data, lambda array: _tensor(model, array), kind=np.ndarray, rigid=True)


def _tensor(model: torch.nn.Module, array: np.ndarray[Any, Any]) -> Any:
    if isinstance(array, np.ma.MaskedArray) or array.dtype.kind not in "biufc":
        # No tensor can hold it: objects, text, records, a mask.
        return array
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(_device(model), _floating_dtype(model) if tensor.is_floating_point() else tensor.dtype)


# -- sizes ---------------------------------------------------------------------------------------------------------


class _Made:
    """Inputs made for one model.

    Args:
        model: What they are for.
        dtypes: As given: one, or a list or dict like the sizes; None takes the model's own.
        open_sizes: The size of an open first axis, and of other open axes.
        made_as: As in `model_arguments`.
    """

    def __init__(
        self, model: torch.nn.Module, dtypes: Any, open_sizes: tuple[int, int], made_as: Mapping[Key, MadeAs]
    ) -> None:
        self.dtypes, self.open_sizes, self.made_as = dtypes, open_sizes, made_as
        self.device = _device(model)
        self.floating = _floating_dtype(model)
        self.otherwise = MadeAs(torch.int64 if _begins_with_table(model) else None, 0, _largest_index(model))

    def arguments(self, input_size: Any) -> Arguments:
        if isinstance(input_size, Mapping):
            kinds = self._dtypes_by_name(input_size)
            return (), {name: self._tensor(name, size, kinds.get(name)) for name, size in input_size.items()}
        sizes = _list_of_sizes(input_size)
        return tuple(map(self._tensor, range(len(sizes)), sizes, self._dtypes_by_position(len(sizes)))), {}

    def _dtypes_by_name(self, input_size: Mapping[str, Any]) -> Mapping[str, Any]:
        if not isinstance(self.dtypes, Mapping):
            return dict.fromkeys(input_size, self.dtypes)
        unknown = [name for name in self.dtypes if name not in input_size]
        if unknown:
            raise ValueError(f"dtypes names {unknown[0]!r}, which input_size does not; it has {list(input_size)}")
        return self.dtypes

    def _dtypes_by_position(self, number: int) -> Sequence[Any]:
        if not isinstance(self.dtypes, list | tuple):
            return [self.dtypes] * number
        if len(self.dtypes) != number:
            raise ValueError(f"dtypes has {len(self.dtypes)} entries for {number} sizes; give one a size")
        return self.dtypes

    def _tensor(self, key: Key, size: Any, dtype: Any) -> torch.Tensor:
        shape = self._shape(size)
        made = self.made_as.get(key, self.otherwise)
        kind = (made.dtype or self.floating) if dtype is None else torch_dtype(dtype, "dtypes")
        if kind.is_floating_point or kind.is_complex:
            return torch.rand(shape, device=self.device, dtype=torch.float32).to(kind)
        return torch.randint(made.smallest, made.largest + 1, shape, device=self.device).to(kind)

    def _shape(self, size: Any) -> list[int]:
        if not isinstance(size, Sequence) or isinstance(size, str):
            raise TypeError(
                f"input_size holds {size!r} where a shape belongs: a tuple of ints, None for an open dimension; "
                "numbers, strings and flags that forward takes go into input_kwargs"
            )
        return [self._length(length, self.open_sizes[axis > 0]) for axis, length in enumerate(size)]

    def _length(self, length: Any, open_size: int) -> int:
        if length is None:
            return open_size
        if isinstance(length, bool) or not isinstance(length, int | np.integer):
            raise TypeError(
                f"input_size holds {length!r:.200}; sizes are ints, or None for an open dimension; "
                "nested arguments and tensors go into input_data"
            )
        if length < 0:
            raise ValueError(f"input_size holds {length}; sizes cannot be negative")
        return int(length)


def _list_of_sizes(input_size: Any) -> list[Sizes]:
    if not isinstance(input_size, Sequence) or isinstance(input_size, str):
        hint = f"; did you mean (None, {input_size})?" if isinstance(input_size, int) else meant(input_size)
        raise TypeError(
            f"input_size must be a shape, a list of shapes or a dict of them, got {shown(input_size)}{hint}"
        )
    if len(input_size) and isinstance(input_size[0], Sequence):
        return list(input_size)
    return [input_size]


# -- what the model says of its inputs -----------------------------------------------------------------------------


def _device(model: torch.nn.Module) -> torch.device:
    offloaded = execution_device(model.modules())
    if offloaded is not None:
        return offloaded
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        return tensor.device
    return torch.device("cpu")


def _floating_dtype(model: torch.nn.Module) -> torch.dtype:
    """The first floating dtype among the parameters; weights may be stored in one of 8 bits, which no input has."""
    dtypes = list(dict.fromkeys([parameter.dtype for parameter in model.parameters()]))
    floating = [dtype for dtype in dtypes if dtype.is_floating_point and dtype.itemsize > 1]
    of_complex = [dtype for dtype in dtypes if dtype.is_complex]
    return [*floating, *of_complex, torch.get_default_dtype()][0]


_TABLES = (torch.nn.Embedding, torch.nn.EmbeddingBag)


def _begins_with_table(model: torch.nn.Module) -> bool:
    """Whether the first module that holds something of its own is an Embedding."""
    for module in model.modules():
        if isinstance(module, _TABLES):
            return True
        if next(module.parameters(recurse=False), None) is not None:
            return False
    return False


def _largest_index(model: torch.nn.Module) -> int:
    """An index that lies inside each of the model's tables: it is not known yet which of them an input reaches."""
    lengths = {module.num_embeddings for module in model.modules() if isinstance(module, _TABLES)}
    return min(lengths - {0}, default=2) - 1
