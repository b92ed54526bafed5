"""Every example that a reader can see runs: docstrings, README and the pages of docs/."""

from __future__ import annotations

import doctest
import importlib
import os
import pathlib
import pkgutil
import re
import subprocess
import sys

import numpy
import pytest
import torch

import torchkutils

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if path.exists()]
MODULES = [
    module.name
    for module in pkgutil.walk_packages(torchkutils.__path__, "torchkutils.")
    if not module.name.endswith("__main__")
]


def code_blocks(text: str) -> list[str]:
    """The ```python blocks of a page, in order; those that begin with `# not run` are left out."""
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return [block for block in blocks if not block.startswith("# not run")]


@pytest.mark.parametrize("name", MODULES)
def test_the_docstrings_examples_run(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # What a reader has at hand: the public names, torch and NumPy.
    at_hand = {public: getattr(torchkutils, public) for public in torchkutils.__all__}
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        assert name.startswith("torchkutils.integrations.")
        pytest.skip(f"{error.name} is not installed")
    failed, _ = doctest.testmod(
        module,
        extraglobs={**at_hand, "torch": torch, "np": numpy},
        optionflags=doctest.ELLIPSIS,
    )
    assert failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_s_examples_run(page: pathlib.Path, tmp_path: pathlib.Path) -> None:
    blocks = code_blocks(page.read_text(encoding="utf-8"))
    if not blocks:
        return
    program = tmp_path / "page.py"
    program.write_text("\n".join(blocks), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_that_does_not_run_is_keras_s_own(page: pathlib.Path) -> None:
    languages = set(re.findall(r"^```(\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    keras = {"py"} if page.name.startswith("moving-from-keras") else set()
    assert languages <= {"python", "text"} | keras


def test_an_example_that_fails_is_seen() -> None:
    assert code_blocks("```python\nassert False\n```\n```python\n# not run\n1/0\n```\n") == ["assert False\n"]
