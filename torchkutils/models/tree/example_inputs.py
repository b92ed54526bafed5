"""From sizes or data to the arguments of one forward."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from torchkutils import _nested
from torchkutils._dtypes import torch_dtype

Arguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]

# What stands for open dimensions in two runs: for a first axis, which is small since it is the batch, and for others,
# which are large since layers that stride over a small one leave 1 of it at any size.
OPEN_SIZES = (((2, 64), (3, 96)), ((2, 2), (3, 3)))


def model_arguments(
    model: torch.nn.Module,
    input_size: Any,
    input_data: Any,
    dtypes: Any,
    *,
    open_sizes: tuple[int, int] = OPEN_SIZES[0][0],
) -> Arguments:
    """Positional and keyword arguments for one call of the model, from sizes or from data; one of them is given.

    NumPy arrays become tensors on the model's device, floating ones in the model's own floating dtype.

    Raises:
        ValueError: Both sizes and data, a negative size, as many dtypes as there are not sizes.
        TypeError: A size that is no int.
    """
    if input_size is None:
        return _from_data(model, input_data)
    if input_data is not None:
        raise ValueError("input_size and input_data were both given; give one of them")
    if isinstance(input_size, Mapping):
        unknown = [name for name in dtypes if name not in input_size] if isinstance(dtypes, Mapping) else []
        if unknown:
            raise ValueError(f"dtypes names {unknown[0]!r}, which input_size does not; it has {list(input_size)}")
        shapes = {name: _shape(size, open_sizes) for name, size in input_size.items()}
        kinds = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(shapes, dtypes)
        return (), {name: _example(model, shape, kinds.get(name)) for name, shape in shapes.items()}
    sizes = [_shape(size, open_sizes) for size in _list_of_sizes(input_size)]
    kinds_list = list(dtypes) if isinstance(dtypes, list | tuple) else [dtypes] * len(sizes)
    if len(kinds_list) != len(sizes):
        raise ValueError(f"dtypes has {len(kinds_list)} entries for {len(sizes)} sizes; give one a size")
    return tuple(_example(model, shape, kind) for shape, kind in zip(sizes, kinds_list, strict=True)), {}


def has_open_dimensions(input_size: Any) -> bool:
    """Whether some size is None."""
    return any(size is None for shape in _each_size(input_size) for size in shape)


def pairs_of_open_sizes(input_size: Any) -> tuple[tuple[tuple[int, int], tuple[int, int]], ...]:
    """What to try in the place of open dimensions; all the same where only first axes are open."""
    inner = any(size is None for shape in _each_size(input_size) for size in shape[1:])
    return OPEN_SIZES if inner else OPEN_SIZES[:1]


def _each_size(input_size: Any) -> list[Sequence[int | None]]:
    return list(input_size.values()) if isinstance(input_size, Mapping) else _list_of_sizes(input_size)


def _from_data(model: torch.nn.Module, data: Any) -> Arguments:
    given = _nested.map_leaves(data, lambda array: _tensor(model, array), kind=np.ndarray, rigid=True)
    if type(given) in (tuple, list):
        return tuple(given), {}
    if isinstance(given, Mapping):
        return (), dict(given)
    return (given,), {}


def _tensor(model: torch.nn.Module, array: np.ndarray[Any, Any]) -> torch.Tensor:
    tensor = torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("=")))
    return tensor.to(_device(model), _floating_dtype(model) if tensor.is_floating_point() else tensor.dtype)


def _list_of_sizes(input_size: Any) -> list[Sequence[int | None]]:
    if not isinstance(input_size, Sequence) or isinstance(input_size, str):
        raise TypeError(f"input_size has to be a shape, a list of shapes or a dict of them, got {input_size!r}")
    if len(input_size) and isinstance(input_size[0], Sequence):
        return list(input_size)
    return [input_size]


def _shape(size: Any, open_sizes: tuple[int, int]) -> list[int]:
    if not isinstance(size, Sequence) or isinstance(size, str):
        raise TypeError(f"input_size holds {size!r} where a shape belongs: a tuple of ints, None for an open dimension")
    for length in size:
        if length is not None and (isinstance(length, bool) or not isinstance(length, int | np.integer)):
            raise TypeError(f"input_size holds {length!r}; sizes are ints, or None for an open dimension")
        if length is not None and length < 0:
            raise ValueError(f"input_size holds {length}; sizes cannot be negative")
    return [open_sizes[axis > 0] if length is None else int(length) for axis, length in enumerate(size)]


def _example(model: torch.nn.Module, shape: list[int], dtype: Any) -> torch.Tensor:
    device = _device(model)
    kind = torch_dtype(dtype, "dtypes") if dtype is not None else None
    table = _first_embedding(model)
    if kind is None and table is not None:
        return torch.randint(table.num_embeddings, shape, device=device)
    if kind is None:
        kind = _floating_dtype(model)
    if kind.is_floating_point or kind.is_complex:
        return torch.rand(shape, device=device, dtype=torch.float32).to(kind)
    high = table.num_embeddings if table is not None else 2
    return torch.randint(high, shape, device=device).to(kind)


def _device(model: torch.nn.Module) -> torch.device:
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device


def _floating_dtype(model: torch.nn.Module) -> torch.dtype:
    dtypes = list(dict.fromkeys(parameter.dtype for parameter in model.parameters()))
    floating = [dtype for dtype in dtypes if dtype.is_floating_point] or [dtype for dtype in dtypes if dtype.is_complex]
    return floating[0] if floating else torch.get_default_dtype()


def _first_embedding(model: torch.nn.Module) -> Any:
    """The Embedding that a model begins with: its first module that holds something of its own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
            return module
        if next(module.parameters(recurse=False), None) is not None:
            return None
    return None
