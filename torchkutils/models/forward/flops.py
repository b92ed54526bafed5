"""Floating-point operations from shapes alone: two for a multiply-add, as torch's FlopCounterMode counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from torchkutils.models.records import Collection, TensorValue, Value, tensors_in


def module_flops(module: torch.nn.Module, inputs: Collection, output: Value) -> int | None:
    """What a leaf module ran, where its class says more than the functions inside it; None elsewhere."""
    given = [value for value in tensors_in(inputs) if None not in value.shape]
    if isinstance(module, torch.nn.RNNBase) and given:
        return _recurrent(module, given[0])
    if isinstance(module, torch.nn.RNNCellBase) and given:
        batch = _elements(given[0].shape[:-1])
        return 2 * batch * int(module.weight_ih.shape[0]) * (module.input_size + module.hidden_size)
    if isinstance(module, torch.nn.MultiheadAttention) and len(given) >= 3:
        return _attention(module, *given[:3])
    return None


def _recurrent(module: torch.nn.RNNBase, value: TensorValue) -> int:
    """steps · gates · hidden · (input + hidden) multiply-adds a direction and layer, and the projection's."""
    steps = _elements(value.shape[:-1])
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    directions = 2 if module.bidirectional else 1
    state = module.proj_size or module.hidden_size
    total = 0
    for layer in range(module.num_layers):
        width = module.input_size if layer == 0 else state * directions
        total += gates * module.hidden_size * (width + state) + module.proj_size * module.hidden_size
    return 2 * steps * directions * total


def _attention(module: torch.nn.MultiheadAttention, query: TensorValue, key: TensorValue, value: TensorValue) -> int:
    """Four projections, and twice query · key · width."""
    batched = len(query.shape) == 3
    first = module.batch_first or not batched
    batch = (query.shape[0] if module.batch_first else query.shape[1]) if batched else 1
    length = query.shape[1 if batched and first else 0] or 0
    source = key.shape[1 if batched and first else 0] or 0
    batch = batch or 0
    width = int(module.embed_dim)
    projections = (
        length * width * width * 2 + source * width * (key.shape[-1] or 0) + source * width * (value.shape[-1] or 0)
    )
    return 2 * batch * (projections + 2 * length * source * width)


def function_flops(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> int | None:
    """What one torch function ran; 0 for work that is no multiply-add, None when it cannot be told."""
    # An overload is named "mm.default".
    name = getattr(function, "__name__", "").partition(".")[0]
    counter = _COUNTERS.get(name)
    if counter is not None:
        try:
            return int(counter(args, kwargs, out))
        except (TypeError, IndexError, AttributeError, KeyError):
            return None
    return None if name in _UNKNOWN or _is_custom(function) else 0


def _is_custom(function: Callable[..., Any]) -> bool:
    """Whether it is an operator that somebody registered: no one but its author knows what it runs."""
    schema = getattr(function, "_schema", None)
    name = getattr(function, "_qualified_op_name", getattr(schema, "name", "aten::"))
    return not str(name).startswith(("aten::", "prims::"))


def _elements(shape: Sequence[int | None]) -> int:
    """The product of the sizes; an open one counts once."""
    return math.prod(1 if size is None else int(size) for size in shape)


def _argument(args: tuple[Any, ...], kwargs: dict[str, Any], position: int, name: str) -> Any:
    return args[position] if position < len(args) else kwargs[name]


def _linear(args: Any, kwargs: Any, out: Any) -> int:
    return 2 * int(out.numel()) * int(_argument(args, kwargs, 1, "weight").shape[-1])


def _convolution(args: Any, kwargs: Any, out: Any) -> int:
    weight = _argument(args, kwargs, 1, "weight")
    return 2 * int(out.numel()) * _elements(weight.shape[1:])


def _transposed(args: Any, kwargs: Any, out: Any) -> int:
    weight = _argument(args, kwargs, 1, "weight")
    return 2 * int(_argument(args, kwargs, 0, "input").numel()) * _elements(weight.shape[1:])


def _product(args: Any, kwargs: Any, out: Any) -> int:
    return 2 * int(out.numel()) * int(args[0].shape[-1])


def _added_product(args: Any, kwargs: Any, out: Any) -> int:
    return 2 * int(out.numel()) * int(args[1].shape[-1])


def _scaled_attention(args: Any, kwargs: Any, out: Any) -> int:
    query, key = _argument(args, kwargs, 0, "query"), _argument(args, kwargs, 1, "key")
    value = _argument(args, kwargs, 2, "value")
    pairs = _elements(query.shape[:-1]) * int(key.shape[-2])
    return 2 * pairs * (int(query.shape[-1]) + int(value.shape[-1]))


def _bilinear(args: Any, kwargs: Any, out: Any) -> int:
    weight = _argument(args, kwargs, 2, "weight")
    return 2 * _elements(out.shape[:-1]) * _elements(weight.shape)


def _reflected_product(args: Any, kwargs: Any, out: Any) -> int:
    return 2 * int(out.numel()) * int(args[0].shape[0 if args[0].dim() == 1 else -2])


def _einsum(args: Any, kwargs: Any, out: Any) -> int:
    """Of two operands, out · the sizes summed over; more operands go a way that shapes do not tell."""
    equation, operands = args[0], args[1:]
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if len(operands) == 1:
        return 0
    if len(operands) > 2:
        raise TypeError("the order of the products is not known")
    terms, _, result = equation.replace(" ", "").partition("->")
    left, right = terms.split(",")
    summed = (set(left) & set(right)) - {"."} - set(result)
    sizes = [int(operands[0].shape[_axis(left, label)]) for label in summed]
    return 2 * int(out.numel()) * math.prod(sizes) if sizes else 0


def _axis(term: str, label: str) -> int:
    """Where a label stands in "...ij": counted from the end behind an ellipsis."""
    before, _, after = term.partition("...")
    return before.find(label) if label in before else after.find(label) - len(after)


def _tensordot(args: Any, kwargs: Any, out: Any) -> int:
    """Both operands hold the summed axes once: their sizes over the output's are the square of those axes."""
    if not out.numel():
        return 0
    return 2 * int(out.numel()) * math.isqrt(int(args[0].numel()) * int(args[1].numel()) // int(out.numel()))


def _cell(args: Any, kwargs: Any, out: Any) -> int:
    weights = [_argument(args, kwargs, 2, "w_ih"), _argument(args, kwargs, 3, "w_hh")]
    value = _argument(args, kwargs, 0, "input")
    return 2 * _elements(value.shape[:-1]) * sum(int(weight.numel()) for weight in weights)


_COUNTERS: dict[str, Callable[[Any, Any, Any], int]] = {
    "linear": _linear,
    "bilinear": _bilinear,
    **dict.fromkeys(["conv1d", "conv2d", "conv3d"], _convolution),
    **dict.fromkeys(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _transposed),
    **dict.fromkeys(["matmul", "mm", "bmm", "__matmul__", "mv", "dot"], _product),
    **dict.fromkeys(["addmm", "baddbmm"], _added_product),
    "__rmatmul__": _reflected_product,
    "einsum": _einsum,
    "tensordot": _tensordot,
    **dict.fromkeys(["lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"], _cell),
    "scaled_dot_product_attention": _scaled_attention,
}
_UNKNOWN = frozenset(["multi_head_attention_forward", "lstm", "gru", "fft", "cdist", "apply"])
