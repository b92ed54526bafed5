"""What joins torchkutils to trainers, loggers and pytest: one module for each, imported by whoever uses it.

The functions that need no trainer are imported from here: `log_summary`, `log_picture`, `write_report` and
`assert_summary_matches`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchkutils.integrations.golden import assert_summary_matches as assert_summary_matches
    from torchkutils.integrations.model_report import log_picture as log_picture
    from torchkutils.integrations.model_report import log_summary as log_summary
    from torchkutils.integrations.model_report import write_report as write_report

__all__ = ["assert_summary_matches", "log_picture", "log_summary", "write_report"]


def __getattr__(name: str) -> Any:
    """Import a function when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    module = "golden" if name == "assert_summary_matches" else "model_report"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
