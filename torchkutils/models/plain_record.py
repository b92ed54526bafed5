"""Records of which one look at a model makes many thousands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, dataclass_transform


@dataclass_transform(frozen_default=True)
def record(cls: type[Any]) -> Any:
    """A record that the type checker holds frozen; being so at run time too would make its birth five times as slow."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
