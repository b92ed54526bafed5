"""keras.utils for PyTorch.

Each name brings the module that it lives in when it is first used, so that `import torchkutils` costs no more than
`import torch`: all modules at once would add more than a tenth to it. `_public_names.py` lists them; type checkers read
them in `__init__.pyi`.
"""

from typing import Any

from torchkutils._public_names import PUBLIC_NAMES

__version__ = "0.1.0"

__all__ = list(PUBLIC_NAMES)


def __getattr__(name: str) -> Any:
    """Import the module that a public name lives in, and keep the name here."""
    if name not in PUBLIC_NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{PUBLIC_NAMES[name]}"), name)
    globals()[name] = value
    return value


def _hint(name: str) -> str:
    if name.startswith("_"):
        return ""
    import difflib

    close = difflib.get_close_matches(name, PUBLIC_NAMES, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def __dir__() -> list[str]:
    """The public names too, before they are used."""
    return sorted({*globals(), *PUBLIC_NAMES})
