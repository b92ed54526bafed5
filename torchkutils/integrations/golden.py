"""Pin a model in a test: its layers, shapes, parameters and FLOPs, in a file beside the test.

    def test_the_model_is_the_one_we_trained():
        assert_summary_matches(build(), "tests/golden/model.json", input_size=(None, 3, 32, 32))

`TORCHKUTILS_UPDATE=1 pytest` writes the files anew; read their diff before you commit it.
"""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any, Unpack

import torch

from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.integrations.look_options import SummaryOptions
from torchkutils.models.summary import ModelSummary, summarize

__all__ = ["assert_summary_matches"]

UPDATE = "TORCHKUTILS_UPDATE"
"""The environment variable that lets the files be written."""

_SHOWN = 20


def assert_summary_matches(
    model: torch.nn.Module | ModelSummary, path: PathLike, *, update: bool | None = None, **look: Unpack[SummaryOptions]
) -> None:
    """Compare a model's summary with the one in a file.

    Args:
        model: The model, or its summary.
        path: A JSON file that this function wrote.
        update: Write the file instead of comparing. None: where the environment variable TORCHKUTILS_UPDATE is set to
            anything but "" and "0".
        **look: Arguments of `summarize`, `input_size` above all: without an input there are no shapes.

    Raises:
        AssertionError: The file is missing, or the model differs; the message lists what does, and how to accept it.
        ValueError: The file holds no summary.
        Exception: As `summarize`.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.json"
    >>> assert_summary_matches(torch.nn.Linear(2, 3), path, update=True, input_size=(1, 2))
    >>> assert_summary_matches(torch.nn.Linear(2, 3), path, input_size=(1, 2))
    >>> assert_summary_matches(torch.nn.Linear(2, 4), path, input_size=(1, 2))
    Traceback (most recent call last):
    AssertionError: the model is not the one in ...model.json:
      total_params: 9 there, 12 now
      ...
    """
    summary = model if isinstance(model, ModelSummary) else summarize(model, **look)
    now = _pinned(summary)
    name = os.fspath(path)
    if update is None:
        update = os.environ.get(UPDATE, "") not in ("", "0")
    if update:
        pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
        with replacing(name) as file:
            file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
        return
    if not pathlib.Path(name).exists():
        raise AssertionError(f"there is no {name} yet; {UPDATE}=1 writes it")
    differences = _differences(_read(name), now)
    if differences:
        more = [f"… {len(differences) - _SHOWN} more"] if len(differences) > _SHOWN else []
        lines = "\n  ".join([*differences[:_SHOWN], *more])
        raise AssertionError(f"the model is not the one in {name}:\n  {lines}\n{UPDATE}=1 accepts it")


def _pinned(summary: ModelSummary) -> dict[str, Any]:
    """What a test wants to notice; nothing that depends on the machine or on how the table looks."""
    rows = {
        row.path or "(the model)": {
            "class": row.class_name,
            "calls": row.calls,
            "input_shapes": row.input_shapes,
            "output_shapes": row.output_shapes,
            "params": row.params,
            "trainable": row.trainable_params,
            "flops": row.flops,
        }
        for row in summary.rows
    }
    return {
        "model_name": summary.model_name,
        "total_params": summary.total_params,
        "trainable_params": summary.trainable_params,
        "flops": summary.flops,
        "flops_known": summary.flops_known,
        "rows": json.loads(json.dumps(rows)),
    }


def _read(name: str) -> dict[str, Any]:
    try:
        then = json.loads(pathlib.Path(name).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{name} holds no summary: {error}; {UPDATE}=1 writes one") from error
    if not isinstance(then, dict) or not isinstance(then.get("rows"), dict):
        raise ValueError(f"{name} holds no summary; {UPDATE}=1 writes one")
    return then


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    before, after = then["rows"], now["rows"]
    found = _changes({**then, "rows": None}, {**now, "rows": None}, "")
    found += [f"{path}: gone" for path in before if path not in after]
    found += [f"{path}: new" for path in after if path not in before]
    for path in after:
        found += _changes(before.get(path, after[path]), after[path], f"{path}: ")
    return found


def _changes(then: dict[str, Any], now: dict[str, Any], where: str) -> list[str]:
    changed = [key for key in now if then.get(key) != now[key]]
    return [f"{where}{key}: {then.get(key)} there, {now[key]} now" for key in changed]
