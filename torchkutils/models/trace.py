"""trace_model: one forward of a model as records, for the summary and for the picture."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import operator
import re
from collections.abc import Callable
from typing import Any

import torch

from torchkutils._random_state import random_state_kept
from torchkutils._torch_versions import compiler_is_loaded
from torchkutils._wrapped_models import unwrapped
from torchkutils.models.forward.failure_note import failure_note
from torchkutils.models.forward.meta_copy import on_meta
from torchkutils.models.forward.misfits import InputFit
from torchkutils.models.forward.open_dimensions import with_open_dimensions
from torchkutils.models.forward.raised_errors import add_note, attach, message_of, traceback_of_model
from torchkutils.models.forward.recorder import Recorder
from torchkutils.models.records import Engine, Run, Trace
from torchkutils.models.restore.restored import in_mode, restored
from torchkutils.models.restore.saved_tensors import TensorStates
from torchkutils.models.tree.example_inputs import (
    OPEN_SIZES,
    Arguments,
    has_open_dimensions,
    made_inputs,
    model_arguments,
    open_axes,
    pairs_of_open_sizes,
    positional_names,
    wrapping_hint,
)
from torchkutils.models.tree.given_model import given_model
from torchkutils.models.tree.module_records import module_records
from torchkutils.models.tree.module_tree import ModuleTree
from torchkutils.models.tree.nested_values import map_tensors, tensors_of
from torchkutils.models.tree.offloaded import is_offloaded
from torchkutils.models.tree.own_example import own_examples
from torchkutils.models.without_running.definition_order import structure_trace

__all__ = ["trace_model"]

_is_meta: Callable[[torch.Tensor], bool] = operator.attrgetter("is_meta")
# What torch says where a graph is wanted and gradients are off.
_WANTS_A_GRAPH = re.compile(r"requires? gradient|require grad|requires_grad|grad_fn")


def trace_model(model: Any, run: Run) -> Trace:
    """Run a model once, or read its structure when no input is given, and record what happened.

    Args:
        model: A module, or an exported program; afterwards it is bit for bit as before.
        run: How to run it.

    Returns:
        Plain records; no tensor and no module is held.

    Raises:
        TypeError: An argument has a type that it cannot have.
        ValueError: An argument has a value that it cannot have.
        Exception: Whatever forward raised, the same object; its attribute `trace` is the `Trace` so far,
            with `failure` filled.
    """
    model = unwrapped(given_model(model))
    tree = ModuleTree(model)
    if not run.has_inputs:
        return _without_inputs(tree, run)
    forward = _Forward(tree, run, _reason_for_meta(tree, run))
    # Arguments that nothing can be made of are refused for every engine.
    arguments = forward.arguments()
    if run.engine == "structure":
        return structure_trace(tree, run, "asked for")
    return forward.trace(arguments)


def _without_inputs(tree: ModuleTree, run: Run) -> Trace:
    """The trace of the model's own example, which is run for its shapes only; else its structure."""
    name, runs = "", list[Run]()
    if run.engine in ("auto", "meta"):
        name, runs = own_examples(tree.modules[0], run)
    if not runs and run.engine in ("real", "meta"):
        raise ValueError(f"engine={run.engine!r} runs the model: give input_size or input_data")
    failed: list[Exception] = []
    for its_run in runs:
        forward = _Forward(tree, its_run, f"the model's own {name}, since no input was given")
        forward.engine = dataclasses.replace(forward.engine, own_example=True)
        try:
            return forward.trace(forward.arguments())
        except Exception as error:
            # It may not fit this model, or forward may not run without values.
            failed.append(error)
    if not failed:
        return structure_trace(tree, run, "no input was given")
    if run.engine == "meta":
        raise failed[0]
    return structure_trace(tree, run, f"no input was given, and forward failed with the model's own {name}")


def _reason_for_meta(tree: ModuleTree, run: Run) -> str:
    """Why the maths is not going to run; "" when it is."""
    if run.engine == "meta":
        return "asked for"
    if any(map(_is_meta, tree.tensors)) and not is_offloaded(tree.distinct()):
        return "the model lies on the meta device"
    return ""


class _Forward:
    """Runs a model once or twice and makes the trace of it.

    Args:
        tree: The model, walked.
        run: How to run it.
        reason: Why the maths does not run; "" when it does.
    """

    def __init__(self, tree: ModuleTree, run: Run, reason: str) -> None:
        self.tree, self.run = tree, run
        self._fit = InputFit(run)
        self._met_compiled = self._asked_for_graph = False
        self.engine = Engine("meta" if reason else "real", "traced", reason)

    def arguments(self, open_sizes: tuple[int, int] = OPEN_SIZES[0][0]) -> Arguments:
        """What forward is given; random numbers that are drawn for it are the caller's afterwards."""
        # Only sizes make numbers be drawn, and numpy's generator is slow to give and take its state.
        with contextlib.nullcontext() if self.run.input_size is None else random_state_kept():
            return model_arguments(self.tree.modules[0], self.run, open_sizes=open_sizes, made_as=self._fit.made_as)

    def trace(self, arguments: Arguments) -> Trace:
        """The trace of one forward, or of two at different sizes where dimensions are open."""
        if self.run.input_size is None or not has_open_dimensions(self.run.input_size):
            return self._trace(OPEN_SIZES[0][0], arguments)
        failed: list[Exception] = []
        # Small sizes are tried where large ones fail.
        for pair in pairs_of_open_sizes(self.run.input_size):
            try:
                one, other, more_samples = self._traces_at(*pair)
            except Exception as error:
                failed.append(error)
                continue
            open_size = pair[0][1] if open_axes(self.run.input_size)[1] else None
            return with_open_dimensions(one, other, more_samples, open_size)
        raise failed[0]

    def _traces_at(self, small: tuple[int, int], large: tuple[int, int]) -> tuple[Trace, Trace, Trace | None]:
        """At small and at large sizes, and at small ones with the larger batch: what one more sample takes."""
        batch_is_open, others_are_open = open_axes(self.run.input_size)
        one, other = self._trace(small), self._trace(large)
        if not (batch_is_open and others_are_open):
            return one, other, other if batch_is_open else None
        return one, other, self._trace((large[0], small[1]))

    def _trace(self, open_sizes: tuple[int, int], arguments: Arguments | None = None) -> Trace:
        """The trace of one forward. Inputs that were made and do not fit are made otherwise, as long as there is a way.

        Raises:
            Exception: What forward raised when it came furthest.
        """
        failed: list[Exception] = []
        furthest: Exception | None = None
        try:
            while True:
                try:
                    return self._trace_once(self.arguments(open_sizes) if arguments is None else arguments)
                except Exception as error:
                    failed.append(error)
                arguments = None
                if not self._fit.another(failed[-1]):
                    break
            furthest = max(failed, key=_progress)
            raise BaseException.with_traceback(furthest, traceback_of_model(furthest))
        finally:
            # Their tracebacks hold this frame.
            failed.clear()
            furthest = None

    def _trace_once(self, arguments: Arguments) -> Trace:
        """The trace of one forward; an exception of it carries the trace so far.

        Gradients are off, which saves memory. A forward that fails because it wants a graph runs again with them, and
        one that calls a compiled function runs again with that function unwatched.
        """
        grad, compiled, compiler_was_loaded = self.run.grad, False, compiler_is_loaded()
        trace, error = self._run(arguments, grad, compiled)
        if self._met_compiled or (error is not None and compiler_is_loaded() > compiler_was_loaded):
            compiled = True
            trace, error = self._run(arguments, grad, compiled)
        if error is not None and not grad and self._wants_graph(error):
            trace, error = self._run(arguments, True, compiled)
        if error is None:
            return trace
        hint = wrapping_hint(self.tree.modules[0], self.run, *arguments)
        add_note(error, failure_note(trace, self.run, tensors_of(*arguments), hint))
        attach(error, "trace", trace)
        raise BaseException.with_traceback(error, traceback_of_model(error))

    def _wants_graph(self, error: BaseException) -> bool:
        """Whether forward may have failed because gradients were off: it says so, or looked for them."""
        if isinstance(error, RuntimeError) and _WANTS_A_GRAPH.search(message_of(error)):
            return True
        return self._asked_for_graph and isinstance(error, Exception)

    def _run(self, arguments: Arguments, grad: bool, compiled: bool) -> tuple[Trace, BaseException | None]:
        """Run forward once and put everything back."""
        run = self.run
        before = restored(self.tree, arguments)
        with before:
            tree: ModuleTree = self.tree
            states: TensorStates | None = before.tensors
            if run.engine == "meta":
                model, arguments = on_meta(tree.modules[0], arguments)
                tree, states = ModuleTree(model), None
            fitted = made_inputs(run, *arguments)
            recorder = Recorder(tree, states, compiled=compiled, fitted=fitted)
            records = module_records(tree, arguments=run.module_arguments)
            args, kwargs = _private(arguments, states)
            with torch.set_grad_enabled(grad), in_mode(tree, run.mode):
                # Variables of this context (contextvars, NumPy's error state) that forward sets are its own.
                error = contextvars.copy_context().run(recorder.run, args, kwargs)
            failure = recorder.failure(error)
            self._fit.misfit = recorder.misfit(error)
            # Which tensors forward made unseen is told by those that are gone.
            del args, kwargs
            calls, nodes, edges = recorder.finished()
        self._met_compiled, self._asked_for_graph = recorder.met_compiled, recorder.asked_for_graph
        notes = (
            *(f"{name} was changed by forward and could not be put back" for name in before.lost),
            *(f"{name} was changed by forward, and stays changed" for name in before.left),
            *self._fit.told(positional_names(tree.modules[0])),
        )
        name = type(tree.modules[0]).__name__
        return Trace(name, records, calls, nodes, edges, self.engine, run.mode, failure, notes), error


def _progress(error: Exception) -> int:
    """How far forward came."""
    trace = getattr(error, "trace", None)
    return len(trace.nodes) + len(trace.calls) if isinstance(trace, Trace) else 0


def _private(arguments: Arguments, states: TensorStates | None) -> Arguments:
    """Copies of the caller's tensors, for forward to change; the tensors that cannot be exchanged are restored."""
    with torch.no_grad():
        private: Arguments = map_tensors(arguments, _copy)
    if states is not None:
        own = {id(tensor) for tensor in tensors_of(*arguments)}
        for tensor in tensors_of(*private):
            if id(tensor) in own:
                # In a mapping that cannot be made anew with copies in it.
                states.keep(tensor)
    return private


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().clone()
    return copied.requires_grad_() if tensor.requires_grad and tensor.is_leaf else copied
