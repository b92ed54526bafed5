"""A call's arguments, sorted into those that are cut over devices and those that every device gets whole."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from torchkutils.parallel.scatter_gather import Plan, batch_length, scatter
from torchkutils.parallel.structure import Structure

Call = tuple[list[Any], dict[str, Any]]


class Arguments:
    """Positional and keyword arguments of one call of a template's forward.

    Attributes:
        cut: By place or name, what is cut along axis 0.
        whole: By place or name, what is named in `shared`.
    """

    def __init__(self, template: nn.Module, shared: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]):
        names = positional_names(template) if shared else []
        self.cut: dict[int | str, Structure] = {}
        self.whole: dict[int | str, Structure] = {}
        pairs: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
        for key, value in pairs:
            name = names[key] if isinstance(key, int) and key < len(names) else key
            label = f"args[{key}]" if isinstance(key, int) else str(key)
            (self.whole if name in shared else self.cut)[key] = Structure(value, label)

    @classmethod
    def of_inputs(cls, template: nn.Module, shared: tuple[str, ...], inputs: Any) -> Arguments:
        """From `inputs`: a tensor, a tuple of positional arguments or a dict of keyword arguments."""
        args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
        return cls(template, shared, args, dict(inputs) if isinstance(inputs, Mapping) else {})

    @property
    def structures(self) -> list[Structure]:
        """All of them."""
        return [*self.cut.values(), *self.whole.values()]

    def length(self, *others: Structure) -> int:
        """The batch's length, `others` cut along with the arguments; raises as `batch_length` does."""
        return batch_length([*self.cut.values(), *others])

    def calls(self, plan: Plan) -> list[Call]:
        """For each shard, its positional and keyword arguments, on its device."""
        columns = {key: scatter(value, plan) for key, value in self.cut.items()}
        columns |= {key: scatter(value, plan, whole=True) for key, value in self.whole.items()}
        places = sorted(key for key in columns if isinstance(key, int))
        names = [key for key in (*self.cut, *self.whole) if isinstance(key, str)]
        return [
            ([columns[key][row] for key in places], {key: columns[key][row] for key in names})
            for row in range(len(plan))
        ]


def positional_names(template: nn.Module) -> list[str]:
    """The names of a forward's positional parameters."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in inspect.signature(template.forward).parameters.values() if p.kind in kinds]
