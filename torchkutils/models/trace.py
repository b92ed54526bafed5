"""One look at a model, which the summary and the picture share."""

from __future__ import annotations

import inspect

import torch

from torchkutils._wrapped_models import unwrapped
from torchkutils.models.forward.meta_copy import on_meta
from torchkutils.models.forward.open_dimensions import with_open_dimensions
from torchkutils.models.forward.raised_errors import add_note, attach
from torchkutils.models.forward.recorder import Recorder
from torchkutils.models.records import Engine, ModuleRecord, Run, Trace
from torchkutils.models.restore.restored import in_mode, restored
from torchkutils.models.restore.saved_containers import ContainerStates
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.example_inputs import Arguments, has_open_dimensions, model_arguments, pairs_of_open_sizes
from torchkutils.models.tree.module_records import module_records
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import map_tensors, tensors_of
from torchkutils.models.without_running.definition_order import structure_trace

__all__ = ["trace_model"]


def trace_model(model: torch.nn.Module, run: Run) -> Trace:
    """Run a model once, or read its structure when no input is given, and record what happened.

    Args:
        model: Any module; afterwards it is bit for bit as before.
        run: How to run it.

    Returns:
        Plain records; no tensor and no module is held.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: An argument has a value that it cannot have.
        Exception: Whatever forward raised, the same object; its attribute `trace` is the `Trace` so far,
            with `failure` filled.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    model = unwrapped(model)
    tree = ModuleTree(model)
    if not run.has_inputs:
        if run.engine in ("real", "meta"):
            raise ValueError(f"engine={run.engine!r} runs the model: give input_size or input_data")
        return structure_trace(tree, run, "no input was given")
    with restored(tree) as tensor_states:
        arguments = model_arguments(model, run.input_size, run.input_data, run.dtypes)
        if run.engine == "structure":
            return structure_trace(tree, run, "asked for")
        forward = _forward_of(tree, tensor_states, run, arguments)
        if run.input_size is not None and has_open_dimensions(run.input_size):
            return forward.run_open()
        return forward.run_once(forward.arguments)


def _forward_of(tree: ModuleTree, states: TensorStates, run: Run, arguments: Arguments) -> _Forward:
    """The forward on the engine that the run asks for, with the notes that go with it."""
    if run.engine == "meta":
        model, arguments = on_meta(tree.modules[0], arguments)
        forward = _Forward(ModuleTree(model), None, run, arguments, "asked for")
    else:
        on_meta_device = any(tensor.is_meta for tensor in tree.tensors)
        reason = "the model lies on the meta device" if on_meta_device else ""
        forward = _Forward(tree, states, run, arguments, reason)
    if run.input_size is not None:
        made = [f"{tensor.dtype}".removeprefix("torch.") for tensor in tensors_of(*arguments)]
        forward.notes.append(f"Inputs made from input_size: {', '.join(made)}; dtypes= chooses others.")
    return forward


class _Forward:
    """A model that is run once or twice, and what its trace says beside the recording.

    Args:
        tree: The model, walked.
        states: Told of parameters that are about to change; None where nothing must be put back.
        run: How to run it.
        arguments: Of the forward.
        reason: Why the maths does not run; "" when it does.
    """

    def __init__(
        self, tree: ModuleTree, states: TensorStates | None, run: Run, arguments: Arguments, reason: str
    ) -> None:
        self.tree, self.states, self.run, self.arguments = tree, states, run, arguments
        self.records: tuple[ModuleRecord, ...] = module_records(tree, arguments=run.module_arguments)
        self.engine = Engine("meta" if reason else "real", "traced", reason)
        self.notes: list[str] = []
        if reason:
            self.notes.append("The trace ran on the meta device, where no value is known; engine='real' runs it.")

    def run_open(self) -> Trace:
        """The trace of two forwards at different sizes: what differs is open. Small ones are tried where large fail."""
        failed: Exception | None = None
        for pair in pairs_of_open_sizes(self.run.input_size):
            try:
                one, other = [self._run_at(open_sizes) for open_sizes in pair]
            except Exception as error:
                failed = failed or error
            else:
                return with_open_dimensions(one, other)
        assert failed is not None
        raise failed

    def _run_at(self, open_sizes: tuple[int, int]) -> Trace:
        """Each of the forwards finds the model as it was."""
        with restored(self.tree) as self.states:
            model, run = self.tree.modules[0], self.run
            return self.run_once(
                model_arguments(model, run.input_size, run.input_data, run.dtypes, open_sizes=open_sizes)
            )

    def run_once(self, arguments: Arguments) -> Trace:
        """The trace of one forward; an exception of it carries the trace so far."""
        model, recorder = self.tree.modules[0], Recorder(self.tree, self.states)
        given = ContainerStates([], [], [arguments])
        args, kwargs = _private(arguments, self.states)
        error: BaseException | None = None
        names = _argument_names(model)
        with torch.no_grad(), in_mode(self.tree, self.run.mode), recorder:
            recorder.flow.add_inputs(args, kwargs, names)
            try:
                output = model(*args, **kwargs)
                recorder.flow.add_outputs(output)
            except BaseException as raised:
                error = raised
            failure = recorder.failure(error)
        given.restore()
        nodes, edges = recorder.flow.finished()
        calls = recorder.finished_calls()
        trace = Trace(type(model).__name__, self.records, calls, nodes, edges, self.engine, self.run.mode, failure)
        if error is not None:
            for note in self.notes:
                add_note(error, note)
            attach(error, "trace", trace)
            raise error
        return trace


def _private(arguments: Arguments, states: TensorStates | None) -> Arguments:
    """Copies of the caller's tensors, so that in-place work reaches no one else; others are noted to be put back."""
    with torch.no_grad():
        private: Arguments = map_tensors(arguments, _copy)
    if states is not None:
        own = {id(tensor) for tensor in tensors_of(*arguments)}
        for tensor in tensors_of(*private):
            if id(tensor) in own:
                # In a dataclass or a mapping of another class, which cannot be made anew with copies in it.
                states.keep(tensor)
    return private


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone()
    return copied.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copied


def _argument_names(model: torch.nn.Module) -> list[str]:
    try:
        return [
            parameter.name
            for parameter in inspect.signature(model.forward).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return []
