"""Losses that are means over tokens: how many tokens each replica's counted.

A model that computes its loss in forward (Hugging Face's do) averages over the labels that are not -100. Averaged over
replicas by samples, the loss would be another one wherever padding differs. So the calls of cross_entropy are watched
while such a forward runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

IGNORED = -100
"""The label that torch and Hugging Face leave out."""


class TokenMeans(TorchFunctionMode):
    """While entered, notes for each mean by cross_entropy or nll_loss how many targets it is over."""

    def __init__(self) -> None:
        super().__init__()
        self._means: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function, and take a note if it is a mean over targets."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if func in (F.cross_entropy, F.nll_loss) and isinstance(result, Tensor) and result.ndim == 0:
            self._note(result, args, kwargs)
        return result

    def _note(self, mean: Tensor, args: Any, kwargs: Any) -> None:
        target = args[1] if len(args) > 1 else kwargs["target"]
        weight = args[2] if len(args) > 2 else kwargs.get("weight")
        if kwargs.get("reduction", "mean") != "mean" or weight is not None or target.is_floating_point():
            return
        self._means.append((mean, (target != kwargs.get("ignore_index", IGNORED)).sum()))

    def count(self, scalar: Any) -> float | None:
        """How many targets a scalar is the mean over; None for another scalar."""
        return next((float(count) for mean, count in self._means if mean is scalar), None)


def leaves_tokens_out(labels: Any) -> bool:
    """Whether an argument holds integer labels, some of which are left out."""
    is_labels = isinstance(labels, Tensor) and not labels.is_floating_point() and not labels.is_complex()
    return is_labels and bool((labels == IGNORED).any())
