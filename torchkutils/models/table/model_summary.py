"""The summary of a model as plain data, and what it is shown as: text, HTML, Markdown, tables of other programs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.models.records import Trace
from torchkutils.models.table import exports
from torchkutils.models.table.cells import scaled
from torchkutils.models.table.comparison import COMPARED_TOTALS, SummaryComparison, compared
from torchkutils.models.table.html_table import Entry, html_table
from torchkutils.models.table.keras_table import blocks_of, header_of, keras_columns, print_keras_table
from torchkutils.models.table.memory import MemoryEstimate, memory_of
from torchkutils.models.table.rows import SummaryRow, rows_of
from torchkutils.models.table.tree_lines import TreeLine, tree_lines
from torchkutils.models.table.tree_table import tree_columns, tree_field, tree_header, tree_label, tree_text
from torchkutils.models.table.view import Style, View, checked_view, is_numeric
from torchkutils.models.tree.totals import bounded, call_bytes, held_by_each, totals_of

# What a terminal is taken to be that does not say how wide it is.
_WIDTH = 100
_NO_SHAPES = "? is not known, since nothing ran: give input_size=(1, 3, 224, 224), or input_data, of your own"


@dataclass(frozen=True)
class ModelSummary:
    """A model's modules, shapes, parameters and FLOPs as plain data; it keeps no tensor and no module.

    `str()` and `print_summary` give the style that was asked for; at a prompt and in a notebook it is a tree.

    Attributes:
        model_name: The model's class name.
        rows: A `SummaryRow` for each module shown, in the order in which modules ran first within their parent.
        total_params: `sum(p.numel() for p in model.parameters())`.
        trainable_params: Those of them that require a gradient.
        non_trainable_params: The others.
        param_bytes: Bytes that all parameters take.
        flops: Of one forward, two for a multiply-add; a lower bound when a row's is. Of one sample where the batch axis
            is open.
        engine: What ran, and why: "real", "structure (order of definition): no input was given".
        buffer_bytes: Bytes that all buffers take.
        flops_known: Whether `flops` is exact; what the model itself ran, outside of any row, counts too.
        params_known: Whether all parameters are made; otherwise the numbers of parameters are lower bounds.
        bytes_by_dtype: Bytes of parameters and buffers by the name of the dtype that holds them.
        notes: What a reader must know beside: what forward changed and could not be put back.
        memory: An estimate of the bytes that inference and training take.
        counted_for: What FLOPs and activations are those of where sizes are open: "one sample"; "" elsewhere.
        view: The depth, columns and style that were asked for.

    >>> import torch
    >>> from torchkutils import summarize
    >>> summary = summarize(torch.nn.Linear(4, 2), input_size=(3, 4))
    >>> summary.total_params, summary.flops, summary.macs
    (10, 48, 24)
    """

    model_name: str
    rows: tuple[SummaryRow, ...]
    total_params: int
    trainable_params: int
    non_trainable_params: int
    param_bytes: int
    flops: int
    engine: str
    buffer_bytes: int
    flops_known: bool
    params_known: bool
    bytes_by_dtype: dict[str, int] = field(hash=False)
    notes: tuple[str, ...]
    memory: MemoryEstimate
    counted_for: str
    view: View
    _trace: Trace = field(repr=False, compare=False)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """The columns that were asked for; None lets the model decide."""
        return self.view.columns

    @property
    def macs(self) -> int:
        """Multiply-adds of one forward: half of the FLOPs."""
        return self.flops // 2

    # -- other views and comparison --------------------------------------------------------------------------------

    def at(
        self,
        depth: int | Literal["auto", "same"] | None = "same",
        *,
        columns: Sequence[str] | Literal["same"] | None = "same",
        style: Style | Literal["same"] = "same",
        fold: bool | None = None,
        weights: bool | None = None,
    ) -> ModelSummary:
        """The same look at another depth, with other columns or in another style; nothing runs again.

        Args:
            depth: How many levels have rows; None: all; "auto" and "same": as in `summarize`, as it is.
            columns: As in `summarize`; "same" keeps them.
            style: As in `summarize`; "same" keeps it.
            fold: As in `summarize`; None keeps it.
            weights: As in `summarize`; None keeps it.

        Raises:
            ValueError: A depth, a column or a style that does not exist; the column `arguments` where `summarize` was
                not asked for it.

        >>> import torch
        >>> from torchkutils import summarize
        >>> summary = summarize(torch.nn.Sequential(torch.nn.Sequential(torch.nn.ReLU())))
        >>> len(summary.rows), len(summary.at(depth=1).rows)
        (2, 1)
        """
        view = self.view
        wanted = checked_view(
            view.depth if depth == "same" else depth,
            view.columns if columns == "same" else columns,
            view.style if style == "same" else style,
            view.fold if fold is None else fold,
            view.weights if weights is None else weights,
        )
        had = view.columns or ()
        if "arguments" in (wanted.columns or ()) and "arguments" not in had:
            raise ValueError("columns names 'arguments', which was not recorded: ask summarize for it")
        return summary_of(self._trace, wanted)

    def compare(self, other: ModelSummary) -> SummaryComparison:
        """What differs between this summary and another one: modules, shapes, parameters, FLOPs.

        >>> import torch
        >>> from torchkutils import summarize
        >>> small = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> large = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU())
        >>> print(summarize(small).compare(summarize(large)))
        Sequential → Sequential
        + 1 (ReLU)
        ~ 0: params: 10 → 15
        ~ 0: trainable_params: 10 → 15
        total total_params: 10 → 15
        total trainable_params: 10 → 15
        total param_bytes: 40 → 60
        """
        if not isinstance(other, ModelSummary):
            raise TypeError(f"other must be a ModelSummary, got {type(other).__name__}")
        pair = (self, other)
        rows = [one.at(None, weights=False).rows for one in pair]
        totals = [{fact: getattr(one, fact) for fact in COMPARED_TOTALS} for one in pair]
        return compared((self.model_name, other.model_name), (rows[0], rows[1]), (totals[0], totals[1]))

    # -- for other programs ----------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Everything as dicts, lists, strings and numbers that JSON can hold."""
        names = [one.name for one in dataclasses.fields(self) if one.name not in ("rows", "view", "_trace")]
        result = {name: getattr(self, name) for name in names}
        memory = dataclasses.asdict(self.memory)
        return {
            **result,
            "rows": exports.rows_as_dicts(self.rows),
            "columns": None if self.columns is None else list(self.columns),
            "notes": list(self.notes),
            "bytes_by_dtype": dict(self.bytes_by_dtype),
            "memory": {**memory, "inference": self.memory.inference, "training": self.memory.training},
        }

    def to_pandas(self) -> Any:
        """A pandas DataFrame with a row a module and the fields of `SummaryRow` as columns.

        Raises:
            ImportError: pandas is not installed.
        """
        return exports.data_frame(self.rows)

    def to_csv(self, path: PathLike | None = None) -> str:
        """The rows with all their fields as CSV text, which is written to a file too if a path is given.

        Raises:
            OSError: The file cannot be written.
        """
        text = exports.csv_text(self.rows)
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
        return text

    def to_markdown(self) -> str:
        """The table in Keras's columns, or those asked for, as Markdown."""
        columns = self._keras_columns()
        return exports.markdown_text(self._keras_title(), self._marked_table(columns), columns, self._totals())

    def to_latex(self) -> str:
        """The same table as a LaTeX `tabular`, which needs no package."""
        columns = self._keras_columns()
        return exports.latex_text(self._marked_table(columns), columns, self._totals())

    # -- text ------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        lines: list[str] = []
        print_model_summary(self, None, None, lines.append)
        return "\n".join(lines)

    def __repr__(self) -> str:
        # At a prompt the table is what one asked for; the data is in the attributes.
        return "\n".join(self._tree()._tree_text(None))

    def __rich__(self) -> Any:
        tree = self._tree()
        lines, columns = tree._lines(), tree._tree_columns()
        header, cells = tree_header(columns), [[line.prefix + tree_label(line), *tree._fields(line)] for line in lines]
        return exports.rich_table(tree._tree_title(), header, cells, columns, tree._footer(lines))

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        # Levels fold in a notebook, so all of them are there unless a depth was asked for.
        tree = self.at(None if self.view.depth == "auto" else "same", style="tree")
        lines, columns = tree._lines(), tree._tree_columns()
        if len(lines) > 1 and not any(row.depth == 0 for row in tree.rows):
            # The title says what the model's own line would.
            lines = lines[1:]
        shallowest = lines[0].level
        entries = [
            Entry(
                line.level - shallowest, (tree_label(line), *tree._fields(line)), any(row.failed for row in line.rows)
            )
            for line in lines
        ]
        numeric = [False, *map(is_numeric, columns)]
        return html_table(tree._tree_title(), tree_header(columns), entries, tree._footer(lines), numeric)

    def _tree(self) -> ModelSummary:
        return self if self.view.style == "tree" else self.at(style="tree")

    def _lines(self) -> list[TreeLine]:
        return tree_lines(self._trace, self.rows, totals_of(self._trace), fold=self.view.fold)

    def _tree_columns(self) -> tuple[str, ...]:
        return tree_columns(self.columns, self._trace.engine.ran != "structure")

    def _fields(self, line: TreeLine) -> list[str]:
        return [tree_field(line, column, self.total_params) for column in self._tree_columns()]

    def _tree_text(self, width: int | None) -> list[str]:
        lines = self._lines()
        return tree_text(
            self._tree_title(),
            lines,
            self._tree_columns(),
            self._footer(lines),
            total_params=self.total_params,
            width=width or shutil.get_terminal_size((_WIDTH, 24)).columns,
        )

    def _tree_title(self) -> str:
        about = [] if self.engine == "real" else [self.engine]
        about += [f"for {self.counted_for}"] if self.counted_for else []
        return f'Model: "{self.model_name}"' + (f" ({'; '.join(about)})" if about else "")

    def _keras_title(self) -> str:
        """Keras's title, and what a reader must know to understand the numbers below it."""
        about = [f"{self._trace.engine}"] if self._trace.engine.own_example else []
        counted = {"flops", "macs", "output_bytes"} & set(self.columns or ())
        about += [f"for {self.counted_for}"] if self.counted_for and counted else []
        return f'Model: "{self.model_name}"' + (f" ({'; '.join(about)})" if about else "")

    def _footer(self, lines: Sequence[TreeLine]) -> list[str]:
        """Totals, the estimate of memory, and what the marks mean."""
        made = self.params_known
        trainable = "" if self.trainable_params == self.total_params else f" ({self.trainable_params:,} trainable)"
        footer = [f"Total params: {bounded(self.total_params, made)}{trainable}, {scaled(self.param_bytes, 'B')}"]
        if self.memory.known:
            sign = "" if self.flops_known else "≥ "
            macs, flops = f"{sign}{scaled(self.macs)}", f"{sign}{scaled(self.flops)}"
            footer[0] += f" · {macs} MACs, {flops} FLOPs"
        footer += self.memory.lines()
        footer += [] if self.memory.known else [_NO_SHAPES]
        footer += ["▸ holds modules that are not shown: depth= opens them"] if any(one.closed for one in lines) else []
        if any(line.of_one for line in lines):
            footer.append("Inside of a line with ×, numbers are those of one")
        return [*footer, *(f"Note: {note}" for note in self.notes)]

    def _keras_columns(self) -> tuple[str, ...]:
        return keras_columns(self.rows) if self.columns is None else self.columns

    def _marked_table(self, columns: Sequence[str]) -> list[list[str]]:
        blocks = blocks_of(self.rows, columns, self.total_params, marked=True)
        return [header_of(columns), *(fields for block in blocks for fields in block)]

    def _totals(self) -> list[str]:
        made = self.params_known
        lines = [
            f"Total params: {bounded(self.total_params, made)}",
            f"Trainable params: {bounded(self.trainable_params, made)}",
            f"Non-trainable params: {self.non_trainable_params:,}",
        ]
        columns = self.columns or ()
        if "flops" in columns:
            lines.append(f"Total FLOPs: {bounded(self.flops, self.flops_known)}")
        if "macs" in columns:
            lines.append(f"Total MACs: {bounded(self.macs, self.flops_known)}")
        if "bytes" in columns:
            lines += [f"Parameter bytes: {self.param_bytes:,}", f"Buffer bytes: {self.buffer_bytes:,}"]
            lines += [f"Bytes in {dtype}: {size:,}" for dtype, size in self.bytes_by_dtype.items()]
        if "output_bytes" in columns:
            lines.append(f"Activation bytes: {self.memory.activations:,}")
        return lines


def summary_of(trace: Trace, view: View) -> ModelSummary:
    """The rows and totals of one trace."""
    held, sizes = held_by_each(trace), call_bytes(trace)
    totals = totals_of(trace, held)
    return ModelSummary(
        model_name=trace.model_name,
        rows=rows_of(trace, view, held, sizes),
        total_params=totals.params,
        trainable_params=totals.trainable,
        non_trainable_params=totals.params - totals.trainable,
        param_bytes=totals.param_bytes,
        flops=totals.flops,
        engine=str(trace.engine),
        buffer_bytes=totals.buffer_bytes,
        flops_known=totals.flops_known,
        params_known=not totals.lazy,
        bytes_by_dtype=totals.bytes_by_dtype,
        notes=trace.notes,
        memory=memory_of(trace, totals, sizes),
        counted_for=trace.counted_for,
        view=view,
        _trace=trace,
    )


def print_model_summary(
    summary: ModelSummary,
    line_length: int | None,
    positions: Sequence[float] | None,
    print_line: Callable[[str], object],
) -> None:
    """Print the style that was asked for, line by line; a tree is fitted to `line_length`."""
    if summary.view.style == "tree":
        for line in summary._tree_text(line_length):
            print_line(line)
        return
    columns = summary._keras_columns()
    if positions is not None and summary.columns is None:
        columns = ("output_shape", "params", "connected_to")[: len(positions) - 1]
    asked = line_length is not None or positions is not None
    print_keras_table(
        f'Model: "{summary.model_name}"' if asked else summary._keras_title(),
        summary.rows,
        columns,
        summary._totals(),
        total_params=summary.total_params,
        line_length=line_length,
        positions=positions,
        print_line=print_line,
    )
    # With a width the rows are Keras's own, to the byte.
    for note in () if asked else summary.notes:
        print_line(f"Note: {note}")
