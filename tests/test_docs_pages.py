"""The documentation is complete: a page for each public name, one program in two languages, nothing from a network."""

from __future__ import annotations

import ast
import fcntl
import html
import importlib.util
import inspect
import json
import pathlib
import re
import shutil
import subprocess
import sys
import zlib
from collections.abc import Iterator
from types import ModuleType

import pytest

import torchkutils
from tests.keras_names import KERAS_2_3_1
from tests.test_architecture_page import texts_of

ROOT = pathlib.Path(__file__).parent.parent
DOCS = ROOT / "docs"

pytestmark = [
    pytest.mark.skipif(not DOCS.exists(), reason="the documentation lies beside the sources, not in the wheel"),
    # Whichever test comes first builds the whole site.
    pytest.mark.timeout(400),
]


@pytest.fixture(scope="module")
def hooks() -> Iterator[ModuleType]:
    """docs/hooks.py, which makes the pages."""
    sys.path.insert(0, str(DOCS))
    yield importlib.import_module("hooks")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def docstrings(hooks: ModuleType) -> ModuleType:
    """docs/docstrings.py, which turns docstrings into what Sphinx reads."""
    return hooks.docstrings


def differs_from_keras(name: str) -> bool:
    return "\nDiffers from Keras" in (inspect.getdoc(getattr(torchkutils, name)) or "")


def test_each_public_name_has_a_page(hooks: ModuleType) -> None:
    listed = [name for names in hooks.REFERENCE.values() for name in names]
    assert sorted(listed) == torchkutils.__all__
    pages = hooks.reference_pages()
    others = {"reference/index.rst", "reference/integrations.rst"}
    assert set(pages) == others | {f"reference/{name}.rst" for name in torchkutils.__all__}
    offered = {path.rpartition(".")[2] for path in hooks.INTEGRATIONS}
    assert offered == set(importlib.import_module("torchkutils.integrations").__all__)
    assert all(f":doc:`{name} <{name}>`" in pages["reference/index.rst"] for name in torchkutils.__all__)


def test_the_navigation_takes_up_each_page(hooks: ModuleType) -> None:
    there = {path.stem for path in DOCS.glob("*.md")} | set(hooks.ROOT_PAGES)
    shown = [page for pages in hooks.section_pages().values() for page in pages] + hooks.OTHERS
    assert sorted(shown) == sorted(there)
    notebooks = {f"notebooks/{path.stem}" for path in (DOCS / "notebooks").glob("*.ipynb")}
    assert notebooks <= set(hooks.made_pages()["notebooks.rst"].split())


DOCSTRING = """\
Say how `many` there are, as `normalize` does.

Args:
    one, two: For both,
        in two lines.
    *others: More.

Returns:
    A number: a float.

Raises:
    ValueError, TypeError: Always.

Differs from Keras 2.3.1: there is
no such thing.

>>> say()
1
"""


def test_a_docstring_becomes_what_sphinx_reads(docstrings: ModuleType) -> None:
    def say(one: int, two: float = 0.5, *others: int) -> None: ...

    text = docstrings.as_rst(DOCSTRING, docstrings.defaults(inspect.signature(say)), {"normalize": "LINK"}.get)
    assert (
        text
        == """\
Say how ``many`` there are, as LINK does.

:param one: For both,
    in two lines.
:param two: For both,
    in two lines.
    *Default:* ``0.5``.
:param \\*others: More.

:returns: A number: a float.

:raises ValueError, TypeError: Always.

.. admonition:: Differs from Keras 2.3.1
   :class: note

   There is
   no such thing.

>>> say()
1
"""
    )


def test_an_entry_without_a_name_is_seen(docstrings: ModuleType) -> None:
    with pytest.raises(ValueError, match="an entry of Args must begin with a name and a colon, got 'nothing'"):
        docstrings.as_rst("Args:\n    nothing", lambda _: None, lambda _: None)


@pytest.mark.parametrize("name", sorted({*KERAS_2_3_1} & {*torchkutils.__all__}))
def test_a_name_of_keras_says_how_it_differs(name: str) -> None:
    assert differs_from_keras(name)


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
    sections = [re.split(r"^## .*\n", page, flags=re.M) for page in (english, chinese)]
    for one, other in zip(*sections, strict=True):
        assert shape_of(one) == shape_of(other)


def shape_of(section: str) -> list[str | set[str]]:
    """What a section must have in each language: paragraphs, tables and blocks in this order, and its links."""
    kinds: list[str | set[str]] = []
    for part in re.sub(r"^```.*?^```", "```", section.strip(), flags=re.M | re.S).split("\n\n"):
        if part.startswith("|"):
            kinds.append("table")
        else:
            kinds.append("block" if part.startswith("```") else "paragraph")
    # Each page leads to the other one.
    links = set(re.findall(r"\]\(([\w/.-]+)\)", section)) - {"moving-from-keras.md", "moving-from-keras.zh.md"}
    return [*kinds, links]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> pathlib.Path:
    """The documentation, built strictly and once for all processes; its tools are in the group `docs`."""
    for tool in ("sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_copybutton"):
        pytest.importorskip(tool, reason="make docs installs what builds the documentation")
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "site"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(folder)]
            done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=380)
            if done.returncode != 0:
                shutil.rmtree(folder, ignore_errors=True)
            assert done.returncode == 0, done.stderr
    return folder


def text_of(page: pathlib.Path) -> str:
    """What a reader sees, with single spaces."""
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))))


@pytest.mark.parametrize("name", torchkutils.__all__)
def test_a_built_page_shows_the_docstring(site: pathlib.Path, name: str) -> None:
    page = site / "reference" / f"{name}.html"
    first = re.sub(r"\s+", " ", (inspect.getdoc(getattr(torchkutils, name)) or "").split("\n\n")[0])
    assert plain(first) in plain(text_of(page))
    framed = '<p class="admonition-title">Differs from Keras' in page.read_text(encoding="utf-8")
    assert framed == differs_from_keras(name)


def plain(text: str) -> str:
    """Without what is printed otherwise than it is written: quotes, dashes, marks of code."""
    return re.sub(r"[`'’‘“”\"–—…-]|\.\.\.", "", text)


def test_an_optional_argument_shows_its_default(site: pathlib.Path) -> None:
    text = text_of(site / "reference" / "plot_model.html")
    for argument in ("input_data", "show_params"):
        assert re.search(rf"{argument} \([^)]*\) – [^–]*Default: (None|False)", text)
    assert not re.search(r"\brequired\b", text)
    assert "TypeAliasForwardRef" not in text


def test_the_built_pages_load_nothing_from_a_network(site: pathlib.Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|source)[^>]+src=\"(?:https?:)?//|<link[^>]+rel=\"stylesheet\"[^>]+href=\"(?:https?:)?//"
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    assert [str(page.relative_to(site)) for page in pages if loads.search(page.read_text(encoding="utf-8"))] == []
    assert loads.search('<script async src="https://example.org/x.js"></script>')


@pytest.mark.parametrize("path", sorted((DOCS / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_outputs_of_a_notebook_are_in_the_site(site: pathlib.Path, path: pathlib.Path) -> None:
    page = site / "notebooks" / f"{path.stem}.html"
    source, text = page.read_text(encoding="utf-8"), text_of(page)
    shown = html.unescape(source)
    pictures = 0
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            data = {kind: "".join(said) for kind, said in output.get("data", {}).items()}
            if "text/html" in data:
                assert re.sub(r"\s+", " ", html.unescape(data["text/html"])) in re.sub(r"\s+", " ", shown)
            elif any(kind.startswith("image/") for kind in data):
                pictures += 1
            elif "text" in output:
                said = re.sub(r"\x1b\[[\d;]*m", "", "".join(output["text"]))
                assert re.sub(r"\s+", " ", said).strip() in text
    assert source.count("<img ") >= pictures
    # Nothing of what was stored would be no proof.
    assert "Model: " in text or pictures


def test_the_home_page_begins_with_how_to_install(site: pathlib.Path) -> None:
    text = text_of(site / "index.html")
    assert text.index("pip install torchkutils") < text.index("What it is not")
    home = (site / "index.html").read_text(encoding="utf-8")
    assert all(f'href="{page}.html"' in home for page in ("notebooks/look-at-models", "contributing", "changes"))


def test_drawings_are_turned_round_on_dark_pages_and_photographs_are_not(site: pathlib.Path) -> None:
    drawn = {page: (site / f"{page}.html").read_text(encoding="utf-8") for page in ("gallery", "architecture", "index")}
    pictures = {page: re.findall(r'<img [^>]*src="_images/[^>]*>', text) for page, text in drawn.items()}
    assert min(map(len, pictures.values())) > 0
    turned = {page: {"dark-light drawing" in one for one in found} for page, found in pictures.items()}
    assert turned == {"gallery": {True}, "architecture": {True}, "index": {False}}
    sheet = (site / "_static" / "extra.css").read_text(encoding="utf-8")
    assert re.search(r'html\[data-theme="dark"\] [^{]*img\.drawing \{[^}]*invert', sheet)


def test_search_and_inventory_know_the_names(site: pathlib.Path) -> None:
    index = (site / "searchindex.js").read_text(encoding="utf-8")
    found = json.loads(index.removeprefix("Search.setIndex(").rstrip(";\n").removesuffix(")"))
    documents = [found[where].get("lightn", []) for where in ("terms", "titleterms")]
    numbers = [number for one in documents for number in (one if isinstance(one, list) else [one])]
    names = {found["docnames"][number] for number in numbers}
    assert {"trainers", "training-from-hdf5"} <= names

    inventory = (site / "objects.inv").read_bytes()
    listed = zlib.decompress(inventory.split(b"zlib.\n", 1)[1]).decode()
    assert [name for name in torchkutils.__all__ if f"torchkutils.{name} py:" not in listed] == []


def test_versions_are_listed_from_their_folders(tmp_path: pathlib.Path) -> None:
    spec = importlib.util.spec_from_file_location("publish", DOCS / "publish.py")
    assert spec is not None
    assert spec.loader is not None
    publish = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(publish)
    with pytest.raises(FileNotFoundError, match=r"no folder in .* holds an index.html"):
        publish.list_versions(tmp_path, "/")
    for name in ("0.9.0", "0.10.0", "dev", "not a site"):
        (tmp_path / name).mkdir()
        if name != "not a site":
            (tmp_path / name / "index.html").touch()
    publish.list_versions(tmp_path, "/torchkutils")
    listed = json.loads((tmp_path / "versions.json").read_text())
    assert [one["name"] for one in listed] == ["dev", "0.10.0", "0.9.0"]
    assert [one["name"] for one in listed if one["preferred"]] == ["0.10.0"]
    assert listed[1]["url"] == "/torchkutils/0.10.0/"
    assert 'url=0.10.0/"' in (tmp_path / "index.html").read_text()


@pytest.mark.slow
def test_the_gallery_s_pictures_are_what_its_code_draws(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, str(DOCS / "gallery.py"), str(tmp_path)], capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    shown = set(re.findall(r"images/gallery/([\w-]+\.svg)", (DOCS / "gallery.md").read_text(encoding="utf-8")))
    stored = {path.name: path for path in (DOCS / "images" / "gallery").iterdir()}
    assert shown == set(stored) == {path.name for path in tmp_path.iterdir()}
    for name, path in stored.items():
        # Versions of Graphviz place things differently: what is said and joined must be the same.
        drawn, kept = (texts_of(one.read_text(encoding="utf-8")) for one in (tmp_path / name, path))
        assert drawn == kept, f"{name}: run `make pictures`"
