"""The arrows of the house: modules import what lies below them, folders do not import each other."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

import torchkutils

PACKAGE = pathlib.Path(torchkutils.__file__).parent
FOLDERS = {"objects", "data", "files", "models", "parallel", "numerical"}
SHARED = {
    "errors",
    "_lazy",
    "_typing",
    "_whole_file",
    "progress",
    "_dtypes",
    "_nested",
    "_torch_versions",
    "_wrapped_models",
}
TOP = {"__init__", "__main__", "cli"}

# A method that makes an object of the module above it, imported when it is called; nothing else goes up.
GOES_UP = {("data.sequence", "data.sequence_loader")}

# Inside models: a module imports only modules of a lower floor. Modules that are not named stand anywhere,
# as long as there is no circle.
MODEL_FLOORS = [
    {"plot"},
    {"page"},
    {"dot"},
    {"summary"},
    {"trace", "flops", "text_table", "render"},
    {"undisturbed", "inputs"},
]


def package_sources() -> dict[str, str]:
    """Each module's source under its dotted name inside the package: `models.trace`."""
    sources = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def imports_of(module: str, source: str, modules: set[str]) -> set[str]:
    """The modules of the package that a source imports; what stands under TYPE_CHECKING does not count."""
    found: set[str] = set()
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ["torchkutils", *module.split(".")][: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            names = [base, *[f"{base}.{alias.name}" for alias in node.names]]
        else:
            continue
        for name in names:
            inside = name.removeprefix("torchkutils.")
            if name.startswith("torchkutils") and inside in modules:
                found.add(inside)
    return found - {module}


def wrong_arrows(sources: dict[str, str]) -> list[str]:
    """Every import that does not point down, in words."""
    modules = set(sources)
    arrows = {module: imports_of(module, source, modules) for module, source in sources.items()}
    floors = {f"models.{name}": number for number, floor in enumerate(MODEL_FLOORS) for name in floor}
    for module, target in GOES_UP:
        arrows.get(module, set()).discard(target)
    wrong = []
    for module, targets in arrows.items():
        room = module.split(".")[0]
        for target in targets:
            target_room = target.split(".")[0]
            crosses = room in FOLDERS and target_room in FOLDERS and room != target_room
            climbs = (room in SHARED and target_room in FOLDERS) or (target_room in TOP and room not in TOP)
            upstairs = module in floors and target in floors and floors[target] <= floors[module]
            if crosses or climbs or upstairs:
                wrong.append(f"{module} imports {target}")
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as circle:
        wrong.append(f"a circle: {circle.args[1]}")
    return wrong


def test_the_package_s_imports_point_down() -> None:
    assert wrong_arrows(package_sources()) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("data.sequence", "from torchkutils.files.get_file import get_file", "data.sequence imports files.get_file"),
        ("progress", "import torchkutils.data.sequence", "progress imports data.sequence"),
        ("models.trace", "def f():\n    from .summary import summarize", "models.trace imports models.summary"),
        ("errors", "from torchkutils import errors, cli", "errors imports cli"),
        ("models.records", "from torchkutils.models import records2", "a circle"),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, line: str, complaint: str) -> None:
    sources = dict.fromkeys(
        ["cli", "errors", "progress", "data.sequence", "files.get_file", "models.trace", "models.summary"], ""
    )
    sources["models.records2"] = "from torchkutils.models.records import Trace"
    assert any(complaint in wrong for wrong in wrong_arrows({**sources, "models.records": "", module: line}))
