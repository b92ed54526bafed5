"""What a model file holds, as text, without building the model."""

from __future__ import annotations

import json
import math
from typing import Any

from torchkutils._typing import PathLike
from torchkutils.objects.stored_file import ModelFile, opened_model_file

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
        architecture, names = file.document("architecture"), file.index.get("names", {})
        lines = [f"{path}: torchkutils model file", ""]
        if architecture is None:
            lines.append("Weights alone, no architecture")
        else:
            rows = [["Module", "Class", "Arguments"], *_module_rows(architecture, "model", 0)]
            lines += _table(rows)
        lines += ["", *_table([["Tensor", "Shape", "Dtype", "Bytes"], *_tensor_rows(file, names)])]
        elements = sum(math.prod(one.shape) for one in file.tensors.values())
        total = sum(one.nbytes for one in file.tensors.values())
        lines += ["", f"{len(file.tensors)} tensors, {elements:,} elements, {total:,} bytes"]
        optimizer, metadata = file.document("optimizer"), file.document("metadata")
        if isinstance(optimizer, dict):
            lines.append(f"Optimizer: {_printable(optimizer.get('class_name'))}")
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
        names = file.index.get("names", {})
        tensors = []
        for name, source in names.items() if isinstance(names, dict) else ():
            stored = file.tensors.get(source) if isinstance(source, str) else None
            if stored is None:
                raise ValueError(f"its index names a tensor {_printable(source)!r} that it does not hold")
            dtype = str(stored.dtype).removeprefix("torch.")
            tied = None if source == name else source
            shape = list(stored.shape)
            tensors.append({"name": name, "shape": shape, "dtype": dtype, "bytes": stored.nbytes, "tied_to": tied})
        return {
            "architecture": file.document("architecture"),
            "tensors": tensors,
            "metadata": file.document("metadata"),
        }


def _module_rows(node: Any, name: str, depth: int) -> list[list[str]]:
    if not isinstance(node, dict):
        return []
    label = "  " * depth + _printable(name)
    if "shared" in node:
        return [[label, f"(shared: {_printable(node['shared'])})", ""]]
    config = node.get("config")
    plain, rows = [], []
    for key, value in config.items() if isinstance(config, dict) else ():
        inner = list(_nodes(value, key))
        rows += [row for child_name, child in inner for row in _module_rows(child, child_name, depth + 1)]
        if not inner:
            plain.append(f"{key}={json.dumps(value)}")
    return [[label, _printable(node.get("class_name")), _printable(", ".join(plain))], *rows]


def _nodes(value: Any, name: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict) and set(value) == {"__module__"}:
        return [(name, value["__module__"])]
    if isinstance(value, dict):
        return [pair for key, one in value.items() for pair in _nodes(one, key)]
    if isinstance(value, list):
        return [pair for number, one in enumerate(value) for pair in _nodes(one, str(number))]
    return []


def _tensor_rows(file: ModelFile, names: Any) -> list[list[str]]:
    rows = []
    pairs = names.items() if isinstance(names, dict) else ()
    for name, source in pairs:
        stored = file.tensors.get(source) if isinstance(source, str) else None
        if stored is None:
            raise ValueError(f"its index names a tensor {_printable(source)!r} that it does not hold")
        size = f"{stored.nbytes:,}" if source == name else f"tied to {_printable(source)}"
        rows.append([_printable(name), str(stored.shape), str(stored.dtype).removeprefix("torch."), size])
    return rows


def _printable(value: Any, limit: int = _SHOWN) -> str:
    """Text from a stranger on one line, without what a terminal would obey."""
    text = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in str(value))
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _table(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "-" * min(sum(widths) + 2 * len(widths), 120), *lines[1:]]
