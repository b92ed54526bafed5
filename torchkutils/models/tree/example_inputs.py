"""From sizes or data to the arguments of one forward."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from torchkutils import _nested
from torchkutils._call_hints import meant, shown
from torchkutils._dtypes import torch_dtype
from torchkutils.models.records import Run
from torchkutils.models.tree.offloaded import execution_device

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
Sizes: TypeAlias = Sequence[int | None]

# What stands for open dimensions in two runs: for a first axis, which is small since it is the batch, and for others,
# which are large since layers that stride over a small one leave 1 of it at any size.
OPEN_SIZES = (((2, 64), (3, 96)), ((2, 2), (3, 3)))


def model_arguments(
    model: torch.nn.Module,
    run: Run,
    *,
    open_sizes: tuple[int, int] = OPEN_SIZES[0][0],
    largest_index: int | None = None,
) -> Arguments:
    """Positional and keyword arguments for one call of the model, from the sizes or the data of a run.

    NumPy arrays become tensors on the model's device, floating ones in the model's own floating dtype.

    Args:
        model: Whose forward is to be called.
        run: Gives `input_size` or `input_data`, `input_kwargs` and `dtypes`.
        open_sizes: What stands for an open first axis, and for other open axes.
        largest_index: The largest of the indices that are made; None lets the model's tables decide.

    Raises:
        ValueError: Both sizes and data, a negative size, as many dtypes as there are not sizes, an argument twice.
        TypeError: A size that is no int, an `input_kwargs` that is no dict of names.
    """
    if run.input_size is not None and run.input_data is not None:
        raise ValueError("input_size and input_data were both given; give one of them")
    if run.input_size is None:
        args, kwargs = _from_data(model, run.input_data)
    else:
        args, kwargs = _Made(model, run.dtypes, open_sizes, largest_index).arguments(run.input_size)
    return args, _joined(kwargs, _named(model, run.input_kwargs))


def has_open_dimensions(input_size: Any) -> bool:
    """Whether some size is None."""
    return any(size is None for shape in _each_size(input_size) for size in shape)


def open_axes(input_size: Any) -> tuple[bool, bool]:
    """Whether first axes are open, and whether others are."""
    shapes = _each_size(input_size)
    first = any(shape[0] is None for shape in shapes if len(shape))
    return first, any(size is None for shape in shapes for size in shape[1:])


def pairs_of_open_sizes(input_size: Any) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """What to try in the place of open dimensions; all the same where only first axes are open."""
    return OPEN_SIZES if open_axes(input_size)[1] else OPEN_SIZES[:1]


def wrapping_hint(model: torch.nn.Module, run: Run) -> str | None:
    """How `input_data` or the names of a dict may have been meant, where they do not fit forward; None elsewhere."""
    about_sizes = None if run.input_size is None else _hint_about_sizes(model, run.input_size)
    hint = about_sizes or _unknown_name(model, run)
    data = run.input_data
    if hint is not None or run.input_size is not None or not isinstance(data, Mapping | list):
        return hint
    taken_as = "keyword arguments" if isinstance(data, Mapping) else "positional arguments"
    kind = "dict" if isinstance(data, Mapping) else "list"
    hint = f"input_data is a {kind}, and its items were the {taken_as} of forward"
    takes_one = _accepts(model, [None], {})
    return f"{hint}; for one argument that is a {kind}, wrap it: input_data=(batch,)" if takes_one else None


def _hint_about_sizes(model: torch.nn.Module, sizes: Any) -> str | None:
    """The same where sizes were given for what forward takes as one dict or list of tensors."""
    if isinstance(sizes, Mapping):
        as_named = _accepts(model, [], dict(sizes))
        kind, meant = "dict", not as_named and _accepts(model, [None], {})
    else:
        count = len(_list_of_sizes(sizes))
        kind, meant = "list", count > 1 and not _accepts(model, [None] * count, {}) and _accepts(model, [None], {})
    return f"For one argument that is a {kind} of tensors, give the tensors: input_data=(batch,)" if meant else None


def _unknown_name(model: torch.nn.Module, run: Run) -> str | None:
    """What forward takes, where a name that was given is none of it."""
    try:
        parameters = inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return None
    names = [*(run.input_size if isinstance(run.input_size, Mapping) else ()), *(run.input_kwargs or ())]
    unknown = [name for name in names if name not in parameters]
    if not unknown or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return None
    return f"forward has no argument {unknown[0]!r}; it takes ({', '.join(parameters)})"


def _each_size(input_size: Any) -> list[Sizes]:
    return list(input_size.values()) if isinstance(input_size, Mapping) else _list_of_sizes(input_size)


# -- data ----------------------------------------------------------------------------------------------------------


def _from_data(model: torch.nn.Module, data: Any) -> Arguments:
    given = _tensors_for_arrays(model, data)
    if given is None:
        return (), {}
    if _is_pair(model, given):
        return tuple(given[0]), dict(given[1])
    if type(given) in (tuple, list):
        return tuple(given), {}
    if isinstance(given, Mapping):
        return (), dict(given)
    return (given,), {}


def _is_pair(model: torch.nn.Module, data: Any) -> bool:
    """Whether it can only be meant as positional and keyword arguments: forward takes them so, and no two others."""
    if type(data) is not tuple or len(data) != 2 or not isinstance(data[0], tuple | list):
        return False
    args, kwargs = data
    named = isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)
    return named and not _accepts(model, data, {}) and _accepts(model, args, kwargs)


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
        open_sizes: What stands for an open first axis, and for other open axes.
        largest_index: Of integer inputs; None lets the model's tables decide.
    """

    def __init__(
        self, model: torch.nn.Module, dtypes: Any, open_sizes: tuple[int, int], largest_index: int | None
    ) -> None:
        self.dtypes, self.open_sizes = dtypes, open_sizes
        self.device = _device(model)
        begins_with_table = _begins_with_table(model)
        self.dtype = torch.int64 if begins_with_table else _floating_dtype(model)
        self.largest_index = _largest_index(model) if largest_index is None else largest_index

    def arguments(self, input_size: Any) -> Arguments:
        dtypes = self.dtypes
        if isinstance(input_size, Mapping):
            unknown = [name for name in dtypes if name not in input_size] if isinstance(dtypes, Mapping) else []
            if unknown:
                raise ValueError(f"dtypes names {unknown[0]!r}, which input_size does not; it has {list(input_size)}")
            kinds = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(input_size, dtypes)
            return (), {name: self._tensor(size, kinds.get(name)) for name, size in input_size.items()}
        sizes = _list_of_sizes(input_size)
        kinds_list = list(dtypes) if isinstance(dtypes, list | tuple) else [dtypes] * len(sizes)
        if len(kinds_list) != len(sizes):
            raise ValueError(f"dtypes has {len(kinds_list)} entries for {len(sizes)} sizes; give one a size")
        return tuple(self._tensor(size, kind) for size, kind in zip(sizes, kinds_list, strict=True)), {}

    def _tensor(self, size: Any, dtype: Any) -> torch.Tensor:
        shape = self._shape(size)
        kind = self.dtype if dtype is None else torch_dtype(dtype, "dtypes")
        if kind.is_floating_point or kind.is_complex:
            return torch.rand(shape, device=self.device, dtype=torch.float32).to(kind)
        return torch.randint(self.largest_index + 1, shape, device=self.device).to(kind)

    def _shape(self, size: Any) -> list[int]:
        if not isinstance(size, Sequence) or isinstance(size, str):
            raise TypeError(
                f"input_size holds {size!r} where a shape belongs: a tuple of ints, None for an open dimension; "
                "numbers, strings and flags that forward takes go into input_kwargs"
            )
        for length in size:
            if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer)):
                raise TypeError(
                    f"input_size holds {length!r:.200}; sizes are ints, or None for an open dimension; "
                    "nested arguments and tensors go into input_data"
                )
            if length is not None and length < 0:
                raise ValueError(f"input_size holds {length}; sizes cannot be negative")
        return [self.open_sizes[axis > 0] if length is None else int(length) for axis, length in enumerate(size)]


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
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _floating_dtype(model: torch.nn.Module) -> torch.dtype:
    """The first floating dtype among the parameters; one of 8 bits is how weights are stored, no input has it."""
    dtypes = list(dict.fromkeys(parameter.dtype for parameter in model.parameters()))
    floating = [dtype for dtype in dtypes if dtype.is_floating_point and dtype.itemsize > 1]
    floating = floating or [dtype for dtype in dtypes if dtype.is_complex]
    return floating[0] if floating else torch.get_default_dtype()


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
    """An index that lies inside each of the model's tables: nobody knows yet which of them an input reaches."""
    lengths = [module.num_embeddings for module in model.modules() if isinstance(module, _TABLES)]
    return min([length for length in lengths if length], default=2) - 1
