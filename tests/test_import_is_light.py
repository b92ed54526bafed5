"""`import torchkutils` brings none of the libraries that only some names need."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ["IPython", "fsspec", "graphviz", "h5py", "pygraphviz", "torchview"]


def heavy_modules_after(statement: str) -> list[str]:
    """Run the statement in a fresh process; name the heavy libraries that it, not torch, imported."""
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        f"print(*[name for name in {HEAVY} if name in sys.modules and name not in before])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=100)
    return done.stdout.split()


@pytest.mark.parametrize("statement", ["import torchkutils", "from torchkutils import *"])
def test_importing_the_package_imports_no_heavy_library(statement: str) -> None:
    assert heavy_modules_after(statement) == []


@pytest.mark.parametrize("name", ["h5py", "graphviz"])
def test_the_check_sees_a_heavy_library(name: str) -> None:
    assert heavy_modules_after(f"import torchkutils; from torchkutils import _lazy; _lazy.{name}") == [name]
