"""Turns the calls of modules and of torch functions during one forward into records: calls and a data flow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from threading import get_ident
from typing import Any

import torch

from torchkutils._torch_versions import running_transform, told_of_compilations, without_torch_function
from torchkutils.models.forward.call_stack import CallStack, RunningCall
from torchkutils.models.forward.compiled_calls import CompiledCalls, CompiledFunctionMet
from torchkutils.models.forward.data_flow import DataFlow, Source
from torchkutils.models.forward.entry_points import EntryPoints, StockEntryPoints, replace_entry_points
from torchkutils.models.forward.flops import examples_at_once, function_flops, module_flops, must_be_seen_inside
from torchkutils.models.forward.function_mode import FunctionMode
from torchkutils.models.forward.misfits import Misfit, misfit_of
from torchkutils.models.forward.provenance import Provenance
from torchkutils.models.forward.raised_errors import message_of
from torchkutils.models.forward.torch_functions import (
    CREATING,
    ENTERING,
    HOOKING,
    LEAVING,
    QUIET,
    SHARING,
    asks_for_graph,
    hands_out_memory,
    plain_name,
    shown_name,
    written_tensors,
)
from torchkutils.models.records import Call, Collection, Edge, Failure, Node, Value
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.example_inputs import Key, positional_names
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import Descriptions, aliased, all_tensors_of, tensors_of


class Recorder:
    """Records one forward of a model, in this thread alone.

    It is the `CallListener` of the model's modules, and runs the functions that its function mode sees. How these
    work together is told in this folder's README.

    Args:
        tree: The model, walked.
        states: Told of parameters that are about to change; None where nothing must be put back.
        compiled: Functions that torch.compile made run unwatched. Without it, forward is stopped where one is called.
        fitted: The arguments that were made and may be made otherwise.

    Attributes:
        met_compiled: Whether one was met.
        asked_for_graph: Whether forward asked a tensor for what it has only with gradients.
        provenance: Where the tensors come from.
        thread: The one whose calls are recorded.
    """

    tree: ModuleTree
    describe: Descriptions
    thread: int
    met_compiled: bool
    asked_for_graph: bool
    provenance: Provenance

    def __init__(
        self,
        tree: ModuleTree,
        states: TensorStates | None,
        *,
        compiled: bool = False,
        fitted: Iterable[Key] = (),
    ) -> None:
        self.tree, self.describe = tree, Descriptions()
        self.thread = 0
        self.met_compiled = self.asked_for_graph = False
        self._misfit: tuple[BaseException, Misfit] | None = None
        self._fitted = frozenset(fitted)
        self._made: dict[Key, Any] = {}
        self._flow = DataFlow()
        self.provenance = Provenance(tree, self.describe, self._flow)
        self._mode = FunctionMode(self._run_function, self._function_failed)
        self._calls = CallStack()
        self._states = states
        # The names of the modules in the data flow: the model itself has no path.
        self._names = [tree.names[0], *tree.paths[1:]]
        self._entries: list[EntryPoints] = []
        self._failed: tuple[int, Collection, BaseException] | None = None
        # Calls whose operations a formula for the module has counted, whatever ran inside.
        self._counted_as_wholes: set[int] = set()
        self._compiled, self._compiled_under_mode = compiled, False
        self._compiled_call: tuple[str, list[Source]] = ("", [])

    def __enter__(self) -> Recorder:
        self.thread = get_ident()
        with ExitStack() as block:
            for index in self.tree.index_of.values():
                module = self.tree.modules[index]
                inside_too = must_be_seen_inside(type(module))
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

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BaseException | None:
        """Run forward of the model and record it; gives what it raised."""
        model = self.tree.modules[0]
        self.provenance.add_inputs(args, kwargs, positional_names(model))
        given: dict[Key, Any] = dict(enumerate(args))
        given.update(kwargs.items())
        self._made = {key: value for key, value in given.items() if key in self._fitted}
        try:
            with self:
                output = model(*args, **kwargs)
            self.provenance.add_outputs(output)
        except BaseException as error:
            return error
        finally:
            self._made = {}
        return None

    def _unseen(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do work of the recorder's own: no function mode sees it."""
        if not self._mode.on:
            return work(*arguments)
        # A mode of the model's own lies above ours, which therefore could not be popped.
        with without_torch_function():
            return work(*arguments)

    # -- calls of compiled functions -------------------------------------------------------------------------------

    def _refuse_compilation(self, *_: Any) -> None:
        """Called when torch.compile begins to compile, in any thread."""
        if get_ident() == self.thread:
            self.met_compiled = True
            raise CompiledFunctionMet

    def _before_compiled(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A compiled function is about to run: nothing is recorded until it has ended."""
        self._compiled_under_mode = self._mode.on and self._mode.pop_mode()
        if self._calls.running:
            sources = self._unseen(self._taken_by_compiled, self._calls.running[-1], args, kwargs)
            self._compiled_call = f"{name} (compiled)", sources
        self._release()

    def _taken_by_compiled(self, call: RunningCall, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Source]:
        call.flops_known = False
        return [] if call.node is not None else self._sources(tensors_of(*args, *kwargs.values()), call)

    def _after_compiled(self, result: Any) -> None:
        """It has ended, and returned a result."""
        for entry in self._entries:
            entry.replace(self)
        if self._calls.running and self._calls.running[-1].node is None:
            name, sources = self._compiled_call
            self._unseen(self._function_node, self._calls.running[-1], name, sources, [], result)
        if self._compiled_under_mode:
            self._mode.push_mode()

    # -- calls of modules ------------------------------------------------------------------------------------------

    def before_call(self, entry: EntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]) -> RunningCall:
        """A call is about to run. The function mode is on while it runs, unless all that it runs is known."""
        mode = self._mode
        was_on = mode.on
        if was_on:
            mode.pop_mode()
        call: RunningCall = self._unseen(self._begin, entry, args, kwargs)
        call.mode_was_on = was_on
        if not mode.on and not entry.runs_only_children():
            mode.push_mode()
        return call

    def after_call(self, entry: EntryPoints, call: RunningCall, output: Any) -> Any:
        """It has returned; gives what its caller gets."""
        if self._mode.on:
            self._mode.pop_mode()
        output = self._unseen(self._finish, entry, call, output)
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
        self.describe.transformed = running_transform() is not None
        outer = self._calls.running[-1] if self._calls.running else None
        call = self._calls.begin(entry.index, self.describe.arguments(args, kwargs))
        if entry.closed or not self.tree.children[entry.index]:
            call.tensors = all_tensors_of(*args, *kwargs.values())
            call.node = self._flow.add("call", self._names[entry.index], call.index, None)
            self._flow.add_edges(call.node, self._sources(call.tensors, outer))
        else:
            call.tensors = tensors_of(*args, *kwargs.values())
            call.sources = self._sources(call.tensors, outer)
        return call

    def _sources(self, tensors: Sequence[torch.Tensor], outer: RunningCall | None) -> list[Source]:
        """Where arguments come from; what a call that is one box made by itself comes from that box."""
        if outer is None:
            return self.provenance.sources(tensors)
        return self.provenance.sources(tensors, outer.node, outer.index)

    def _note_failure(self, index: int, inputs: Collection, error: BaseException) -> None:
        """Keep the innermost call that an exception passes through, in case that the model does not catch it."""
        if self._failed is None or self._failed[2] is not error or self._failed[0] < index:
            self._failed = (index, inputs, error)

    def _finish(self, entry: EntryPoints, call: RunningCall, output: Any) -> Any:
        self.describe.transformed = running_transform() is not None
        call.leaf = call.leaf or entry.closed
        call.output = self.describe.of(output, objects=call.leaf)
        if call.leaf:
            output = self._finish_leaf(call, call.output, output)
        own = module_flops(entry.module, call.inputs, call.output, leaf=call.leaf)
        if own is not None:
            call.flops, call.flops_known = own
            self._counted_as_wholes.add(call.index)
        self._calls.end(call)
        self._calls.record(call)
        return output

    def _finish_leaf(self, call: RunningCall, value: Value, output: Any) -> Any:
        if call.node is not None:
            self.provenance.look_inside(tensors_of(output), call)
            # Tensors may leave the call in a closure, an iterator or an attribute, too.
            for tensor in call.alive():
                self.provenance.set_source(tensor, (call.node, 0))
        output = aliased(output, call.tensors)
        if call.node is None:
            # It has children and called none: the functions that it ran are part of its box.
            call.node = self._flow.add("call", self._names[call.module], call.index, None)
            self._flow.add_edges(call.node, call.sources)
            self._flow.fold(call.functions, call.node)
        self._flow.set_output(call.node, value)
        self.provenance.set_sources(output, call.node)
        self.provenance.move_writes(call.tensors, call.index, call.node)
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
        """Nearly all calls of most models are such calls: each function call in here shows in the whole time."""
        flow, describe, module = self._flow, self.describe, entry.index
        describe.transformed = running_transform() is not None
        outer, index, number = self._calls.enter(module)
        parent = None if outer is None else outer.index
        # Most layers take one tensor and return one: no list is made of it.
        single = len(args) == 1 and not kwargs and type(args[0]) is torch.Tensor
        given = args if single else tensors_of(*args, *kwargs.values())
        inputs = describe.argument(given[0]) if single else describe.arguments(args, kwargs)
        sources = self._sources(given, outer)
        try:
            output = entry.stock_forward(entry.module, *args, **kwargs)
        except BaseException as error:
            flow.add_edges(flow.add("call", self._names[module], index, None), sources)
            self._calls.add(Call(index, module, number, parent, inputs, None, 0, True, True))
            self._note_failure(index, inputs, error)
            if self._made:
                self._stock_call_failed(error, entry, args, kwargs)
            raise
        value = describe.of(output)
        flops, flops_known = self._stock_flops(entry, inputs, given, output, value)
        node = flow.add("call", self._names[module], index, value)
        flow.add_edges(node, sources)
        if single and type(output) is torch.Tensor and output is not given[0]:
            self.provenance.set_source(output, (node, 0))
        else:
            output = aliased(output, given)
            self.provenance.set_sources(output, node)
        self._calls.add(Call(index, module, number, parent, inputs, value, flops, flops_known, True))
        return output

    def _stock_flops(
        self, entry: StockEntryPoints, inputs: Collection, given: Sequence[torch.Tensor], output: Any, value: Value
    ) -> tuple[int, bool]:
        """The operations of a stock layer, and whether that is all of them."""
        if entry.rule is None:
            # Of the layers without a rule only attention takes several tensors.
            own = module_flops(entry.module, inputs, value, leaf=True) if len(given) > 1 else None
            return own or (0, True)
        try:
            count = entry.rule(entry.module, given[0], output)
        except (TypeError, IndexError, AttributeError, RuntimeError):
            return 0, False
        if self.describe.transformed:
            count *= examples_at_once(given)
        return count, True

    # -- inputs that do not fit ------------------------------------------------------------------------------------

    def _function_failed(
        self, error: Exception, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if self._made:
            name = plain_name(getattr(function, "__name__", ""))
            self._unseen(self._note_misfit, error, name, args, kwargs)

    def _stock_call_failed(
        self, error: BaseException, entry: StockEntryPoints, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        name = ""
        if isinstance(entry.module, torch.nn.Embedding):
            name, args = "embedding", (*args, entry.module.weight)
        self._unseen(self._note_misfit, error, name, args, kwargs)

    def _note_misfit(self, error: BaseException, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the innermost function that an exception passed through says of the inputs."""
        if self._misfit is not None and self._misfit[0] is error:
            return
        misfit = misfit_of(message_of(error), name, args, kwargs, self._made)
        if misfit is not None:
            self._misfit = error, misfit

    def misfit(self, error: BaseException | None) -> Misfit | None:
        """The input that could not be taken, where forward raised this error, or made it of that one."""
        noted, self._misfit = self._misfit, None
        while error is not None and noted is not None:
            if noted[0] is error:
                return noted[1]
            error = error.__cause__ or error.__context__
        return None

    # -- functions -------------------------------------------------------------------------------------------------

    def _run_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a torch function that the function mode has seen, and record it."""
        name = getattr(function, "__name__", "")
        if name in QUIET:
            return self._run_quiet(function, name, args, kwargs)
        self.describe.transformed = running_transform() is not None
        targets = written_tensors(function, name, args, kwargs)
        if self._states is not None:
            # Whoever gets the memory of a tensor may write to it.
            changing = tensors_of(*args) if name in SHARING else targets
            if changing:
                self._states.written(changing)
        if not self._calls.running:
            return function(*args, **kwargs)
        call = self._calls.running[-1]
        taken = tensors_of(*args, *kwargs.values())
        if call.node is not None:
            self.provenance.look_inside(taken, call)
            if name in LEAVING:
                self.provenance.leave([(call.node, 0)])
            result = function(*args, **kwargs)
            call.note_made(tensors_of(result))
            node: int | None = call.node
        else:
            sources = self._sources(taken, call)
            if name in LEAVING:
                self.provenance.leave(sources)
            result = function(*args, **kwargs)
            node = self._function_node(call, name, sources, targets, result)
        call.add_flops(function_flops(function, args, kwargs, result))
        if node is not None:
            for target in targets:
                self.provenance.set_writer(target, node)
        return result

    def _function_node(
        self, call: RunningCall, name: str, sources: list[Source], targets: list[torch.Tensor], result: Any
    ) -> int | None:
        """The node of a function that has run; None where it returned no tensor."""
        produced = targets or result
        if not tensors_of(produced):
            return None
        computed = [source for source, _ in sources if self._flow.is_computed(source)]
        output = self.describe.of(targets[0] if len(targets) == 1 else produced)
        node = self._flow.add("function", shown_name(name), call.index, output, joins=len(computed) > 1)
        call.functions.append(node)
        self._flow.add_edges(node, sources)
        if name in ENTERING and not computed:
            self.provenance.enter(node)
        self.provenance.set_sources(produced, node)
        if not sources or name.startswith(CREATING):
            self.provenance.note_storages(produced)
        return node

    def _run_quiet(self, function: Callable[..., Any], name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a function that computes nothing; it may change a tensor, or give another view of one."""
        if self._states is not None:
            if name == "__set__":
                self._states.rebound(args[0])
            elif name == "__get__" and hands_out_memory(function):
                # What is written through it is not counted, and a script's or another thread's write not seen.
                self._states.written([args[0]])
            elif name in HOOKING:
                self._states.hooked(args[0])
        self.asked_for_graph = self.asked_for_graph or asks_for_graph(function, name)
        result = function(*args, **kwargs)
        if name == "__get__" and self._calls.running and isinstance(result, torch.Tensor):
            call = self._calls.running[-1]
            if call.node is None:
                self.provenance.add_view(result, args[0])
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
        inexact = self.provenance.untraced_calls() - self._counted_as_wholes
        return self._calls.finished(inexact), *self._flow.finished()
