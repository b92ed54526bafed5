"""For the documentation: pages that are made when it is built, from the package, the notebooks and the root's texts.

A page for each public name comes from its docstring, a page for each notebook from the outputs stored in it. Notebooks
are turned into Markdown here, because mkdocs-jupyter puts scripts from a network into each of its pages.
"""

from __future__ import annotations

import base64
import html
import inspect
import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent

REFERENCE = {
    "Numbers": [
        "to_categorical",
        "from_categorical",
        "normalize",
        "pad_sequences",
        "count_params",
        "set_random_seed",
    ],
    "Data": [
        "HDF5Matrix",
        "ChunkShuffleSampler",
        "Sequence",
        "PyDataset",
        "SequenceLoader",
        "OrderedEnqueuer",
        "GeneratorEnqueuer",
        "split_dataset",
        "timeseries_dataset_from_array",
        "image_dataset_from_directory",
        "text_dataset_from_directory",
        "audio_dataset_from_directory",
        "load_img",
        "save_img",
        "img_to_array",
        "array_to_img",
        "pack_x_y_sample_weight",
        "unpack_x_y_sample_weight",
    ],
    "Files": ["get_file", "Registry", "validate_file", "hash_file", "Progbar", "DownloadError", "ArchiveError"],
    "Looking at models": [
        "print_summary",
        "summarize",
        "ModelSummary",
        "register_flop_formula",
        "plot_model",
        "ModelPlot",
        "model_to_dot",
        "compare_models",
        "ModelComparison",
    ],
    "Saving": [
        "save_model",
        "load_model",
        "load_optimizer",
        "load_scheduler",
        "open_model_file",
        "register_library",
        "read_metadata",
        "save_weights",
        "load_weights",
    ],
    "Custom objects": [
        "CustomObjectScope",
        "custom_object_scope",
        "get_custom_objects",
        "register_keras_serializable",
        "get_registered_name",
        "get_registered_object",
        "serialize_keras_object",
        "deserialize_keras_object",
    ],
    "Several devices": ["multi_gpu_model", "ParallelModel", "is_main_process", "gather_for_metrics"],
}
"""The public names by subject, in the order of the navigation."""

RETURNED = {
    "ModelSummary": [
        "torchkutils.models.table.rows.SummaryRow",
        "torchkutils.models.table.memory.MemoryEstimate",
        "torchkutils.models.table.comparison.SummaryComparison",
        "torchkutils.models.table.comparison.Change",
    ],
    "ModelPlot": ["torchkutils.models.page.ModelPage"],
    "ModelComparison": ["torchkutils.models.comparing.differences.ModuleDifference"],
}
"""What a public name hands out that has no public name of its own, described on the same page."""

ROOT_PAGES = {"changes.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
PICTURES = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}


def on_config(config: Any) -> Any:
    """Put the pages that are made here into the navigation."""
    for entry in config.nav:
        if "Reference" in entry:
            groups = [
                {subject: [{name: f"reference/{name}.md"} for name in names]} for subject, names in REFERENCE.items()
            ]
            entry["Reference"] = ["reference/index.md", *groups]
        if "Notebooks" in entry:
            entry["Notebooks"] = [f"notebooks/{path.stem}.md" for path in notebooks()]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made here."""
    from mkdocs.structure.files import File

    made: dict[str, str | bytes] = {**reference_pages()}
    for page, source in ROOT_PAGES.items():
        made[page] = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
    for path in notebooks():
        made.update(notebook_page(path.stem, json.loads(path.read_text(encoding="utf-8"))))
    for name, content in made.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let links to notebooks and to the root's texts lead to their pages; in the repository they lead to the files."""
    if page.file.src_uri.startswith("notebooks/"):
        return markdown
    for made, source in ROOT_PAGES.items():
        markdown = markdown.replace(f"](../{source})", f"]({made})")
    return re.sub(r"\((notebooks/[\w-]+)\.ipynb\)", r"(\1.md)", markdown)


def notebooks() -> list[pathlib.Path]:
    """The notebooks of the documentation."""
    return sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def reference_pages() -> dict[str, str]:
    """A page for each public name, and one that lists them."""
    import torchkutils

    pages, lines = {}, ["# Every public name", "", "All of them are imported from `torchkutils` itself."]
    for subject, names in REFERENCE.items():
        lines += ["", f"## {subject}", "", "| Name | What it is |", "|---|---|"]
        for name in names:
            described = (inspect.getdoc(getattr(torchkutils, name)) or "").split("\n\n")[0]
            lines.append(f"| [`{name}`]({name}.md) | {' '.join(described.split())} |")
            shown = getattr(torchkutils, name)
            parts = [f"::: torchkutils.{name}\n    options:\n      heading_level: 1"]
            if shown.__name__ != name:
                # Another name of something: its own page would have no text.
                heading = f"# `{name}`\n\nThe same as [`{shown.__name__}`]({shown.__name__}.md)."
                parts = [heading, f"::: torchkutils.{shown.__name__}\n    options:\n      heading_level: 2"]
            parts += [f"::: {path}\n    options:\n      heading_level: 2" for path in RETURNED.get(name, [])]
            pages[f"reference/{name}.md"] = f"---\ntitle: {name}\n---\n\n" + "\n\n".join(parts) + "\n"
    return {"reference/index.md": "\n".join(lines) + "\n", **pages}


def notebook_page(name: str, notebook: dict[str, Any]) -> dict[str, str | bytes]:
    """A notebook as a page, and what its cells show as files beside it."""
    parts: list[str] = []
    files: dict[str, str | bytes] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            text, made = _shown(output, f"{name}-{len(files) + 1}")
            parts.append(text)
            files.update({f"notebooks/{file}": content for file, content in made.items()})
    note = f"This page is a notebook with the outputs of its last run: [{name}.ipynb]({name}.ipynb)."
    files[f"notebooks/{name}.md"] = "\n\n".join([parts[0], note, *parts[1:]]) + "\n"
    return files


def _shown(output: dict[str, Any], file: str) -> tuple[str, dict[str, str | bytes]]:
    """An output as Markdown, and the files that this needs."""
    data = {kind: "".join(text) for kind, text in output.get("data", {}).items()}
    page = re.search(r'<iframe srcdoc="([^"]*)"', data.get("text/html", ""))
    if page:
        # As a file of its own it may also be opened alone.
        name = f"{file}.html"
        frame = f'<iframe src="../{name}" title="{name}" loading="lazy"></iframe>'
        return f'<div class="notebook-output">{frame}</div>\n\n[Open by itself]({name})', {name: html.unescape(page[1])}
    if "text/html" in data:
        return f'<div class="notebook-output">{data["text/html"]}</div>', {}
    for kind, ending in PICTURES.items():
        if kind in data:
            name, text = f"{file}.{ending}", data[kind]
            content = text if ending == "svg" else base64.b64decode(text)
            return f"![Output of the cell above]({name})", {name: content}
    return f"```text\n{''.join(output.get('text') or data.get('text/plain', ''))}\n```", {}
