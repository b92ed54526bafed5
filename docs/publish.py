"""Build the documentation into a folder of versions, which any server of plain files can show.

`python docs/publish.py ../pages --base /torchkutils/` makes `../pages/<version>/`, and writes anew beside it what
follows from the folders there: `versions.json`, which each version's switcher reads, and an `index.html` that leads to
the newest.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent


def main() -> None:
    """Read the command line, build, and list the versions."""
    import torchkutils

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="the folder that holds one folder for each version")
    parser.add_argument("--base", default="/", help="the path at which the folder is served, with slashes around it")
    parser.add_argument("--as", dest="version", default=torchkutils.__version__, help="name of this version's folder")
    arguments = parser.parse_args()
    build(arguments.folder / arguments.version, arguments.version)
    list_versions(arguments.folder, arguments.base)


def build(site: pathlib.Path, version: str) -> None:
    """Build this checkout's documentation as a version: an older one of that name goes away."""
    with tempfile.TemporaryDirectory() as folder:
        # MyST-NB leaves a folder of its own beside the pages.
        made, doctrees = pathlib.Path(folder) / "site", pathlib.Path(folder) / "doctrees"
        command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", str(doctrees)]
        subprocess.run([*command, str(HERE), str(made)], check=True, env={**os.environ, "DOCS_VERSION": version})
        shutil.rmtree(site, ignore_errors=True)
        site.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(made, site)


def list_versions(folder: pathlib.Path, base: str) -> None:
    """Write `versions.json` and `index.html` from the folders that hold a site."""
    names = sorted((path.parent.name for path in folder.glob("*/index.html")), key=_age, reverse=True)
    if not names:
        raise FileNotFoundError(f"no folder in {folder} holds an index.html")
    newest = next((name for name in names if name[0].isdigit()), names[0])
    base = f"/{base.strip('/')}/".replace("//", "/")
    listed = [{"name": name, "version": name, "url": f"{base}{name}/", "preferred": name == newest} for name in names]
    (folder / "versions.json").write_text(json.dumps(listed, indent=1) + "\n", encoding="utf-8")
    (folder / "index.html").write_text(
        f'<!DOCTYPE html>\n<meta charset="utf-8">\n<meta http-equiv="refresh" content="0; url={newest}/">\n'
        f'<title>torchkutils</title>\n<a href="{newest}/">torchkutils {newest}</a>\n',
        encoding="utf-8",
    )


def _age(name: str) -> tuple[bool, list[int], str]:
    """Numbers as numbers, so that 0.10 comes after 0.9; words such as `dev` come first in the list."""
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return (not numbers, numbers, name)


if __name__ == "__main__":
    main()
