"""Does `import torchkutils` cost more than `import torch`? Whole processes, alternated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks._harness import compare, store


def process(statement: str) -> Callable[[], object]:
    """A call that runs the statement in a fresh interpreter and waits for its end."""
    return lambda: subprocess.run([sys.executable, "-c", statement], check=True)


if __name__ == "__main__":
    row = compare(
        "import torchkutils, whole process",
        process("import torchkutils"),
        {"import torch": process("import torch")},
        target={"import torch": 1.05},
        repeats=20,
    )
    store("import", [row])
