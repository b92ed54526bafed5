"""Small architectures as users write them, their classes decorated as the documentation says."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import math
import pathlib
import random
import types
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from torchkutils import register_keras_serializable

known = register_keras_serializable("UsersModels")


@known
class Kind(enum.Enum):
    POST = "post"
    PRE = "pre"


@known
class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@known
@dataclasses.dataclass
class Sizes:
    width: int = 4
    act: str = "gelu"
    rates: tuple = (0.1, 0.2)


@known
@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Sizes = dataclasses.field(default_factory=Sizes)
    depth: int = 2


@known
class Shape(NamedTuple):
    rows: int
    columns: int


@known
class Settings:
    def __init__(self, width=4, scale=1.0):
        self.width, self.scale = width, scale

    def get_config(self):
        return vars(self)

    def __repr__(self):
        return f"Settings({vars(self)})"

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@known
def swish(x):
    return x * torch.sigmoid(x)


@known
def scaled(x, factor=1.0):
    return x * factor


@known
class Holder(nn.Module):
    """Keeps any argument and computes with a layer."""

    def __init__(self, value, width=4):
        super().__init__()
        self.value = value
        self.layer = nn.Linear(width, width)

    def forward(self, x):
        return self.layer(x)


@known
class Activated(nn.Module):
    def __init__(self, act=F.relu, width=4):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.act = act() if isinstance(act, type) or (isinstance(act, partial) and isinstance(act.func, type)) else act

    def forward(self, x):
        return self.act(self.layer(x))


@known
class Normed(nn.Module):
    def __init__(self, norm_layer=nn.LayerNorm, act_layer=nn.GELU, init=nn.init.xavier_uniform_):
        super().__init__()
        self.layer, self.norm, self.act = nn.Linear(4, 4), norm_layer(4), act_layer()
        init(self.layer.weight)

    def forward(self, x):
        return self.act(self.norm(self.layer(x)))


@known
class FromConfig(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, config.width)

    def forward(self, x):
        return self.layer(x) * getattr(self.config, "scale", 1.0)


class Attention(nn.Module):
    """A helper that nobody decorated; forward leaves the map on it."""

    def __init__(self, width):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.scale = width**-0.5
        self.map = None

    def forward(self, x):
        self.map = (self.q(x) @ self.k(x).transpose(-1, -2) * self.scale).softmax(-1)
        return self.map @ self.v(x)


@known
class Transformer(nn.Module):
    def __init__(self, width=4, depth=2, *, drop=0.1):
        super().__init__()
        self.blocks = nn.ModuleList(Attention(width) for _ in range(depth))
        self.drop = nn.Dropout(drop)
        self.register_buffer("table", torch.randn(1, 1, width), persistent=False)
        self.calls, self.history = 0, []

    def forward(self, x):
        self.calls += 1
        x = x[:, None] + self.table
        for block in self.blocks:
            x = x + self.drop(block(x))
        self.history.append(float(x.detach().sum()))
        return x[:, 0]


@known
class Recurrent(nn.Module):
    def __init__(self, kind="LSTM", width=4):
        super().__init__()
        self.rnn, self.hidden = getattr(nn, kind)(width, width, batch_first=True), None

    def forward(self, x):
        y, self.hidden = self.rnn(x[:, None])
        return y[:, 0]


@known
class Caching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.cache = {}

    def forward(self, x):
        self.cache[tuple(x.shape)] = x.shape[0]
        self.features = self.layer(x)
        return self.features


@known
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 6, bias=False)
        self.back = nn.Linear(6, 4, bias=False)
        self.again = nn.Linear(4, 6, bias=False)
        self.again.weight = self.embed.weight

    def forward(self, x):
        return self.back(self.embed(x) + self.again(x))


@known
class Trunk(nn.Module):
    def __init__(self, width=4, classes=10):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU())
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.trunk(x))


@known
class Lora(nn.Module):
    def __init__(self, base, rank=2):
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, rank, bias=False)
        self.up = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@known
class Backboned(nn.Module):
    """Its constructor takes a model to pieces."""

    def __init__(self, backbone, classes=3):
        super().__init__()
        width = backbone.fc.in_features
        backbone.fc = nn.Identity()
        self.backbone, self.head = backbone, nn.Linear(width, classes)

    def forward(self, x):
        return self.head(self.backbone(x))


@known
class Ensemble(nn.Module):
    def __init__(self, *members, weights=None):
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = weights

    def forward(self, x):
        return sum(member(x) for member in self.members)


@known
class Extra(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.factor = nn.Linear(4, 4), torch.tensor(1.0)

    def get_extra_state(self):
        return {"factor": self.factor, "seen": [1, 2]}

    def set_extra_state(self, state):
        self.factor = state["factor"]

    def forward(self, x):
        return self.layer(x) * self.factor


@known
class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.handle = self.layer.register_forward_hook(lambda module, args, output: output * 2)

    def forward(self, x):
        return self.layer(x)


@known
class Permuted(nn.Module):
    """Draws what forward computes with."""

    def __init__(self, width=4):
        super().__init__()
        self.order = torch.randperm(width)
        self.signs = [random.choice([-1, 1]) for _ in range(width)]
        self.phase = np.random.rand(width)

    def forward(self, x):
        return x[:, self.order] * torch.tensor(self.signs) + torch.from_numpy(self.phase).float()


@known
class Functions(nn.Module):
    def __init__(self, power=2):
        super().__init__()
        self.act = lambda x: x**power
        self.bound = self.shift
        self.table = {"a": partial(scaled, factor=2.0)}

    def shift(self, x):
        return x + 1

    def forward(self, x):
        return self.bound(self.act(self.table["a"](x)))


@known
class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.LazyLinear(5), nn.ReLU(), nn.LazyLinear(3))

    def forward(self, x):
        return self.layers(x)


@known
class Parameters(nn.Module):
    def __init__(self, shape=(4,), gamma=torch.ones(4)):
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.randn(shape)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(shape))})
        self.gamma = gamma

    def forward(self, x):
        return x * self.scales[0] * self.scales[1] + self.named["shift"] * self.gamma


@known
class Sparse(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("adjacency", torch.eye(4).to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.adjacency, x.t()).t()


@known
class Kwargs(nn.Module):
    def __init__(self, width, *names, scale=1.0, **options):
        super().__init__()
        self.layer, self.names, self.scale, self.options = nn.Linear(width, width), names, scale, options

    def forward(self, x):
        return self.layer(x) * self.scale * self.options.get("gain", 1.0)


def after(make, *changes):
    """A model that was changed after it was built."""

    def build():
        model = make()
        for change in changes:
            change(model)
        return model

    return build


def ran(make):
    """A model that ran once in train mode and once in eval mode."""
    return after(make, lambda model: model(torch.randn(3, 4)), lambda model: model.eval()(torch.randn(3, 4)))


def put(path, value):
    def change(model):
        owner, _, name = path.rpartition(".")
        setattr(model.get_submodule(owner), name, value() if callable(value) and not isinstance(value, type) else value)

    return change


def trained(model):
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(5, 4)).sum().backward()
    optimizer.step()
    model.optimizer = optimizer
    model.losses = [torch.tensor(0.5)]


@known
class Symmetric(nn.Module):
    def __init__(self, share=1.0):
        super().__init__()
        self.share = share

    def forward(self, weight):
        return weight + self.share * weight.flip(0)


@known
class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, weight):
        return weight * self.factor


def parametrize(module, *parts):
    for part in parts:
        nn.utils.parametrize.register_parametrization(module, "weight", part)
    return module


def weight_norm_for_a_while(model):
    nn.utils.parametrizations.weight_norm(model.fc)
    nn.utils.parametrize.remove_parametrizations(model.fc, "weight")


PARTS_OF_A_LAYER = ("linear1", "linear2", "dropout", "norm1", "norm2")


@known
class Widened(nn.Module):
    """In place of a layer; it has none of the attributes that torch's layers have."""

    def __init__(self, width, out):
        super().__init__()
        self.inner = nn.Linear(width, out)

    @property
    def weight(self):
        return self.inner.weight

    def forward(self, x):
        return self.inner(x)


def with_own_part(name):
    layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.1)
    sizes = {"linear1": (4, 8), "linear2": (8, 4), "dropout": (8, 8)}
    setattr(layer, name, Widened(*sizes.get(name, (4, 4))))
    return nn.Sequential(layer)


VALUES = {
    "path": pathlib.Path("a/b"),
    "numpy float": np.float32(0.5),
    "numpy integer": np.int64(3),
    "numpy bool": np.bool_(True),
    "array": np.arange(6.0).reshape(2, 3),
    "range": range(3, 9, 2),
    "set": {1, 2},
    "frozenset": frozenset("ab"),
    "slice": slice(1, None),
    "complex": 1j,
    "bytes": b"\x00x",
    "size": torch.Size([2, 3]),
    "ordered": collections.OrderedDict(b=1, a=2),
    "default": collections.defaultdict(list, a=[1]),
    "counter": collections.Counter("aab"),
    "deque": collections.deque([1, 2], maxlen=3),
    "namespace": argparse.Namespace(lr=0.1, layers=[1, 2]),
    "simple namespace": types.SimpleNamespace(a=1),
    "enum": Kind.PRE,
    "int enum": Level.HIGH,
    "named tuple": Shape(2, 3),
    "dataclass": Sizes(6, rates=(0.3,)),
    "nested dataclass": Outer(Sizes(8), 3),
    "dtype": torch.bfloat16,
    "device": torch.device("cpu"),
    "memory format": torch.channels_last,
    "tensor": torch.arange(3.0),
    "keys": {1: "a", (2, 3): "b"},
    "nan": [math.nan, math.inf],
    "ellipsis": ...,
    "class": nn.GELU,
    "function": F.silu,
    "partial": partial(nn.Linear, bias=False),
    "registered": swish,
    "object": Settings(3, 0.5),
}

MODELS = {
    **{f"argument: {name}": partial(Holder, value) for name, value in VALUES.items()},
    "act relu": partial(Activated, F.relu),
    "act torch.sin": partial(Activated, torch.sin),
    "act registered": partial(Activated, swish),
    "act class": partial(Activated, nn.SiLU),
    "act partial function": partial(Activated, partial(F.leaky_relu, negative_slope=0.3)),
    "act partial class": partial(Activated, partial(nn.ELU, alpha=0.5)),
    "act module": lambda: Activated(nn.PReLU()),
    "norm layers": partial(Normed, partial(nn.LayerNorm, eps=1e-3), nn.Mish, nn.init.orthogonal_),
    "batch norm by class": partial(Normed, nn.BatchNorm1d),
    "config dataclass": lambda: FromConfig(Sizes(4)),
    "config namespace": lambda: FromConfig(argparse.Namespace(width=4, scale=0.5)),
    "config object": lambda: FromConfig(Settings(4, 0.25)),
    "transformer": Transformer,
    "transformer that ran": ran(Transformer),
    "lstm that ran": ran(Recurrent),
    "gru that ran": ran(partial(Recurrent, "GRU")),
    "cache": ran(Caching),
    "trained": after(Trunk, trained),
    "tied": Tied,
    "tied by data": after(Tied, lambda m: setattr(m.back.weight, "data", m.embed.weight.data.t())),
    "head replaced": after(Trunk, put("fc", partial(nn.Linear, 4, 3))),
    "head emptied": after(Trunk, put("fc", partial(nn.Identity))),
    "head appended": after(Trunk, lambda m: m.trunk.append(nn.Linear(4, 4))),
    "layer removed": after(Trunk, lambda m: m.trunk.__delitem__(2)),
    "layer inserted": after(Trunk, lambda m: m.trunk.insert(1, nn.Tanh())),
    "norm converted": after(Trunk, put("trunk.1", partial(nn.GroupNorm, 2, 4))),
    "child added": after(Trunk, lambda m: m.add_module("unused", nn.Linear(2, 2))),
    "child shared": after(Trunk, lambda m: m.trunk.append(m.trunk[0])),
    "dropout changed": after(Transformer, put("drop.p", 0.4)),
    "helper changed": after(Transformer, lambda m: setattr(m.blocks[0], "scale", 2.0)),
    "lora": after(Trunk, lambda m: setattr(m, "fc", Lora(m.fc))),
    "lora in a helper": after(Transformer, lambda m: setattr(m.blocks[1], "q", Lora(m.blocks[1].q, 1))),
    "backbone": lambda: Backboned(Trunk()),
    "backbone changed before": lambda: Backboned(after(Trunk, put("fc", partial(nn.Linear, 4, 7)))()),
    "backbone changed after": after(lambda: Backboned(Trunk()), lambda m: m.backbone.trunk.append(nn.Tanh())),
    "ensemble": lambda: Ensemble(nn.Linear(4, 2), nn.Sequential(nn.Linear(4, 2), nn.Tanh()), weights=[1, 2]),
    "ensemble of copies": lambda: Ensemble(*(copy.deepcopy(m) for m in [Trunk()] * 2)),
    "extra state": after(Extra, put("factor", torch.tensor(3.0))),
    "hook by constructor": Hooked,
    "drawn": Permuted,
    "functions": Functions,
    "lazy that ran": ran(Lazy),
    "parameters": lambda: Parameters((4,), torch.full((4,), 2.0)),
    "sparse": Sparse,
    "keywords": lambda: Kwargs(4, "a", "b", scale=2.0, gain=0.5),
    "weight norm": lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)), nn.ReLU()),
    "spectral norm": lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))).eval(),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)),
    "weight norm inside": after(Trunk, lambda m: nn.utils.parametrizations.weight_norm(m.fc)),
    "older weight norm": after(Trunk, lambda m: nn.utils.weight_norm(m.fc)),
    "older spectral norm": after(Trunk, lambda m: nn.utils.spectral_norm(m.fc)),
    "averaged": lambda: torch.optim.swa_utils.AveragedModel(Trunk()),
    "averaged by decay": lambda: torch.optim.swa_utils.AveragedModel(
        Trunk(), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)
    ),
    "frozen": after(Trunk, lambda m: m.trunk.requires_grad_(False)),
    "half evaluated": after(Trunk, lambda m: m.trunk.eval()),
    "double": after(Trunk, lambda m: m.double()),
    "weight norm taken off": after(Trunk, weight_norm_for_a_while),
    "own parametrization": after(Trunk, lambda m: parametrize(m.fc, Symmetric(0.5))),
    "own parametrization of a stock model": lambda: nn.Sequential(parametrize(nn.Linear(4, 4), Symmetric(0.5))),
    "two own parametrizations": lambda: nn.Sequential(parametrize(nn.Linear(4, 4), Symmetric(0.5), Scaled(3.0))),
    **{f"lora in a transformer layer: {name}": partial(with_own_part, name) for name in PARTS_OF_A_LAYER},
    "parameter replaced": after(Trunk, lambda m: setattr(m.fc, "bias", nn.Parameter(torch.ones(10)))),
    "parameter removed": after(Trunk, lambda m: m.fc.register_parameter("bias", None)),
    "parameter added": after(Trunk, lambda m: m.register_parameter("scale", nn.Parameter(torch.ones(2)))),
    "buffer added": after(Trunk, lambda m: m.register_buffer("mean", torch.randn(4), persistent=False)),
    "compiled child": after(Trunk, lambda m: setattr(m, "trunk", torch.compile(m.trunk, backend="eager"))),
}


def data_for(model):
    return torch.randn(3, 4, dtype=next((p.dtype for p in model.parameters()), torch.float32))
