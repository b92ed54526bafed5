"""Floating-point operations from shapes alone: two for a multiply-add, as torch's FlopCounterMode counts.

What a function runs is told by the first of these that knows it: a formula of the user's (`register_flop_formula`), a
formula of ours (`flop_formulas`), one that was registered with torch's own flop counter, the list of functions that are
known to be free (`free_functions`). What none of them knows makes the count a lower bound.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeGuard, TypeVar

import torch
from torch import nn
from torch.utils import flop_counter

from torchkutils import _torch_versions
from torchkutils._nested import map_leaves, of_kind
from torchkutils.models.forward.flop_formulas import FORMULAS, Formula, attention_flops
from torchkutils.models.forward.free_functions import FREE_FUNCTIONS
from torchkutils.models.forward.torch_functions import plain_name
from torchkutils.models.records import Collection, TensorValue, Value, tensors_in

Target: TypeAlias = Callable[..., Any] | str
AnyFormula = TypeVar("AnyFormula", bound=Callable[..., Any])

# Formulas of users: by the name of an operator or of a function of torch, else by the function or class itself.
_registered: dict[Any, Formula] = {}


def register_flop_formula(
    targets: Target | Sequence[Target], *, get_raw: bool = False
) -> Callable[[AnyFormula], AnyFormula]:
    """Tell `summarize` how many operations a function, an operator or a module runs.

    Without a formula, what is not known makes the total a lower bound ("≥"). A formula that was written for
    `torch.utils.flop_counter.register_flop_formula` works here too, and operators that were registered there need
    none here.

    Args:
        targets: One or several of: an operator (`torch.ops.mylib.attention`, or its name "mylib::attention"); a
            function of torch (`torch.cdist`), or one of your own that calls `torch.overrides.handle_torch_function`;
            a class of modules. A later formula replaces an earlier one.
        get_raw: Give the formula tensors instead of shapes.

    Returns:
        A decorator that gives the formula back. The formula gets the arguments of the call with a `torch.Size` in the
        place of each tensor, and `out_shape`, the shape or shapes of what was returned; with `get_raw` the tensors
        themselves, and `out_val`. A formula of a class of modules gets the module first, shapes (never tensors) of
        the arguments and None for arguments that are no tensors; what it gives stands for all that a call runs outside
        of the modules within. It returns the number of operations, two for a multiply-add, or None where it cannot
        tell. One that raises makes the total a lower bound, with a warning.

    Raises:
        TypeError: A target that is neither a callable nor the name of an operator, or a module in place of its class.
        ValueError: `get_raw` for a class of modules.

    Differs from Keras: Keras 2.3.1 counts no operations.

    >>> import torch
    >>> from torchkutils import register_flop_formula, summarize
    >>> class Distances(torch.nn.Module):
    ...     def forward(self, a, b):
    ...         return torch.cdist(a, b)
    >>> summarize(Distances(), input_size=[(5, 3), (7, 3)]).flops_known
    False
    >>> @register_flop_formula(torch.cdist)
    ... def cdist_flops(a, b, *args, out_shape, **kwargs):
    ...     return 2 * out_shape.numel() * a[-1]
    >>> summarize(Distances(), input_size=[(5, 3), (7, 3)]).flops
    210
    """
    listed = list(targets) if isinstance(targets, Sequence) and not isinstance(targets, str) else [targets]
    for target in listed:
        _check_target(target, get_raw)

    def register(formula: AnyFormula) -> AnyFormula:
        for target in listed:
            of_module = _is_module_class(target)
            key = target if of_module else _key(target)
            _registered[key] = _guarded(formula if get_raw or of_module else _given_shapes(formula))
        return formula

    return register


def _check_target(target: Any, get_raw: bool) -> None:
    possible = "::" in target if isinstance(target, str) else callable(target)
    if not possible:
        raise TypeError(f"targets must be functions, classes of modules or names like 'mylib::op', got {target!r}")
    if isinstance(target, nn.Module):
        name = type(target).__name__
        raise TypeError(f"targets must be classes of modules, got an instance of {name}; give the class {name}")
    if get_raw and _is_module_class(target):
        raise ValueError(f"get_raw=True is not possible for {target.__name__}: formulas of modules get shapes")


def _is_module_class(target: Any) -> TypeGuard[type[nn.Module]]:
    return isinstance(target, type) and issubclass(target, nn.Module)


def _given_shapes(formula: Callable[..., Any]) -> Formula:
    """A formula of shapes as a formula of tensors."""

    @functools.wraps(formula)
    def of_tensors(*args: Any, out_val: Any, **named: Any) -> int | None:
        shapes, named_shapes, out_shape = map_leaves(
            (args, named, out_val), lambda tensor: tensor.shape, kind=torch.Tensor
        )
        result: int | None = formula(*shapes, **named_shapes, out_shape=out_shape)
        return result

    return of_tensors


def _guarded(formula: Callable[..., Any]) -> Formula:
    """An error of a user's formula is no error of the model's."""

    @functools.wraps(formula)
    def guarded(*args: Any, **named: Any) -> int | None:
        try:
            return _whole(formula(*args, **named))
        except Exception as error:
            name = getattr(formula, "__qualname__", repr(formula))
            warnings.warn(f"the FLOP formula {name} raised {type(error).__name__}: {error}", stacklevel=2)
            return None

    return guarded


def _whole(count: Any) -> int | None:
    """What a formula gave as a number of operations; 12.0 is one too."""
    if count is None:
        return None
    whole = int(count) if isinstance(count, float) and count.is_integer() else operator.index(count)
    if whole < 0:
        raise ValueError(f"a number of operations cannot be negative, got {whole}")
    return whole


# -- functions -----------------------------------------------------------------------------------------------------


def function_flops(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """What one torch function ran, None when it cannot be told; `out` is what it returned."""
    formula = _formula_of(function)
    if formula is _no_operations:
        return 0
    if formula is None or _has_unusual_tensor(args) or _has_unusual_tensor(kwargs.values()):
        return None
    try:
        count = _whole(formula(*args, **_with_names_of_functions(kwargs), out_val=out))
        return None if count is None else count * examples_at_once(args, kwargs)
    except (TypeError, IndexError, AttributeError, KeyError, ValueError, RuntimeError):
        return None


def _formula_of(function: Callable[..., Any]) -> Formula | None:
    """The formula of a function; None where there is none."""
    key = _key(function)
    formula = _registered.get(key) or FORMULAS.get(key)
    if formula is not None:
        return formula
    if isinstance(key, str) and key in FREE_FUNCTIONS:
        return _no_operations
    return flop_counter.flop_registry.get(getattr(function, "overloadpacket", function))


def _no_operations(*arguments: Any, **named: Any) -> int:
    return 0


def _has_unusual_tensor(values: Iterable[Any]) -> bool:
    """Whether the shape of one of the tensors does not tell what is computed from it: sparse and nested ones."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return any(tensor.layout is not torch.strided or tensor.is_nested for tensor in tensors)


def _with_names_of_functions(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments under the names that formulas know: schemas call the first one `self`, functions call it `input`."""
    named = dict(kwargs)
    named.pop("out", None)
    if "self" in named:
        named["input"] = named.pop("self")
    return named


# Functions of these classes that come through `__torch_function__` are torch's; not all of them have a `__module__`.
_WRITTEN_IN_C = frozenset([types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType])


def _key(function: Any) -> Any:
    """The name of an operator or of a function of torch, without the underscore of its in-place variant; else itself.

    Operators of aten have the names of the functions that call them; others keep their namespace: "mylib::op".
    """
    if type(function) in _WRITTEN_IN_C:
        name = function.__name__
    elif isinstance(function, str):
        name = function
    elif isinstance(function, _torch_versions.NAMED_OPERATORS):
        name = _torch_versions.operator_name(function)
    elif _belongs_to_torch(function):
        name = function.__name__.partition(".")[0]
    else:
        return function
    return plain_name(name)


def _belongs_to_torch(function: Any) -> bool:
    """Whether a function is one of torch's: those of others may have the same name."""
    module = getattr(function, "__module__", None) or ""
    return hasattr(function, "__name__") and (module == "torch" or module.startswith("torch."))


def examples_at_once(*values: Any) -> int:
    """How many examples `torch.vmap` runs at once: inside of it, a tensor shows the shape of one."""
    sizes: dict[int, int] = {}
    if _torch_versions.inside_function_transform():
        for tensor in of_kind(torch.Tensor, *values):
            sizes.update(_torch_versions.vmap_sizes(tensor))
    return math.prod(sizes.values())


# -- modules -------------------------------------------------------------------------------------------------------


class Count(NamedTuple):
    """How many operations ran; `known` is false where more may have run."""

    operations: int
    known: bool


def module_flops(module: nn.Module, inputs: Collection, output: Value | None, *, leaf: bool) -> Count | None:
    """What a call of a module ran itself, where its class says more than the functions inside it; None elsewhere.

    Args:
        module: What was called.
        inputs: What it took.
        output: What it returned.
        leaf: It called no other module: what the other ones ran is counted there.
    """
    formula = _formula_of_class(type(module)) if _registered else None
    if formula is not None:
        return _count(_registered_flops(formula, module, inputs, output))
    if not leaf:
        return None
    if isinstance(module, torch.jit.ScriptModule):
        # No function inside of it is seen.
        return Count(0, False)
    for kind, flops in _KINDS.items():
        if isinstance(module, kind):
            # The records of a call inside torch.vmap have the shapes of one example.
            return _count(None if _torch_versions.inside_function_transform() else flops(module, inputs))
    return None


def _count(operations: int | None) -> Count:
    return Count(operations or 0, operations is not None)


def _formula_of_class(kind: type[nn.Module]) -> Formula | None:
    return next((_registered[base] for base in kind.__mro__ if base in _registered), None)


def _registered_flops(formula: Formula, module: nn.Module, inputs: Collection, output: Value | None) -> int | None:
    positional, named = [], {}
    for key, value in inputs.items:
        if isinstance(key, str):
            named[key] = _shapes(value)
        else:
            positional.append(_shapes(value))
    return formula(module, *positional, **named, out_shape=_shapes(output))


def _shapes(value: Value | None) -> Any:
    """The shapes of a recorded value: one, or as many as it has tensors; None for what is no tensor."""
    shapes = [torch.Size([1 if size is None else size for size in tensor.shape]) for tensor in tensors_in(value)]
    if isinstance(value, TensorValue):
        return shapes[0]
    return shapes or None


def _given(module: nn.Module, inputs: Collection, name: str) -> TensorValue | None:
    """The tensor that an argument holds; None where its sizes are not known, as of a nested one."""
    names = _argument_names(type(module).forward)
    bound = {key if isinstance(key, str) else names[key]: value for key, value in inputs.items}
    value = next(tensors_in(bound.get(name)), None)
    if value is None or None in value.shape:
        return None
    return value


@functools.lru_cache(maxsize=64)
def _argument_names(forward: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(forward).parameters)[1:]


def _recurrent(module: Any, inputs: Collection) -> int | None:
    """steps · gates · hidden · (input + hidden) multiply-adds a direction and layer, and the projection's."""
    value = _given(module, inputs, "input")
    if value is None:
        return None
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = 2 if module.bidirectional else 1
    state = module.proj_size or module.hidden_size
    total = 0
    for layer in range(module.num_layers):
        width = module.input_size if layer == 0 else state * directions
        total += gates * module.hidden_size * (width + state) + module.proj_size * module.hidden_size
    return 2 * _elements(value.shape[:-1]) * directions * total


def _cell(module: Any, inputs: Collection) -> int | None:
    value = _given(module, inputs, "input")
    if value is None:
        return None
    gates_and_hidden = int(module.weight_ih.shape[0])
    width = int(module.input_size + module.hidden_size)
    return 2 * _elements(value.shape[:-1]) * gates_and_hidden * width


def _attention(module: Any, inputs: Collection) -> int | None:
    """Its axes are (length, batch, width) unless `batch_first`; without a batch, (length, width)."""
    query, key, value = (_given(module, inputs, name) for name in ("query", "key", "value"))
    if query is None or key is None or value is None:
        return None
    batched = len(query.shape) == 3
    length_axis = 1 if batched and module.batch_first else 0
    batch = _size(query, 1 - length_axis) if batched else 1
    added = (module.bias_k is not None) + bool(module.add_zero_attn)
    widths = _size(key, -1), _size(value, -1)
    length, source = _size(query, length_axis), _size(key, length_axis)
    return attention_flops(batch, length, source, added, int(module.embed_dim), widths)


def _size(value: TensorValue, axis: int) -> int:
    return int(value.shape[axis] or 0)


def must_be_seen_inside(kind: type[nn.Module]) -> bool:
    """Whether formulas of users may concern functions inside layers of this class, which then must be seen."""
    if not _registered:
        return False
    of_functions = any(isinstance(key, str) and "::" not in key for key in _registered)
    return of_functions or _formula_of_class(kind) is not None


_KINDS: dict[type[nn.Module], Callable[[Any, Collection], int | None]] = {
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _cell,
    nn.MultiheadAttention: _attention,
}


def _elements(shape: Sequence[int | None]) -> int:
    """The product of the sizes; an open one counts once."""
    return math.prod(1 if size is None else int(size) for size in shape)
