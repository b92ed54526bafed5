"""Models for the picture's tests, and a reader of DOT that shares nothing with what writes it."""

from __future__ import annotations

import collections
import dataclasses
import html
import re

import pygraphviz
import torch
from torch import nn


def edges_of(source: str) -> collections.Counter[tuple[str, str]]:
    """Arrows by the titles of their ends, as Graphviz's own parser reads them."""
    graph = pygraphviz.AGraph(string=source)
    return collections.Counter((title(graph, edge[0]), title(graph, edge[1])) for edge in graph.edges())


def titles_of(source: str) -> list[str]:
    graph = pygraphviz.AGraph(string=source)
    return sorted(title(graph, node) for node in graph.nodes())


def title(graph: pygraphviz.AGraph, node: str) -> str:
    """The whole path of a box, out of its tooltip, with what its label says of calls."""
    path, _, class_name = html.unescape(graph.get_node(node).attr["tooltip"]).partition(": ")
    calls = re.search(r" \(\d+ calls\)$", class_name)
    return path + (calls.group() if calls else "")


def labels_of(source: str) -> list[str]:
    """The first line of each box's label, as a reader sees it."""
    graph = pygraphviz.AGraph(string=source)
    labels = [re.split(r"(?<!\\)[|]|\\n", node.attr["label"].strip("{"))[0] for node in graph.nodes()]
    return sorted(re.sub(r"\\(.)", r"\1", html.unescape(label)) for label in labels)


class Plain(nn.Module):
    """Modules a, b, c, d of one size, a Dropout and a ReLU, joined by the function that a test gives."""

    def __init__(self, way) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.drop, self.relu, self.identity = nn.Dropout(0.5), nn.ReLU(inplace=True), nn.Identity()
        self.way = way

    def forward(self, x):
        return self.way(self, x)


@dataclasses.dataclass
class Answer:
    hidden: torch.Tensor
    logits: torch.Tensor


def item_assignment(m, x):
    h = m.a(x).clone()
    h[:, :2] = m.b(x)[:, :2]
    return m.c(h)


def write_to_view(m, x):
    h = m.a(x)
    h[:, :2].mul_(m.b(x)[:, :2])
    return m.c(h)


def in_place_add(m, x):
    h = m.a(x)
    h += m.b(x)
    return m.c(h)


def dataclass_between(m, x):
    answer = Answer(m.a(x), m.b(x))
    return m.c(answer.hidden + answer.logits)


# What the data really does, written down by hand: arrows with their numbers.
WAYS = {
    "dropout in eval mode": (
        lambda m, x: x + m.a(m.drop(x)),
        {("x", "drop"): 1, ("drop", "a"): 1, ("x", "add"): 1, ("a", "add"): 1},
    ),
    "identity": (
        lambda m, x: m.a(m.identity(x)) * x,
        {("x", "identity"): 1, ("identity", "a"): 1, ("a", "mul"): 1, ("x", "mul"): 1},
    ),
    "item assignment": (
        item_assignment,
        {("x", "a"): 1, ("x", "b"): 1, ("a", "setitem"): 1, ("b", "setitem"): 1, ("setitem", "c"): 1},
    ),
    "in-place write to a view": (
        write_to_view,
        {("x", "a"): 1, ("x", "b"): 1, ("a", "mul"): 1, ("b", "mul"): 1, ("mul", "c"): 1},
    ),
    "in-place operator": (
        in_place_add,
        {("x", "a"): 1, ("x", "b"): 1, ("a", "add"): 1, ("b", "add"): 1, ("add", "c"): 1},
    ),
    "in-place module": (
        lambda m, x: m.b(m.relu(m.a(x))),
        {("x", "a"): 1, ("a", "relu"): 1, ("relu", "b"): 1},
    ),
    "twice the same tensor": (
        lambda m, x: (lambda h: m.b(h + h))(m.a(x)),
        {("x", "a"): 1, ("a", "add"): 2, ("add", "b"): 1},
    ),
    "a module called twice": (
        lambda m, x: m.b(m.a(m.a(x))),
        {("x", "a (2 calls)"): 1, ("a (2 calls)", "a (2 calls)"): 1, ("a (2 calls)", "b"): 1},
    ),
    "a dataclass on the way": (
        dataclass_between,
        {("x", "a"): 1, ("x", "b"): 1, ("a", "add"): 1, ("b", "add"): 1, ("add", "c"): 1},
    ),
    "views, chunks and a cat": (
        lambda m, x: m.c(torch.cat(m.a(x).chunk(2, dim=1)[::-1], dim=1)),
        {("x", "a"): 1, ("a", "cat"): 2, ("cat", "c"): 1},
    ),
    "two outputs, one used on": (
        lambda m, x: (lambda h: (h, m.b(h)))(m.a(x)),
        {("x", "a"): 1, ("a", "b"): 1, ("a", "output[0]"): 1, ("b", "output[1]"): 1},
    ),
}


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.norm(self.conv1(x)))))


class ResidualNet(nn.Module):
    """Three blocks between a stem and a head."""

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.layers = nn.Sequential(*[Residual(8) for _ in range(blocks)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.pool(self.layers(self.stem(x))).flatten(1))


class Classifier(nn.Module):
    """Embedding with learned positions, an encoder, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.positions = nn.Parameter(torch.zeros(1, 12, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 2)

    def forward(self, x):
        return self.head(self.encoder(self.embedding(x) + self.positions[:, : x.shape[1]]).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        _, (hidden, _) = self.lstm(x)
        return self.head(torch.cat([hidden[0], hidden[1]], dim=1))
