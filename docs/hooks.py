"""For the documentation: pages that are made when it is built, from the package and from the root's texts.

A page for each public name comes from its docstring, the navigation from what lies in docs/. What is made is written
beside the guides, as Sphinx wants it, and ignored by git.
"""

from __future__ import annotations

import inspect
import pathlib
import re
from typing import TYPE_CHECKING, Any

import docstrings

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = pathlib.Path(__file__).parent
ROOT = DOCS.parent

SECTIONS = {
    "guides": (
        "Guides",
        [
            "moving-from-keras",
            "moving-from-keras.zh",
            "training-from-hdf5",
            "safe-downloads",
            "summary",
            "pictures",
            "page",
            "saving",
            "several-devices",
            "strategies",
            "many-machines",
            "cost-model",
            "trainers",
            "command-line",
            "troubleshooting",
        ],
    ),
    "project": (
        "Project",
        ["versions", "parity", "benchmarks", "architecture", "file-format", "contributing", "security", "changes"],
    ),
}
"""Pages by section, in the order of the navigation; a page that no section names stands at the end of the guides."""

OTHERS = ["index", "gallery"]
"""Pages that stand in the navigation by themselves."""

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

SHOWN = {
    "plot_model": ("bert-layer.svg", "A layer of BERT, drawn by plot_model with expand_nested=True"),
    "model_to_dot": ("residual-blocks.svg", "Two residual blocks"),
    "ModelPlot": ("unet.svg", "A U-Net"),
}
"""Pictures of the gallery that stand on a name's own page."""

INTEGRATIONS = [
    "torchkutils.integrations.assert_summary_matches",
    "torchkutils.integrations.log_summary",
    "torchkutils.integrations.log_picture",
    "torchkutils.integrations.write_report",
]
"""What `torchkutils.integrations` offers without a trainer being installed."""

ROOT_PAGES = {"changes": "CHANGELOG.md", "contributing": "CONTRIBUTING.md", "security": "SECURITY.md"}


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_pages)
    app.connect("source-read", _read_source)
    app.connect("autodoc-process-docstring", _read_docstring)
    # After autodoc has stored the types for the list of parameters.
    app.connect("autodoc-process-signature", _name_aliases, priority=900)
    app.connect("doctree-read", _mark_pictures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def made_pages() -> dict[str, str]:
    """Every page that is made here, by its path in docs/."""
    pages = reference_pages()
    for section, (title, _) in SECTIONS.items():
        pages[f"{section}.rst"] = _section_page(title, section_pages()[section])
    pages["notebooks.rst"] = _section_page("Notebooks", [f"notebooks/{path.stem}" for path in notebooks()])
    for page, source in ROOT_PAGES.items():
        pages[f"{page}.txt"] = as_page((ROOT / source).read_text(encoding="utf-8"))
    return pages


def as_page(text: str) -> str:
    """A text of the root as one of docs/: its links lead on from there."""
    for page, source in ROOT_PAGES.items():
        text = text.replace(f"]({source})", f"](project:{page}.txt)")
    return text.replace("](docs/", "](")


def section_pages() -> dict[str, list[str]]:
    """The pages that are there, by section."""
    there = {path.stem for path in DOCS.glob("*.md")} | set(ROOT_PAGES)
    named = {section: [page for page in pages if page in there] for section, (_, pages) in SECTIONS.items()}
    left = there - {page for pages in named.values() for page in pages} - set(OTHERS)
    named["guides"] += sorted(left)
    return named


def notebooks() -> list[pathlib.Path]:
    """The notebooks of the documentation."""
    return sorted((DOCS / "notebooks").glob("*.ipynb"))


def reference_pages() -> dict[str, str]:
    """A page for each public name, and one that lists them."""
    import torchkutils

    pages = {}
    lines = [_title("Reference"), "All of these are imported from ``torchkutils`` itself."]
    for subject, names in REFERENCE.items():
        rows = []
        for name in names:
            described = (inspect.getdoc(getattr(torchkutils, name)) or "").split("\n\n")[0]
            text = docstrings.as_rst(described, lambda _: None, lambda _: None).strip().replace("\n", " ")
            rows.append(f"   * - :doc:`{name} <{name}>`\n     - {text}")
            pages[f"reference/{name}.rst"] = _reference_page(name, getattr(torchkutils, name))
        listed = "\n".join(f"   {name}" for name in names)
        table = ".. list-table::\n   :widths: 35 65\n   :class: names\n\n" + "\n".join(rows)
        lines += [_title(subject, "-"), table, f".. toctree::\n   :hidden:\n   :caption: {subject}\n\n{listed}"]
    parts = [
        _title("Integrations"),
        "Imported from ``torchkutils.integrations``; :doc:`trainers </trainers>` shows them.",
    ]
    pages["reference/integrations.rst"] = "\n\n".join(parts + [f".. autofunction:: {path}" for path in INTEGRATIONS])
    lines += [_title("Integrations", "-"), ".. toctree::\n   :caption: Integrations\n\n   integrations"]
    return {"reference/index.rst": "\n\n".join(lines) + "\n", **pages}


def _reference_page(name: str, shown: Any) -> str:
    parts = [_title(name), _directive(f"torchkutils.{name}", shown)]
    if inspect.isclass(shown) and shown.__name__ != name:
        # Another name of a class: Sphinx says no more than that.
        parts.append(f"{_directive(f'torchkutils.{shown.__name__}', shown)}\n   :no-index:")
    if name in SHOWN:
        picture, says = SHOWN[name]
        parts.append(f".. image:: ../images/gallery/{picture}\n   :alt: {says}\n\nFrom the :doc:`gallery </gallery>`.")
    for path in RETURNED.get(name, []):
        parts += [_title(path.rpartition(".")[2], "-"), f".. autoclass:: {path}\n   :members:"]
    return "\n\n".join(parts) + "\n"


def _directive(path: str, shown: Any) -> str:
    return f".. autoclass:: {path}\n   :members:" if inspect.isclass(shown) else f".. autofunction:: {path}"


def _section_page(title: str, pages: list[str]) -> str:
    listed = "\n".join(f"   {page}" for page in pages)
    return f"{_title(title)}\n\n.. toctree::\n   :maxdepth: 1\n\n{listed}\n"


def _title(text: str, line: str = "=") -> str:
    return f"{text}\n{line * len(text)}"


def _write_pages(app: Sphinx) -> None:
    pages = made_pages()
    for path in (DOCS / "reference").glob("*"):
        if f"reference/{path.name}" not in pages:
            path.unlink()
    for name, text in pages.items():
        path = DOCS / name
        path.parent.mkdir(exist_ok=True)
        # What is as it was keeps its time, so that Sphinx reads it once.
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Let links to the root's texts lead to their pages; the home page begins the navigation."""
    for made, text in ROOT_PAGES.items():
        source[0] = source[0].replace(f"](../{text})", f"](project:{made}.txt)")
    source[0] = re.sub(r"\]\(reference/(\w+)\.(?:md|rst)\)", r"](project:reference/\1.rst)", source[0])
    if name == "index":
        listed = "\n".join(["guides", "gallery", "notebooks", "reference/index", "project"])
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n\n{listed}\n```\n"


def _read_docstring(app: Sphinx, what: str, name: str, shown: Any, options: Any, lines: list[str]) -> None:
    import torchkutils

    def link_to(text: str) -> str | None:
        own = name == f"torchkutils.{text}"
        return f":py:obj:`{text} <torchkutils.{text}>`" if text in torchkutils.__all__ and not own else None

    try:
        default_of = docstrings.defaults(inspect.signature(shown))
    except (TypeError, ValueError):
        default_of = docstrings.defaults(inspect.Signature())
    lines[:] = docstrings.as_rst("\n".join(lines), default_of, link_to).splitlines()


def _name_aliases(
    app: Sphinx, what: str, name: str, shown: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Show the aliases of `autodoc_type_aliases` by their names alone."""

    def plain(text: str) -> str:
        return re.sub(r"TypeAliasForwardRef\('([^']*)'\)", r"\1", text)

    stored = app.env.current_document.autodoc_annotations.get(name, {})
    for parameter, annotation in stored.items():
        stored[parameter] = plain(annotation)
    return signature and plain(signature), returned and plain(returned)


def _mark_pictures(app: Sphinx, tree: Any) -> None:
    """Pictures that have colours for light and for dark need no white ground."""
    from docutils import nodes

    for image in tree.findall(nodes.image):
        if "images/benchmarks/" in image["uri"]:
            image["classes"].append("dark-light")
        elif image["uri"].endswith((".svg", "digits-model.png")):
            # Black on white: the style sheet turns them round.
            image["classes"] += ["dark-light", "drawing"]
