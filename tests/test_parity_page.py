"""The parity page names all of Keras's names, and what it claims is there."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import pathlib
import re
from typing import NamedTuple

import pytest
import torch

import torchkutils
from tests.keras_names import KERAS_2_3_1, KERAS_2_3_1_MODULES, KERAS_3

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "parity.md"

pytestmark = pytest.mark.skipif(not PAGE.exists(), reason="the documentation lies beside the sources, not in the wheel")


class Row(NamedTuple):
    """A line of the table."""

    name: str
    in_2_3_1: bool
    in_3: bool
    here: str
    notes: str


def rows() -> list[Row]:
    found = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[0].startswith("`"):
            found.append(Row(cells[0].strip("`"), cells[1] == "●", cells[2] == "●", cells[3], cells[4]))
    return found


def test_each_name_of_keras_has_one_row() -> None:
    names = [row.name for row in rows()]
    assert len(names) == len(set(names))
    assert {row.name for row in rows() if row.in_2_3_1} == {*KERAS_2_3_1, *KERAS_2_3_1_MODULES}
    assert {row.name for row in rows() if row.in_3} == set(KERAS_3)


def test_what_is_claimed_is_there_and_what_is_planned_is_not() -> None:
    stands: dict[str, list[str]] = {"yes": [], "planned": [], "torch": [], "no": []}
    for row in rows():
        renamed = re.fullmatch(r"as `(\w+)`", row.here)
        if renamed:
            stands["yes"].append(renamed.group(1))
        else:
            stands[row.here].append(row.name)
    assert set(stands["yes"]) <= set(torchkutils.__all__)
    assert all(callable(getattr(torchkutils, name)) for name in stands["yes"])
    elsewhere = {*stands["planned"], *stands["torch"], *stands["no"]} & set(torchkutils.__all__)
    assert elsewhere == set(), "these have come: the page says that they are not there"


def exists(name: str) -> bool:
    value: object = torch
    for part in name.split(".")[1:]:
        value = getattr(value, part, None)
    return value is not None


def test_the_names_of_torch_on_the_page_exist() -> None:
    named = re.findall(r"`(torch\.[\w.]+)`", PAGE.read_text(encoding="utf-8"))
    assert len(named) >= 3
    assert [name for name in named if not exists(name)] == []
    assert not exists("torch.nn.utils.rnn.pad_sequences")


def test_the_list_of_keras_3_is_that_of_an_installed_keras() -> None:
    spec = importlib.util.find_spec("keras")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("Keras is not installed")
    package = pathlib.Path(spec.submodule_search_locations[0])
    found = set()
    for path in sorted((package / "utils").rglob("__init__.py")):
        prefix = ".".join([*path.parent.relative_to(package / "utils").parts, ""]).lstrip(".")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found |= {
            prefix + (alias.asname or alias.name)
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module != "keras.utils"
            for alias in node.names
        }
    assert sorted(found - set(KERAS_3)) == [], "new in Keras: each needs a row on the page and a name in the list"
    if importlib.metadata.version("keras") == "3.15.1":
        assert found == set(KERAS_3)
