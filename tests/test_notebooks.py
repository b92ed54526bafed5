"""The notebooks of the documentation run from top to bottom, and what they show is what is stored in them."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))

pytestmark = pytest.mark.skipif(not NOTEBOOKS, reason="the notebooks lie beside the sources, not in the wheel")


def executed(path: pathlib.Path, folder: pathlib.Path) -> Any:
    """The notebook with fresh outputs; what it writes lands in `folder`."""
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(path, as_version=4)
    for peer in ("matplotlib", "transformers"):
        if any(f"import {peer}" in cell.source or f"from {peer}" in cell.source for cell in notebook.cells):
            pytest.importorskip(peer)
    client = nbclient.NotebookClient(
        notebook,
        timeout=100,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def shown(cell: Any) -> list[Any]:
    """What a cell's outputs say, as far as it is the same on every machine: texts, and the kinds of pictures."""
    if "varies" in cell.metadata.get("tags", []):
        return [output.output_type for output in cell.outputs]
    said = []
    for output in cell.outputs:
        if output.output_type == "stream":
            # Newer versions of torch begin this message with the function's name.
            said.append((output.name, output.text.replace("addmm: mat1", "mat1")))
        elif any(kind.startswith("image/") for kind in output.data):
            said.append(sorted(output.data))
        else:
            said.append({kind: text for kind, text in output.data.items() if kind.startswith("text/")})
    return said


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_shows_what_it_shows(
    path: pathlib.Path, tmp_path: pathlib.Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # What is fitted to the terminal: the width of whoever runs the tests is not the notebook's.
    monkeypatch.setenv("COLUMNS", "100")
    # ipywidgets are not needed; tqdm says that they are missing.
    monkeypatch.setenv("PYTHONWARNINGS", "ignore:IProgress not found")
    fresh = executed(path, tmp_path)
    if request.config.getoption("--regold"):
        nbformat.write(fresh, path)
    stored = nbformat.read(path, as_version=4)

    assert [shown(cell) for cell in fresh.cells if cell.cell_type == "code"] == [
        shown(cell) for cell in stored.cells if cell.cell_type == "code"
    ]
    assert not any(
        output.output_type == "error" or (output.output_type == "stream" and output.name == "stderr")
        for cell in stored.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )


def test_another_text_is_seen() -> None:
    nbformat = pytest.importorskip("nbformat")
    one, other, picture = (nbformat.v4.new_code_cell() for _ in range(3))
    one.outputs = [nbformat.v4.new_output("stream", name="stdout", text="1")]
    other.outputs = [nbformat.v4.new_output("stream", name="stdout", text="2")]
    picture.outputs = [nbformat.v4.new_output("display_data", {"image/svg+xml": "<svg/>"})]
    assert shown(one) != shown(other)
    assert shown(picture) == [["image/svg+xml"]]
