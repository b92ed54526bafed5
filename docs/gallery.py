"""Draw the pictures of gallery.md: its blocks are run in docs/images/gallery, where they write their files."""

from __future__ import annotations

import os
import pathlib
import re
import runpy
import sys
import tempfile

HERE = pathlib.Path(__file__).parent


def draw(folder: pathlib.Path) -> None:
    """Run the blocks of the page in `folder`."""
    text = (HERE / "gallery.md").read_text(encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as beside:
        program = pathlib.Path(beside) / "gallery_page.py"
        program.write_text("\n".join(re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)), encoding="utf-8")
        before = pathlib.Path.cwd()
        os.chdir(folder)
        try:
            runpy.run_path(str(program))
        finally:
            os.chdir(before)


if __name__ == "__main__":
    draw(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "images" / "gallery")
