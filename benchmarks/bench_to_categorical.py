"""How do time and memory of to_categorical compare with Keras 2.3.1's algorithm and with F.one_hot?"""

from __future__ import annotations

import functools
import tracemalloc
from typing import Any

import numpy as np
import torch

from benchmarks._harness import compare, figure, store
from torchkutils import to_categorical

SIZES = ((10**6, 10), (10**5, 1000), (2 * 10**4, 10**4))


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


def of_size(rows: int, classes: int) -> list[dict[str, Any]]:
    labels = np.random.default_rng(0).integers(0, classes, rows)
    tensor, title = torch.from_numpy(labels), f"({rows:.0e}, {classes:.0e})"
    assert np.array_equal(to_categorical(labels, classes), keras_algorithm(labels, classes))
    peers = {"Keras 2.3.1": lambda: keras_algorithm(labels, classes)}
    ours = f"to_categorical {title}"
    found = [compare(f"{ours}, array", lambda: to_categorical(labels, classes), peers, target={"Keras 2.3.1": 1.0})]
    peers = {"F.one_hot": lambda: torch.nn.functional.one_hot(tensor, classes).float().numpy()}
    found.append(
        compare(
            f"{ours}, tensor", lambda: to_categorical(tensor, classes), peers, target={"F.one_hot": 1 / 3}, repeats=9
        )
    )
    for kind, y in (("array", labels), ("tensor", tensor)):
        peak = peak_of_arrays(functools.partial(to_categorical, y, classes))
        allowed = rows * classes * 4 + rows * 8
        found.append(figure(f"memory of {title}, {kind}, to output + 8 bytes a label", peak / allowed, "×", target=1.1))
    return found


if __name__ == "__main__":
    store("to_categorical", [row for size in SIZES for row in of_size(*size)])
