"""Does `import torchkutils` cost more than `import torch`? CPU seconds of whole processes, alternated."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from benchmarks._harness import compare, process_tree_time, store


def process(statement: str) -> Callable[[], object]:
    """A call that runs the statement in a fresh interpreter and waits for its end."""
    return lambda: subprocess.run([sys.executable, "-c", statement], check=True)


def main() -> None:
    floor = {"import torch": process("import torch")}
    rows = [
        compare(
            "import torch and torchkutils, whole process",
            process("import torch, torchkutils"),
            floor=floor,
            target={"import torch": 1.05},
            repeats=8,
            warmup=1,
            clock=process_tree_time,
        ),
        compare(
            "every public name, whole process",
            process("from torchkutils import *"),
            floor=floor,
            repeats=4,
            warmup=1,
            clock=process_tree_time,
            note="A name's module is imported when the name is first used; this is the price of all of them at once.",
        ),
    ]
    store("import", rows)


if __name__ == "__main__":
    main()
