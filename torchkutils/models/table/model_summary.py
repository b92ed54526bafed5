"""The summary of a model as plain data, and its text, HTML and Markdown."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torchkutils.models.records import record
from torchkutils.models.table.html_table import Entry, html_table
from torchkutils.models.table.text_table import fitting_positions, print_table

COLUMNS = ("input_shape", "output_shape", "dtype", "params", "trainable", "flops", "bytes", "connected_to")
_NUMERIC = {"params", "trainable", "flops", "bytes"}
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


@record
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
        parameter_kinds: What its own parameters are other than plain tensors: "sharded", "quantised", "lazy".
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
    parameter_kinds: tuple[str, ...] = ()


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
        buffer_bytes: Bytes that all buffers take.
        flops_known: Whether `flops` is exact; what the model itself ran, outside of any row, counts too.
        bytes_by_dtype: Bytes of parameters and buffers by the name of their dtype.
        notes: What a reader must know beside: what forward changed and could not be put back.

    >>> import torch
    >>> from torchkutils import summarize
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
    buffer_bytes: int = 0
    flops_known: bool = True
    bytes_by_dtype: dict[str, int] = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers that JSON can hold."""
        result = dataclasses.asdict(self)
        result["columns"] = None if self.columns is None else list(self.columns)
        for row in result["rows"]:
            row["inbound"] = list(row["inbound"])
            row["parameter_kinds"] = list(row["parameter_kinds"])
        result["rows"], result["notes"] = list(result["rows"]), list(self.notes)
        return result

    def __str__(self) -> str:
        lines: list[str] = []
        print_model_summary(self, None, None, lines.append)
        return "\n".join(lines)

    def __repr__(self) -> str:
        # At a prompt the table is what one asked for; the data is in the attributes.
        return str(self)

    def _repr_html_(self) -> str:
        columns, shallowest = self._shown_columns(), self._shallowest()
        entries = []
        for row in self.rows:
            label = _label(row) + _marks(row)
            fields = ["\n".join(row.inbound) if name == "connected_to" else _field(row, name) for name in columns]
            entries.append(Entry(row.depth - shallowest, (label, *fields), row.failed))
        numeric = [False, *(name in _NUMERIC for name in columns)]
        return html_table(f'Model: "{self.model_name}"', self._header(), entries, self._totals(), numeric)

    def _repr_markdown_(self) -> str:
        lines = [_markdown(f'Model: "{self.model_name}"'), ""]
        for number, fields in enumerate([self._header(), *(f for block in self._blocks(True) for f in block)]):
            lines.append(f"| {' | '.join(_markdown(field) for field in fields)} |")
            if number == 0:
                rules = ["---:" if name in _NUMERIC else "---" for name in self._shown_columns()]
                lines.append(f"| {' | '.join(['---', *rules])} |")
        return "\n".join([*lines, "", *[f"{total}  " for total in self._totals()]])

    def _shown_columns(self) -> tuple[str, ...]:
        if self.columns is not None:
            return self.columns
        base = ("output_shape", "params")
        return base if self._is_chain() else (*base, "connected_to")

    def _shallowest(self) -> int:
        return min((row.depth for row in self.rows), default=0)

    def _is_chain(self) -> bool:
        """Each row that ran takes what the row before it gave and nothing else, or no edges are known."""
        ran = [row for row in self.rows if row.calls or row.inbound]
        if not any(row.inbound for row in ran):
            return True
        following: list[SummaryRow | None] = [*ran[1:], None]
        leaves = [row for row, after in zip(ran, following, strict=True) if after is None or after.depth <= row.depth]
        if any(row.calls > 1 for row in ran):
            return False
        expected = [(), *((f"{row.path}[0][0]",) for row in leaves)]
        return all(row.inbound == before for row, before in zip(leaves, expected, strict=False))

    def _header(self) -> list[str]:
        return ["Layer (type)", *[_HEADERS[column] for column in self._shown_columns()]]

    def _blocks(self, marked: bool) -> list[list[list[str]]]:
        columns, shallowest = self._shown_columns(), self._shallowest()
        blocks = []
        for row in self.rows:
            label = "  " * (row.depth - shallowest) + _label(row) + (_marks(row) if marked else "")
            block = [[label, *[_field(row, column) for column in columns]]]
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
            lines.append(f"Total FLOPs: {'' if self.flops_known else '≥ '}{self.flops:,}")
        if self.columns is not None and "bytes" in self.columns:
            lines += [f"Parameter bytes: {self.param_bytes:,}", f"Buffer bytes: {self.buffer_bytes:,}"]
            lines += [f"Bytes in {dtype}: {size:,}" for dtype, size in self.bytes_by_dtype.items()]
        return lines


def check_layout(line_length: int | None, positions: Sequence[float] | None, columns: int | None) -> None:
    """Refuse lines and positions that cannot be.

    Raises:
        ValueError: `line_length` under 10, positions that do not ascend, or too few or too many of them.
    """
    if line_length is not None and (
        isinstance(line_length, bool) or not isinstance(line_length, int) or line_length < 10
    ):
        raise ValueError(f"line_length has to be an int of at least 10, got {line_length!r}")
    if positions is None:
        return
    ascending = all(a < b for a, b in itertools.pairwise(positions))
    if not ascending or not len(positions) or positions[0] <= 0:
        raise ValueError(f"positions has to ascend from above 0, got {list(positions)!r}")
    allowed = (3, 4) if columns is None else (columns,)
    if len(positions) not in allowed:
        wanted = " or ".join(str(number) for number in allowed)
        raise ValueError(f"positions has {len(positions)} entries, and the table has {wanted} columns")


def print_model_summary(
    summary: ModelSummary,
    line_length: int | None,
    positions: Sequence[float] | None,
    print_line: Callable[[str], object],
) -> None:
    """Keras's table: to the byte when a width is given, else widened and marked so that nothing is lost."""
    if positions is not None and summary.columns is None:
        columns = ("output_shape", "params", "connected_to")[: len(positions) - 1]
        summary = dataclasses.replace(summary, columns=columns)
    asked = line_length is not None or positions is not None
    header, blocks = summary._header(), summary._blocks(not asked)
    parts: Sequence[float] | None = positions
    if parts is None:
        standard = {3: [0.45, 0.85, 1.0], 4: [0.33, 0.55, 0.67, 1.0]}.get(len(header))
        parts = standard or [(number + 1) / len(header) for number in range(len(header))]
    width = line_length or {3: 65, 4: 98}.get(len(header), 20 * len(header))
    ends = [int(width * part) for part in parts] if parts[-1] <= 1 else [int(part) for part in parts]
    if not asked:
        ends = fitting_positions([header, *(fields for block in blocks for fields in block)], ends)
        width = max(width, ends[-1])
    print_table(f'Model: "{summary.model_name}"', header, blocks, summary._totals(), ends, width, print_line)


def _label(row: SummaryRow) -> str:
    failed = f" FAILED at {row.input_shapes}" if row.failed else ""
    return f"{row.name} ({row.class_name}){failed}"


def _marks(row: SummaryRow) -> str:
    """What Keras's label has no place for: calls, sharing, parameters of another kind."""
    calls = [f"{row.calls} calls"] if row.calls > 1 else []
    shared = [] if row.shared_with is None else [f"shared with {row.shared_with or 'the model'}"]
    return "".join(f" ({mark})" for mark in [*calls, *shared, *row.parameter_kinds])


def _markdown(text: str) -> str:
    """Each character that Markdown or HTML would read as markup stands as its number."""
    escaped = "".join(f"&#{ord(character)};" if character in "\\|<>`*_[]~$&" else character for character in text)
    return escaped.replace("\n", " ").replace("  ", "&nbsp;&nbsp;")


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
