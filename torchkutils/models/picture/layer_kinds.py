"""What kind of layer a module or a function is, by its name, and the colour of the kind in pictures and pages."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from torchkutils._wrapped_models import unwrapped
from torchkutils.models.tree.given_model import given_model
from torchkutils.models.tree.module_tree import ModuleTree


@dataclass(frozen=True)
class Colour:
    """How boxes of one kind are filled; `text` has a contrast of at least 4.5 : 1 on `fill`."""

    fill: str
    text: str = "#000000"

    def mixed(self, paper: str, part: float) -> str:
        """The fill as a part of a mixture with the colour of the paper.

        >>> Colour("#000000").mixed("#ffffff", 0.5)
        '#808080'
        """
        pairs = zip(_channels(self.fill), _channels(paper), strict=True)
        return "#" + "".join(f"{round(part * own + (1 - part) * other):02x}" for own, other in pairs)


def _channels(colour: str) -> bytes:
    """Red, green and blue of "#RRGGBB"."""
    return bytes.fromhex(colour[1:])


# Okabe and Ito's colours ("Color Universal Design", 2008), which people with any kind of colour vision tell apart, and
# two greys. Where black text would be hard to read, it is white. The order is that of a page's legend.
PALETTE: Mapping[str, Colour] = {
    "convolution": Colour("#56B4E9"),
    "linear": Colour("#0072B2", "#FFFFFF"),
    "attention": Colour("#CC79A7"),
    "normalisation": Colour("#F0E442"),
    "activation": Colour("#E69F00"),
    "recurrent": Colour("#D55E00"),
    "embedding": Colour("#009E73"),
    "pooling": Colour("#B5B5B5"),
    "dropout": Colour("#D6D6D6"),
}

# Tried in this order: what is attention may be a projection, and what ends in "Activation" may begin with "Conv".
_RULES = (
    ("normalisation", r"Norm(?=\d|$)|Norm(?=[A-Z])(?!.*Activation)|Normali[sz]ation|^\w*BatchNorm"),
    ("attention", r"Attention|Attn"),
    ("embedding", r"Embed"),
    ("recurrent", r"LSTM|GRU|RNN|Mamba\w*Mixer|^SRU$"),
    ("convolution", r"Conv(?=\d|[A-Z_]|$)|Convolution"),
    ("pooling", r"Pool(?=\d|[A-Z_]|ing|$)"),
    ("dropout", r"Dropout|DropPath|StochasticDepth|DropBlock"),
    ("linear", r"Linear(?=\d|[A-Z_]|$)"),
    ("activation", r"Activation$|(?:ReLU|GELU|GeLU|SiLU|ELU|Swish|Mish|Sigmoid|Tanh|Softmax|Softmin|Softplus)\w{0,3}$"),
)
# Names that the rules would take for something else: GPT-2's Conv1D is a linear layer, MoE blocks are blocks.
_EXACT = {
    "Conv1D": "linear",
    "Bilinear": "linear",
    "LazyLinear": "linear",
    "UpsamplingBilinear2d": "",
    "MultiheadAttention": "attention",
    **dict.fromkeys(
        ["Threshold", "RReLU", "Hardtanh", "Hardshrink", "LeakyReLU", "LogSigmoid", "Softshrink", "Softsign"],
        "activation",
    ),
    **dict.fromkeys(["Tanhshrink", "GLU", "PReLU", "Hardswish", "Hardsigmoid", "Softmax2d", "CELU"], "activation"),
}


_FUNCTIONS = (
    ("attention", r"attention"),
    ("normalisation", r"(^|_)norm($|_)|normalize$"),
    ("activation", r"relu|gelu|silu|mish|sigmoid|tanh|softmax|softplus|softsign|^[esc]elu|^glu"),
    ("embedding", r"embedding"),
    ("recurrent", r"^(lstm|gru|rnn)"),
    ("pooling", r"pool"),
    ("dropout", r"dropout"),
    ("linear", r"linear|^(b|add|badd)?mm$|^matmul$|^einsum$"),
    ("convolution", r"conv"),
)


def kind_of(class_names: Iterable[str]) -> str:
    """A key of `PALETTE`, or "" for what has no colour; the first of a class's names that says something decides.

    >>> [kind_of([name]) for name in ("Conv2d", "BertSelfAttention", "LlamaRMSNorm", "BasicBlock")]
    ['convolution', 'attention', 'normalisation', '']
    """
    return next(filter(None, map(_kind_of_class, class_names)), "")


# A large model has many modules of few classes.
@functools.lru_cache(maxsize=4096)
def _kind_of_class(name: str) -> str:
    return _EXACT[name] if name in _EXACT else _first_match(_RULES, name)


@functools.lru_cache(maxsize=4096)
def kind_of_function(name: str) -> str:
    """A key of `PALETTE` by the name of a function of torch, or "".

    >>> [kind_of_function(name) for name in ("softmax", "scaled_dot_product_attention", "matmul", "add")]
    ['activation', 'attention', 'linear', '']
    """
    return _first_match(_FUNCTIONS, name.lower())


def _first_match(rules: Iterable[tuple[str, str]], name: str) -> str:
    return next((kind for kind, pattern in rules if re.search(pattern, name)), "")


@dataclass(frozen=True)
class LayerFacts:
    """What a trace does not tell of a model's layers, by the paths that its records have.

    Attributes:
        kinds: A key of `PALETTE` for each module that is of a kind.
        activations: What each module holds as its activation: "relu", "GELU".
    """

    kinds: Mapping[str, str] = field(default_factory=dict)
    activations: Mapping[str, str] = field(default_factory=dict)


_ACTIVATION_NAMES = ("activation", "activation_fn", "act_fn", "act", "intermediate_act_fn", "nonlinearity")


def layer_facts(model: Any) -> LayerFacts:
    """Read a model's classes and attributes; nothing runs, no property is asked.

    Raises:
        TypeError: `model` is no module.
    """
    tree = ModuleTree(unwrapped(given_model(model)))
    kinds, activations = {}, {}
    for path, module in zip(tree.paths, tree.modules, strict=True):
        classes = type(module).__mro__
        kind = kind_of(one.__name__ for one in classes[: classes.index(torch.nn.Module)])
        if kind:
            kinds[path] = kind
        activation = _activation_of(module)
        if activation:
            activations[path] = activation
    return LayerFacts(kinds, activations)


def _activation_of(module: torch.nn.Module) -> str:
    held = {**vars(module), **module._modules}
    for name in _ACTIVATION_NAMES:
        value = held.get(name)
        if isinstance(value, str):
            return value
        if isinstance(value, torch.nn.Module):
            return type(value).__name__
        if callable(value):
            return str(getattr(value, "__name__", type(value).__name__))
    return ""
