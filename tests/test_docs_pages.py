"""The documentation is complete: a page for each public name, one program in two languages, nothing from a network."""

from __future__ import annotations

import ast
import html
import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys
from types import ModuleType

import pytest

import torchkutils
from tests.keras_names import KERAS_2_3_1

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation lies beside the sources, not in the wheel")


def hooks() -> ModuleType:
    """docs/hooks.py, which makes the pages."""
    spec = importlib.util.spec_from_file_location("documentation_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def differs_from_keras(name: str) -> bool:
    return "\nDiffers from Keras" in (inspect.getdoc(getattr(torchkutils, name)) or "")


def test_each_public_name_has_a_page() -> None:
    listed = [name for names in hooks().REFERENCE.values() for name in names]
    assert sorted(listed) == torchkutils.__all__
    pages = hooks().reference_pages()
    assert set(pages) == {"reference/index.md", *(f"reference/{name}.md" for name in torchkutils.__all__)}
    assert all(f"[`{name}`]({name}.md)" in pages["reference/index.md"] for name in torchkutils.__all__)


@pytest.mark.parametrize("name", sorted({*KERAS_2_3_1} & {*torchkutils.__all__}))
def test_a_name_of_keras_says_how_it_differs(name: str) -> None:
    assert differs_from_keras(name)


def test_a_notebook_becomes_a_page_with_its_outputs() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "text"]},
        {
            "cell_type": "code",
            "source": "show()",
            "outputs": [
                {"output_type": "stream", "name": "stdout", "text": ["said\n"]},
                {"output_type": "display_data", "data": {"image/svg+xml": "<svg/>", "image/png": "AAAA"}},
                {"output_type": "execute_result", "data": {"text/html": "<b>1</b>", "text/plain": "1"}},
                {"output_type": "execute_result", "data": {"text/html": '<iframe srcdoc="&lt;p&gt;" x></iframe>'}},
            ],
        },
    ]
    made = hooks().notebook_page("name", {"cells": cells})
    assert made["notebooks/name-1.svg"] == "<svg/>"
    assert made["notebooks/name-2.html"] == "<p>"
    page = made["notebooks/name.md"]
    assert page.startswith("# Title\ntext\n")
    expected = [
        "```python\nshow()\n```",
        "```text\nsaid\n\n```",
        "(name-1.svg)",
        '<div class="notebook-output"><b>1</b></div>',
        '<iframe src="../name-2.html"',
    ]
    assert [page.find(part) for part in expected] == sorted(page.find(part) for part in expected)
    assert all(part in page for part in expected)


def test_the_chinese_guide_is_the_english_program() -> None:
    english, chinese = (
        (DOCS / f"moving-from-keras{language}.md").read_text(encoding="utf-8") for language in ("", ".zh")
    )
    for fence in ("python", "py"):
        programs = [re.findall(rf"^```{fence}\n(.*?)^```", page, flags=re.M | re.S) for page in (english, chinese)]
        assert len(programs[0]) > 5
        first, second = ([ast.dump(ast.parse(block)) for block in program] for program in programs)
        assert first == second
    outlines = [re.findall(r"^(#+) |^\|(?! *-)", page, flags=re.M) for page in (english, chinese)]
    assert outlines[0] == outlines[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The documentation, built strictly; its tools are in the extra `docs`."""
    pytest.importorskip("mkdocs", reason="make docs installs what builds the documentation")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("name", torchkutils.__all__)
def test_a_built_page_shows_the_docstring(site: pathlib.Path, name: str) -> None:
    page = html.unescape((site / "reference" / name / "index.html").read_text(encoding="utf-8"))
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", page))
    first = re.sub(r"\s+", " ", (inspect.getdoc(getattr(torchkutils, name)) or "").split("\n\n")[0])
    assert first.replace("`", "") in text
    assert ('<p class="admonition-title">Differs from Keras' in page) == differs_from_keras(name)


def test_the_built_pages_load_nothing_from_a_network(site: pathlib.Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|<link[^>]+rel=\"stylesheet\"[^>]+href=\"(?:https?:)?//"
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    assert [str(page.relative_to(site)) for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
    assert loads.search('<script async src="https://example.org/x.js"></script>')


def test_the_notebooks_outputs_are_in_the_site(site: pathlib.Path) -> None:
    page = (site / "notebooks" / "look-at-models" / "index.html").read_text(encoding="utf-8")
    assert 'class="tk-summary"' in page
    assert "<iframe" in page
    assert len(list((site / "notebooks").glob("look-at-models-*.svg"))) >= 3
    home = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{place}/"' in home for place in ("notebooks/look-at-models", "contributing", "changes"))
