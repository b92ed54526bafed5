"""How many operations torch's own functions run: two for a multiply-add, as torch's FlopCounterMode counts.

A formula has the arguments of the function that it counts, under their names there, and `out_val`, what the function
returned; so arguments given by name in any order are bound by Python itself. It gives None where shapes do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

# Any callable whose arguments are those of the counted function.
Formula = Callable[..., int | None]


def _product_of_matrices(input: Tensor, *others: Tensor, out_val: Tensor, **named: Any) -> int:
    """`matmul` and its relatives: the last axis of the first operand is summed over."""
    return 2 * out_val.numel() * int(input.shape[-1])


def _reflected_product(input: Tensor, other: Tensor, *, out_val: Tensor) -> int:
    """`Tensor.__rmatmul__(b, a)` is `a @ b`."""
    return 2 * out_val.numel() * int(other.shape[-1])


def _inner(input: Tensor, other: Tensor, *, out_val: Tensor) -> int:
    if not input.dim() or not other.dim():
        return 0
    return 2 * out_val.numel() * int(input.shape[-1])


def _added_product(input: Tensor, mat1: Tensor, mat2: Tensor, *, out_val: Tensor, **factors: Any) -> int:
    return 2 * out_val.numel() * int(mat1.shape[-1])


def _added_batched_product(input: Tensor, batch1: Tensor, batch2: Tensor, *, out_val: Tensor, **factors: Any) -> int:
    return 2 * batch1.numel() * int(batch2.shape[-1])


def _added_matrix_vector(input: Tensor, mat: Tensor, vec: Tensor, *, out_val: Tensor, **factors: Any) -> int:
    return 2 * mat.numel()


def _matrix_vector(input: Tensor, vec: Tensor, *, out_val: Tensor) -> int:
    return 2 * input.numel()


def _dot(input: Tensor, *others: Tensor, out_val: Tensor, **named: Tensor) -> int:
    return 2 * input.numel()


def _vecdot(x: Tensor, y: Tensor, *, dim: int = -1, out_val: Tensor) -> int:
    return 2 * out_val.numel() * max(x.shape[dim], y.shape[dim])


def _chain(tensors: Sequence[Tensor], *, out_val: Tensor) -> int:
    """`linalg.multi_dot`: the cheapest order of the products, which torch looks for too."""
    sizes = [matrix.shape for matrix in tensors]
    first = (1, sizes[0][0]) if len(sizes[0]) == 1 else sizes[0]
    last = (sizes[-1][0], 1) if len(sizes[-1]) == 1 else sizes[-1]
    edges = [int(first[0]), *(int(size[0]) for size in sizes[1:]), int(last[1])]
    cost = {(start, start): 0 for start in range(len(sizes))}
    for length in range(1, len(sizes)):
        for start in range(len(sizes) - length):
            end = start + length
            cost[start, end] = min(
                cost[start, cut] + cost[cut + 1, end] + edges[start] * edges[cut + 1] * edges[end + 1]
                for cut in range(start, end)
            )
    return 2 * cost[0, len(sizes) - 1]


def _chained_arguments(*matrices: Tensor, out_val: Tensor) -> int:
    return _chain(matrices, out_val=out_val)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None, *, out_val: Tensor) -> int:
    return 2 * out_val.numel() * int(weight.shape[-1])


def _bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None, *, out_val: Tensor) -> int:
    """A product with each matrix of the weight, and one with the second input."""
    batch = math.prod(out_val.shape[:-1])
    return 2 * batch * (weight.numel() + int(weight.shape[0] * weight.shape[2]))


def _convolution(input: Tensor, weight: Tensor, *options: Any, out_val: Tensor, **named: Any) -> int:
    return 2 * out_val.numel() * math.prod(weight.shape[1:])


def _transposed_convolution(input: Tensor, weight: Tensor, *options: Any, out_val: Tensor, **named: Any) -> int:
    return 2 * input.numel() * math.prod(weight.shape[1:])


def _general_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    *options: Any,
    out_val: Tensor,
    **named: Any,
) -> int:
    made = input.numel() if transposed else out_val.numel()
    return 2 * made * math.prod(weight.shape[1:])


def _time_convolution(input: Tensor, weight: Tensor, bias: Tensor, pad: int = 0, *, out_val: Tensor) -> int:
    return 2 * out_val.numel() * int(weight.shape[0] * weight.shape[1])


def _scaled_attention(query: Tensor, key: Tensor, value: Tensor, *options: Any, out_val: Any, **named: Any) -> int:
    """Query by key, and the weights by value; some of torch's raw operators return more than the output."""
    out = out_val if isinstance(out_val, Tensor) else out_val[0]
    pairs: int = math.prod(out.shape[:-1]) * key.shape[-2]
    return 2 * pairs * int(query.shape[-1] + value.shape[-1])


def _grouped_product(input: Tensor, mat2: Tensor, *options: Any, out_val: Tensor, **named: Any) -> int:
    """Each row meets the matrix of its own group alone; three axes on both sides are a batched product."""
    return 2 * input.numel() * int(mat2.shape[-1])


def _grouped_arguments(mat_a: Tensor, mat_b: Tensor, *options: Any, out_val: Tensor, **named: Any) -> int:
    return _grouped_product(mat_a, mat_b, out_val=out_val)


def _grouped_weight(input: Tensor, weight: Tensor, *options: Any, out_val: Tensor, **named: Any) -> int:
    return _grouped_product(input, weight, out_val=out_val)


def _cell(
    input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None, *, out_val: Any
) -> int:
    return 2 * math.prod(input.shape[:-1]) * (w_ih.numel() + w_hh.numel())


def _recurrent(input: Tensor, *arguments: Any, out_val: Any, **named: Any) -> int:
    """`torch.lstm` and its like: each step meets each matrix of the weights once."""
    lists = [value for value in (*arguments, *named.values()) if isinstance(value, list | tuple)]
    weights = next(value for value in reversed(lists) if len(value) >= 2 and value[0].dim() == 2)
    elements: int = sum(weight.numel() for weight in weights if weight.dim() == 2)
    return 2 * math.prod(input.shape[:-1]) * elements


def _einsum(equation: str, *operands: Any, out_val: Tensor) -> int | None:
    """Of two operands, the output times the sizes summed over; more operands go a way that shapes do not tell."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    if len(operands) == 1:
        return 0
    if len(operands) > 2 or not isinstance(equation, str):
        return None
    terms, arrow, result = equation.replace(" ", "").partition("->")
    left, right = terms.split(",")
    if not arrow:
        result = _labels_that_stand_once(left + right)
    sizes = []
    for label in (set(left) & set(right)) - {"."} - set(result):
        size = min(_length(operands[0], left, label), _length(operands[1], right, label))
        # An axis of length 1 is no axis to sum over.
        if size != 1:
            sizes.append(size)
    return 2 * out_val.numel() * math.prod(sizes) if sizes else 0


def _labels_that_stand_once(labels: str) -> str:
    """What an equation without an arrow gives."""
    return "".join(label for label in labels if label != "." and labels.count(label) == 1)


def _length(operand: Tensor, term: str, label: str) -> int:
    """The size behind a label in "...ij": counted from the end behind an ellipsis."""
    before, _, after = term.partition("...")
    return int(operand.shape[before.find(label) if label in before else after.find(label) - len(after)])


def _tensordot(a: Tensor, b: Tensor, dims: Any = 2, *, out_val: Tensor, **named: Any) -> int | None:
    """The output times the axes summed over. One that is 1 long on one side is summed on the other before."""
    if isinstance(dims, Tensor):
        # The axes are its values, which cannot be read on every device.
        return None
    axes, others = (range(-dims, 0), range(dims)) if isinstance(dims, int) else dims
    summed = (int(min(a.shape[axis], b.shape[other])) for axis, other in zip(axes, others, strict=True))
    return 2 * int(out_val.numel()) * math.prod(summed)


def _norm(input: Tensor, p: Any = "fro", *options: Any, out_val: Tensor, **named: Any) -> int | None:
    """The nuclear norm takes a decomposition."""
    return None if p == "nuc" else 0


def _linalg_norm(
    input: Tensor, ord: Any = None, dim: Any = None, *options: Any, out_val: Tensor, **named: Any
) -> int | None:
    """As a norm of matrices, the spectral and the nuclear one take a decomposition."""
    of_matrices = (isinstance(dim, tuple | list) and len(dim) == 2) or (dim is None and input.dim() == 2)
    return None if of_matrices and ord in (2, -2, "nuc") else 0


def _matrix_norm(input: Tensor, ord: Any = "fro", *options: Any, out_val: Tensor, **named: Any) -> int | None:
    return None if ord in (2, -2, "nuc") else 0


def _bag(
    input: Tensor,
    weight: Tensor,
    offsets: Any = None,
    *options: Any,
    per_sample_weights: Tensor | None = None,
    out_val: Any,
    **named: Any,
) -> int | None:
    """A bag is a sum; with a weight for each sample it is a product."""
    weighted = per_sample_weights is not None or any(isinstance(option, Tensor) for option in options)
    return None if weighted else 0


def _attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    *options: Any,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    out_val: Any,
    **named: Any,
) -> int | None:
    """`F.multi_head_attention_forward`, whose axes are (length, batch, width) or (length, width)."""
    if static_k is not None or static_v is not None:
        return None
    added = (bias_k is not None) + bool(add_zero_attn)
    batch = int(query.shape[1]) if query.dim() == 3 else 1
    widths = int(key.shape[-1]), int(value.shape[-1])
    return attention_flops(batch, int(query.shape[0]), int(key.shape[0]), added, int(embed_dim_to_check), widths)


def attention_flops(batch: int, length: int, source: int, added: int, width: int, widths: tuple[int, int]) -> int:
    """Of one attention over all of its heads.

    Args:
        batch: Sequences.
        length: Of the query.
        source: Length of the key and the value.
        added: Positions that `add_bias_kv` and `add_zero_attn` put behind the key.
        width: Of the query and the output.
        widths: Of the key and of the value.
    """
    projections = 2 * length * width * width + source * width * sum(widths)
    return 2 * batch * (projections + 2 * length * (source + added) * width)


_MATRIX_PRODUCTS = ("matmul", "__matmul__", "linalg_matmul", "mm", "bmm", "_int_mm", "_scaled_mm", "scaled_mm")
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "mkldnn_convolution", "cudnn_convolution", "miopen_convolution")
_TRANSPOSED = ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
_ATTENTION = (
    *("scaled_dot_product_attention", "_scaled_dot_product_flash_attention", "_scaled_dot_product_cudnn_attention"),
    *("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_efficient_attention"),
    *("_scaled_dot_product_attention_math", "_scaled_dot_product_fused_attention_overrideable"),
)
_CELLS = ("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")

FORMULAS: dict[str, Formula] = {
    **dict.fromkeys(_MATRIX_PRODUCTS, _product_of_matrices),
    "__rmatmul__": _reflected_product,
    "__imatmul__": _product_of_matrices,
    "inner": _inner,
    "addmm": _added_product,
    **dict.fromkeys(["addbmm", "baddbmm"], _added_batched_product),
    "addmv": _added_matrix_vector,
    "mv": _matrix_vector,
    **dict.fromkeys(["dot", "vdot"], _dot),
    "linalg_vecdot": _vecdot,
    "linalg_multi_dot": _chain,
    "chain_matmul": _chained_arguments,
    "linear": _linear,
    "bilinear": _bilinear,
    **dict.fromkeys([*_CONVOLUTIONS, "_convolution_mode"], _convolution),
    **dict.fromkeys(_TRANSPOSED, _transposed_convolution),
    **dict.fromkeys(["convolution", "_convolution", "convolution_overrideable"], _general_convolution),
    "conv_tbc": _time_convolution,
    **dict.fromkeys(_ATTENTION, _scaled_attention),
    "multi_head_attention_forward": _attention_forward,
    **dict.fromkeys(["grouped_mm", "scaled_grouped_mm"], _grouped_arguments),
    **dict.fromkeys(["_grouped_mm", "_scaled_grouped_mm"], _grouped_product),
    # What transformers runs in mixtures of experts where torch has no grouped product.
    "transformers::grouped_mm_fallback": _grouped_weight,
    **dict.fromkeys(_CELLS, _cell),
    **dict.fromkeys(_RECURRENT, _recurrent),
    "einsum": _einsum,
    "tensordot": _tensordot,
    "norm": _norm,
    "linalg_norm": _linalg_norm,
    "linalg_matrix_norm": _matrix_norm,
    "embedding_bag": _bag,
}
