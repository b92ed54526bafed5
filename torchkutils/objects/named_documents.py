"""One state, or several under names, in one document of a model file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchkutils.objects.stored_file import ModelFile

__all__ = ["chosen_document", "named_documents"]


def named_documents(kind: str, documents: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a kind: the only one as it is (its name is ""), several under "named"."""
    if not documents:
        return {}
    return {kind: documents[""] if set(documents) == {""} else {"named": dict(documents)}}


def chosen_document(file: ModelFile, kind: str, name: str | None) -> dict[str, Any]:
    """The document that a caller means.

    Raises:
        ValueError: The file holds none, or none of that name, or several and no name was given.
    """
    document = file.document(kind)
    if not isinstance(document, dict):
        raise ValueError(f"it holds no {kind}; give save_model its {kind} argument")
    named = document.get("named")
    if not isinstance(named, dict):
        if name:
            raise ValueError(f"it holds one {kind} without a name, got name={name!r}")
        return document
    if name is None and len(named) > 1:
        raise ValueError(f"it holds several: name must be one of {sorted(named)[:20]}")
    chosen = named.get(next(iter(named), "") if name is None else name)
    if not isinstance(chosen, dict):
        raise ValueError(f"it holds no {kind} {name!r}; name must be one of {sorted(named)[:20]}")
    return chosen
