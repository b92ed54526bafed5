"""What a model file holds, as text, without building the model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from torchkutils._printable import printable
from torchkutils._typing import PathLike
from torchkutils.objects.stored_file import ModelFile, opened_model_file
from torchkutils.objects.stored_state import StoredState
from torchkutils.objects.tensors import dtype_name

__all__ = ["describe_model_file", "model_file_contents"]

_SHOWN = 60


def describe_model_file(path: PathLike) -> str:
    """Describe a model file: architecture, tensors with sizes, optimizer and metadata. No class of it is built.

    Args:
        path: A file of `save_model` or `save_weights`.

    Returns:
        Several lines of text.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file, or a damaged one.
        OSError: It cannot be read.
    """
    with opened_model_file(path) as file:
        architecture = file.document("architecture")
        lines = [f"{path}: torchkutils model file", ""]
        if architecture is None:
            lines.append("Weights alone, no architecture")
        else:
            rows = [["Module", "Class", "Arguments"], *_module_rows(architecture, "model", 0)]
            lines += _table(rows)
        lines += ["", *_table([["Tensor", "Shape", "Dtype", "Bytes"], *_tensor_rows(file)])]
        elements = sum(math.prod(one.shape) for one in file.tensors.values())
        total = sum(one.nbytes for one in file.tensors.values())
        lines += ["", f"{len(file.tensors)} tensors, {elements:,} elements, {total:,} bytes"]
        for kind in ("optimizer", "scheduler"):
            lines += _state_lines(kind, file.document(kind))
        metadata = file.document("metadata")
        if metadata is not None:
            lines.append(f"Metadata: {_printable(json.dumps(metadata), 2000)}")
    return "\n".join(lines)


def model_file_contents(path: PathLike) -> dict[str, Any]:
    """The same as plain values for JSON: architecture, tensors, metadata, and what else the file holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no model file, or a damaged one.
        OSError: It cannot be read.
    """
    with opened_model_file(path) as file:
        tensors = [
            {"name": name, "shape": list(shape), "dtype": dtype, "bytes": size, "tied_to": tied}
            for name, shape, dtype, size, tied in _described_tensors(file)
        ]
        return {
            "architecture": file.document("architecture"),
            "tensors": tensors,
            "metadata": file.document("metadata"),
        }


def _state_lines(kind: str, document: Any) -> list[str]:
    """One line for each optimizer or scheduler."""
    if not isinstance(document, dict):
        return []
    named = document.get("named")
    lines = []
    for name, one in (named if isinstance(named, dict) else {"": document}).items():
        title = f"{kind.capitalize()} {_printable(name)}".rstrip()
        lines.append(f"{title}: {_printable(_as_dict(one).get('class_name'))}")
    return lines


def _module_rows(node: Any, name: str, depth: int) -> list[list[str]]:
    if not isinstance(node, dict):
        return []
    label = "  " * depth + _printable(name)
    if "shared" in node:
        return [[label, f"(shared: {_printable(node['shared'])})", ""]]
    plain: list[str] = []
    below: list[list[str]] = []
    for key, value in _as_dict(node.get("config")).items():
        children = list(_nodes(value, key))
        below += _rows_of_nodes(children, depth + 1)
        if not children:
            plain.append(f"{key}={json.dumps(value)}")
    edits = node.get("edits")
    for edit in edits if isinstance(edits, list) else []:
        below += _edit_rows(edit, depth + 1)
    return [[label, _printable(node.get("class_name")), _printable(", ".join(plain))], *below]


def _rows_of_nodes(nodes: Iterable[tuple[str, Any]], depth: int) -> list[list[str]]:
    rows: list[list[str]] = []
    for name, node in nodes:
        rows += _module_rows(node, name, depth)
    return rows


def _edit_rows(edit: Any, depth: int) -> list[list[str]]:
    """What was changed after the constructor call."""
    if not isinstance(edit, dict):
        return []
    label = f"changed: {edit.get('at') or 'itself'}"
    action = next((key for key in edit if key != "at"), "")
    body = edit.get(action)
    children = list(_nodes(body, label))
    if children:
        return _rows_of_nodes(children, depth)
    return [["  " * depth + _printable(label), _printable(action), _printable(json.dumps(body))]]


def _nodes(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The nodes of modules in a value of a config, each with the key under which it is."""
    if isinstance(value, dict) and set(value) == {"__module__"}:
        yield name, value["__module__"]
        return
    if isinstance(value, list):
        value = {str(number): one for number, one in enumerate(value)}
    for key, one in _as_dict(value).items():
        yield from _nodes(one, key)


def _as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _described_tensors(file: ModelFile) -> Iterator[tuple[str, tuple[int, ...], str, int, str | None]]:
    """Name, shape, dtype, bytes and what it is tied to, of each tensor of the model."""
    state = StoredState(file)
    for name, source in file.names.items():
        shape, dtype = state.shape(source), state.dtype(source)
        tied = None if source == name else source
        yield name, shape, dtype_name(dtype), math.prod(shape) * dtype.itemsize, tied


def _tensor_rows(file: ModelFile) -> list[list[str]]:
    return [
        [_printable(name), str(shape), dtype, f"{size:,}" if tied is None else f"tied to {_printable(tied)}"]
        for name, shape, dtype, size, tied in _described_tensors(file)
    ]


def _printable(value: Any, limit: int = _SHOWN) -> str:
    """Text from a stranger on one line, without what a terminal would obey."""
    text = printable(str(value), "\N{REPLACEMENT CHARACTER}")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * min(sum(widths) + 2 * len(widths), 120), *lines[1:]]
