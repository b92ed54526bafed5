"""The calls of modules during one forward: those that are running, and all of them in order."""

from __future__ import annotations

import dataclasses
import weakref

import torch

from torchkutils._torch_versions import inside_function_transform
from torchkutils.models.records import Call, Collection, Value
from torchkutils.models.tree.nested_values import storage_of


class RunningCall:
    """A call that has begun.

    Attributes:
        index: Its position among all calls.
        module: Index of the module in the tree.
        number: 0 for the module's first call.
        parent: Index of the call that was running when it began.
        inputs: What it was given, described.
        output: What it returned, described; None until it ends.
        leaf: It has called no other module so far.
        flops: Operations of the functions that it ran itself.
        flops_known: Whether all of them could be counted.
        node: Its node in the data flow, if it is one box whatever it does; None while that is not known.
        sources: Where the tensors that it was given come from; empty where `node` has those edges already.
        tensors: The tensors that it was given; empty when the call has ended.
        functions: Nodes of the functions that it ran itself.
        made: In a call that is one box, the results of its functions: weak references by `id`.
        memory: There too, the memory of the results of functions inside of transforms.
        mode_was_on: Whether the function mode was on torch's stack when the call began.
    """

    __slots__ = (
        *("flops", "flops_known", "functions", "index", "inputs", "leaf", "made", "memory", "mode_was_on", "module"),
        *("node", "number", "output", "parent", "sources", "tensors"),
    )

    def __init__(self, index: int, module: int, number: int, parent: int | None, inputs: Collection) -> None:
        self.index: int = index
        self.module: int = module
        self.number: int = number
        self.parent: int | None = parent
        self.inputs: Collection = inputs
        self.leaf: bool = True
        self.flops: int = 0
        self.flops_known: bool = True
        self.mode_was_on: bool = True
        self.output: Value | None = None
        self.node: int | None = None
        self.sources: list[tuple[int, int]] = []
        self.tensors: list[torch.Tensor] = []
        self.functions: list[int] = []
        self.made: dict[int, weakref.ref[torch.Tensor]] = {}
        self.memory: set[int] = set()

    def note_made(self, tensors: list[torch.Tensor]) -> None:
        """A function inside this call, which is one box, has returned these tensors."""
        for tensor in tensors:
            self.made[id(tensor)] = weakref.ref(tensor)
        if inside_function_transform():
            # What leaves a transform is the tensor that is wrapped here, or a view of it.
            self.memory.update(map(storage_of, tensors))

    def has_made(self, tensor: torch.Tensor) -> bool:
        """Whether a function inside this call has returned this tensor."""
        reference = self.made.get(id(tensor))
        return reference is not None and reference() is tensor

    def has_made_memory(self, storage: int) -> bool:
        """Whether a tensor that a function inside this call has returned lies in this memory."""
        return storage in self.memory or storage in map(storage_of, self.alive())

    def alive(self) -> list[torch.Tensor]:
        """The results of functions inside this call that still exist."""
        made = [reference() for reference in self.made.values()]
        return [tensor for tensor in made if tensor is not None]

    def add_flops(self, flops: int | None) -> None:
        """Add the operations of a function; None where they could not be counted."""
        if flops is None:
            self.flops_known = False
        else:
            self.flops += flops

    def finished(self) -> Call:
        """What is known of it, as a plain record."""
        return Call(
            self.index,
            self.module,
            self.number,
            self.parent,
            self.inputs,
            self.output,
            self.flops,
            self.flops_known,
            self.leaf,
        )


class CallStack:
    """The calls of one forward.

    Attributes:
        running: The calls that have begun and not ended, the outermost first.
    """

    def __init__(self) -> None:
        self.running: list[RunningCall] = []
        self._all: list[Call | RunningCall] = []
        self._numbers: dict[int, int] = {}

    def enter(self, module: int) -> tuple[RunningCall | None, int, int]:
        """A call begins. Gives the call around it, which is no leaf then, its index and its number."""
        number = self._numbers.get(module, 0)
        self._numbers[module] = number + 1
        outer = None
        if self.running:
            outer = self.running[-1]
            outer.leaf = False
        return outer, len(self._all), number

    def begin(self, module: int, inputs: Collection) -> RunningCall:
        """A call begins inside the innermost running one, and runs from now on."""
        outer, index, number = self.enter(module)
        call = RunningCall(index, module, number, None if outer is None else outer.index, inputs)
        self._all.append(call)
        self.running.append(call)
        return call

    def end(self, call: RunningCall) -> None:
        """A call has ended, and with it all calls inside it, even if they did not say so."""
        if any(call is running for running in self.running):
            while self.running.pop() is not call:
                pass
        call.tensors, call.made, call.memory = [], {}, set()

    def record(self, call: RunningCall) -> None:
        """Keep the plain record of a call in its place: nothing changes in it from now on."""
        self._all[call.index] = call.finished()

    def add(self, call: Call) -> None:
        """A call that has begun and ended at once."""
        self._all.append(call)

    def finished(self, inexact: set[int]) -> tuple[Call, ...]:
        """All calls as plain records, in the order in which they began; the FLOPs of some are lower bounds."""
        calls = [call.finished() if isinstance(call, RunningCall) else call for call in self._all]
        for index in inexact:
            calls[index] = dataclasses.replace(calls[index], flops_known=False)
        return tuple(calls)
