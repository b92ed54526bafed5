"""The architecture page is true: its drawings show the imports there are, and the modules it names exist."""

from __future__ import annotations

import pathlib
import re

import pytest

from tests.test_imports_point_down import TOP, imports_of, package_sources

DOCS = pathlib.Path(__file__).parent.parent / "docs"
DRAWINGS = sorted((DOCS / "images").glob("*.dot"))

pytestmark = pytest.mark.skipif(not DOCS.exists(), reason="the documentation lies beside the sources, not in the wheel")


def rooms_of(sources: dict[str, str]) -> set[tuple[str, str]]:
    """Which folder or top module imports which."""
    arrows = {
        (room_of(module), room_of(target))
        for module, source in sources.items()
        for target in imports_of(module, source, set(sources))
    }
    left_out = TOP - {"cli", "integrations"}
    return {(room, target) for room, target in arrows if room != target and not {room, target} & left_out}


def room_of(module: str) -> str:
    """The folder or the top module; the command line is one, in several modules."""
    room = module.split(".")[0]
    return "cli" if room.startswith("cli") else room


def arrows_in(dot: str) -> set[tuple[str, str]]:
    return set(re.findall(r"^\s*(\w+) -> (\w+)", dot, flags=re.MULTILINE))


def test_the_drawn_house_has_the_imports_of_the_package(request: pytest.FixtureRequest) -> None:
    path = DOCS / "images" / "house.dot"
    house, arrows = path.read_text(encoding="utf-8"), rooms_of(package_sources())
    if request.config.getoption("--regold"):
        above = re.split(r"^  \w+ -> ", house, maxsplit=1, flags=re.MULTILINE)[0]
        house = above + "".join(f"  {room} -> {target}\n" for room, target in sorted(arrows)) + "}\n"
        path.write_text(house, encoding="utf-8")
    assert arrows_in(house) == arrows
    assert {name for arrow in arrows for name in arrow} <= set(re.findall(r"^  (\w+) \[label", house, re.MULTILINE))


def test_a_missing_arrow_is_seen() -> None:
    assert rooms_of({"data.a": "from torchkutils import errors", "errors": ""}) == {("data", "errors")}
    assert arrows_in("digraph { \n a -> b [label=x]\n }") == {("a", "b")}


@pytest.mark.parametrize("path", DRAWINGS, ids=lambda path: path.stem)
def test_a_drawing_is_its_source_s(path: pathlib.Path, request: pytest.FixtureRequest) -> None:
    from torchkutils.models.render import render

    drawn = render(path.read_text(encoding="utf-8"), "svg")
    if request.config.getoption("--regold"):
        path.with_suffix(".svg").write_bytes(drawn)
    stored = path.with_suffix(".svg").read_text(encoding="utf-8")

    # Versions of Graphviz place things differently: what is said and joined must be the same.
    assert texts_of(stored) == texts_of(drawn.decode())


def texts_of(svg: str) -> list[str]:
    return sorted(re.findall(r"<(?:title|text)[^>]*>([^<]*)<", svg))


def test_the_modules_named_on_the_page_exist() -> None:
    page = (DOCS / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:\w+/)*\w+\.py)`", page))
    package, root = DOCS.parent / "torchkutils", DOCS.parent
    assert len(named) > 30
    assert [name for name in sorted(named) if not ((package / name).exists() or (root / name).exists())] == []
