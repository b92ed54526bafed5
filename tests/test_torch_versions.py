"""torch's private names and its versions are known to one module; what the docs say was run is what is declared."""

from __future__ import annotations

import ast
import pathlib
import re
import tomllib

import pytest
import torch

import torchkutils
from torchkutils import _torch_versions

PACKAGE = pathlib.Path(torchkutils.__file__).parent
ROOT = PACKAGE.parent


def private_names(source: str) -> list[str]:
    """The names below torch that begin with an underscore, and imports of such; dunders are public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "torch":
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = ast.unparse(node).split(".")
        else:
            continue
        if names[0] in ("torch", "nn") or isinstance(node, ast.ImportFrom):
            # What a call gives is not torch's: `torch.empty(0).set_(self._storage)`.
            names = [name for name in names if name.isidentifier()] if "(" not in "".join(names) else []
            found += [name for name in names if name.startswith("_") and not name.startswith("__")]
    return found


def version_tests(source: str) -> list[str]:
    return re.findall(r"torch\.__version__|torch\.version\b(?!\.cuda)|TORCH_VERSION", source)


@pytest.mark.parametrize(
    "path",
    [path for path in sorted(PACKAGE.rglob("*.py")) if path.stem != "_torch_versions"],
    ids=lambda path: path.stem,
)
def test_only_one_module_knows_versions_and_private_names(path: pathlib.Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert (private_names(source), version_tests(source)) == ([], [])


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("torch._C._push_on_torch_function_stack(mode)", ["_C", "_push_on_torch_function_stack", "_C"]),
        ("from torch.nn.parallel._functions import Scatter", ["_functions"]),
        ("from torch.nn.modules.module import _has_any_global_hook", ["_has_any_global_hook"]),
        ("module._parameters, torch.nn.Module.__call__", []),
    ],
)
def test_a_private_name_is_seen(source: str, names: list[str]) -> None:
    assert sorted(private_names(source)) == sorted(names)


def test_what_torch_lacks_is_refused_with_the_version_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch_versions, "TORCH_VERSION", (2, 6))
    _torch_versions.needs_torch("2.6", "this")
    with pytest.raises(RuntimeError, match=r"fully_shard of meshes needs torch 2\.10 or newer, got torch"):
        _torch_versions.needs_torch("2.10", "fully_shard of meshes")


def test_the_installed_version_is_read_rightly() -> None:
    assert ".".join(map(str, _torch_versions.TORCH_VERSION)) == ".".join(torch.__version__.split(".")[:2])


def test_hooks_for_all_modules_are_seen() -> None:
    assert not _torch_versions.any_global_hook()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert _torch_versions.any_global_hook()
    finally:
        handle.remove()
    assert not _torch_versions.any_global_hook()


def test_version_counters_are_set_back() -> None:
    first, second = torch.zeros(1), torch.zeros(1)
    first.add_(1), second.add_(1), second.add_(1)
    _torch_versions.set_version_counters((first, second), (0, 1))
    assert (first._version, second._version) == (0, 1)


# -- what was run ------------------------------------------------------------------------------------------------------


def ran_with() -> list[dict[str, str]]:
    """The table of docs/versions.md."""
    lines = [
        line for line in (ROOT / "docs" / "versions.md").read_text(encoding="utf-8").splitlines() if line[:1] == "|"
    ]
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


@pytest.mark.skipif(not (ROOT / "docs").exists(), reason="the documentation lies beside the sources, not in the wheel")
def test_what_is_declared_was_run() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)}
    assert declared == {row["Python"] for row in ran_with()}
    floor = next(d.partition(">=")[2] for d in project["dependencies"] if d.startswith("torch>="))
    oldest = min((row["torch"] for row in ran_with()), key=lambda version: [int(n) for n in version.split(".")])
    assert oldest.startswith(f"{floor}.")
    assert f">={min(declared, key=lambda python: int(python.split('.')[1]))}" == project["requires-python"]
