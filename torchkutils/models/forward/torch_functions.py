"""What the name and arguments of a torch function say of it."""

from __future__ import annotations

import functools
import sys
from typing import Any

import torch

from torchkutils._torch_versions import OPERATORS, OperatorOverload

HOOKING = ("register_hook", "register_post_accumulate_grad_hook")
# Functions that hand the values of a tensor to NumPy, to Python or to another library.
LEAVING = frozenset(["numpy", "__array__", "tolist", "__dlpack__", "__reduce_ex__"])
# Those of them that share the tensor's memory.
SHARING = frozenset(["numpy", "__array__", "__dlpack__"])
# Functions that make a tensor of what lies there.
ENTERING = frozenset(["tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "new_tensor"])
# Functions that look at a tensor without computing from it.
QUIET = frozenset(
    [
        *("__get__", "__set__", "size", "dim", "stride", "numel", "storage_offset", "is_floating_point", "is_complex"),
        *("data_ptr", "__len__", "__hash__", "requires_grad_", "element_size", "untyped_storage", "is_contiguous"),
        *HOOKING,
        *("get_device", "has_names", "__repr__", "__format__", "ndimension", "is_cuda", "is_nested"),
    ]
)
_OPERATORS = "add sub mul div truediv floordiv mod pow matmul and or xor lshift rshift"
_IN_PLACE_OPERATORS = frozenset(f"__i{name}__" for name in _OPERATORS.split(" "))
# Renormalises the rows of its table that it looks up.
_TABLES = ("embedding", "embedding_bag")


def shown_name(name: str) -> str:
    """A function's name without what Python and torch put around it: "add" for "__add__", "_add" and "add_.Tensor"."""
    return name.partition(".")[0].strip("_")


def asks_for_graph(function: Any, name: str) -> bool:
    """Whether a function of `QUIET` sets or reads what a tensor has only with gradients."""
    if name in ("__get__", "__set__"):
        return getattr(function.__self__, "__name__", "") in ("requires_grad", "grad_fn", "grad")
    return name == "requires_grad_"


def written_tensors(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that a function writes to."""
    if type(function) in OPERATORS:
        return _tensors([kwargs.get(key, args[at] if at < len(args) else None) for key, at in _declared(function)])
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
    underscored = name.endswith("_") and not name.endswith("__")
    return underscored or name == "__setitem__" or name in _IN_PLACE_OPERATORS


@functools.lru_cache(maxsize=1024)
def _declared(function: Any) -> list[tuple[str, int]]:
    """The arguments, by name and position, that some overload of an operator declares to write to."""
    single = isinstance(function, OperatorOverload)
    overloads = [function] if single else [getattr(function, name) for name in function.overloads()]
    written: dict[str, int] = {}
    for overload in overloads:
        for position, argument in enumerate(overload._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                written[argument.name] = sys.maxsize if argument.kwarg_only else position
    return list(written.items())


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
