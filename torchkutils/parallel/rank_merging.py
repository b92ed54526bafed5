"""The outputs of all ranks, merged into one on every rank."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchkutils._nested import map_leaves, rebuild
from torchkutils.parallel.collectives import add_ranks, join_ranks, own_of_all
from torchkutils.parallel.control import Control
from torchkutils.parallel.merging import Trial, is_count, number_refused, token_weights, value_refused
from torchkutils.parallel.nested_batches import check_not_nested, contents, is_object_with_tensors
from torchkutils.parallel.output_axes import OutputAxes, Sizes, outline
from torchkutils.parallel.token_means import TokenMeans

_NUMBERS = (int, float, complex, np.number)


class RankMerger:
    """One merge over the ranks.

    Args:
        axes: Where the batch lies.
        lengths: The samples of each rank.
        control: How the ranks agree.
        target: Where merged outputs lie.
        handed_in: Tells the arguments' own values, which are the same on every rank.
    """

    def __init__(
        self,
        axes: OutputAxes,
        lengths: Sequence[int],
        control: Control,
        target: torch.device,
        handed_in: Callable[[Any], bool],
    ) -> None:
        self._axes = axes
        self._lengths = list(lengths)
        # A rank without a sample computed one to keep pace.
        self._computed = [max(length, 1) for length in lengths]
        self._control = control
        self._rank = control.rank
        self._target = target
        self._handed_in = handed_in
        self._weights = [length / sum(lengths) for length in lengths]
        self._tokens: TokenMeans | None = None

    def make(self, output: Any) -> bytes:
        """What must be the same on all ranks for their outputs to be merged.

        Raises:
            ValueError: Something that cannot be merged.
        """
        found: list[Any] = []
        self._collect(output, "output", False, found)
        return repr(found).encode()

    def _collect(self, value: Any, path: str, inside_object: bool, found: list[Any]) -> None:
        if isinstance(value, Tensor):
            found.append((path, *self._make_of_tensor(value, path, inside_object)))
        elif (held := contents(value, path)) is None:
            found.append((path, self._make_of_value(value, path, inside_object)))
        elif isinstance(value, list) and self._axes.known(path, value) == "list":
            self._check_length(len(value), path, 0)
            found.append((path, "list"))
        elif isinstance(value, list) and self._axes.known(path, value) is None:
            found.append((path, "a list"))
        else:
            found.append((path, type(value).__qualname__, list(map(str, held.keys))))
            plain = inside_object or is_object_with_tensors(value)
            for where, part in zip(held.paths(path), held.values, strict=True):
                self._collect(part, where, plain, found)

    def _make_of_tensor(self, tensor: Tensor, path: str, inside_object: bool) -> tuple[Any, ...]:
        if is_count(tensor) and self._axes.said.rule(path) is None:
            if not (tensor.dtype == torch.bool or inside_object or self._handed_in(tensor)):
                raise ValueError(number_refused(path, tensor))
            return tensor.dtype, tensor.item()
        check_not_nested(tensor, path)
        axis = self._axes.known(path, tensor)
        shape = tuple(tensor.shape)
        if isinstance(axis, int):
            self._check_length(shape[axis] if axis < len(shape) else -1, path, axis)
            return tensor.dtype, axis, shape[:axis] + shape[axis + 1 :]
        if axis == "list":
            raise ValueError(f"{path} must be a list to be merged by entries, got a tensor; correct batch_axes")
        return (tensor.dtype, axis, tensor.ndim) if axis is None else (tensor.dtype, axis, shape)

    def _check_length(self, length: int, path: str, axis: int) -> None:
        wanted = self._computed[self._rank]
        if length != wanted:
            raise ValueError(
                f"{path} must have one row a sample along axis {axis} to be merged, got {length} for {wanted} samples; "
                "use outputs='local'"
            )

    def _make_of_value(self, value: Any, path: str, inside_object: bool) -> Any:
        rule = self._axes.said.rule(path)
        if isinstance(value, _NUMBERS) and not isinstance(value, bool):
            return self._make_of_number(value, path, inside_object) if rule is None else type(value).__qualname__
        if rule == "first" or self._handed_in(value) or isinstance(value, torch.device):
            return "passed on"
        if value is None or isinstance(value, bool | str | bytes | torch.dtype | torch.Size):
            return value
        try:
            return pickle.dumps(value)
        except Exception as error:
            raise ValueError(value_refused(path, value)) from error

    def _make_of_number(self, number: Any, path: str, inside_object: bool) -> Any:
        """A number that nothing says how to merge: one that no piece decides is the same on all ranks."""
        if inside_object or (isinstance(number, float) and self._handed_in(number)):
            return number
        raise ValueError(number_refused(path, number))

    def learn(self, output: Any, trial: Trial) -> bool:
        """Find the axes that are unknown so far, the ranks together; whether there were any.

        Raises:
            ValueError: An output has none, or another one than the first.
        """
        if self._control.world == 1 or not self._unknown(output, "output"):
            return False
        sizes: list[dict[str, Sizes]] = self._control.objects(outline(output))
        tried: list[dict[str, Sizes] | None] = []

        def once() -> dict[str, Sizes] | None:
            # All ranks come here alike, since they decide by the same sizes.
            if not tried:
                own, everyone = trial(), None
                everyone = self._control.objects(own)
                tried.append(None if None in everyone else everyone[0])
            return tried[0]

        # One sample more than rank 0 computed.
        self._find(output, "output", sizes, once)
        return True

    def _unknown(self, value: Any, path: str) -> bool:
        if isinstance(value, Tensor | list):
            known = self._axes.known(path, value)
            if known is None or isinstance(value, Tensor) or known == "list":
                return known is None
        held = contents(value, path)
        if held is None:
            return False
        if is_object_with_tensors(value) and not self._axes.known_object(path):
            return True
        return any(map(self._unknown, held.values, held.paths(path)))

    def _find(
        self,
        value: Any,
        path: str,
        sizes: list[dict[str, Sizes]],
        trial: Callable[[], Any],
        inside_object: bool = False,
    ) -> None:
        if isinstance(value, Tensor | list):
            columns = [one.get(path, ()) for one in sizes]
            axis = self._axes.find(path, value, columns, self._computed, trial)
            if isinstance(value, Tensor) or axis == "list":
                return
        held = contents(value, path)
        if held is None:
            if inside_object:
                self._axes.check_steady(path, value, trial)
            return
        plain = inside_object or is_object_with_tensors(value)
        for where, part in zip(held.paths(path), held.values, strict=True):
            self._find(part, where, sizes, trial, plain)
        if is_object_with_tensors(value):
            self._axes.remember_object(path)

    def merge(self, output: Any, tokens: TokenMeans | None = None) -> Any:
        """The whole batch's output, from this rank's; all ranks call it with outputs of one make."""
        if self._control.world == 1:
            # This rank's batch is the whole one.
            return map_leaves(output, lambda tensor: tensor.to(self._target), kind=Tensor)
        self._tokens = tokens
        return self._merged(output, "output")

    def _merged(self, value: Any, path: str) -> Any:
        if isinstance(value, Tensor):
            return self._merged_tensor(value, path).to(self._target)
        if isinstance(value, _NUMBERS) and not isinstance(value, bool):
            return self._merged_number(value, path)
        if isinstance(value, torch.device):
            return self._target
        held = contents(value, path)
        if held is None:
            return self._control.objects(value)[0] if self._axes.said.rule(path) == "first" else value
        if isinstance(value, list) and self._axes.known(path, value) == "list":
            return rebuild(value, self._entries(value))
        parts = [self._merged(part, where) for where, part in zip(held.paths(path), held.values, strict=True)]
        return rebuild(value, parts)

    def _entries(self, own: list[Any]) -> list[Any]:
        """One entry a sample, of all ranks; a tensor in them keeps its graph on its own rank, which is enough."""
        plain = map_leaves(list(own), lambda tensor: tensor.detach().cpu(), kind=Tensor)
        everyone = self._control.objects(plain)
        everyone[self._rank] = map_leaves(list(own), own_of_all, kind=Tensor)
        rows = [row for rows, length in zip(everyone, self._lengths, strict=True) for row in rows[:length]]
        moved: list[Any] = map_leaves(rows, lambda tensor: tensor.to(self._target), kind=Tensor)
        return moved

    def _merged_tensor(self, tensor: Tensor, path: str) -> Tensor:
        if is_count(tensor) and self._axes.said.rule(path) is None:
            # The same on every rank: see `make`.
            return tensor
        axis = self._axes.known(path, tensor)
        if isinstance(axis, int):
            own = tensor.narrow(axis, 0, self._lengths[self._rank])
            return join_ranks(own, self._lengths, axis)
        if axis == "sum" and not tensor.is_floating_point():
            return join_ranks(tensor[None], [1] * len(self._lengths), 0)[[n > 0 for n in self._lengths]].sum(0)
        if axis == "sum":
            return add_ranks(tensor, float(self._lengths[self._rank] > 0))
        if axis == "first":
            return add_ranks(tensor, float(self._rank == 0))
        return add_ranks(tensor, self._weights_of(tensor, path)[self._rank])

    def _weights_of(self, tensor: Tensor, path: str) -> list[float]:
        """How the ranks' means weigh: by samples, or by tokens."""
        if self._tokens is None or tensor.ndim or self._axes.said.rule(path) is not None:
            return self._weights
        own_count = self._tokens.count(tensor) if self._lengths[self._rank] else 0.0
        return token_weights(path, self._control.objects(own_count), self._weights)

    def _merged_number(self, number: Any, path: str) -> Any:
        rule = self._axes.said.rule(path)
        if rule is None:
            return number
        everyone = self._control.objects(number)
        if rule == "first":
            return everyone[0]
        weights = self._weights if rule == "mean" else [float(length > 0) for length in self._lengths]
        if rule == "sum":
            return sum(one for one, weight in zip(everyone, weights, strict=True) if weight)
        return sum(one * weight for one, weight in zip(everyone, weights, strict=True))
