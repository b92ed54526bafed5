"""Sphinx's settings: `make docs` builds site/ with them. What is made while building lies in hooks.py."""

from __future__ import annotations

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import torchkutils  # noqa: E402

project = "torchkutils"
author = "The torchkutils developers"
release = version = torchkutils.__version__
language = "en"

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "myst_nb",
    "hooks",
]
# What hooks.py makes is .rst, and .txt where it is Markdown, so that each .md here is one that people write.
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb", ".txt": "myst-nb"}
exclude_patterns = ["**.ipynb_checkpoints"]

# Guides and notebooks: Markdown that reads well in the repository too, so without directives.
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline"]
nb_execution_mode = "off"
nb_merge_streams = True
# Nothing is loaded from a network by the pages.
nb_ipywidgets_js = {}

# A type that has a name of ours is shown by that name.
autodoc_type_aliases = {name: name for name in ("ArrayLike", "DTypeLike", "EngineName", "Mode", "PathLike", "Shape")}
autodoc_typehints = "both"
autodoc_typehints_format = "short"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autoclass_content = "both"
python_maximum_signature_line_length = 90
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

# Links to the types of others need their inventories from the network: DOCS_ONLINE=1.
intersphinx_mapping = {
    name: (address, None)
    for name, address in {
        "python": "https://docs.python.org/3/",
        "numpy": "https://numpy.org/doc/stable/",
        "torch": "https://docs.pytorch.org/docs/stable/",
        "h5py": "https://docs.h5py.org/en/stable/",
    }.items()
    if os.environ.get("DOCS_ONLINE") == "1"
}

html_theme = "pydata_sphinx_theme"
html_title = "torchkutils"
html_static_path = ["static"]
html_css_files = ["extra.css"]
html_show_sourcelink = False
html_copy_source = False
html_sidebars = {"index": [], "gallery": [], "changes": [], "contributing": []}
html_theme_options = {
    "logo": {"text": "torchkutils"},
    "navbar_start": ["navbar-logo", "version-switcher"] if os.environ.get("DOCS_VERSION") else ["navbar-logo"],
    "navbar_persistent": ["search-button"],
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_prev_next": True,
    "show_nav_level": 1,
    "footer_start": ["copyright"],
    "footer_end": [],
    "icon_links": [
        {"name": "Source", "url": "https://github.com/torchkutils/torchkutils", "icon": "fa-brands fa-github"}
    ],
    # Written by docs/publish.py, one folder above this version's.
    "switcher": {"json_url": "../versions.json", "version_match": os.environ.get("DOCS_VERSION", release)},
    "check_switcher": False,
}
copyright = "the torchkutils developers, Apache-2.0"
