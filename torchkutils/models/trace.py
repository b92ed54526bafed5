"""The one look at a model that the summary and the picture share."""

from __future__ import annotations

import inspect
from typing import Any, Literal, TypeAlias

import torch

from torchkutils.models.forward.meta_copy import on_meta
from torchkutils.models.forward.open_dimensions import with_open_dimensions
from torchkutils.models.forward.raised_errors import add_note, attach
from torchkutils.models.forward.recorder import Recorder
from torchkutils.models.records import Engine, Module, Trace
from torchkutils.models.restore.restored import Mode, in_mode, undisturbed
from torchkutils.models.restore.saved_containers import ContainerStates
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.example_inputs import Arguments, has_open_dimensions, model_arguments, pairs_of_open_sizes
from torchkutils.models.tree.module_records import module_records
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import map_tensors, tensors_of
from torchkutils.models.without_running.definition_order import structure_trace

__all__ = ["EngineName", "Mode", "trace_model"]

EngineName: TypeAlias = Literal["auto", "real", "meta", "structure"]


def trace_model(
    model: torch.nn.Module,
    *,
    input_size: Any = None,
    input_data: Any = None,
    dtypes: Any = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
    module_arguments: bool = False,
) -> Trace:
    """Run a model once, or read its structure when no input is given, and write down what happened.

    Args:
        model: Any module; afterwards it is bit for bit as before.
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name.
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        dtypes: Of generated inputs; one, or a list or dict like `input_size`.
        mode: The training flag that forward sees; "same" leaves each module's own.
        engine: "real" runs the maths, "meta" shapes only, "structure" nothing.
        module_arguments: Fill `Module.extra_repr` too.

    Returns:
        Plain records; no tensor and no module is held.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: An argument has a value that it cannot have.
        Exception: Whatever forward raised, the same object; its attribute `trace` is the `Trace` so far,
            with `failure` filled.
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model has to be a torch.nn.Module, got {type(model).__name__}")
    if mode not in ("eval", "train", "same"):
        raise ValueError(f"mode has to be 'eval', 'train' or 'same', got {mode!r}")
    if engine not in ("auto", "real", "meta", "structure"):
        raise ValueError(f"engine has to be 'auto', 'real', 'meta' or 'structure', got {engine!r}")
    model = _wrapped(model)
    tree = ModuleTree(model)
    if input_size is None and input_data is None:
        if engine in ("real", "meta"):
            raise ValueError(f"engine={engine!r} runs the model: give input_size or input_data")
        return structure_trace(tree, mode, "no input was given", module_arguments)
    with undisturbed(tree) as before:
        states: TensorStates | None = before
        arguments = model_arguments(model, input_size, input_data, dtypes)
        if engine == "structure":
            return structure_trace(tree, mode, "asked for", module_arguments)
        if engine == "meta":
            model, arguments = on_meta(model, arguments)
            tree, states = ModuleTree(model), None
            reason = "asked for"
        else:
            reason = "the model lies on the meta device" if any(tensor.is_meta for tensor in tree.tensors) else ""
        forward = _Forward(tree, states, module_records(tree, arguments=module_arguments), mode, reason)
        if input_size is not None:
            made = [f"{tensor.dtype}".removeprefix("torch.") for tensor in tensors_of(*arguments)]
            forward.notes.append(f"Inputs made from input_size: {', '.join(made)}; dtypes= chooses others.")
        if input_size is not None and has_open_dimensions(input_size):
            return forward.run_open(input_size, dtypes)
        return forward.run(arguments)


def _wrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside a compiled or a multi-device one: its own forward would talk to other processes."""
    inner = model.__dict__.get("__template__")
    if "_orig_mod" in model._modules:
        inner = model._modules["_orig_mod"]
    if isinstance(model, torch.nn.DataParallel | torch.nn.parallel.DistributedDataParallel):
        inner = model.module
    return _wrapped(inner) if isinstance(inner, torch.nn.Module) else model


class _Forward:
    """A model that is run once or twice, and what is told of it.

    Args:
        tree: The model, walked.
        states: Told of parameters that are about to change; None where nothing has to be put back.
        records: Its modules.
        mode: The training flag that forward sees.
        reason: Why the maths does not run; "" when it does.
    """

    def __init__(
        self, tree: ModuleTree, states: TensorStates | None, records: tuple[Module, ...], mode: Mode, reason: str
    ) -> None:
        self.tree, self.states, self.records, self.mode = tree, states, records, mode
        self.engine = Engine("meta" if reason else "real", "traced", reason)
        self.notes: list[str] = []
        if reason:
            self.notes.append("The trace ran on the meta device, where no value is known; engine='real' runs it.")

    def run_open(self, input_size: Any, dtypes: Any) -> Trace:
        """The trace of two forwards at different sizes: what differs is open. Small ones are tried where large fail."""
        failed: Exception | None = None
        for pair in pairs_of_open_sizes(input_size):
            try:
                one, other = [self._run_at(open_sizes, input_size, dtypes) for open_sizes in pair]
            except Exception as error:
                failed = failed or error
            else:
                return with_open_dimensions(one, other)
        assert failed is not None
        raise failed

    def _run_at(self, open_sizes: tuple[int, int], input_size: Any, dtypes: Any) -> Trace:
        """Each of the forwards finds the model as it was."""
        with undisturbed(self.tree) as self.states:
            arguments = model_arguments(self.tree.modules[0], input_size, None, dtypes, open_sizes=open_sizes)
            return self.run(arguments)

    def run(self, arguments: Arguments) -> Trace:
        """The trace of one forward; an exception of it carries the trace so far."""
        model, recorder = self.tree.modules[0], Recorder(self.tree, self.states)
        given = ContainerStates([], [], [arguments])
        args, kwargs = _private(arguments, self.states)
        error: BaseException | None = None
        names = _argument_names(model)
        with torch.no_grad(), in_mode(self.tree, self.mode), recorder:
            recorder.flow.add_inputs(args, kwargs, names)
            try:
                output = model(*args, **kwargs)
                recorder.flow.add_outputs(output)
            except BaseException as raised:
                error = raised
            failure = recorder.fail(error)
        given.restore()
        nodes, edges = recorder.flow.finished()
        calls = recorder.finished_calls()
        trace = Trace(type(model).__name__, self.records, calls, nodes, edges, self.engine, self.mode, failure)
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
