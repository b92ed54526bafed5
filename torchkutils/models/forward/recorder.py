"""What the calls of modules and torch functions during one forward mean: calls, and a data flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from threading import get_ident
from typing import Any

import torch

from torchkutils._torch_versions import inside_function_transform, told_of_compilations
from torchkutils.models.forward.call_stack import CallStack, RunningCall
from torchkutils.models.forward.compiled_calls import CompiledCalls, CompiledFunctionMet
from torchkutils.models.forward.data_flow import DataFlow, Source
from torchkutils.models.forward.entry_points import EntryPoints, StockEntryPoints, replace_entry_points
from torchkutils.models.forward.flops import Count, examples_at_once, function_flops, module_flops, watched_wholly
from torchkutils.models.forward.function_mode import FunctionMode, without_function_modes
from torchkutils.models.forward.raised_errors import message_of
from torchkutils.models.forward.torch_functions import (
    ENTERING,
    HOOKING,
    LEAVING,
    QUIET,
    SHARING,
    asks_for_graph,
    shown_name,
    written_tensors,
)
from torchkutils.models.records import Call, Collection, Edge, Failure, Node, Value
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import Descriptions, aliased, all_tensors_of, tensors_of

_NO_OPERATIONS = Count(0, True)


class Recorder:
    """Records one forward of a model, in this thread alone. Use it as a context around the call.

    It is the `CallListener` of the model's modules, and runs the functions that its function mode sees. How these
    work together is told in this folder's README.

    Args:
        tree: The model, walked.
        states: Told of parameters that are about to change; None where nothing must be put back.
        compiled: Let functions that torch.compile made run unwatched. Without it the look ends where one is met.

    Attributes:
        met_compiled: Whether one was met.
        flow: Where the tensors come from.
        thread: The one whose calls are recorded.
    """

    thread: int
    met_compiled: bool

    def __init__(self, tree: ModuleTree, states: TensorStates | None, *, compiled: bool = False) -> None:
        self.tree: ModuleTree = tree
        self.describe: Descriptions = Descriptions()
        self.flow: DataFlow = DataFlow(tree, self.describe)
        self.thread = 0
        self._mode = FunctionMode(self._run_function)
        self._calls = CallStack()
        self._states = states
        self._entries: list[EntryPoints] = []
        self._failed: tuple[int, Collection, BaseException] | None = None
        # Calls whose operations a formula for the module has counted, whatever ran inside.
        self._counted_as_wholes: set[int] = set()
        self.met_compiled = False
        self.asked_for_graph = False
        self._compiled, self._compiled_under_mode = compiled, False
        self._compiled_call: tuple[str, list[Source]] = ("", [])

    def __enter__(self) -> Recorder:
        self.thread = get_ident()
        with ExitStack() as block:
            for index in self.tree.index_of.values():
                module = self.tree.modules[index]
                inside_too = watched_wholly(type(module))
                self._entries.append(replace_entry_points(self, module, index, inside_too=inside_too))
            block.callback(self._release)
            block.enter_context(self._mode)
            if self._compiled:
                block.enter_context(CompiledCalls(self._before_compiled, self._after_compiled))
            else:
                block.enter_context(told_of_compilations(self._refuse_compilation))
            self._block = block.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._block.close()

    def _release(self) -> None:
        for entry in self._entries:
            entry.release()

    # -- calls of compiled functions -------------------------------------------------------------------------------

    def _refuse_compilation(self, *_: Any) -> None:
        """Called when torch.compile begins to compile, in any thread."""
        if get_ident() == self.thread:
            self.met_compiled = True
            raise CompiledFunctionMet

    def _before_compiled(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A compiled function is about to run: nothing is watched until it has ended."""
        mode = self._mode
        self._compiled_under_mode = mode.on and mode.pop_mode()
        with without_function_modes(mode.on):
            if self._calls.running:
                call = self._calls.running[-1]
                call.flops_known = False
                taken = tensors_of(*args, *kwargs.values()) if call.node is None else []
                self._compiled_call = f"{name} (compiled)", self._sources(taken, call)
        self._release()

    def _after_compiled(self, result: Any) -> None:
        """It has ended, and gave a result."""
        for entry in self._entries:
            entry.replace(self)
        name, sources = self._compiled_call
        with without_function_modes(self._mode.on):
            if self._calls.running and self._calls.running[-1].node is None:
                self._function_node(self._calls.running[-1], name, sources, [], result)
        if self._compiled_under_mode:
            self._mode.push_mode()

    # -- calls of modules ------------------------------------------------------------------------------------------

    def before_call(self, entry: EntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunningCall:
        """A call is about to run. The function mode is on while it runs, unless all that it runs is known."""
        mode = self._mode
        was_on = mode.on
        if was_on:
            mode.pop_mode()
        with without_function_modes(mode.on):
            call = self._begin(entry, args, kwargs)
        call.mode_was_on = was_on
        if not mode.on and not entry.runs_only_children():
            mode.push_mode()
        return call

    def after_call(self, entry: EntryPoints, call: RunningCall, output: Any) -> Any:
        """It has returned; gives what its caller gets."""
        if self._mode.on:
            self._mode.pop_mode()
        with without_function_modes(self._mode.on):
            output = self._finish(entry, call, output)
        self._restore_mode(call)
        return output

    def call_failed(self, call: RunningCall, error: BaseException) -> None:
        """It raised."""
        self._calls.end(call)
        self._note_failure(call.index, call.inputs, error)
        self._restore_mode(call)

    def _restore_mode(self, call: RunningCall) -> None:
        """The function mode is on torch's stack, or not, as when the call began."""
        if call.mode_was_on and not self._mode.on:
            self._mode.push_mode()
        elif self._mode.on and not call.mode_was_on:
            self._mode.pop_mode()

    def _begin(self, entry: EntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunningCall:
        self.describe.transformed = inside_function_transform()
        outer = self._calls.parent()
        call = self._calls.begin(entry.index, self.describe.arguments(args, kwargs))
        one_box = entry.closed or not self.tree.children[entry.index]
        call.tensors = (all_tensors_of if one_box else tensors_of)(*args, *kwargs.values())
        sources = self._sources(call.tensors, outer)
        if one_box:
            call.node = self.flow.add("call", self._name(entry.index), call.index, None)
            self.flow.add_edges(call.node, sources)
        else:
            call.sources = sources
        return call

    def _sources(self, tensors: Sequence[torch.Tensor], outer: RunningCall | None) -> list[Source]:
        """Where arguments come from; what a call that is one box made by itself comes from that box."""
        if outer is None:
            return [self.flow.source(tensor) for tensor in tensors]
        return [self.flow.source(tensor, outer.node, outer.index) for tensor in tensors]

    def _name(self, index: int) -> str:
        return self.tree.paths[index] or self.tree.names[index]

    def _note_failure(self, index: int, inputs: Collection, error: BaseException) -> None:
        """Keep the innermost call that an exception passes through, in case that nobody catches it."""
        if self._failed is None or self._failed[2] is not error or self._failed[0] < index:
            self._failed = (index, inputs, error)

    def _finish(self, entry: EntryPoints, call: RunningCall, output: Any) -> Any:
        self.describe.transformed = inside_function_transform()
        call.leaf = call.leaf or entry.closed
        call.output = self.describe.of(output, objects=call.leaf)
        if call.leaf:
            output = self._finish_leaf(entry, call, call.output, output)
        own = module_flops(entry.module, call.inputs, call.output, leaf=call.leaf)
        if own is not None:
            call.flops, call.flops_known = own
            self._counted_as_wholes.add(call.index)
        self._calls.end(call)
        self._calls.record(call)
        return output

    def _finish_leaf(self, entry: EntryPoints, call: RunningCall, value: Value, output: Any) -> Any:
        flow = self.flow
        if call.node is not None:
            for tensor in tensors_of(output):
                flow.look_inside(tensor, call)
            # A closure, an iterator or an attribute may carry on what nobody sees in the output.
            for tensor in call.alive():
                flow.set_source(tensor, call.node, 0)
        output = aliased(output, call.tensors)
        if call.node is None:
            # It has children and called none: the functions that it ran are part of its box.
            call.node = flow.add("call", self._name(call.module), call.index, None)
            flow.add_edges(call.node, call.sources)
            flow.fold(call.functions, call.node)
        flow.set_output(call.node, value)
        flow.set_sources(output, call.node)
        flow.move_writes(call.tensors, call.index, call.node)
        return output

    # -- calls of stock layers -------------------------------------------------------------------------------------

    def run_stock_call(self, entry: StockEntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One call of a stock layer, with the function mode off torch's stack."""
        mode = self._mode
        if not mode.on:
            return self._run_stock_call(entry, args, kwargs)
        if not mode.pop_mode():
            # A mode of the model's own lies above: it must see the functions.
            return EntryPoints.call(entry, *args, **kwargs)
        try:
            return self._run_stock_call(entry, args, kwargs)
        finally:
            mode.push_mode()

    def _run_stock_call(self, entry: StockEntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        flow, calls, module = self.flow, self._calls, entry.index
        self.describe.transformed = inside_function_transform()
        outer, index, number = calls.enter(module)
        parent = None if outer is None else outer.index
        inputs = self.describe.arguments(args, kwargs)
        # Nearly all of them take one tensor and give one: no list is made of what is known to be one.
        single = len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor
        given = args if single else tensors_of(*args, *kwargs.values())
        sources = self._sources(given, outer)
        try:
            output = entry.stock_forward(entry.module, *args, **kwargs)
        except BaseException as error:
            flow.add_edges(flow.add("call", self._name(module), index, None), sources)
            calls.add(Call(index, module, number, parent, inputs, None, 0, True, True))
            self._note_failure(index, inputs, error)
            raise
        value = self.describe.of(output)
        flops = self._stock_flops(entry, inputs, given, output, value)
        node = flow.add("call", self._name(module), index, value)
        flow.add_edges(node, sources)
        if single and type(output) is torch.Tensor and output is not given[0]:
            flow.set_source(output, node, 0)
        else:
            output = aliased(output, given)
            flow.set_sources(output, node)
        calls.add(Call(index, module, number, parent, inputs, value, flops.operations, flops.known, True))
        return output

    def _stock_flops(
        self, entry: StockEntryPoints, inputs: Collection, given: Sequence[torch.Tensor], output: Any, value: Value
    ) -> Count:
        """The operations of a stock layer."""
        if entry.rule is None:
            # Of the layers without a rule only attention takes several tensors.
            return (module_flops(entry.module, inputs, value, leaf=True) if len(given) > 1 else None) or _NO_OPERATIONS
        try:
            count = entry.rule(entry.module, given[0], output)
            return Count(count * examples_at_once(given) if self.describe.transformed else count, True)
        except (TypeError, IndexError, AttributeError, RuntimeError):
            return Count(0, False)

    # -- functions -------------------------------------------------------------------------------------------------

    def _run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function that the function mode has seen, and record it."""
        name = getattr(function, "__name__", "")
        if name in QUIET:
            return self._run_quiet(function, name, args, kwargs)
        self.describe.transformed = inside_function_transform()
        targets = written_tensors(function, name, args, kwargs)
        if self._states is not None:
            # Whoever gets the memory of a tensor may write to it.
            for target in tensors_of(*args) if name in SHARING else targets:
                self._states.written(target)
        if not self._calls.running:
            return function(*args, **kwargs)
        call = self._calls.running[-1]
        taken = tensors_of(*args, *kwargs.values())
        sources = self._taken_by_function(call, name, taken)
        result = function(*args, **kwargs)
        flops = function_flops(function, args, kwargs, result)
        call.flops_known &= flops is not None
        call.flops += flops or 0
        if call.node is not None:
            call.note_made(tensors_of(result))
        node = self._function_node(call, name, sources, targets, result) if call.node is None else call.node
        if node is not None:
            for target in targets:
                self.flow.set_writer(target, node)
        return result

    def _taken_by_function(self, call: RunningCall, name: str, taken: list[torch.Tensor]) -> list[Source]:
        """Where the arguments of a function come from; nothing for one in a call that is one box."""
        if call.node is not None:
            for tensor in taken:
                self.flow.look_inside(tensor, call)
            if name in LEAVING:
                self.flow.leaves((call.node, 0))
            return []
        sources = self._sources(taken, call)
        if name in LEAVING:
            for source in sources:
                self.flow.leaves(source)
        return sources

    def _function_node(
        self, call: RunningCall, name: str, sources: list[Source], targets: list[torch.Tensor], result: Any
    ) -> int | None:
        """The node of a function that has run; None where it gave no tensor."""
        produced = targets or result
        if not tensors_of(produced):
            return None
        computed = sum(self.flow.is_computed(source) for source, _ in sources)
        output = self.describe.of(targets[0] if len(targets) == 1 else produced)
        node = self.flow.add("function", shown_name(name), call.index, output, joins=computed > 1)
        call.functions.append(node)
        self.flow.add_edges(node, sources)
        if name in ENTERING and not computed:
            self.flow.enters(node)
        self.flow.set_sources(produced, node)
        return node

    def _run_quiet(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that computes nothing; it may change a tensor, or give another view of one."""
        if self._states is not None:
            if name == "__set__":
                self._states.rebound(args[0])
            elif name in HOOKING:
                self._states.hooked(args[0])
        self.asked_for_graph |= asks_for_graph(function, name)
        result = function(*args, **kwargs)
        if name == "__get__" and self._calls.running and isinstance(result, torch.Tensor):
            call = self._calls.running[-1]
            if call.node is None:
                self.flow.add_view(result, args[0])
            else:
                call.note_made([result])
        return result

    # -- the result ------------------------------------------------------------------------------------------------

    def failure(self, error: BaseException | None) -> Failure | None:
        """Where forward raised this error: the innermost call that had begun and did not end."""
        failed, self._failed = self._failed, None
        if failed is None or error is None or failed[2] is not error:
            return None
        return Failure(failed[0], failed[1], f"{type(error).__name__}: {message_of(error)}")

    def finished(self) -> tuple[tuple[Call, ...], tuple[Node, ...], tuple[Edge, ...]]:
        """Calls, nodes and edges as plain records. Called when the tensors of forward are gone."""
        inexact = self.flow.untraced_calls() - self._counted_as_wholes
        return self._calls.finished(inexact), *self.flow.finished()
