"""Batches of inputs, targets and weights, as Keras's training steps hand them round."""

from __future__ import annotations

from typing import Any

__all__ = ["pack_x_y_sample_weight", "unpack_x_y_sample_weight"]


def pack_x_y_sample_weight(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Put inputs, targets and weights together, leaving out what is None at the end.

    Returns:
        `x` itself where there is nothing else and `x` is no tuple or list; else (x,), (x, y) or (x, y, sample_weight).

    >>> pack_x_y_sample_weight(1, 2)
    (1, 2)
    """
    if sample_weight is not None:
        return x, y, sample_weight
    if y is not None:
        return x, y
    # A bare tuple would be taken for (x, y) when it is unpacked.
    return (x,) if isinstance(x, tuple | list) else x


def unpack_x_y_sample_weight(data: Any) -> tuple[Any, Any, Any]:
    """Take a batch apart into inputs, targets and weights.

    Args:
        data: x, or a tuple or list of one, two or three: (x,), (x, y), (x, y, sample_weight).

    Returns:
        (x, y, sample_weight), with None for what is not there.

    Raises:
        ValueError: A tuple of another length.

    >>> unpack_x_y_sample_weight((1, 2))
    (1, 2, None)
    """
    if not isinstance(data, tuple | list):
        return data, None, None
    if not 1 <= len(data) <= 3:
        raise ValueError(
            f"data must be x, (x,), (x, y) or (x, y, sample_weight), got a {type(data).__name__} of {len(data)}"
        )
    padded = [*data, None, None]
    return padded[0], padded[1], padded[2]
