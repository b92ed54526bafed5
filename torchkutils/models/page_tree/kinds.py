"""What kind of layer a class or a function is, told by its name: for colours."""

from __future__ import annotations

import functools
import re

LAYERS = (
    "other",
    "convolution",
    "linear",
    "attention",
    "normalisation",
    "activation",
    "recurrent",
    "embedding",
    "pooling",
    "block",
    "end",
)
"""The kinds, in the order of a page's legend; "block" holds other modules, "end" is an input, output or parameter."""

# The first that fits. One name has capitals that matter: transformers' Conv1D is linear, torch's Conv1d is not.
_LINEAR_BY_CASE = "Conv1D"
_PATTERNS = {
    "normalisation": r"norm(?!al\b)|^LRN$",
    "activation": r"relu|gelu|silu|swish|mish|sigmoid|tanh|softmax|softplus|softsign|glu$|^[esc]elu|activation",
    "attention": r"attention|attn",
    "embedding": r"embed|^rotary|positional",
    "recurrent": r"lstm|gru$|grucell|rnn|mamba|recurrent",
    "pooling": r"pool",
    "linear": r"linear|dense(?!net|block|layer)|^(b|add)?mm$|^matmul$|^einsum$|projection",
    "convolution": r"conv",
}


@functools.lru_cache(maxsize=4096)
def layer_kind(name: str) -> str:
    """One of `LAYERS` by the name of a class or function.

    >>> [layer_kind(name) for name in ("Conv2d", "Conv1D", "BertSelfAttention", "LayerNorm", "softmax", "Tiny")]
    ['convolution', 'linear', 'attention', 'normalisation', 'activation', 'other']
    """
    if name == _LINEAR_BY_CASE:
        return "linear"
    return next((kind for kind, pattern in _PATTERNS.items() if re.search(pattern, name, re.IGNORECASE)), "other")
