"""How do time and memory of to_categorical compare with Keras 2.3.1's algorithm, scikit-learn's and torch's ways?"""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.preprocessing import OneHotEncoder, label_binarize

from benchmarks._harness import compare, figure, store
from torchkutils import to_categorical

SIZES = ((10**6, 10, 11), (10**5, 1000, 9), (2 * 10**4, 10**4, 5))
SKLEARN = (
    "scikit-learn's own advice is a sparse result, which costs less than any dense one; what is compared is the dense "
    "rows that a loss function takes. label_binarize gives int64."
)


def keras_algorithm(y: Any, num_classes: int) -> np.ndarray:
    """What keras.utils.to_categorical of 2.3.1 does, for one axis of labels."""
    labels = np.array(y, dtype="int").ravel()
    rows = np.zeros((labels.shape[0], num_classes), dtype=np.float32)
    rows[np.arange(labels.shape[0]), labels] = 1
    return rows


def peak_of_arrays(call: Any) -> int:
    """The most bytes that NumPy and Python held at once during a call."""
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def torch_scatter(labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """The torch way without a detour over int64."""
    return torch.zeros(len(labels), num_classes).scatter_(1, labels[:, None], 1.0)


def scikit_learn(labels: np.ndarray, classes: int) -> dict[str, Callable[[], np.ndarray]]:
    """Both dense, as what we give is; the encoder is told the classes and the dtype, so that it seeks neither."""
    encoder = OneHotEncoder(categories=[np.arange(classes)], sparse_output=False, dtype=np.float32)
    encoder.fit(labels[:1, None])
    known = np.arange(classes)
    return {
        "sklearn OneHotEncoder": lambda: encoder.transform(labels[:, None]),
        "sklearn label_binarize": lambda: label_binarize(labels, classes=known),
    }


def of_size(rows: int, classes: int, repeats: int) -> list[dict[str, Any]]:
    labels = np.random.default_rng(0).integers(0, classes, rows)
    tensor, title = torch.from_numpy(labels), f"({rows:,}, {classes:,})"
    ours, wanted = f"to_categorical {title}", keras_algorithm(labels, classes)
    peers = {"Keras 2.3.1": lambda: keras_algorithm(labels, classes), **scikit_learn(labels, classes)}
    for call in (lambda: to_categorical(labels, classes), *peers.values()):
        assert np.array_equal(call(), wanted)
    torch_ways = {
        "F.one_hot": lambda: torch.nn.functional.one_hot(tensor, classes).float(),
        "zeros and scatter_": lambda: torch_scatter(tensor, classes),
    }
    for call in (lambda: to_categorical(tensor, classes), *torch_ways.values()):
        assert np.array_equal(call().numpy(), wanted)
    del wanted
    found = [
        compare(
            f"{ours}, array",
            lambda: to_categorical(labels, classes),
            peers,
            target={"Keras 2.3.1": 1.0},
            repeats=repeats,
            note=SKLEARN,
        ),
        compare(
            f"{ours}, tensor",
            lambda: to_categorical(tensor, classes),
            torch_ways,
            target={"F.one_hot": 1 / 3},
            repeats=repeats,
        ),
    ]
    for kind, y in (("array", labels), ("tensor", tensor)):
        peak = peak_of_arrays(functools.partial(to_categorical, y, classes))
        allowed = rows * classes * 4 + rows * 8
        found.append(figure(f"memory of {title}, {kind}, to output + 8 bytes a label", peak / allowed, "×", target=1.1))
    return found


if __name__ == "__main__":
    store("to_categorical", [row for size in SIZES for row in of_size(*size)])
