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


# What a page may use beyond what every test has.
PEERS = {"lightning", "accelerate", "transformers", "ignite"}


@pytest.mark.parametrize(
    "page",
    # Trainers take long to import.
    [pytest.param(page, marks=[pytest.mark.slow] * (page.stem == "trainers")) for page in PAGES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_a_page_s_examples_run_and_print_what_stands_below_them(
    page: pathlib.Path, tmp_path: pathlib.Path, request: pytest.FixtureRequest
) -> None:
    text = page.read_text(encoding="utf-8")
    blocks = code_blocks(text)
    if not blocks:
        return
    missing = [peer for peer in PEERS if re.search(rf"^(?:import|from) {peer}\b", "\n".join(blocks), re.MULTILINE)]
    for peer in missing:
        pytest.importorskip(peer)
    program = tmp_path / "page.py"
    program.write_text(
        "".join(f"{block}print({BETWEEN!r}, end='', flush=True)\n" for block in blocks), encoding="utf-8"
    )
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{page}:\n{done.stdout}\n{done.stderr}"
    shown = with_outputs(text, done.stdout.split(BETWEEN))
    if request.config.getoption("--regold"):
        page.write_text(shown, encoding="utf-8")
        text = shown
    assert text == shown, f"run `pytest tests/test_docs_run.py --regold -k {page.stem}` and read what it changed"


BETWEEN = "\x1e"
"""Printed after each block."""
BLOCK = re.compile(r"^```python\n(?!# not run)(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)
"""A block that runs, with the text that stands directly below it."""


def with_outputs(page: str, printed: list[str]) -> str:
    """The page with what each block prints below it; a text there that says the same, `...` for what varies, stays."""
    outputs = iter(printed)

    def shown(found: re.Match[str]) -> str:
        output = "".join(f"{line.rstrip()}\n" for line in next(outputs).splitlines())
        said = found[2] or ""
        if not output.strip() or doctest.OutputChecker().check_output(said, output, doctest.ELLIPSIS):
            return found[0]
        return f"```python\n{found[1]}```\n\n```text\n{output}```\n"

    return BLOCK.sub(shown, page)


def test_an_output_that_is_missing_or_another_is_seen() -> None:
    block = "```python\nprint(1)\n```\n"
    assert with_outputs(f"{block}\nText.\n", ["1\n"]) == f"{block}\n```text\n1\n```\n\nText.\n"
    assert with_outputs(f"{block}\n```text\n2\n```\n", ["1\n"]) == f"{block}\n```text\n1\n```\n"
    for said in ("1", "..."):
        assert with_outputs(f"{block}\n```text\n{said}\n```\n", ["1\n"]) == f"{block}\n```text\n{said}\n```\n"
    silent = "```python\nx = 1\n```\n\n```text\npip install x\n```\n"
    assert with_outputs(silent, [""]) == silent


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_that_does_not_run_is_keras_s_own(page: pathlib.Path) -> None:
    languages = set(re.findall(r"^```(\w+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
    keras = {"py"} if page.name.startswith("moving-from-keras") else set()
    assert languages <= {"python", "text"} | keras


def test_an_example_that_fails_is_seen() -> None:
    assert code_blocks("```python\nassert False\n```\n```python\n# not run\n1/0\n```\n") == ["assert False\n"]
