"""Libraries that most users of one name never need: imported on first use.

`import torchkutils` must cost about what `import torch` costs, so a module that needs one of these writes
`from torchkutils import _lazy` and, inside a function, `_lazy.h5py.File(...)`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import fsspec as fsspec
    import graphviz as graphviz
    import h5py as h5py
    import IPython as IPython
    import pandas as pandas
    import py7zr as py7zr
    import pygraphviz as pygraphviz
    import torchview as torchview
else:
    _NAMES = frozenset({"IPython", "fsspec", "graphviz", "h5py", "pandas", "py7zr", "pygraphviz", "torchview"})

    def __getattr__(name: str) -> Any:
        """Import the library of that name and keep it as an attribute of this module."""
        if name not in _NAMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        module = importlib.import_module(name)
        globals()[name] = module
        return module


def optional(name: str, extra: str) -> Any:
    """A library that comes with an extra of this package.

    Raises:
        ImportError: It is missing; the message says how to install it.
    """
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        library = name.partition(".")[0]
        raise ImportError(f"this needs {library}, which is missing: pip install 'torchkutils[{extra}]'") from error
