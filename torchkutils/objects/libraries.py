"""Models of other libraries by name; placeholder."""

from __future__ import annotations

from typing import Any

from torch import nn


def library_node(module: nn.Module) -> tuple[str, dict[str, Any]] | None:
    return None


def build_from_library(name: str, config: dict[str, Any]) -> nn.Module:
    raise ValueError(f"unknown library in {name[:60]!r}")
