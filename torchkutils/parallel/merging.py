"""The outputs of all replicas in one process, merged into one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchkutils._nested import DEEPEST, Children, map_leaves, rebuild
from torchkutils.parallel.nested_batches import check_not_nested, contents, is_object_with_tensors, walk
from torchkutils.parallel.output_axes import OutputAxes, Sizes
from torchkutils.parallel.scatter_gather import Plan, join_tensors, shard_weights, weighted_sum
from torchkutils.parallel.token_means import TokenMeans

Trial = Callable[[], "dict[str, Sizes] | None"]


class Merger:
    """One merge of the replicas' outputs.

    Args:
        axes: Where the batch lies.
        plan: The replicas' pieces of the batch.
        target: Where merged outputs lie.
        trial: Gives the outline of the first replica's output with one sample more.
        handed_in: Tells the arguments' own values.
        tokens: For each replica, the token means of its forward; none where no token was left out.
    """

    def __init__(
        self,
        axes: OutputAxes,
        plan: Plan,
        target: torch.device,
        trial: Trial,
        handed_in: Callable[[Any], bool],
        tokens: Sequence[TokenMeans] = (),
    ) -> None:
        self._axes = axes
        self._plan = plan
        self._target = target
        self._trial = trial
        self._handed_in = handed_in
        self._tokens = tokens
        self._lengths = [shard.length for shard in plan]
        self._weights = shard_weights(plan)

    def merge(self, outputs: Sequence[Any], path: str = "output", inside_object: bool = False) -> Any:
        """One output in place of the replicas'.

        Tensors are joined along the batch's axis, 0-d tensors averaged by shard length, lists of one entry a sample
        joined; None, text, bools and other values are passed on where all replicas agree.

        Raises:
            ValueError: The replicas returned different structures, or what cannot be merged.
        """
        first = outputs[0]
        if isinstance(first, Tensor):
            self._check_types(outputs, path, Tensor)
            if len(outputs) > 1 and is_count(first) and self._axes.said.rule(path) is None:
                return self._count(outputs, path, inside_object)
            return self._tensor(outputs, path)
        if isinstance(first, int | float | complex | np.number) and not isinstance(first, bool):
            self._check_types(outputs, path, type(first))
            return self._number(outputs, path, inside_object)
        if contents(first, path) is not None:
            return self._container(outputs, path, inside_object)
        merged = self._value(outputs, path)
        if inside_object and len(outputs) > 1:
            self._axes.check_steady(path, first, self._trial)
        return merged

    def _container(self, outputs: Sequence[Any], path: str, inside_object: bool) -> Any:
        first = outputs[0]
        self._check_types(outputs, path, type(first))
        if path.count("[") + path.count(".") > DEEPEST:
            raise TypeError(f"{path:.40}… lies over {DEEPEST} levels deep, as in a value that holds itself")
        if isinstance(first, list) and self._has_entries(outputs, path):
            joined = [_on(self._target, entry) for output in outputs for entry in output]
            return rebuild(first, joined)
        opened = self._opened(outputs, path)
        plain = inside_object or is_object_with_tensors(first)
        columns = zip(*[held.values for held in opened], strict=True)
        parts = [self.merge(column, where, plain) for where, column in zip(opened[0].paths(path), columns, strict=True)]
        return rebuild(first, parts)

    def _opened(self, outputs: Sequence[Any], path: str) -> list[Children]:
        """What each replica's container holds, by the same keys."""
        opened = [held for held in (contents(output, path) for output in outputs) if held is not None]
        if len(opened) < len(outputs) or any(list(one.keys) != list(opened[0].keys) for one in opened):
            self._refuse_structures(outputs)
        return opened

    def _tensor(self, tensors: Sequence[Tensor], path: str) -> Tensor:
        if len(tensors) == 1:
            return tensors[0].to(self._target)
        check_not_nested(tensors[0], path)
        shapes = [tuple(tensor.shape) for tensor in tensors]
        axis = self._axes.find(path, tensors[0], shapes, self._lengths, self._trial)
        if isinstance(axis, int):
            self._check_axis(path, shapes, axis)
            return join_tensors(tensors, axis, self._target)
        if axis == "first":
            return tensors[0].to(self._target)
        if axis == "list":
            raise ValueError(f"{path} must be a list to be merged by entries, got a tensor; correct batch_axes")
        if axis == "mean":
            return weighted_sum(tensors, self._weights_of(tensors, path), self._target)
        if not tensors[0].is_floating_point():
            return torch.stack([tensor.to(self._target) for tensor in tensors]).sum(0)
        return weighted_sum(tensors, [1.0] * len(tensors), self._target)

    def _weights_of(self, tensors: Sequence[Tensor], path: str) -> Sequence[float]:
        """How the replicas' means weigh: by samples, or by tokens."""
        if not self._tokens or tensors[0].ndim or self._axes.said.rule(path) is not None:
            return self._weights
        counts = [one.count(tensor) for one, tensor in zip(self._tokens, tensors, strict=True)]
        return token_weights(path, counts, self._weights)

    def _count(self, counts: Sequence[Tensor], path: str, inside_object: bool) -> Tensor:
        """A 0-d tensor of integers or a bool: no mean of the replicas' is the whole batch's."""
        first = counts[0]
        alike = all(bool(count.to(first.device) == first) for count in counts)
        if not alike or not (first.dtype == torch.bool or inside_object or self._handed_in(first)):
            raise ValueError(number_refused(path, first))
        return first.to(self._target)

    def _check_axis(self, path: str, shapes: Sequence[Sizes], axis: int) -> None:
        for shape, shard in zip(shapes, self._plan, strict=True):
            if axis >= len(shape) or shape[axis] != shard.length:
                raise ValueError(
                    f"{path} must have one row a sample along axis {axis} to be merged, got shape {shape} for "
                    f"{shard.length} samples from replica {shard.replica}; use outputs='local'"
                )

    def _number(self, numbers: Sequence[Any], path: str, inside_object: bool) -> Any:
        rule = self._axes.said.rule(path)
        # A replica that ran on the whole batch gives what one device gives.
        if len(numbers) == 1 or rule == "first" or self._is_passed_on(numbers, path, inside_object):
            return numbers[0]
        if rule == "sum":
            return sum(numbers)
        if rule == "mean":
            return sum(map(operator.mul, self._weights, numbers))
        raise ValueError(number_refused(path, numbers[0]))

    def _is_passed_on(self, numbers: Sequence[Any], path: str, inside_object: bool) -> bool:
        """Whether no piece decides a number: an object keeps it about itself, or the caller handed it in."""
        if inside_object:
            self._axes.check_steady(path, numbers[0], self._trial)
            return all(number == numbers[0] for number in numbers)
        # Python keeps one object for each small int: that one is the same says nothing.
        return (
            isinstance(numbers[0], float) and all(one is numbers[0] for one in numbers) and self._handed_in(numbers[0])
        )

    def _value(self, values: Sequence[Any], path: str) -> Any:
        first = values[0]
        if isinstance(first, torch.device) and all(isinstance(value, torch.device) for value in values):
            return first if all(value == first for value in values) else self._target
        if self._axes.said.rule(path) != "first" and not all(same(value, first) for value in values[1:]):
            if {type(value) for value in values} != {type(first)}:
                self._refuse_type(path, values)
            raise ValueError(value_refused(path, first))
        return first

    def _has_entries(self, outputs: Sequence[list[Any]], path: str) -> bool:
        if len(outputs) == 1:
            return True
        sizes = [(len(output),) for output in outputs]
        if self._axes.find(path, outputs[0], sizes, self._lengths, self._trial) != "list":
            return False
        for output, length in zip(outputs, self._lengths, strict=True):
            if len(output) != length:
                raise ValueError(f"{path} must hold one entry a sample, got {len(output)} entries for {length} samples")
        self._check_entries(outputs, path)
        return True

    def _check_entries(self, outputs: Sequence[list[Any]], path: str) -> None:
        """Entries that have rows for all samples of the piece again are no entries of one sample."""
        if self._axes.said.rule(path) == "list" or len(set(self._lengths)) == 1:
            return
        shapes = [[leaf.shape for _, leaf in walk(output, path) if isinstance(leaf, Tensor)] for output in outputs]
        grow = all(
            inside and all(shape[:1] == (length,) for shape in inside)
            for inside, length in zip(shapes, self._lengths, strict=True)
        )
        if grow:
            self._refuse_structures(outputs)

    def _check_types(self, outputs: Sequence[Any], path: str, kind: type) -> None:
        if not all(isinstance(output, kind) for output in outputs):
            self._refuse_type(path, outputs)

    def _refuse_type(self, path: str, outputs: Sequence[Any]) -> None:
        kinds = [
            f"{type(output).__name__} from replica {one.replica}"
            for one, output in zip(self._plan, outputs, strict=True)
        ]
        raise ValueError(
            f"the replicas' outputs must have one structure to be merged, got {path} as {', '.join(kinds)}; "
            "use outputs='local'"
        )

    def _refuse_structures(self, outputs: Sequence[Any]) -> None:
        seen = [[path for path, _ in walk(output, "output")] for output in outputs]
        other = next((place for place, paths in enumerate(seen) if paths != seen[0]), len(seen) - 1)
        raise ValueError(
            f"the replicas' outputs must have one structure to be merged, got {seen[0]} from replica "
            f"{self._plan[0].replica} and {seen[other]} from replica {self._plan[other].replica}; use outputs='local'"
        )


def _on(device: torch.device, value: Any) -> Any:
    return map_leaves(value, lambda tensor: tensor.to(device), kind=Tensor)


def token_weights(path: str, counts: Sequence[float | None], by_rows: Sequence[float]) -> list[float]:
    """The weights of scalars that are token means, by their tokens; of other scalars, by samples.

    Raises:
        ValueError: A loss that is no plain token mean: the pieces' tokens weigh in it in an unknown way.
    """
    known = [count for count in counts if count is not None]
    if len(known) == len(counts):
        total = sum(known)
        return [count / total if total else 0.0 for count in known]
    if path == "output" or path.removesuffix("']").endswith("loss"):
        raise ValueError(
            f"{path} cannot be merged: labels hold -100, so that it is a mean over another number of tokens in each "
            "replica, and it is not the result of cross_entropy itself; use sharded_loss(…, weights=…), or "
            f"batch_axes={{{path!r}: 'mean'}} to weigh by samples"
        )
    return list(by_rows)


def same(one: Any, other: Any) -> bool:
    """Whether two values of replicas are the same thing, or equal."""
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:
        return False


def is_count(tensor: Tensor) -> bool:
    """Whether a tensor is one integer or bool, which is no mean over samples."""
    return tensor.ndim == 0 and not (tensor.is_floating_point() or tensor.is_complex())


def number_refused(path: str, number: Any) -> str:
    """The message for a number that nothing says how to merge."""
    return (
        f"{path} is a number ({type(number).__name__}), and each replica's is that of its own piece; say how to merge "
        f"it by batch_axes={{{path!r}: 'sum'}} (or 'mean', 'first'), or use outputs='local'"
    )


def value_refused(path: str, value: Any) -> str:
    """The message for any other value that cannot be merged."""
    return (
        f"{path} is a {type(value).__name__} that differs between the replicas and cannot be merged; leave it out of "
        f"the output, take the first replica's by batch_axes={{{path!r}: 'first'}}, or use outputs='local'"
    )
