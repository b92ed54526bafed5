"""The one look at a model that the summary and the picture share."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias

import torch

from torchkutils.models.inputs import has_open_dimensions, model_arguments
from torchkutils.models.module_records import module_records
from torchkutils.models.module_tree import ModuleTree
from torchkutils.models.recorder import Recorder
from torchkutils.models.records import Call, Collection, Edge, Engine, Module, Node, TensorValue, Trace, Value
from torchkutils.models.symbolic import symbolic_flow
from torchkutils.models.tensor_states import TensorStates
from torchkutils.models.undisturbed import undisturbed
from torchkutils.models.values import map_tensors

Mode: TypeAlias = Literal["eval", "train", "same"]
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
    with undisturbed(tree) as before:
        arguments = model_arguments(model, input_size, input_data, dtypes)
        if engine == "structure" or arguments is None:
            if engine in ("real", "meta"):
                raise ValueError(f"engine={engine!r} runs the model: give input_size or input_data")
            return _structure(tree, mode, module_arguments)
        reason = "the model lies on the meta device" if any(tensor.is_meta for tensor in tree.tensors) else ""
        states: TensorStates | None = before
        if engine == "meta":
            reason = "asked for"
            model, arguments = _on_meta(model, arguments)
            tree, states = ModuleTree(model), None
        records = module_records(tree, arguments=module_arguments)
        trace = _run(tree, states, records, arguments, mode, reason)
        if input_size is not None and has_open_dimensions(input_size):
            other = model_arguments(model, input_size, None, dtypes, open_size=3)
            assert other is not None
            trace = _opened(trace, _run(tree, states, records, other, mode, reason))
    return trace


def _wrapped(model: torch.nn.Module) -> torch.nn.Module:
    """The module inside a compiled or a multi-device one."""
    inner = model.__dict__.get("__template__") or model._modules.get("_orig_mod")
    return _wrapped(inner) if isinstance(inner, torch.nn.Module) else model


@contextmanager
def _in_mode(tree: ModuleTree, mode: Mode) -> Iterator[None]:
    """Every module has the training flag that forward is to see."""
    flag = mode == "train"
    others = [] if mode == "same" else [m for m in tree.distinct() if m.__dict__.get("training") is not flag]
    for module in others:
        module.training = flag
    try:
        yield
    finally:
        for module in others:
            if module.__dict__.get("training") is flag:
                module.__dict__["training"] = not flag


def _on_meta(
    model: torch.nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> tuple[torch.nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]:
    """A copy of the model and its arguments that holds shapes only; no weight is copied on the way."""
    stand_ins: dict[int, Any] = {}
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        meta: torch.Tensor = tensor.detach().to("meta")
        if isinstance(tensor, torch.nn.Parameter):
            meta = torch.nn.Parameter(meta, requires_grad=tensor.requires_grad)
        stand_ins[id(tensor)] = meta
    try:
        copied = copy.deepcopy(model, stand_ins)
    except Exception as error:
        raise ValueError(
            f"engine='meta' works on a copy, and the model cannot be copied ({error}); use 'real'"
        ) from error
    args, kwargs = map_tensors(arguments, lambda tensor: tensor.detach().to("meta"))
    return copied, (args, kwargs)


def _run(
    tree: ModuleTree,
    states: TensorStates | None,
    records: tuple[Module, ...],
    arguments: tuple[tuple[Any, ...], dict[str, Any]],
    mode: Mode,
    reason: str,
) -> Trace:
    model = tree.modules[0]
    recorder = Recorder(tree, states)
    meta = bool(reason)
    args, kwargs = _private(arguments)
    failure, error = None, None
    argument_names = _argument_names(model)
    with torch.no_grad(), _in_mode(tree, mode), recorder:
        recorder.flow.add_inputs(args, kwargs, argument_names)
        try:
            output = model(*args, **kwargs)
            recorder.flow.add_outputs(output)
        except BaseException as raised:
            error, failure = raised, recorder.fail(raised)
    nodes, edges = recorder.finished_flow()
    trace = Trace(
        model_name=type(model).__name__,
        modules=records,
        calls=recorder.finished_calls(),
        nodes=nodes,
        edges=edges,
        engine=Engine("meta" if meta else "real", "traced", reason),
        mode=mode,
        failure=failure,
    )
    if error is not None:
        if meta:
            error.add_note("The trace ran on the meta device, where no value is known; engine='real' runs the maths.")
        error.trace = trace  # type: ignore[attr-defined]
        raise error
    return trace


def _private(arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Copies of the caller's tensors, so that in-place work reaches no one else."""
    with torch.no_grad():
        args, kwargs = map_tensors(arguments, lambda tensor: tensor.detach().clone())
    return args, kwargs


def _argument_names(model: torch.nn.Module) -> list[str]:
    try:
        return [
            parameter.name
            for parameter in inspect.signature(model.forward).parameters.values()
            if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        ]
    except (TypeError, ValueError):
        return []


def _structure(tree: ModuleTree, mode: Mode, module_arguments: bool) -> Trace:
    """No forward: torch.fx follows it with symbols; where it cannot, the order of definition stands in."""
    model, records = tree.modules[0], module_records(tree, arguments=module_arguments)
    try:
        with _in_mode(tree, mode):
            flow = symbolic_flow(model, records)
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0]
        reason = f"no input was given, and torch.fx cannot follow it ({type(error).__name__}: {why[:120]})"
        return _in_order(model, mode, records, reason)
    engine = Engine("structure", "symbolic", "no input was given")
    return Trace(type(model).__name__, records, *flow, engine, mode)


def _in_order(model: torch.nn.Module, mode: Mode, records: tuple[Module, ...], reason: str) -> Trace:
    """Each module has one call, leaves are joined in order of definition."""
    first = [record for record in records if record.same_as is None]
    call_of = {record.index: number for number, record in enumerate(first)}
    calls = tuple(
        Call(
            index=call_of[record.index],
            module=record.index,
            number=0,
            parent=None if record.parent is None else call_of[record.parent],
            inputs=None,
            output=None,
            flops=0,
            flops_known=False,
            leaf=not record.children,
        )
        for record in first
    )
    leaves = [call for call in calls if call.leaf]
    nodes = [Node(0, "input", "input", None, None)]
    for call in leaves:
        nodes.append(Node(len(nodes), "call", records[call.module].path or records[0].name, call.index, None))
    nodes.append(Node(len(nodes), "output", "output", None, None))
    edges = tuple(Edge(target - 1, target, guessed=True) for target in range(1, len(nodes)))
    engine = Engine("structure", "definition", reason)
    return Trace(type(model).__name__, records, calls, tuple(nodes), edges, engine, mode)


def _opened(one: Trace, other: Trace) -> Trace:
    """The first trace with each size open that differs in the second."""
    if len(one.calls) != len(other.calls) or len(one.nodes) != len(other.nodes):
        raise ValueError("input_size has open dimensions, and the model takes another way at another size: give sizes")
    calls = tuple(
        dataclasses.replace(a, inputs=_open_value(a.inputs, b.inputs), output=_open_value(a.output, b.output))
        for a, b in zip(one.calls, other.calls, strict=True)
    )
    nodes = tuple(
        dataclasses.replace(a, output=_open_value(a.output, b.output))
        for a, b in zip(one.nodes, other.nodes, strict=True)
    )
    return dataclasses.replace(one, calls=calls, nodes=nodes)


def _open_value(one: Any, other: Any) -> Any:
    if isinstance(one, TensorValue) and isinstance(other, TensorValue) and len(one.shape) == len(other.shape):
        shape = tuple(a if a == b else None for a, b in zip(one.shape, other.shape, strict=True))
        return dataclasses.replace(one, shape=shape)
    if isinstance(one, Collection) and isinstance(other, Collection):
        pairs: list[tuple[int | str, Value]] = [
            (key, _open_value(a, b)) for (key, a), (_, b) in zip(one.items, other.items, strict=False)
        ]
        return dataclasses.replace(one, items=tuple(pairs))
    return one
