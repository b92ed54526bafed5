"""The one look at a model that the summary and the picture share."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import itertools
from typing import Any, Literal, TypeAlias

import torch
from torch.nn.parameter import is_lazy

from torchkutils.models.inputs import has_open_dimensions, model_arguments
from torchkutils.models.recorder import Recorder
from torchkutils.models.records import (
    Call,
    Collection,
    Edge,
    Engine,
    Module,
    Node,
    Tensor,
    TensorValue,
    Trace,
    Value,
)
from torchkutils.models.symbolic import symbolic_flow
from torchkutils.models.undisturbed import in_plain_containers, undisturbed
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
) -> Trace:
    """Run a model once, or read its structure when no input is given, and write down what happened.

    Args:
        model: Any module; afterwards it is bit for bit as before.
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name.
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        dtypes: Of generated inputs; one, or a list or dict like `input_size`.
        mode: The training flag that forward sees; "same" leaves each module's own.
        engine: "real" runs the maths, "meta" shapes only, "structure" nothing.

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
    model = getattr(model, "_orig_mod", model)
    with undisturbed(model):
        arguments = model_arguments(model, input_size, input_data, dtypes)
        if engine == "structure" or arguments is None:
            if engine in ("real", "meta"):
                raise ValueError(f"engine={engine!r} runs the model: give input_size or input_data")
            return _structure(model, mode)
        reason = "the model lies on the meta device" if any(p.is_meta for p in model.parameters()) else ""
        if engine == "meta":
            reason = "asked for"
            model, arguments = _on_meta(model, arguments)
        trace = _run(model, arguments, mode, reason)
        if input_size is not None and has_open_dimensions(input_size):
            other = model_arguments(model, input_size, None, dtypes, open_size=3)
            assert other is not None
            if engine == "meta":
                model, other = _on_meta(model, other)
            trace = _opened(trace, _run(model, other, mode, reason))
    return trace


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


def _run(model: torch.nn.Module, arguments: tuple[tuple[Any, ...], dict[str, Any]], mode: Mode, reason: str) -> Trace:
    records, modules, index_of, names = module_tree(model)
    if mode != "same":
        for module in modules:
            module.training = mode == "train"
    recorder = Recorder(index_of, modules, names)
    recorder.names = lambda index: records[index].path or records[index].name  # type: ignore[method-assign]
    meta = bool(reason)
    args, kwargs = _private(arguments)
    failure, error = None, None
    argument_names = _argument_names(model)
    with torch.no_grad(), recorder:
        recorder.add_inputs(args, kwargs, argument_names)
        try:
            output = model(*args, **kwargs)
            recorder.add_outputs(output)
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


def module_tree(
    model: torch.nn.Module,
) -> tuple[tuple[Module, ...], list[torch.nn.Module], dict[int, int], dict[int, str]]:
    """The records of the module tree, the distinct modules, index by identity, tensor names by identity."""
    records: list[Module] = []
    index_of: dict[int, int] = {}
    distinct: list[torch.nn.Module] = []
    names: dict[int, str] = {}
    stack: list[tuple[torch.nn.Module, str, str, int, int | None]] = [(model, "", type(model).__name__, 0, None)]
    children: dict[int, list[int]] = {}
    registered = {id(module) for module in model.modules()}
    while stack:
        module, path, name, depth, parent = stack.pop()
        index = len(records)
        same_as = index_of.get(id(module))
        if parent is not None:
            children.setdefault(parent, []).append(index)
        if same_as is None:
            index_of[id(module)] = index
            distinct.append(module)
        record = _module_record(module, index, path, name, depth, parent, same_as, names)
        known = id(module) in registered
        records.append(record if known else dataclasses.replace(record, registered=False))
        if same_as is None:
            below = [(key, child) for key, child in module._modules.items() if child is not None]
            hidden = [] if isinstance(module, torch.jit.ScriptModule) else in_plain_containers(module)
            for key, child in reversed(below + hidden):
                stack.append((child, f"{path}.{key}" if path else key, key, depth + 1, index))
    complete = [dataclasses.replace(r, children=tuple(children.get(r.index, ()))) for r in records]
    return tuple(complete), distinct, index_of, names


def _module_record(
    module: torch.nn.Module,
    index: int,
    path: str,
    name: str,
    depth: int,
    parent: int | None,
    same_as: int | None,
    names: dict[int, str],
) -> Module:
    held: list[tuple[Tensor, ...]] = []
    for tensors in (module._parameters, module._buffers):
        found = []
        for key, tensor in tensors.items() if same_as is None else ():
            if tensor is not None:
                full = f"{path}.{key}" if path else key
                first = names.setdefault(id(tensor), full)
                found.append(_tensor_record(key, tensor, None if first == full else first))
        held.append(tuple(found))
    return Module(
        index=index,
        path=path,
        name=name,
        class_name=type(module).__name__,
        depth=depth,
        parent=parent,
        children=(),
        parameters=held[0],
        buffers=held[1],
        extra_repr=module.extra_repr(),
        training=module.training,
        same_as=same_as,
    )


def _tensor_record(name: str, tensor: torch.Tensor, same_as: str | None) -> Tensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if is_lazy(tensor):
        return Tensor(name, None, 0, 0, dtype, tensor.requires_grad, same_as, "lazy")
    elements = tensor.numel()
    size = sum(part.numel() * part.element_size() for part in _parts(tensor))
    return Tensor(name, _sizes(tensor), elements, size, dtype, tensor.requires_grad, same_as, _tensor_kind(tensor))


def _parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """What holds the elements: a sparse tensor keeps its indices beside its values."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    return [tensor]


def _sizes(tensor: torch.Tensor) -> tuple[int | None, ...]:
    if not tensor.is_nested:
        return tuple(tensor.shape)
    columns = zip(*(part.shape for part in tensor.unbind()), strict=True)
    return (tensor.size(0), *(sizes[0] if len(set(sizes)) == 1 else None for sizes in columns))


def _tensor_kind(tensor: torch.Tensor) -> str:
    """How the tensor is held, for what is other than a plain one."""
    if tensor.is_quantized:
        return "quantised"
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return "sparse"
    if type(tensor) in (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer):
        return "tensor"
    names = {kind.__name__ for kind in type(tensor).__mro__}
    if names & {"DTensor", "ShardedTensor"}:
        return "sharded"
    modules = {kind.__module__.partition(".")[0] for kind in type(tensor).__mro__}
    return "quantised" if modules & {"torchao", "bitsandbytes"} else "tensor"


def _structure(model: torch.nn.Module, mode: Mode) -> Trace:
    """No forward: torch.fx follows it with symbols; where it cannot, the order of definition stands in."""
    records, modules, _, _ = module_tree(model)
    if mode != "same":
        for module in modules:
            module.training = mode == "train"
    try:
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
