"""What the name and arguments of a torch function say of it."""

from __future__ import annotations

import functools
from typing import Any

import torch

# Functions that look at a tensor without computing from it.
QUIET = frozenset(
    [
        *("__get__", "__set__", "size", "dim", "stride", "numel", "storage_offset", "is_floating_point", "is_complex"),
        *("data_ptr", "__len__", "__hash__", "requires_grad_", "element_size", "untyped_storage", "is_contiguous"),
        *("get_device", "has_names", "__repr__", "__format__", "ndimension", "is_cuda", "is_nested"),
    ]
)
_OPERATORS = "add sub mul div truediv floordiv mod pow matmul and or xor lshift rshift"
_IN_PLACE_OPERATORS = frozenset(f"__i{name}__" for name in _OPERATORS.split(" "))
# Renormalises the rows of its table that it looks up.
_TABLES = ("embedding", "embedding_bag")


def shown_name(name: str) -> str:
    """A function's name without what Python and torch put around it: "add" for "__add__", "add_" and "_add"."""
    return name.strip("_")


def written_tensors(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that a function writes to."""
    if _is_in_place(name) or (kwargs and kwargs.get("inplace") is True):
        # torch.nn.init hands its arguments on by name.
        return _tensors(args[0] if args else next(iter(kwargs.values()), None))
    if not kwargs:
        return []
    if name in _TABLES and kwargs.get("max_norm") is not None and len(args) > 1:
        return _tensors(args[1])
    return _tensors(kwargs["out"]) if "out" in kwargs else []


@functools.lru_cache(maxsize=1024)
def _is_in_place(name: str) -> bool:
    # An overload is named "add_.Tensor".
    underscored = name.partition(".")[0].endswith("_") and not name.endswith("__")
    return underscored or name == "__setitem__" or name in _IN_PLACE_OPERATORS


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, list | tuple) else []
