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
        leaf: No other module was called in it so far.
        flops: Operations of the functions that it ran itself.
        flops_known: Whether all of them could be counted.
        node: Its node in the data flow, if it is one box whatever it does; None while that is not known.
        sources: Where the tensors that it was given come from; empty where `node` has those edges already.
        tensors: The tensors that it was given; empty when the call has ended.
        functions: Nodes of the functions that it ran itself.
        made: In a call that is one box, what its functions gave: weak references by identity.
        memory: There too, the memory of what functions inside of transforms gave.
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
        """A function inside this call, which is one box, gave these tensors."""
        for tensor in tensors:
            self.made[id(tensor)] = weakref.ref(tensor)
            if inside_function_transform():
                # What leaves a transform is the tensor that is wrapped here, or a view of it.
                self.memory.add(storage_of(tensor))

    def has_made(self, tensor: torch.Tensor) -> bool:
        """Whether a function inside this call gave this tensor."""
        reference = self.made.get(id(tensor))
        return reference is not None and reference() is tensor

    def has_made_memory(self, storage: int) -> bool:
        """Whether a tensor that a function inside this call gave lies in this memory."""
        return storage in self.memory or any(storage_of(made) == storage for made in self.alive())

    def alive(self) -> list[torch.Tensor]:
        """What functions inside this call gave, as far as it still exists."""
        made = [reference() for reference in self.made.values()]
        return [tensor for tensor in made if tensor is not None]

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

    def __len__(self) -> int:
        return len(self._all)

    def next_number(self, module: int) -> int:
        """The number of the call of this module that is about to begin."""
        number = self._numbers.get(module, 0)
        self._numbers[module] = number + 1
        return number

    def parent(self) -> RunningCall | None:
        """The call in which another one is about to begin, which makes it no leaf; None outside of the model."""
        if not self.running:
            return None
        self.running[-1].leaf = False
        return self.running[-1]

    def enter(self, module: int) -> tuple[RunningCall | None, int, int]:
        """Of a call that begins and ends at once: the call around it, its index, its number."""
        return self.parent(), len(self._all), self.next_number(module)

    def begin(self, module: int, inputs: Collection) -> RunningCall:
        """A call begins inside the innermost running one."""
        parent = self.parent()
        call = RunningCall(
            len(self._all), module, self.next_number(module), None if parent is None else parent.index, inputs
        )
        self._all.append(call)
        self.running.append(call)
        return call

    def end(self, call: RunningCall) -> None:
        """A call has ended, and with it all that began inside it and did not end by themselves."""
        if any(call is running for running in self.running):
            while self.running.pop() is not call:
                pass
        call.tensors, call.made, call.memory = [], {}, set()

    def record(self, call: RunningCall) -> None:
        """Keep the plain record of a call in its place: no more is going to be known."""
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
