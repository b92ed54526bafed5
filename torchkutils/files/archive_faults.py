"""What the readers of archives raise, and what they hand out: one description of a member for all formats."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

PIECE = 1 << 18
"""Bytes that are read or written at a time."""


class BrokenArchive(Exception):  # noqa: N818 - becomes an ArchiveError that knows the path
    """The archive cannot be read, or holds something that no data set needs."""

    def __init__(self, words: str, member: str | None = None) -> None:
        super().__init__(words)
        self.member = member


@dataclass
class Member:
    """One entry as the archive describes it; nothing of it has been judged yet.

    `kind` is 'file', 'folder', 'symlink' or 'hardlink'; `target` belongs to links; `size` is what the header says.
    """

    name: str
    kind: str
    size: int = 0
    mode: int = 0o666
    modified: float = 0.0
    target: str = ""
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(())


@contextlib.contextmanager
def reading_faults(member: str | None = None) -> Iterator[None]:
    """Turn whatever a decompressor or a parser raises on bad bytes into BrokenArchive."""
    try:
        yield
    except BrokenArchive:
        raise
    except MemoryError as error:
        raise BrokenArchive("it asks for more memory than there is", member) from error
    except Exception as error:
        raise BrokenArchive(f"it is damaged or cut ({type(error).__name__}: {error})", member) from error
