"""How do time and error of normalize compare with NumPy's plain formula, scikit-learn's and F.normalize?"""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn.preprocessing
import torch

from benchmarks._harness import compare, figure, store
from torchkutils import normalize

ROWS, WIDTH = 10**5, 256


def plain(x: np.ndarray, axis: int) -> np.ndarray:
    """Keras 2.3.1's formula."""
    norm = np.atleast_1d(np.linalg.norm(x, 2, axis))
    norm[norm == 0] = 1
    return x / np.expand_dims(norm, axis)


def largest_error(found: np.ndarray, x: np.ndarray, axis: int) -> float:
    """In ulp of the result's dtype, against float64."""
    wide = x.astype(np.float64)
    wanted = wide / np.sqrt((wide**2).sum(axis, keepdims=True))
    ulp = np.spacing(np.abs(wanted).astype(found.dtype)).astype(np.float64)
    return float((np.abs(found.astype(np.float64) - wanted) / ulp).max())


def extremes() -> list[tuple[str, np.ndarray]]:
    draw = np.random.default_rng(1)
    signs = draw.uniform(0.5, 1, (64, WIDTH)) * draw.choice([-1, 1], (64, WIDTH))
    powers = 10.0 ** draw.uniform(-7, 4.8, (64, 1))
    return [
        ("float32 at 1e30", (signs * 1e30).astype(np.float32)),
        ("float32 at 1e-30", (signs * 1e-30).astype(np.float32)),
        ("float16, whole range", (signs * powers).astype(np.float16)),
        ("int8", draw.integers(-128, 128, (64, WIDTH)).astype(np.int8)),
    ]


def along(x: np.ndarray, axis: int) -> list[dict[str, Any]]:
    tensor, title = torch.from_numpy(x), f"normalize 1e5 x 256 float32, axis {axis}"
    peers = {
        "NumPy": lambda: plain(x, axis),
        "scikit-learn": lambda: sklearn.preprocessing.normalize(x, axis=axis % 2),
    }
    for call in peers.values():
        np.testing.assert_allclose(call(), normalize(x, axis), rtol=1e-4)
    found = [compare(f"{title}, array", lambda: normalize(x, axis), peers, target={"NumPy": 1.2})]
    peers = {"F.normalize": lambda: torch.nn.functional.normalize(tensor, dim=axis)}
    found.append(compare(f"{title}, tensor", lambda: normalize(tensor, axis), peers, target={"F.normalize": 1.0}))
    ours, numpys = largest_error(normalize(x, axis), x, axis), largest_error(plain(x, axis), x, axis)
    return [*found, figure(f"error of axis {axis} (NumPy's is the target)", ours, "ulp", target=numpys)]


if __name__ == "__main__":
    x = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    results = [*along(x, -1), *along(x, 0)]
    for title, values in extremes():
        results.append(figure(f"error, {title}", largest_error(normalize(values), values, -1), "ulp", target=4))
    store("normalize", results)
