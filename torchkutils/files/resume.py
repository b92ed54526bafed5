"""What a failed download leaves for the next call: its bytes, and the tag of the version that they belong to.

Beside the part file lies a note (JSON) of the address (as a digest), the entity tag and the expected length. It is
written when a body with a strong tag begins. The next call takes the part over

- when the note says how many bytes the failed call left, or
- when the process that wrote the part was killed (`was_killed_here`).

It is taken over by a rename to a name of its own: of two processes on a disk without locks, one gets it.
"""

# Paths stay text here, as everywhere about the cache.
# ruff: noqa: PTH104, PTH105, PTH108, PTH118
from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from collections.abc import Collection
from dataclasses import asdict, dataclass

from torchkutils.files.sidecar_files import SidecarFiles, remove_whatever, was_killed_here

_LARGEST_NOTE = 1 << 14
_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)


@dataclass
class Note:
    """What is known of a part file.

    Attributes:
        part: The name of the part file, in the same folder.
        source: `address_key` of the address that it came from.
        etag: The strong entity tag of the version.
        total: The bytes of the whole, None while unknown.
        received: The bytes that a failed call left; None while one is writing.
    """

    part: str
    source: str
    etag: str
    total: int | None
    received: int | None


def write_note(sidecars: SidecarFiles, note: Note) -> None:
    """Put the note in place, whole or not at all; a disk that refuses it only costs the resume."""
    path = sidecars.new_part()
    with contextlib.suppress(OSError):
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump(asdict(note), file)
            os.replace(path, sidecars.resume)
        finally:
            remove_whatever(path)


def read_note(sidecars: SidecarFiles) -> Note | None:
    """The note, if every field of it is what it must be and it is this user's own; None otherwise."""
    try:
        handle = os.open(sidecars.resume, os.O_RDONLY | _FLAGS)
        with open(handle, "rb") as file:
            if not _is_own_file(os.fstat(file.fileno())):
                return None
            values = json.loads(file.read(_LARGEST_NOTE))
        note = Note(**values)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return note if _is_sound(note, sidecars) else None


def _is_sound(note: Note, sidecars: SidecarFiles) -> bool:
    texts = (note.part, note.source, note.etag)
    sizes = (note.total, note.received)
    if not all(isinstance(text, str) for text in texts):
        return False
    if not all(size is None or (type(size) is int and size >= 0) for size in sizes):
        return False
    its_own = os.path.join(sidecars.folder, note.part) in sidecars.leftovers() and note.part.endswith(".part")
    return its_own and re.fullmatch(r'"[^"\x00-\x1f]+"', note.etag) is not None


def kept_part(sidecars: SidecarFiles) -> str | None:
    """The name of the part file that the next call may go on with; None where there is none."""
    note = read_note(sidecars)
    return None if note is None else note.part


def take_over(sidecars: SidecarFiles, path: str, sources: Collection[str]) -> Note | None:
    """Move what an earlier call left to `path`; None, and nothing at `path`, where nothing can be gone on with.

    Args:
        sidecars: The hidden files of the download.
        path: A name of its own for the part.
        sources: `address_key` of each address that is asked now.
    """
    note = read_note(sidecars)
    if note is None:
        return None
    with contextlib.suppress(OSError):
        os.unlink(sidecars.resume)
    part = os.path.join(sidecars.folder, note.part)
    if note.source not in sources or (note.received is None and not was_killed_here(part)):
        return None
    try:
        os.rename(part, path)
        status = os.lstat(path)
    except OSError:
        return None
    if not _is_own_file(status) or note.received not in {None, status.st_size} or not status.st_size:
        remove_whatever(path)
        return None
    note.received = status.st_size
    return note


def _is_own_file(status: os.stat_result) -> bool:
    own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and own
