"""What kind of layer a class or a function is, told by its name: for colours."""

from __future__ import annotations

import functools
import re

from torchkutils.models.picture.layer_kinds import kind_of

LAYERS = (
    *("other", "convolution", "linear", "attention", "normalisation", "activation", "recurrent", "embedding"),
    *("pooling", "dropout", "block", "end"),
)
"""The kinds, in the order of a page's legend; "block" holds other modules, "end" is an input, output or parameter."""

_FUNCTIONS = {
    "attention": r"attention",
    "normalisation": r"(^|_)norm($|_)|normalize$",
    "activation": r"relu|gelu|silu|mish|sigmoid|tanh|softmax|softplus|softsign|^[esc]elu|^glu",
    "embedding": r"embedding",
    "recurrent": r"^(lstm|gru|rnn)",
    "pooling": r"pool",
    "dropout": r"dropout",
    "linear": r"linear|^(b|add|badd)?mm$|^matmul$|^einsum$",
    "convolution": r"conv",
}


@functools.lru_cache(maxsize=4096)
def class_kind(name: str) -> str:
    """One of `LAYERS` by the name of a class.

    >>> [class_kind(name) for name in ("Conv2d", "Conv1D", "BertSelfAttention", "LayerNorm", "Tiny")]
    ['convolution', 'linear', 'attention', 'normalisation', 'other']
    """
    return kind_of([name]) or "other"


@functools.lru_cache(maxsize=4096)
def function_kind(name: str) -> str:
    """One of `LAYERS` by the name of a function.

    >>> [function_kind(name) for name in ("softmax", "scaled_dot_product_attention", "matmul", "add")]
    ['activation', 'attention', 'linear', 'other']
    """
    return next((kind for kind, pattern in _FUNCTIONS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
