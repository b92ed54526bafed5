"""From sizes or data to the arguments of one forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

OPEN_SIZE = 2


def model_arguments(
    model: torch.nn.Module, input_size: Any, input_data: Any, dtypes: Any, *, open_size: int = OPEN_SIZE
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Positional and keyword arguments for one call of the model; None when neither sizes nor data were given.

    Raises:
        ValueError: Both sizes and data, a negative size, as many dtypes as there are not sizes.
        TypeError: A size that is no int.
    """
    if input_size is None:
        return None if input_data is None else _from_data(input_data)
    if input_data is not None:
        raise ValueError("input_size and input_data were both given; give one of them")
    if isinstance(input_size, Mapping):
        names = list(input_size)
        kinds = dtypes if isinstance(dtypes, Mapping) else dict.fromkeys(names, dtypes)
        return (), {name: _example(model, input_size[name], kinds.get(name), open_size) for name in names}
    sizes = _list_of_sizes(input_size)
    kinds_list = list(dtypes) if isinstance(dtypes, list | tuple) else [dtypes] * len(sizes)
    if len(kinds_list) != len(sizes):
        raise ValueError(f"dtypes has {len(kinds_list)} entries for {len(sizes)} sizes; give one a size")
    return tuple(_example(model, size, kind, open_size) for size, kind in zip(sizes, kinds_list, strict=True)), {}


def has_open_dimensions(input_size: Any) -> bool:
    """Whether some size is None."""
    sizes = input_size.values() if isinstance(input_size, Mapping) else _list_of_sizes(input_size)
    return any(size is None for shape in sizes for size in shape)


def _from_data(data: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(data, tuple | list):
        return tuple(data), {}
    if isinstance(data, Mapping):
        return (), dict(data)
    return (data,), {}


def _list_of_sizes(input_size: Any) -> list[Sequence[int | None]]:
    if not isinstance(input_size, Sequence) or isinstance(input_size, str):
        raise TypeError(f"input_size has to be a shape, a list of shapes or a dict of them, got {input_size!r}")
    if len(input_size) and isinstance(input_size[0], Sequence):
        return list(input_size)
    return [input_size]


def _example(model: torch.nn.Module, size: Sequence[int | None], dtype: Any, open_size: int) -> torch.Tensor:
    for length in size:
        if length is not None and (isinstance(length, bool) or not isinstance(length, int)):
            raise TypeError(f"input_size holds {length!r}; sizes are ints, or None for an open dimension")
        if length is not None and length < 0:
            raise ValueError(f"input_size holds {length}; sizes cannot be negative")
    shape = [open_size if length is None else length for length in size]
    first = next(iter(model.parameters()), None)
    device = torch.device("cpu") if first is None else first.device
    kind = _torch_dtype(dtype) if dtype is not None else None
    table = _first_embedding(model)
    if kind is None and table is not None:
        return torch.randint(table.num_embeddings, shape, device=device)
    if kind is None:
        floating = (p.dtype for p in model.parameters() if p.is_floating_point())
        kind = next(floating, torch.get_default_dtype())
    if kind.is_floating_point or kind.is_complex:
        return torch.rand(shape, device=device, dtype=torch.float32).to(kind)
    high = table.num_embeddings if table is not None else 2
    return torch.randint(high, shape, device=device).to(kind)


def _first_embedding(model: torch.nn.Module) -> Any:
    """The Embedding that a model begins with: its first module that holds something of its own."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding | torch.nn.EmbeddingBag):
            return module
        if next(module.parameters(recurse=False), None) is not None:
            return None
    return None


def _torch_dtype(dtype: Any) -> torch.dtype:
    found = getattr(torch, str(dtype).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype):
        raise TypeError(f"dtypes holds {dtype!r}, which is no dtype of torch")
    return found
