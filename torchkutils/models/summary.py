"""What a model consists of, as data and as Keras's table."""

from __future__ import annotations

import dataclasses
import html
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from torchkutils.models.records import Call, Module, Trace, shape_text, tensors_in
from torchkutils.models.text_table import fitting_positions, print_table
from torchkutils.models.trace import EngineName, Mode, trace_model

COLUMNS = ("input_shape", "output_shape", "dtype", "params", "trainable", "flops", "bytes", "connected_to")
_HEADERS = {
    "input_shape": "Input Shape",
    "output_shape": "Output Shape",
    "dtype": "Dtype",
    "params": "Param #",
    "trainable": "Trainable",
    "flops": "FLOPs",
    "bytes": "Bytes",
    "connected_to": "Connected to",
}


@dataclass(frozen=True)
class SummaryRow:
    """One module of a summary.

    Attributes:
        path: "encoder.layers.0"; "" for the model itself.
        name: The last part of the path.
        class_name: Its class.
        depth: 1 for the model's children.
        calls: How often it was called.
        input_shapes: Text, of the first call: "(2, 8)"; "?" when nothing ran.
        output_shapes: Likewise, of what it returned.
        dtypes: Of the tensors it returned.
        params: Parameters that this row adds to the total.
        trainable_params: Those of them that require a gradient.
        flops: Two for a multiply-add, over all calls; a lower bound when `flops_known` is false.
        inbound: What it took its inputs from: `conv1[0][0]` is the first tensor of the first call of conv1.
        shared_with: Path of the row that shows the same module or its tensors; None elsewhere.
        param_bytes: Bytes of the counted parameters.
        flops_known: Whether `flops` is exact.
        failed: Whether forward raised here.
    """

    path: str
    name: str
    class_name: str
    depth: int
    calls: int
    input_shapes: str
    output_shapes: str
    dtypes: str
    params: int | None
    trainable_params: int
    flops: int
    inbound: tuple[str, ...]
    shared_with: str | None
    param_bytes: int = 0
    flops_known: bool = True
    failed: bool = False


@dataclass(frozen=True)
class ModelSummary:
    """A model's modules, shapes, parameters and FLOPs as plain data; it keeps no tensor and no module.

    Attributes:
        model_name: The model's class name.
        rows: A `SummaryRow` for each module shown.
        total_params: `sum(p.numel() for p in model.parameters())`.
        trainable_params: Those of them that require a gradient.
        non_trainable_params: The others.
        param_bytes: Bytes that all parameters take.
        flops: Of one forward, two for a multiply-add; a lower bound when a row's is.
        engine: What ran, and why: "real", "structure (order of definition): no input was given".
        columns: The columns that `str()` shows; None lets the model decide.

    >>> summary = summarize(torch.nn.Linear(4, 2), input_size=(3, 4))
    >>> summary.total_params, summary.flops
    (10, 48)
    """

    model_name: str
    rows: tuple[SummaryRow, ...]
    total_params: int
    trainable_params: int
    non_trainable_params: int
    param_bytes: int
    flops: int
    engine: str
    columns: tuple[str, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers that JSON can hold."""
        result = dataclasses.asdict(self)
        result["rows"] = [{**row, "inbound": list(row["inbound"])} for row in result["rows"]]
        return result

    def __str__(self) -> str:
        lines: list[str] = []
        _print(self, None, None, lines.append)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        header = "".join(f"<th style='text-align:left'>{html.escape(name)}</th>" for name in self._header())
        body = "".join(
            "<tr>"
            + "".join(f"<td style='text-align:left;white-space:pre'>{html.escape(f)}</td>" for f in fields)
            + "</tr>"
            for block in self._blocks()
            for fields in block
        )
        totals = "<br>".join(html.escape(line) for line in self._totals())
        title = html.escape(f'Model: "{self.model_name}"')
        return f"<p>{title}</p><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table><p>{totals}</p>"

    def _repr_markdown_(self) -> str:
        lines = [f'Model: "{self.model_name}"', ""]
        for number, fields in enumerate([self._header(), *(f for block in self._blocks() for f in block)]):
            cells = [field.replace("|", "\\|").replace("  ", "&nbsp;&nbsp;") for field in fields]
            lines.append(f"| {' | '.join(cells)} |")
            if number == 0:
                lines.append("|" + "---|" * len(fields))
        return "\n".join([*lines, "", *[f"{total}  " for total in self._totals()]])

    def _shown_columns(self) -> tuple[str, ...]:
        if self.columns is not None:
            return self.columns
        base = ("output_shape", "params")
        return base if self._is_chain() else (*base, "connected_to")

    def _is_chain(self) -> bool:
        """Each row takes what the row before it gave, or no edges are known."""
        leaves = [row for row in self.rows if row.inbound]
        for before, row in zip([None, *leaves], leaves, strict=False):
            expected = () if before is None else (f"{before.path}[0][0]",)
            if before is not None and row.inbound != expected:
                return False
            if row.calls > 1:
                return False
        return True

    def _header(self) -> list[str]:
        return ["Layer (type)", *[_HEADERS[column] for column in self._shown_columns()]]

    def _blocks(self) -> list[list[list[str]]]:
        columns = self._shown_columns()
        shallowest = min((row.depth for row in self.rows), default=0)
        blocks = []
        for row in self.rows:
            first = [_label(row, row.depth - shallowest), *[_field(row, column) for column in columns]]
            block = [first]
            if "connected_to" in columns:
                for connection in row.inbound[1:]:
                    block.append(["", *[connection if column == "connected_to" else "" for column in columns]])
            blocks.append(block)
        return blocks

    def _totals(self) -> list[str]:
        lines = [
            f"Total params: {self.total_params:,}",
            f"Trainable params: {self.trainable_params:,}",
            f"Non-trainable params: {self.non_trainable_params:,}",
        ]
        if self.columns is not None and "flops" in self.columns:
            known = all(row.flops_known for row in self.rows)
            lines.append(f"Total FLOPs: {'' if known else '≥ '}{self.flops:,}")
        return lines


def summarize(
    model: torch.nn.Module,
    *,
    input_size: Any = None,
    input_data: Any = None,
    dtypes: Any = None,
    depth: int | None = None,
    columns: Sequence[str] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
) -> ModelSummary:
    """Run a model once and list its modules with shapes, parameters and FLOPs; the model stays as it was.

    Args:
        model: Any `torch.nn.Module`.
        input_size: One shape with the batch axis, a list of shapes, or a dict of them by argument name; None in a
            shape leaves a dimension open. Without it and `input_data` nothing runs and shapes are "?".
        input_data: A tensor, a tuple of positional arguments or a dict of keyword arguments, instead of sizes.
        dtypes: Of the inputs made from sizes; None takes the model's own.
        depth: How many levels of nesting to list; None lists all.
        columns: Names out of input_shape, output_shape, dtype, params, trainable, flops, bytes, connected_to.
        mode: "eval", "train" or "same", for the forward alone.
        engine: "auto", "real", "meta" or "structure".

    Returns:
        A `ModelSummary`.

    Raises:
        TypeError: `model` is no module, or a size is no int.
        ValueError: An argument out of its range, sizes and data both given.
        Exception: What forward raised, with the partial `ModelSummary` as its attribute `summary`.

    >>> print(summarize(torch.nn.ReLU(), input_size=(1, 3)).rows[0].output_shapes)
    (1, 3)
    """
    shown = _checked_columns(columns)
    if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 0):
        raise ValueError(f"depth has to be None or an int of 0 or more, got {depth!r}")
    try:
        trace = trace_model(
            model, input_size=input_size, input_data=input_data, dtypes=dtypes, mode=mode, engine=engine
        )
    except BaseException as error:
        partial = getattr(error, "trace", None)
        if isinstance(partial, Trace):
            error.summary = _summary(partial, depth, shown)  # type: ignore[attr-defined]
        raise
    return _summary(trace, depth, shown)


def print_summary(
    model: torch.nn.Module,
    line_length: int | None = None,
    positions: Sequence[float] | None = None,
    print_fn: Callable[[str], object] | None = None,
    *,
    input_size: Any = None,
    input_data: Any = None,
    dtypes: Any = None,
    depth: int | None = None,
    columns: Sequence[str] | None = None,
    mode: Mode = "eval",
    engine: EngineName = "auto",
) -> None:
    """Print a model's layers, output shapes and parameter counts as Keras does.

    Args:
        model: Any `torch.nn.Module`; it stays bit for bit as it was.
        line_length: Characters a line; given it (or `positions`), Keras's own rows are printed, which cut what is
            too long. Without both, columns are as wide as their contents need.
        positions: Where each column ends, as parts of the line or absolute; ascending.
        print_fn: Called once a line; None prints to the standard output.
        input_size, input_data, dtypes, depth, columns, mode, engine: As in `summarize`.

    Raises:
        TypeError, ValueError: As `summarize`, and for lines or positions that cannot be.
        Exception: What forward raised, after the rows so far were printed.

    Differs from Keras: nothing is cut unless a width is asked for, nested modules are indented, and shapes need
    `input_size` or `input_data`, because a PyTorch model does not know its input.

    >>> print_summary(torch.nn.Linear(2, 1), input_size=(None, 2))  # doctest: +NORMALIZE_WHITESPACE
    Model: "Linear"
    _________________________________________________________________
    Layer (type)                 Output Shape              Param #
    =================================================================
    Linear (Linear)              (None, 1)                 3
    =================================================================
    Total params: 3
    Trainable params: 3
    Non-trainable params: 0
    _________________________________________________________________
    """
    print_line = print if print_fn is None else print_fn
    if not callable(print_line):
        raise TypeError(f"print_fn has to be callable, got {type(print_fn).__name__}")
    _check_layout(line_length, positions)
    try:
        summary = summarize(
            model,
            input_size=input_size,
            input_data=input_data,
            dtypes=dtypes,
            depth=depth,
            columns=columns,
            mode=mode,
            engine=engine,
        )
    except BaseException as error:
        partial = getattr(error, "summary", None)
        if isinstance(partial, ModelSummary):
            _print(partial, line_length, positions, print_line)
        raise
    _print(summary, line_length, positions, print_line)


def _checked_columns(columns: Sequence[str] | None) -> tuple[str, ...] | None:
    if columns is None:
        return None
    unknown = [name for name in columns if name not in COLUMNS]
    if isinstance(columns, str) or unknown:
        raise ValueError(f"columns has to name some of {', '.join(COLUMNS)}; got {columns!r}")
    return tuple(columns)


def _check_layout(line_length: int | None, positions: Sequence[float] | None) -> None:
    if line_length is not None and (not isinstance(line_length, int) or line_length < 10):
        raise ValueError(f"line_length has to be an int of at least 10, got {line_length!r}")
    if positions is not None:
        ascending = all(a < b for a, b in itertools.pairwise(positions))
        if not positions or not ascending or positions[0] <= 0:
            raise ValueError(f"positions has to ascend from above 0, got {list(positions)!r}")


def _print(
    summary: ModelSummary,
    line_length: int | None,
    positions: Sequence[float] | None,
    print_line: Callable[[str], object],
) -> None:
    header, blocks = summary._header(), summary._blocks()
    standard = {3: [0.45, 0.85, 1.0], 4: [0.33, 0.55, 0.67, 1.0]}.get(len(header))
    parts = standard or [(number + 1) / len(header) for number in range(len(header))]
    if positions is not None:
        if len(positions) < len(header) and summary.columns is None:
            summary = dataclasses.replace(summary, columns=("output_shape", "params"))
            header, blocks = summary._header(), summary._blocks()
        if len(positions) < len(header):
            raise ValueError(f"positions has {len(positions)} entries for {len(header)} columns")
        parts = list(positions)
    width = line_length or {3: 65, 4: 98}.get(len(header), 20 * len(header))
    ends = [int(width * part) for part in parts] if parts[-1] <= 1 else [int(part) for part in parts]
    ends = ends[: len(header)]
    if line_length is None and positions is None:
        ends = fitting_positions([header, *(fields for block in blocks for fields in block)], ends)
        width = max(width, ends[-1])
    print_table(f'Model: "{summary.model_name}"', header, blocks, summary._totals(), ends, width, print_line)


def _label(row: SummaryRow, indent: int) -> str:
    text = f"{'  ' * indent}{row.name} ({row.class_name})"
    if row.failed:
        text += " FAILED"
    return text


def _field(row: SummaryRow, column: str) -> str:
    if column == "connected_to":
        return row.inbound[0] if row.inbound else ""
    if column == "params":
        return "?" if row.params is None else str(row.params)
    if column == "flops":
        return f"{'' if row.flops_known else '≥ '}{row.flops:,}"
    if column == "trainable":
        return str(row.trainable_params)
    return {
        "input_shape": row.input_shapes,
        "output_shape": row.output_shapes,
        "dtype": row.dtypes,
        "bytes": f"{row.param_bytes:,}",
    }[column]


def _summary(trace: Trace, depth: int | None, columns: tuple[str, ...] | None) -> ModelSummary:
    seen: set[str] = set()
    counted = [_own(module, seen) for module in trace.modules]
    calls_of: dict[int, list[Call]] = {}
    for call in trace.calls:
        calls_of.setdefault(call.module, []).append(call)
    flops, known = _flops_below(trace)
    shown = _shown_modules(trace, depth)
    inbound = _inbound(trace, {module.index for module in shown})
    rows = []
    for module in shown:
        below = _family(trace, module) if not _has_shown_children(trace, module, depth) else [module]
        params = sum(counted[member.index][0] for member in below)
        lazy = any(tensor.shape is None for member in below for tensor in member.parameters)
        calls = calls_of.get(module.index if module.same_as is None else module.same_as, [])
        repeated = module.same_as is not None
        rows.append(
            SummaryRow(
                path=module.path,
                name=module.name,
                class_name=module.class_name,
                depth=module.depth,
                calls=0 if repeated else len(calls),
                input_shapes=_shapes(calls, "inputs"),
                output_shapes=_shapes(calls, "output"),
                dtypes=", ".join(dict.fromkeys(t.dtype for c in calls[:1] for t in tensors_in(c.output))),
                params=None if lazy else params,
                trainable_params=sum(counted[member.index][1] for member in below),
                flops=0 if repeated else sum(flops[call.index] for call in calls),
                inbound=inbound.get(module.index, ()),
                shared_with=_shared_with(trace, module),
                param_bytes=sum(counted[member.index][2] for member in below),
                flops_known=all(known[call.index] for call in calls) and trace.engine.ran != "structure",
                failed=trace.failure is not None and trace.calls[trace.failure.call].module == module.index,
            )
        )
    total = sum(own[0] for own in counted)
    trainable = sum(own[1] for own in counted)
    return ModelSummary(
        model_name=trace.model_name,
        rows=tuple(rows),
        total_params=total,
        trainable_params=trainable,
        non_trainable_params=total - trainable,
        param_bytes=sum(own[2] for own in counted),
        flops=sum(call.flops for call in trace.calls),
        engine=str(trace.engine),
        columns=columns,
    )


def _own(module: Module, seen: set[str]) -> tuple[int, int, int]:
    """Parameters, trainable ones and bytes that a module holds first."""
    own = [tensor for tensor in module.parameters if tensor.same_as is None]
    return (
        sum(tensor.elements for tensor in own),
        sum(tensor.elements for tensor in own if tensor.requires_grad),
        sum(tensor.bytes for tensor in own),
    )


def _flops_below(trace: Trace) -> tuple[list[int], list[bool]]:
    """FLOPs of each call with all calls within, and whether they are exact."""
    flops = [call.flops for call in trace.calls]
    known = [call.flops_known for call in trace.calls]
    for call in reversed(trace.calls):
        if call.parent is not None:
            flops[call.parent] += flops[call.index]
            known[call.parent] &= known[call.index]
    return flops, known


def _shown_modules(trace: Trace, depth: int | None) -> list[Module]:
    root = trace.modules[0]
    limit = depth if depth is not None else max(module.depth for module in trace.modules)
    shown = [module for module in trace.modules[1:] if module.depth <= limit]
    if not shown or root.parameters:
        shown.insert(0, root)
    return shown


def _has_shown_children(trace: Trace, module: Module, depth: int | None) -> bool:
    return bool(module.children) and (depth is None or module.depth < depth)


def _family(trace: Trace, module: Module) -> list[Module]:
    members, stack = [], [module.index]
    while stack:
        member = trace.modules[stack.pop()]
        members.append(member)
        stack.extend(member.children)
    return members


def _shapes(calls: list[Call], which: str) -> str:
    if not calls:
        return "?"
    texts = list(dict.fromkeys(shape_text(getattr(call, which)) for call in calls))
    return texts[0] if len(texts) == 1 else "multiple"


def _shared_with(trace: Trace, module: Module) -> str | None:
    if module.same_as is not None:
        return trace.modules[module.same_as].path
    for tensor in module.parameters:
        if tensor.same_as is not None:
            return tensor.same_as.rpartition(".")[0]
    return None


def _inbound(trace: Trace, shown: set[int]) -> dict[int, tuple[str, ...]]:
    """For each shown module what its calls took from other shown modules; functions between are looked through."""
    if trace.engine.edges == "definition":
        return {}
    box: dict[int, tuple[int, int] | None] = {}
    for node in trace.nodes:
        inside = [call for call in trace.enclosing(node) if call.module in shown and call.module != 0]
        leaf = node.kind == "call"
        chosen = inside[-1] if inside and leaf else None
        box[node.index] = (chosen.module, chosen.number) if chosen else None
    before: dict[int, list[tuple[int, int]]] = {}
    for edge in trace.edges:
        before.setdefault(edge.target, []).append((edge.source, edge.tensor))
    origins: dict[tuple[int, int], list[str]] = {}

    def origin(index: int, tensor: int) -> list[str]:
        key = (index, tensor)
        if key in origins:
            return origins[key]
        where, node = box[index], trace.nodes[index]
        if where is not None:
            origins[key] = [f"{trace.modules[where[0]].path}[{where[1]}][{tensor}]"]
        elif node.kind == "function":
            found = [name for source, position in before.get(index, []) for name in origin(source, position)]
            origins[key] = list(dict.fromkeys(found))
        else:
            origins[key] = []
        return origins[key]

    inbound: dict[int, list[str]] = {}
    for node in trace.nodes:
        where = box[node.index]
        for source, position in before.get(node.index, []):
            names = origin(source, position)
            if where is not None and box[source] != where:
                inbound.setdefault(where[0], []).extend(names)
    return {module: tuple(dict.fromkeys(names)) for module, names in inbound.items()}
