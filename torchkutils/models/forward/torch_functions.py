"""What the name and arguments of a torch function say of it."""

from __future__ import annotations

import functools
from typing import Any

import torch

from torchkutils._torch_versions import OPERATORS, OperatorOverload

HOOKING = ("register_hook", "register_post_accumulate_grad_hook")
# Functions that hand the values of a tensor to NumPy, to Python or to another library.
LEAVING = frozenset(["numpy", "__array__", "tolist", "__dlpack__", "__reduce_ex__"])
# Those of them that share the tensor's memory.
SHARING = frozenset(["numpy", "__array__", "__dlpack__"])
# Functions that make a tensor of values in NumPy, in Python or in another library.
ENTERING = frozenset(["tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "new_tensor"])
# How the names of functions begin that make a tensor of nothing, perhaps of another one's shape.
CREATING = ("empty", "zeros", "ones", "full", "rand", "new_", "tensor")
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
# Behind all positional arguments: the argument must be named.
_NO_POSITION = 1_000_000


def shown_name(name: str) -> str:
    """A function's name without what Python and torch put around it: "add" for "__add__", "_add" and "add_.Tensor"."""
    return name.partition(".")[0].strip("_")


@functools.lru_cache(maxsize=4096)
def plain_name(name: str) -> str:
    """The name of an operator or function without its namespace and the underscore of its in-place variant."""
    name = name.removeprefix("aten::").removeprefix("prims::")
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def asks_for_graph(function: Any, name: str) -> bool:
    """Whether a function of `QUIET` sets or reads what a tensor has only with gradients."""
    if name in ("__get__", "__set__"):
        return getattr(function.__self__, "__name__", "") in ("requires_grad", "grad_fn", "grad")
    return name == "requires_grad_"


def hands_out_memory(getter: Any) -> bool:
    """Whether a property of a tensor gives one that is written to without autograd counting it: `x.data`."""
    return getattr(getter.__self__, "__name__", "") == "data"


def written_tensors(function: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """The tensors that a function writes to."""
    if type(function) in OPERATORS:
        return _written_by_operator(function, args, kwargs)
    if _is_in_place(name):
        return _first_argument(args, kwargs)
    if not kwargs:
        return []
    if kwargs.get("inplace") is True:
        return _first_argument(args, kwargs)
    if name in _TABLES and kwargs.get("max_norm") is not None:
        return _tensors(args[1:2])
    return _tensors(kwargs.get("out"))


def _written_by_operator(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    written: list[torch.Tensor] = []
    for name, position in _declared(function):
        written += _tensors(kwargs.get(name, args[position : position + 1]))
    return written


def _first_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    # torch.nn.init hands its arguments on by name.
    return _tensors([*args, *kwargs.values()][:1])


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
                written[argument.name] = _NO_POSITION if argument.kwarg_only else position
    return list(written.items())


def _tensors(value: Any) -> list[torch.Tensor]:
    """A tensor, or the tensors in a list or tuple."""
    if isinstance(value, torch.Tensor):
        return [value]
    found: list[torch.Tensor] = []
    for item in value if isinstance(value, list | tuple) else ():
        found += _tensors(item)
    return found
