"""The arrows of the house: modules import what lies below them, folders do not import each other."""

from __future__ import annotations

import ast
import graphlib
import pathlib

import pytest

import torchkutils

PACKAGE = pathlib.Path(torchkutils.__file__).parent
BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
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
    "_random_state",
    "_keras_names",
    "_call_hints",
    "_caller_warnings",
    "_printable",
    "_progress_drawings",
}
TOP = {"__init__", "__main__", "cli", "cli_factories", "cli_files", "cli_models", "cli_usage", "integrations"}

# Inside models: a room imports its own modules and rooms further down; so do the doors, among themselves in this order.
# `records` and `forward.raised_errors` are what everyone speaks: they import nothing of the house.
MODEL_DOORS = ["plot", "compare", "page", "dot", "summary"]
MODEL_ROOMS = [
    "comparing",
    "page_tree",
    "table",
    "picture",
    "trace",
    "forward",
    "without_running",
    "restore",
    "tree",
    "records",
]
MODEL_BESIDE = {"render", "graphviz_process", "forward.raised_errors"}


def package_sources(folder: pathlib.Path = PACKAGE) -> dict[str, str]:
    """Each module's source under its dotted name inside the package: `models.trace`."""
    sources = {}
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def imports_of(module: str, source: str, modules: set[str], root: str = "torchkutils") -> set[str]:
    """The modules of the package that a source imports; those under TYPE_CHECKING count too.

    A folder that is imported from is its `__init__`, but for the package's own, which imports nothing by itself.
    """
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = [root, *module.split(".")][: -node.level]
                base = ".".join([*package, *([base] if base else [])])
            names = [base, *[f"{base}.{alias.name}" for alias in node.names]]
        else:
            continue
        inside = [name.removeprefix(f"{root}.") for name in names if name.startswith(f"{root}.")]
        found.update(modules.intersection([*inside, *[f"{name}.__init__" for name in inside]]))
    return found - {module}


def floor_in_models(module: str) -> int | None:
    """How deep a module of models lies, 0 for the topmost; None for what may lie anywhere."""
    inside = module.removeprefix("models.")
    if inside in MODEL_BESIDE or inside == "__init__":
        return None
    room = inside.split(".")[0]
    if room in MODEL_DOORS:
        return MODEL_DOORS.index(room)
    # A room that is not listed is an error of this test: a new one needs its place.
    return len(MODEL_DOORS) + MODEL_ROOMS.index(room)


def climbs_in_models(module: str, target: str) -> bool:
    """Whether an import inside models goes to a higher floor, or past the doors to another one of the same floor."""
    if not (module.startswith("models.") and target.startswith("models.")):
        return False
    here, there = floor_in_models(module), floor_in_models(target)
    if there is None:
        return False
    # What may be imported from anywhere imports nothing that lies on a floor.
    return here is None or there < here


def circles_in(arrows: dict[str, set[str]]) -> list[str]:
    """A circle among the imports, in words; none is an empty list."""
    try:
        graphlib.TopologicalSorter(arrows).prepare()
    except graphlib.CycleError as error:
        return [f"a circle: {error.args[1]}"]
    return []


def unlisted_in(sources: dict[str, str]) -> list[str]:
    """Folders and modules at the top of the package that this test knows nothing of."""
    known = {*FOLDERS, *SHARED, *TOP, "_public_names"}
    return sorted({module.split(".")[0] for module in sources} - known)


def wrong_arrows(sources: dict[str, str]) -> list[str]:
    """Every import that does not point down, in words."""
    modules = set(sources)
    arrows = {module: imports_of(module, source, modules) for module, source in sources.items()}
    wrong = []
    for module, targets in arrows.items():
        room = module.split(".")[0]
        for target in targets:
            target_room = target.split(".")[0]
            crosses = room in FOLDERS and target_room in FOLDERS and room != target_room
            climbs = (room in SHARED and target_room in FOLDERS) or (target_room in TOP and room not in TOP)
            if crosses or climbs or climbs_in_models(module, target):
                wrong.append(f"{module} imports {target}")
    return wrong + circles_in(arrows)


def test_the_package_s_imports_point_down() -> None:
    assert unlisted_in(package_sources()) == []
    assert wrong_arrows(package_sources()) == []


def test_an_unlisted_module_is_seen() -> None:
    assert unlisted_in({"data.sequence": "", "_helpers": "", "extras.more": ""}) == ["_helpers", "extras"]


@pytest.mark.parametrize(
    ("root", "sources"),
    [
        (
            "torchkutils",
            {"objects.a": "from torchkutils.objects import b", "objects.b": "import torchkutils.objects.a"},
        ),
        (
            "torchkutils",
            {
                "objects.a": "if TYPE_CHECKING:\n    from torchkutils.objects.b import B",
                "objects.b": "def f():\n    from torchkutils.objects.a import A",
            },
        ),
        (
            "torchkutils",
            {"data.__init__": "from torchkutils.data import a", "data.a": "from torchkutils.data import B"},
        ),
        ("benchmarks", {"a": "from benchmarks import b", "b": "from benchmarks.c import d", "c": "from . import a"}),
    ],
)
def test_a_circle_is_seen(root: str, sources: dict[str, str]) -> None:
    arrows = {module: imports_of(module, source, set(sources), root) for module, source in sources.items()}
    assert circles_in(arrows)
    for module in sources:
        assert not circles_in(arrows | {module: set()})


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="the benchmarks lie beside the sources, not in the wheel")
def test_the_benchmarks_import_each_other_in_no_circle() -> None:
    sources = package_sources(BENCHMARKS)
    arrows = {module: imports_of(module, source, set(sources), "benchmarks") for module, source in sources.items()}
    assert circles_in(arrows) == []


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("data.sequence", "from torchkutils.files.get_file import get_file", "data.sequence imports files.get_file"),
        ("progress", "import torchkutils.data.sequence", "progress imports data.sequence"),
        ("models.trace", "def f():\n    from .summary import summarize", "models.trace imports models.summary"),
        ("errors", "from torchkutils import errors, cli", "errors imports cli"),
        ("models.render", "from torchkutils.models import graphviz_process", "a circle"),
        (
            "models.tree.module_tree",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torchkutils.models.trace",
            "models.tree.module_tree imports models.trace",
        ),
        (
            "models.restore.restored",
            "from torchkutils.models.forward.recorder import Recorder",
            "models.restore.restored imports models.forward.recorder",
        ),
    ],
)
def test_a_wrong_arrow_is_seen(module: str, line: str, complaint: str) -> None:
    sources = dict.fromkeys(
        [
            *("cli", "errors", "progress", "data.sequence", "files.get_file", "models.trace", "models.summary"),
            "models.forward.recorder",
        ],
        "",
    )
    sources["models.graphviz_process"] = "from torchkutils.models.render import render"
    assert any(complaint in wrong for wrong in wrong_arrows({**sources, "models.render": "", module: line}))
