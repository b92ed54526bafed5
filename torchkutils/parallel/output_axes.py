"""Where the batch lies in outputs: said by the caller, proved by pieces of different length, or found by a trial.

A shape alone can mislead: an LSTM's `h_n` of 2 layers looks, for pieces of 2 samples, as if its first axis were the
batch. So an output's axis is taken on trust only if pieces of different lengths proved it, or if no other axis fits
and the pieces are so long that a coincidence would be odd (`TRUSTED`). Otherwise the forward is tried once more with
one sample more, on a throw-away copy that shares the weights: the axis that grew is the batch. What was found is
remembered for the output's path.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from torchkutils.parallel.batch_axes import BatchAxes
from torchkutils.parallel.nested_batches import contents, holds_tensors, is_object_with_tensors

TRUSTED = 4
"""Pieces that are longer than this are believed to have their batch where only one axis has their length."""

Sizes: TypeAlias = tuple[int, ...]
"""A tensor's shape, or the length of a list."""


class OutputAxes:
    """The batch's axes of a template's outputs.

    Args:
        said: The caller's rules.
    """

    def __init__(self, said: BatchAxes) -> None:
        self.said = said
        self._found: dict[tuple[str, int, bool], int | str] = {}

    def known(self, path: str, value: Tensor | list[Any]) -> int | str | None:
        """The axis of a tensor, 'list' for a list of one entry a sample, 'container' for another; None: unknown."""
        rule = self.said.rule(path)
        if rule is not None:
            return "container" if isinstance(value, list) and rule != "list" else rule
        if isinstance(value, Tensor) and value.ndim == 0:
            return "mean"
        return self._found.get(_key(path, value))

    def find(
        self,
        path: str,
        value: Tensor | list[Any],
        sizes: Sequence[Sizes],
        lengths: Sequence[int],
        trial: Callable[[], Any],
    ) -> int | str:
        """The same, found if it is unknown.

        Args:
            path: Where the output stands.
            value: One replica's.
            sizes: The shape of every replica's, or the length of its list.
            lengths: The samples of each replica.
            trial: Gives `outline` of the first replica's output with one sample more; None where it failed.

        Raises:
            ValueError: It has no axis for the batch, or another one than the first.
        """
        known = self.known(path, value)
        if known is None:
            known = _of_list(sizes, lengths, trial, path, value) if isinstance(value, list) else None
            known = _of_tensor(path, sizes, lengths, trial) if known is None else known
            self._found[_key(path, value)] = known
        return known

    def known_object(self, path: str) -> bool:
        """Whether what an object holds was looked through before."""
        return (path, -2, False) in self._found

    def remember_object(self, path: str) -> None:
        """What an object holds was looked through."""
        self._found[path, -2, False] = "object"

    def check_steady(self, path: str, value: Any, trial: Callable[[], Any]) -> None:
        """Refuse what an object holds besides tensors, if it depends on the number of samples.

        Raises:
            ValueError: It does, or the forward could not be tried.
        """
        if (path, -1, False) not in self._found and self.said.rule(path) is None:
            grown = trial()
            if grown is None or grown.get(path) != outline(value, path, inside_object=True)[path]:
                raise ValueError(
                    f"{path} is a {type(value).__name__} that depends on the number of samples, so that the object "
                    "cannot be merged; return its tensors, or use outputs='local'"
                )
            self._found[path, -1, False] = "steady"


def outline(value: Any, path: str = "output", inside_object: bool = False) -> dict[str, Sizes]:
    """By path, the shapes of tensors, the lengths of lists, and a digest of what else an object holds."""
    if isinstance(value, Tensor):
        return {path: tuple(value.shape)}
    if inside_object and contents(value, path) is None:
        return {path: (zlib.crc32(repr(value).encode()),)}
    found: dict[str, Sizes] = {path: (len(value),)} if isinstance(value, list) else {}
    held = contents(value, path)
    if held is not None and (not isinstance(value, list) or holds_tensors(value)):
        plain = inside_object or is_object_with_tensors(value)
        for where, part in zip(held.paths(path), held.values, strict=True):
            found |= outline(part, where, plain)
    return found


def fitting_axes(sizes: Sequence[Sizes], lengths: Sequence[int]) -> list[int]:
    """The axes that are as long as the piece in every replica, all other axes being equal."""
    first = sizes[0]
    if any(len(shape) != len(first) for shape in sizes):
        return []
    return [
        axis
        for axis in range(len(first))
        if all(shape[axis] == length for shape, length in zip(sizes, lengths, strict=True))
        and all(shape[:axis] + shape[axis + 1 :] == first[:axis] + first[axis + 1 :] for shape in sizes)
    ]


def _key(path: str, value: Tensor | list[Any]) -> tuple[str, int, bool]:
    return (path, 0, True) if isinstance(value, list) else (path, value.ndim, False)


def _of_tensor(path: str, sizes: Sequence[Sizes], lengths: Sequence[int], trial: Callable[[], Any]) -> int:
    fitting = fitting_axes(sizes, lengths)
    sure = len(set(lengths)) > 1 or min(lengths) > TRUSTED
    if fitting and not (sure and len(fitting) == 1):
        fitting = _grown(path, fitting, lengths[0], trial())
    if fitting[:1] == [0] and len(fitting) == 1:
        return 0
    shapes = ", ".join(map(str, sizes))
    way_out = "or use outputs='local'"
    if len(fitting) == 1:
        raise ValueError(
            f"{path} must have its batch along axis 0 to be merged, got shapes {shapes} for {_samples(lengths)}: its "
            f"batch is on axis {fitting[0]}; say so by batch_axes={{{path!r}: {fitting[0]}}}, {way_out}"
        )
    if fitting:
        raise ValueError(
            f"{path} must have one axis for the batch to be merged, got shapes {shapes} for {_samples(lengths)}; "
            f"name it by batch_axes={{{path!r}: 0}}, {way_out}"
        )
    raise ValueError(
        f"{path} must have one row a sample to be merged, got shapes {shapes} for {_samples(lengths)}; name its "
        f"axis by batch_axes={{{path!r}: …}}, {way_out}"
    )


def _of_list(
    sizes: Sequence[Sizes], lengths: Sequence[int], trial: Callable[[], Any], path: str, value: Any
) -> int | str:
    """'list' or 'container'."""
    if not all(size == (length,) for size, length in zip(sizes, lengths, strict=True)):
        return "container"
    if len(set(lengths)) > 1 or (not holds_tensors(value) and min(lengths) > TRUSTED):
        return "list"
    grown = trial()
    if grown is not None and grown.get(path) != (lengths[0] + 1,):
        return "container"
    if grown is None or _entries_grow(value, path, lengths[0], grown):
        raise ValueError(
            f"{path} can be read in two ways, as one entry a sample or as {lengths[0]} outputs; name one in "
            f"batch_axes, {{{path!r}: 'list'}} or {{{path!r}: 0}}"
        )
    return "list"


def _entries_grow(value: Any, path: str, length: int, grown: dict[str, Sizes]) -> bool:
    """Whether the entries of a list have rows for all samples again, so that they are no entries of one sample."""
    inside = {where: shape for where, shape in outline(value, path).items() if where != path and shape[:1] == (length,)}
    return any(grown.get(where, ())[:1] == (length + 1,) for where in inside)


def _grown(path: str, fitting: list[int], length: int, grown: dict[str, Sizes] | None) -> list[int]:
    """Those of the fitting axes that grew by one with one sample more."""
    if grown is None:
        # The forward could not be tried: the first axis is believed if no other one fits.
        return fitting
    shape = grown.get(path, ())
    return [axis for axis in fitting if axis < len(shape) and shape[axis] == length + 1]


def _samples(lengths: Sequence[int]) -> str:
    return " and ".join(map(str, lengths)) + " samples"
