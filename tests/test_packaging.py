"""What the distribution says of itself is true, and nothing is missing from it."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import pathlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import torchkutils

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "torchkutils"

beside_the_sources = pytest.mark.skipif(not PACKAGE.exists(), reason="the sources are not beside the wheel's tests")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def claimed() -> dict[str, Requirement]:
    """The run-time dependencies and those of the extra `http`, by name."""
    stated = [*project()["dependencies"], *project()["optional-dependencies"]["http"]]
    return {requirement.name: requirement for requirement in map(Requirement, stated)}


def pinned(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package: Version(version) for package, version in pairs}


@beside_the_sources
def test_the_lowest_constraints_are_the_floors() -> None:
    floors = {
        name: Version(next(iter(requirement.specifier)).version)
        for name, requirement in claimed().items()
        if name != "torch"  # chosen by make's TORCH, the same everywhere
    }
    assert pinned("constraints-lowest.txt") == floors


@beside_the_sources
def test_the_constraints_are_within_what_is_claimed() -> None:
    versions = pinned("constraints.txt")
    assert [name for name, one in claimed().items() if name != "torch" and versions[name] not in one.specifier] == []


def test_type_checkers_find_the_marker() -> None:
    assert importlib.resources.files("torchkutils").joinpath("py.typed").is_file()


def test_the_metadata_is_that_of_the_project() -> None:
    metadata = importlib.metadata.metadata("torchkutils")
    assert metadata["Version"] == torchkutils.__version__
    assert metadata["License-Expression"].split(" AND ")[0] == "Apache-2.0"
    assert Version(".".join(map(str, sys.version_info[:2]))) in Requirement(f"x{metadata['Requires-Python']}").specifier
    assert metadata.get_payload().startswith("# torchkutils")
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="torchkutils")
    assert callable(script.load())


@beside_the_sources
def test_the_classifiers_exist() -> None:
    trove = pytest.importorskip("trove_classifiers")
    assert [one for one in project()["classifiers"] if one not in trove.classifiers] == []


@beside_the_sources
def test_the_classifiers_name_the_pythons_that_are_tested() -> None:
    claimed_pythons = {one.rpartition(" ")[2] for one in project()["classifiers"] if ":: 3." in one}
    workflow = (ROOT / ".github" / "workflows" / "check.yml").read_text(encoding="utf-8")
    assert claimed_pythons == set(re.findall(r'"(3\.\d+)"', workflow.split("python: [")[1].split("]")[0]))
    assert project()["requires-python"] == f">={min(claimed_pythons, key=Version)}"


@beside_the_sources
def test_extras_are_for_users_and_groups_for_developers() -> None:
    extras = project()["optional-dependencies"]
    assert set(extras) == {"http", "archives", "filters", "images", "audio", "completion", "all"}
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all"}
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    assert {"test", "docs", "bench", "browser", "dev"} <= set(groups)
    named = [Requirement(one) for group in groups.values() for one in group if isinstance(one, str)]
    named += [Requirement(one) for extra in extras.values() for one in extra]
    pins = {re.sub(r"[-_.]+", "-", name).lower() for name in pinned("constraints.txt")}
    names = {re.sub(r"[-_.]+", "-", one.name).lower() for one in named} - {"torch", "torchkutils"}
    assert sorted(names - pins) == [], "constraints.txt pins what everyone develops with"


@beside_the_sources
def test_the_index_shows_the_readme() -> None:
    markdown = pytest.importorskip("readme_renderer.markdown")
    shown = markdown.render((ROOT / "README.md").read_text(encoding="utf-8"))
    if shown is None:
        pytest.skip("readme-renderer came without its extra `md`")
    targets = re.findall(r'(?:src|href)="([^"]+)"', shown)
    assert len(targets) > 20
    relative = [target for target in targets if not target.startswith(("https://", "#"))]
    assert relative == [], "the index knows no folders"
    ours = re.compile(
        r"https://(?:raw\.githubusercontent\.com|github\.com)/torchkutils/torchkutils/(?:blob/)?main/([^#]+)"
    )
    files = {found[1] for target in targets if (found := ours.match(target))}
    assert len(files) > 15
    assert sorted(name for name in files if not (ROOT / name).exists()) == []


@beside_the_sources
def test_the_citation_names_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == torchkutils.__version__
    assert project()["license"].startswith(citation["license"])
    assert citation["repository-code"] == project()["urls"]["Source"]


@beside_the_sources
def test_wheel_and_sdist_hold_what_they_should(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "--directory", str(tmp_path)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr

    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    inside = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    inside = {name for name in inside if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
        licence = file.read("torchkutils/models/page_assets/dagre/LICENSE").decode()
    assert names == inside
    assert "Permission is hereby granted, free of charge" in licence

    with tarfile.open(sdist) as archive:
        source = {name.split("/", 1)[1] for name in archive.getnames()}
    wanted = {"LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "CITATION.cff"}
    assert inside | wanted | {"Makefile", "pyproject.toml", "constraints.txt", "constraints-lowest.txt"} <= source
    assert {"tests/conftest.py", "docs/index.md", "docs/conf.py", "examples/train_digits.py"} <= source
    assert not [name for name in source if name.startswith("docs/reference/") or "__pycache__" in name]

    with zipfile.ZipFile(wheel) as file:
        licences = {name.split("/licenses/")[1] for name in file.namelist() if "/licenses/" in name}
    shipped = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if "LICENSE" in path.name.upper()}
    assert licences == {"LICENSE"} | shipped
