"""Where the tensors of one forward come from; "Where provenance comes from" in this folder's README tells the rules."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from torchkutils._torch_versions import is_memory_of_others, untransformed
from torchkutils.models.forward.call_stack import RunningCall
from torchkutils.models.forward.data_flow import DataFlow, Source
from torchkutils.models.records import NodeKind
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import (
    Descriptions,
    address_of,
    all_tensors_of,
    named_tensors,
    storage_of,
)

_SWEPT_EVERY = 256
_THROUGH_NUMPY = "not traced through NumPy"


class _Unknown(NamedTuple):
    """A tensor of unknown origin.

    Attributes:
        reference: A weak reference to it.
        node: Its node; that of the call for a tensor that was met inside a call that is one box.
        call: The call that took it.
        sources: Where its data may come from.
        name: How its node is called if forward made it.
    """

    reference: weakref.ref[torch.Tensor]
    node: int | None
    call: int | None
    sources: list[Source]
    name: str


class Provenance:
    """Knows for each tensor of a running forward which node of the data flow made it.

    A tensor is known by its identity (a weak reference shows when the number is used again) and by the function that
    wrote to its storage last, so that edges are right through in-place functions, views and item assignment.

    Args:
        tree: The model's modules.
        describe: Describes tensors; says whether a transform (`torch.vmap`) runs.
        flow: Gets nodes for the inputs and outputs of the model, and for tensors that nothing made.
    """

    def __init__(self, tree: ModuleTree, describe: Descriptions, flow: DataFlow) -> None:
        self._tree, self._describe, self._flow = tree, describe, flow
        # By `id` of a tensor: a weak reference to it, its source, and the time when that was noted.
        self._made: dict[int, tuple[weakref.ref[torch.Tensor], Source, int]] = {}
        # By storage: the source that wrote to it last, and when.
        self._written: dict[int, tuple[Source, int]] = {}
        # The storages of tensors that were made of nothing. No mode sees `set_` and `x.data = y`, which exchange them.
        self._storages: dict[int, int] = {}
        self._unknown: list[_Unknown] = []
        # The sources of tensors that were handed to NumPy or Python.
        self._left: list[Source] = []
        self._clock = 0
        self._sweep_at = _SWEPT_EVERY

    # -- noting ----------------------------------------------------------------------------------------------------

    def add_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any], names: list[str]) -> None:
        """Add a node for each argument of the model that holds tensors."""
        unnamed = [f"input[{position}]" for position in range(len(names), len(args))]
        # A model may take fewer positional arguments than it has names for them.
        named = [*zip([*names, *unnamed], args, strict=False), *kwargs.items()]
        for name, value in named:
            if all_tensors_of(value):
                self.set_sources(value, self._flow.add("input", name, None, self._describe.of(value)))

    def add_outputs(self, output: Any) -> None:
        """Add a node for each tensor that the model returned."""
        for name, tensor in named_tensors(output, "output"):
            sources = self.sources([tensor], call=0)
            self._flow.add_edges(self._flow.add("output", name, None, self._describe.of(tensor)), sources)

    def set_sources(self, value: Any, node: int) -> None:
        """The tensors of a value come from this node, numbered from left to right."""
        for position, tensor in enumerate(all_tensors_of(value)):
            self.set_source(tensor, (node, position))

    def set_source(self, tensor: torch.Tensor, source: Source) -> None:
        """A tensor comes from this source."""
        self._clock += 1
        if len(self._made) >= self._sweep_at:
            self._forget_freed()
        if self._storages:
            self._storages.pop(id(tensor), None)
        self._made[id(tensor)] = (weakref.ref(tensor), source, self._clock)
        if self._describe.transformed and (inner := untransformed(tensor)) is not tensor:
            # What leaves a transform is the tensor inside, or a view of it.
            self._made[id(inner)] = (weakref.ref(inner), source, self._clock)
            self._written[storage_of(inner)] = (source, self._clock)

    def note_storages(self, value: Any) -> None:
        """These tensors were made of nothing: with another storage, their data come from elsewhere."""
        self._storages.update({id(tensor): storage_of(tensor) for tensor in all_tensors_of(value)})

    def _forget_freed(self) -> None:
        """Most tensors of a forward live for a short time."""
        self._made = {key: entry for key, entry in self._made.items() if entry[0]() is not None}
        self._sweep_at = 2 * len(self._made) + _SWEPT_EVERY

    def set_writer(self, tensor: torch.Tensor, node: int) -> None:
        """What the storage of a tensor holds was written by this node."""
        self._clock += 1
        self._written[storage_of(tensor)] = ((node, 0), self._clock)

    def move_writes(self, tensors: Sequence[torch.Tensor], call: int, node: int) -> None:
        """What functions of a leaf call wrote into these tensors was written by the node of the call."""
        if not self._written:
            return
        for storage in map(storage_of, tensors):
            entry = self._written.get(storage)
            if entry is not None and self._flow.call_of(entry[0][0]) == call:
                self._written[storage] = ((node, 0), self._clock)

    def add_view(self, tensor: torch.Tensor, base: torch.Tensor) -> None:
        """A property of a tensor gave this one: `x.mT`, `x.data` and `x.real` come from where x comes from."""
        if tensor is not base and storage_of(tensor) == storage_of(base):
            self._flow.some_may_be_unused = True
            self.set_source(tensor, self.sources([base])[0])

    def leave(self, sources: Sequence[Source]) -> None:
        """Tensors are about to be handed to NumPy or Python: what comes back cannot be known again."""
        self._left += sources

    def enter(self, node: int) -> None:
        """A function made a tensor of values in NumPy or in Python: perhaps of those that were handed there."""
        if self._left:
            self._flow.mark_untraced(node, self._left)
            self._left = []

    # -- asking ----------------------------------------------------------------------------------------------------

    def sources(
        self, tensors: Sequence[torch.Tensor], otherwise: int | None = None, call: int | None = None
    ) -> list[Source]:
        """Where tensors come from: the nodes that made them, or that wrote to their storages since.

        Args:
            tensors: Any tensors.
            otherwise: The node that is taken to have made an unknown tensor; None adds a node for it.
            call: The call that takes them.
        """
        found = []
        for tensor in tensors:
            source = self._known_source(tensor)
            if source is None:
                source = self._source_of_unknown(tensor, otherwise, call)
            found.append(source)
        return found

    def _known_source(self, tensor: torch.Tensor) -> Source | None:
        if self._describe.transformed and id(tensor) not in self._made:
            tensor = untransformed(tensor)
        source, time = None, 0
        entry = self._made.get(id(tensor))
        if entry is not None and entry[0]() is tensor and not self._has_other_storage(tensor):
            _, source, time = entry
        if self._written:
            write = self._written.get(storage_of(tensor))
            if write is not None and write[1] > time:
                return write[0]
        return source

    def _has_other_storage(self, tensor: torch.Tensor) -> bool:
        before = self._storages.get(id(tensor)) if self._storages else None
        return before is not None and before != storage_of(tensor)

    def _source_of_unknown(self, tensor: torch.Tensor, otherwise: int | None, call: int | None) -> Source:
        """The source of a parameter, a buffer, or a tensor that nothing is known of."""
        name = self._tree.tensor_name(tensor)
        if name is not None:
            kind: NodeKind = "parameter" if isinstance(tensor, torch.nn.Parameter) else "buffer"
            return self._added(kind, name, tensor)
        source = self._source_of_memory(tensor)
        if source is not None:
            return source
        if otherwise is not None:
            return otherwise, 0
        made_here = self._has_other_storage(tensor)
        source = self._added("constant", "constant", tensor)
        self._note_unknown(tensor, source[0], call, made_here)
        return source

    def _added(self, kind: NodeKind, name: str, tensor: torch.Tensor) -> Source:
        source = self._flow.add(kind, name, None, self._describe.of(tensor)), 0
        self.set_source(tensor, source)
        return source

    def _source_of_memory(self, tensor: torch.Tensor) -> Source | None:
        """The source of another tensor in the same memory: torch shows no function mode what `as_subclass` does."""
        storage, address = storage_of(tensor), address_of(tensor)
        newest, found = 0, None
        for reference, source, time in self._made.values():
            other = reference()
            if other is None or other is tensor or time <= newest:
                continue
            # What another library handed back has a storage of its own around the same memory.
            if storage_of(other) == storage or (address and address_of(other) == address):
                newest, found = time, source
        return found

    def look_inside(self, tensors: Sequence[torch.Tensor], call: RunningCall) -> None:
        """A call that is one box gives these tensors to a function, or returns them. Work that nobody saw may have made
        them.
        """
        for tensor in tensors:
            if not call.has_made(tensor) and self._tree.tensor_name(tensor) is None:
                self._look_at(tensor, call)

    def _look_at(self, tensor: torch.Tensor, call: RunningCall) -> None:
        source = self._known_source(tensor)
        if source is None and not call.has_made_memory(storage_of(tensor)):
            source = self._source_of_memory(tensor)
            if source is None:
                self._note_unknown(tensor, call.node, call.index)
        if source is None or call.node is None:
            return
        if source[0] < call.node and self._flow.is_computed(source[0]):
            # It came from outside, another way than by the arguments.
            self._flow.add_edge_once(call.node, source)

    def _note_unknown(self, tensor: torch.Tensor, node: int | None, call: int | None, made_here: bool = False) -> None:
        """It may be a constant that the model keeps somewhere; whether it lives on afterwards will tell."""
        if self._left:
            self._unknown.append(_Unknown(weakref.ref(tensor), node, call, self._left, _THROUGH_NUMPY))
            self._left = []
        elif made_here or not is_memory_of_others(tensor):
            sources = self._flow.newest_unused()
            self._unknown.append(_Unknown(weakref.ref(tensor), node, call, sources, "not traced"))

    def untraced_calls(self) -> set[int]:
        """The calls in which forward made tensors that nobody saw being made. Called when its tensors are gone.

        A tensor that lives on is a constant that the model or its program keeps. One that is gone was made by forward:
        its node becomes that of a function, with guessed edges from where its data may come from.
        """
        gone = [unknown for unknown in self._unknown if unknown.reference() is None]
        self._unknown = []
        for unknown in gone:
            if unknown.node is None:
                continue
            if self._flow.is_constant(unknown.node):
                self._flow.set_untraced(unknown.node, unknown.name, unknown.call, unknown.sources)
            elif unknown.name == _THROUGH_NUMPY:
                self._flow.guess_edges(unknown.node, unknown.sources)
        return {unknown.call or 0 for unknown in gone}
