"""What stands before the modules and a function mode see during one forward, turned into calls and a data flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from torchkutils.models.forward.call_stack import RunningCall
from torchkutils.models.forward.data_flow import DataFlow
from torchkutils.models.forward.entry_points import Watched, WatchedLeaf, watch
from torchkutils.models.forward.flops import Count, function_flops, module_flops
from torchkutils.models.forward.function_mode import aside
from torchkutils.models.forward.raised_errors import message_of
from torchkutils.models.forward.torch_functions import HOOKING, QUIET, shown_name, written_tensors
from torchkutils.models.records import Call, Collection, Failure, Value
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import Descriptions, aliased, storage_of, tensors_of


class Recorder(TorchFunctionMode):
    """Watches one forward of a model, in this thread alone. Use it as a context around the call.

    The mode stands on torch's stack only while code runs that is not known to the letter. A leaf that hands its own
    input on unchanged gives an alias, so that the two differ.

    Args:
        tree: The model, walked.
        states: Told of parameters that are about to change; None where nothing has to be put back.

    Attributes:
        flow: Where the tensors come from.
        thread: The one that is watched.
        on: Whether the mode stands on torch's stack.
    """

    def __init__(self, tree: ModuleTree, states: TensorStates | None) -> None:
        super().__init__()
        self.tree, self.describe = tree, Descriptions()
        self.flow = DataFlow(tree, self.describe)
        self.thread, self.on = 0, False
        self._calls: list[Call | RunningCall] = []
        self._stack: list[RunningCall] = []
        self._counts: dict[int, int] = {}
        self._states = states
        self._watched: list[Watched] = []
        self._failed: tuple[int, Collection, BaseException] | None = None

    def __enter__(self) -> Recorder:
        self.thread = get_ident()
        for place in self.tree.index_of.values():
            self._watched.append(watch(self, self.tree.modules[place], place))
        super().__enter__()  # type: ignore[no-untyped-call]
        self.on = True
        return self

    def __exit__(self, *details: Any) -> None:
        if not self._stands():
            # Interrupted just where it had stepped down.
            torch._C._push_on_torch_function_stack(self)
        super().__exit__(*details)  # type: ignore[no-untyped-call]
        for watched in self._watched:
            watched.release()
        self._watched.clear()

    def _stands(self) -> bool:
        depth = torch._C._len_torch_function_stack()
        return any(torch._C._get_function_stack_at(level) is self for level in range(depth))

    def step_down(self) -> bool:
        """Leave torch's stack of modes; False, and nothing done, where another mode lies above."""
        if not torch._C._len_torch_function_stack():
            return False
        top = torch._C._pop_torch_function_stack()
        if top is not self:
            torch._C._push_on_torch_function_stack(top)
            return False
        self.on = False
        return True

    def step_up(self) -> None:
        """Stand on torch's stack of modes again."""
        torch._C._push_on_torch_function_stack(self)
        self.on = True

    # -- modules ---------------------------------------------------------------------------------------------------

    def begin(self, watched: Watched, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunningCall:
        """A module is about to run; the mode stands on the stack then, unless all that runs is known."""
        was_on = self.on
        if was_on:
            self.step_down()
        with aside(self.on):
            running = self._begin(watched, args, kwargs)
        running.was_on = was_on
        if not self.on and not watched.looks_away():
            self.step_up()
        return running

    def finish(self, watched: Watched, running: RunningCall, output: Any) -> Any:
        """It has run; gives what its caller gets."""
        if self.on:
            self.step_down()
        with aside(self.on):
            output = self._finish(watched, running, output)
        self._settle(running)
        return output

    def abandon(self, running: RunningCall, error: BaseException) -> None:
        """It raised."""
        while self._stack and self._stack.pop() is not running:
            pass
        running.tensors = []
        self._note_failure(running.index, running.inputs, error)
        self._settle(running)

    def _settle(self, running: RunningCall) -> None:
        """The mode stands, or does not, as before the call."""
        if running.was_on and not self.on:
            self.step_up()
        elif self.on and not running.was_on:
            self.step_down()

    def _begin(self, watched: Watched, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunningCall:
        place = watched.place
        number = self._counts.get(place, 0)
        self._counts[place] = number + 1
        running = RunningCall(len(self._calls), place, number, self._parent(), self.describe.arguments(args, kwargs))
        running.tensors = tensors_of(*args, *kwargs.values())
        if watched.closed or not self.tree.children[place]:
            running.point = self.flow.add("call", self._name(place), running.index, None)
            self.flow.reach(running.point, [self.flow.source(tensor) for tensor in running.tensors])
        else:
            running.sources = [self.flow.source(tensor) for tensor in running.tensors]
        self._calls.append(running)
        self._stack.append(running)
        return running

    def _parent(self) -> int | None:
        """The call that is running, which is no leaf call then."""
        if not self._stack:
            return None
        self._stack[-1].leaf = False
        self.flow.box = self._stack[-1].point
        return self._stack[-1].index

    def _name(self, place: int) -> str:
        return self.tree.paths[place] or self.tree.names[place]

    def _note_failure(self, index: int, inputs: Collection, error: BaseException) -> None:
        """The innermost call is kept, in case that no one outside catches the exception."""
        if self._failed is None or self._failed[2] is not error or self._failed[0] < index:
            self._failed = (index, inputs, error)

    def _finish(self, watched: Watched, running: RunningCall, output: Any) -> Any:
        self._stack.pop()
        running.output = self.describe.of(output)
        running.leaf = running.leaf or watched.closed
        if running.leaf:
            output = self._finish_leaf(watched, running, output)
        running.tensors = []
        self._calls[running.index] = running.finished()
        return output

    def _finish_leaf(self, watched: Watched, running: RunningCall, output: Any) -> Any:
        flow = self.flow
        output = aliased(output, running.tensors)
        if running.point is None:
            # It has children and called none: what it did itself is folded into it.
            running.point = flow.add("call", self._name(running.place), running.index, None)
            flow.reach(running.point, running.sources)
            flow.homes.update(dict.fromkeys(running.functions, running.point))
        assert running.output is not None
        own = module_flops(watched.module, running.inputs, running.output)
        if own is not None:
            running.flops, running.flops_known = own
        flow.give(running.point, running.output)
        flow.made_by(output, running.point)
        for tensor in running.tensors if flow.written else ():
            entry = flow.written.get(storage_of(tensor))
            if entry is not None and flow.points[entry[0]].call == running.index:
                flow.written[storage_of(tensor)] = (running.point, 0, flow.clock)
        return output

    def run_leaf(self, watched: WatchedLeaf, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a leaf that is known to the letter, while the mode is off the stack."""
        flow, calls, place = self.flow, self._calls, watched.place
        index, number = len(calls), self._counts.get(place, 0)
        self._counts[place] = number + 1
        parent = self._parent()
        inputs = self.describe.arguments(args, kwargs)
        # Nearly all of them take one tensor and give one: no list is made of what is known to be one.
        single = len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor
        given = args if single else tensors_of(*args, *kwargs.values())
        sources = [flow.source(tensor) for tensor in given]
        try:
            output = watched.plain(watched.module, *args, **kwargs)
        except BaseException as error:
            flow.reach(flow.add("call", self._name(place), index, None), sources)
            calls.append(Call(index, place, number, parent, inputs, None, 0, True, True))
            self._note_failure(index, inputs, error)
            raise
        value = self.describe.of(output)
        flops = self._leaf_flops(watched, inputs, given, output, value)
        point = flow.add("call", self._name(place), index, value)
        flow.reach(point, sources)
        if single and type(output) is torch.Tensor and output is not given[0]:
            flow.note(output, point, 0)
        else:
            output = aliased(output, given)
            flow.made_by(output, point)
        calls.append(Call(index, place, number, parent, inputs, value, flops.operations, flops.known, True))
        return output

    def _leaf_flops(
        self, watched: WatchedLeaf, inputs: Collection, given: Sequence[torch.Tensor], output: Any, value: Value
    ) -> Count:
        """What a stock leaf ran."""
        if watched.rule is None:
            # Of the layers without a rule only attention takes several tensors.
            return (module_flops(watched.module, inputs, value) if len(given) > 1 else None) or Count(0, True)
        try:
            return Count(watched.rule(watched.module, given[0], output), True)
        except (TypeError, IndexError, AttributeError, RuntimeError):
            return Count(0, False)

    # -- functions -------------------------------------------------------------------------------------------------

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in QUIET:
            return self._quiet(function, name, args, kwargs)
        targets = written_tensors(function, name, args, kwargs)
        if self._states is not None:
            for target in targets:
                self._states.written(target)
        if not self._stack:
            return function(*args, **kwargs)
        running, flow = self._stack[-1], self.flow
        flow.box = None
        sources = [flow.source(t) for t in tensors_of(*args, *kwargs.values())] if running.point is None else []
        result = function(*args, **kwargs)
        flops = function_flops(function, args, kwargs, result)
        running.flops_known &= flops is not None
        running.flops += flops or 0
        point = running.point
        if point is None:
            produced = targets or result
            if not tensors_of(produced):
                return result
            computed = sum(flow.computed(source) for source, _ in sources)
            output = self.describe.of(targets[0] if len(targets) == 1 else produced)
            point = flow.add("function", shown_name(name), running.index, output, joins=computed > 1)
            running.functions.append(point)
            flow.reach(point, sources)
            flow.made_by(produced, point)
        for target in targets:
            flow.written_by(target, point)
        return result

    def _quiet(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """It computes nothing, but it may change a tensor, or give another look at one."""
        if self._states is not None:
            if name == "__set__":
                self._states.rebound(args[0])
            elif name in HOOKING:
                self._states.hooked(args[0])
        result = function(*args, **kwargs)
        if name == "__get__" and self._stack and isinstance(result, torch.Tensor):
            self.flow.looked_at(result, args[0])
        return result

    # -- the result ------------------------------------------------------------------------------------------------

    def fail(self, error: BaseException | None) -> Failure | None:
        """Where forward raised, if it did: the innermost call that had begun and did not end."""
        failed, self._failed = self._failed, None
        if failed is None or error is None or failed[2] is not error:
            return None
        return Failure(failed[0], failed[1], f"{type(error).__name__}: {message_of(error)}")

    def finished_calls(self) -> tuple[Call, ...]:
        """The calls as plain records."""
        return tuple([call.finished() if isinstance(call, RunningCall) else call for call in self._calls])
