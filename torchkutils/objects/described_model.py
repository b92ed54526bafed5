"""How a model is built, as a document that was tried: the tree is built from it and compared before it is written."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from torchkutils._random_state import random_state_kept
from torchkutils.objects.budget import MAX_LEVELS, Budget
from torchkutils.objects.config import ConfigReader, ConfigWriter
from torchkutils.objects.differences import Differences, built_on
from torchkutils.objects.model_tensors import StateToStore
from torchkutils.objects.tree import count_paths

__all__ = ["DescribedModel", "describe_model"]

_ROUNDS = 4
_PATHS_AT_MOST = 1_000_000
_LISTED = 12


class DescribedModel(NamedTuple):
    """A model's architecture document, and what a user must know of it ("" where nothing)."""

    architecture: dict[str, Any]
    warning: str


def describe_model(model: nn.Module, state: StateToStore) -> DescribedModel:
    """Write down how a model is built; its tensors are added to `state`.

    Where a module that was a constructor's argument differs from its own call, nobody knows whether it was changed
    before it was handed over or after. Both are tried: first the differences of the whole tree at the end, then those
    of each argument before it is handed over.

    Raises:
        ValueError: The model cannot be rebuilt as it is.
    """
    try:
        return _described(model, state)
    except RecursionError as error:
        raise ValueError(
            f"the model's modules and arguments must be nested at most {MAX_LEVELS} levels deep, and less where the "
            "call itself is deep in other calls; register a class that builds the inner ones, or keep the tensors "
            "alone: torchkutils.save_weights(model, path)"
        ) from error


def _described(model: nn.Module, state: StateToStore) -> DescribedModel:
    if count_paths(model) > _PATHS_AT_MOST:
        raise ValueError(f"the model's modules must stand in at most {_PATHS_AT_MOST} places; shared modules multiply")
    state.add_model(model)
    before = state.snapshot()
    try:
        return _Description(model, state, early=False).tried()
    except ValueError as error:
        state.restore(before)
        try:
            return _Description(model, state, early=True).tried()
        except ValueError:
            raise error from None


class _Description:
    """One try to describe a model."""

    def __init__(self, model: nn.Module, state: StateToStore, *, early: bool) -> None:
        self._model, self._state = model, state
        self.writer = ConfigWriter(state.argument, self._edits_of if early else None)
        self.writer.name_paths(model)

    def _reader(self, budget: Budget | None = None) -> ConfigReader:
        return ConfigReader(
            self._state.read_argument,
            self.writer.classes,
            budget,
            empty_tensor=self._state.empty_argument,
            empty_parameters=not self.writer.real_classes,
        )

    def tried(self) -> DescribedModel:
        node = self.writer.node(self._model, "")
        own = list(node.pop("edits", ()))
        with random_state_kept():
            found = self._differences(node | {"edits": own} if own else node)
            edits = own + found.edits
            for _ in range(_ROUNDS if edits else 0):
                # Another seed each time: what a constructor draws must not look like what it computes.
                found = self._differences(node | {"edits": edits})
                if not found.edits:
                    break
                edits += found.edits
            if found.edits and edits:
                raise ValueError(f"its constructor builds another model each time: {str(found.edits[0])[:100]}")
        return DescribedModel(node | ({"edits": edits} if edits else {}), _warning(found))

    def _differences(self, node: dict[str, Any]) -> Differences:
        device = None if self.writer.real_classes else "meta"
        written = self.writer.written()
        found = self._differences_on(node, device)
        if device is not None and self.writer.real_classes:
            # An edit brings in a registered class: such classes are built for real. That edit is found, and its
            # nodes are written, once more.
            self.writer.forget_all_but(written)
            found = self._differences_on(node, None)
        return found

    def _differences_on(self, node: dict[str, Any], device: str | None) -> Differences:
        budget = Budget(len(self._state.tensors), len(self._state.names), self._state.nbytes())
        reader = self._reader(budget)
        with _drawn_anew():
            try:
                with built_on(device):
                    rebuilt = reader.module(node)
            except ValueError as error:
                raise ValueError(f"the model cannot be rebuilt from its config: {error}") from error
            budget.paths(count_paths(rebuilt))
            return Differences(self._model, rebuilt, self.writer, self._reader_of_edits(reader), device=device)

    def _reader_of_edits(self, reader: ConfigReader) -> ConfigReader:
        """The same reader without its budget: an edit is paid for when the whole is built again."""
        made = self._reader()
        made.share_modules(reader)
        return made

    def _edits_of(self, module: nn.Module, node: dict[str, Any], where: str) -> list[Any]:
        """The edits of one module that is an argument; the root's are found with the whole tree."""
        if module is self._model:
            return []
        reader = self._reader()
        with random_state_kept(), _drawn_anew():
            rebuilt = reader.module(node)
            return Differences(module, rebuilt, self.writer, reader, where).edits


@contextlib.contextmanager
def _drawn_anew() -> Iterator[None]:
    """Set random seeds: values that a constructor draws must differ from those that the model has."""
    seed = int.from_bytes(os.urandom(4), "little")
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    yield


def _warning(found: Differences) -> str:
    parts = []
    if found.left_out:
        parts.append(f"left out, since the constructor did not make it: {_listed(found.left_out)}")
    if found.went_back:
        parts.append(f"back at what the constructor makes: {_listed(found.went_back)}")
    return f"save_model stores a model without the state of its last run ({'; '.join(parts)})" if parts else ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
