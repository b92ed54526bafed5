"""A call's arguments, sorted into those that are cut over devices and those that every device gets whole."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchkutils._nested import Children, leaves, map_leaves, rebuild
from torchkutils._wrapped_models import unwrapped
from torchkutils.parallel.batch_axes import BatchAxes
from torchkutils.parallel.nested_batches import check_not_nested, contents, to_device
from torchkutils.parallel.parallel_model import Settings
from torchkutils.parallel.scatter_gather import Plan, Shard, cut_tensor

Call = tuple[list[Any], dict[str, Any]]


@dataclass
class _List:
    """A list among the arguments, which may hold one entry a sample.

    Attributes:
        path: Where it stands.
        length: Its number of entries.
        above: The lists around it, by path.
        tensors: The lengths along the batch axis of the tensors inside, by path.
    """

    path: str
    length: int
    above: tuple[str, ...]
    tensors: dict[str, int] = field(default_factory=dict)


class _Survey:
    """Which parts of the arguments are cut, and how long the batch is.

    Attributes:
        cuts: By path, the axis along which a tensor is cut, or 'list' for a list that is cut by entries.
    """

    def __init__(self, axes: BatchAxes) -> None:
        self.cuts: dict[str, int | str] = {}
        self._axes = axes
        self._fixed: dict[str, int] = {}
        self._lists: dict[str, _List] = {}

    def look(
        self, value: Any, path: str, rule_path: str, above: tuple[str, ...] = (), around: tuple[int, ...] = ()
    ) -> None:
        """Take in one argument, or what lies inside it.

        Args:
            value: The argument.
            path: Its name in messages: `args[0]`.
            rule_path: Its name in `batch_axes`: the parameter's.
            above: The lists around it whose entries are not known to be samples, by path.
            around: `id` of each container around it.
        """
        if isinstance(value, np.ndarray):
            raise TypeError(f"{path} is a NumPy array, which cannot be cut over devices; pass torch.as_tensor({path})")
        rule = self._axes.rule(rule_path)
        rule = self._axes.rule(path) if rule is None else rule
        if isinstance(value, Tensor):
            self._look_at_tensor(value, path, rule if isinstance(rule, int) else 0, above)
        elif rule == "list" and isinstance(value, list | tuple):
            self.cuts[path] = "list"
            self._fixed[path] = len(value)
        elif (held := contents(value, path)) is not None:
            if id(value) in around:
                raise TypeError(f"{path} is a {type(value).__name__} that holds itself, which cannot be cut")
            if isinstance(value, list) and rule is None:
                self._lists[path] = _List(path, len(value), above)
                above = (*above, path)
            self._look_into(held, path, rule_path, above, (*around, id(value)))

    def _look_into(
        self, held: Children, path: str, rule_path: str, above: tuple[str, ...], around: tuple[int, ...]
    ) -> None:
        for where, below, part in zip(held.paths(path), held.paths(rule_path), held.values, strict=True):
            self.look(part, where, below, above, around)

    def _look_at_tensor(self, tensor: Tensor, path: str, axis: int, above: tuple[str, ...]) -> None:
        check_not_nested(tensor, path)
        if tensor.ndim == 0:
            return
        if axis >= tensor.ndim:
            raise ValueError(
                f"batch_axes must name an axis that the tensor has, got {axis} for {path} of shape "
                f"{tuple(tensor.shape)}"
            )
        self.cuts[path] = axis
        if not above:
            self._fixed[path] = tensor.size(axis)
        for outer in above:
            self._lists[outer].tensors[path] = tensor.size(axis)

    def length(self) -> int:
        """The batch's length.

        Raises:
            ValueError: Nothing fixes it, tensors disagree, a list can be read in two ways, or it is 0.
        """
        if not self._fixed:
            self._refuse_unfixed()
        batch = self._common(self._fixed)
        for one in self._lists.values():
            if any(self.cuts.get(path) == "list" for path in one.above):
                continue
            if one.length != batch:
                self._common({**self._fixed, **self._direct(one)})
                continue
            if one.tensors and all(length == batch for length in one.tensors.values()):
                raise ValueError(
                    f"{one.path} can be read in two ways, {batch} entries for {batch} samples or tensors of {batch} "
                    f"rows: name one in batch_axes, {{{one.path!r}: 'list'}} or {{{one.path!r}: 0}}"
                )
            self.cuts[one.path] = "list"
        return batch

    def _direct(self, one: _List) -> dict[str, int]:
        """The tensors of a list that are in none of the lists inside it."""
        inner = {path for other in self._lists.values() if one.path in other.above for path in other.tensors}
        return {path: length for path, length in one.tensors.items() if path not in inner}

    def _common(self, lengths: dict[str, int]) -> int:
        if len(set(lengths.values())) > 1:
            axes = {self.cuts.get(path) for path in lengths}
            raise ValueError(
                f"all tensors must have the same length along {'axis 0' if axes == {0} else 'their batch axes'}, got "
                + ", ".join(f"{path}: {length}" for path, length in lengths.items())
                + "; name arguments that every replica needs whole in shared=(...), or their axes in batch_axes={...}"
            )
        length = next(iter(lengths.values()))
        if length == 0:
            names = ", ".join(lengths)
            raise ValueError(f"the batch must hold at least one sample, got length 0 along axis 0 of {names}")
        return length

    def _refuse_unfixed(self) -> None:
        for one in self._lists.values():
            if one.tensors:
                raise ValueError(
                    f"{one.path} is a list of tensors and no other tensor says how long the batch is: name it in "
                    f"batch_axes, {{{one.path!r}: 'list'}} to cut the list by entries or {{{one.path!r}: 0}} to cut "
                    "each tensor"
                )
        raise ValueError("the arguments must hold a tensor with a batch axis, got none; call the template itself")


@dataclass(frozen=True)
class _Argument:
    key: int | str
    label: str
    name: str
    value: Any
    whole: bool


class Arguments:
    """Positional and keyword arguments of one call of a template's forward, and targets that are cut along.

    Args:
        names: Of the forward's positional parameters.
        settings: What is cut, and how.
        args: The call's positional arguments.
        kwargs: The call's keyword arguments.
        targets: Cut with them.
    """

    def __init__(
        self, names: Sequence[str], settings: Settings, args: tuple[Any, ...], kwargs: dict[str, Any], *targets: Any
    ) -> None:
        self._arguments: list[_Argument] = []
        for place, value in enumerate(args):
            name = names[place] if place < len(names) else f"args[{place}]"
            self._arguments.append(_Argument(place, f"args[{place}]", name, value, name in settings.shared))
        for name, value in kwargs.items():
            self._arguments.append(_Argument(name, name, name, value, name in settings.shared))
        self._targets = [_Argument("targets", "targets", "targets", value, False) for value in targets]
        survey = _Survey(settings.batch_axes)
        for one in (*self._arguments, *self._targets):
            if not one.whole:
                survey.look(one.value, one.label, one.name)
        self.length: int = survey.length()
        self._cuts = survey.cuts

    @classmethod
    def of_inputs(cls, names: Sequence[str], settings: Settings, inputs: Any, targets: Any) -> Arguments:
        """From `inputs`: a tensor, a tuple of positional arguments or a dict of keyword arguments."""
        if isinstance(inputs, Mapping):
            return cls(names, settings, (), dict(inputs), targets)
        return cls(names, settings, inputs if isinstance(inputs, tuple) else (inputs,), {}, targets)

    @property
    def values(self) -> list[tuple[str, Any]]:
        """Every argument and target with its label."""
        return [(one.label, one.value) for one in (*self._arguments, *self._targets)]

    def named(self, name: str) -> Any:
        """The argument of that name; None where there is none."""
        return next((one.value for one in self._arguments if one.name == name), None)

    def handed_in(self, value: Any) -> bool:
        """Whether a value is one of the arguments, or lies inside one."""
        return any(leaf is value for _, argument in self.values for leaf in leaves(argument))

    def calls(self, plan: Plan) -> list[Call]:
        """For each shard, its positional and keyword arguments, on its device."""
        calls: list[Call] = [([], {}) for _ in plan]
        for one in self._arguments:
            for (places, names), piece in zip(calls, self._pieces(one, plan), strict=True):
                if isinstance(one.key, int):
                    places.append(piece)
                else:
                    names[one.key] = piece
        return calls

    def targets(self, plan: Plan) -> list[Any]:
        """For each shard, its targets, on its device."""
        return self._pieces(self._targets[0], plan)

    def _pieces(self, one: _Argument, plan: Plan) -> list[Any]:
        return [_whole(one.value, shard) for shard in plan] if one.whole else self._cut(one.value, one.label, plan)

    def _cut(self, value: Any, path: str, plan: Plan) -> list[Any]:
        cut = self._cuts.get(path)
        if isinstance(value, Tensor):
            if isinstance(cut, int):
                return list(cut_tensor(value, plan, cut))
            return [to_device(value, shard.device) for shard in plan]
        if cut == "list":
            return list(_entries(value, plan))
        held = contents(value, path)
        if held is None:
            return [value] * len(plan)
        columns = [self._cut(part, where, plan) for where, part in zip(held.paths(path), held.values, strict=True)]
        return [rebuild(value, [column[row] for column in columns]) for row in range(len(plan))]


def _whole(value: Any, shard: Shard) -> Any:
    return map_leaves(value, lambda tensor: to_device(tensor, shard.device), kind=Tensor)


def _entries(value: Any, plan: Plan) -> Iterator[Any]:
    for shard in plan:
        yield _whole(rebuild(value, value[shard.start : shard.start + shard.length]), shard)


def positional_names(template: nn.Module) -> list[str]:
    """The names of a forward's positional parameters."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    # A compiled module's own forward takes anything.
    parameters = inspect.signature(unwrapped(template).forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in kinds]
