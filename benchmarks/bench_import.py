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
    peer = {"import torch": process("import torch")}
    rows = [
        compare(
            "import torch and torchkutils, whole process",
            process("import torch, torchkutils"),
            peer,
            target={"import torch": 1.05},
            repeats=20,
        ),
        compare("every public name, whole process", process("from torchkutils import *"), peer, repeats=10),
    ]
    store("import", rows)
