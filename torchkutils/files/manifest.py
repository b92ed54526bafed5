"""The list of extracted members: what is ours, and what an interrupted extraction had decided.

Somebody else may have written the file. So each field is checked before anything is done by it, and a manifest that
does not hold in one field counts as none: then the archive is unpacked anew.
"""

# ruff: noqa: PTH116
from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any

from torchkutils.files.folder_handle import WRITE, FolderHandle
from torchkutils.files.member_names import Choice, are_safe
from torchkutils.files.sidecar_files import MARK, SidecarFiles

VERSION = 2
MAX_DEPTH = 100
"""Most folders inside each other."""
MAX_MANIFEST_BYTES = 1 << 30
_KINDS = {"file", "folder", "symlink"}
_TYPES = [str, str, int, int]
_FORMS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "symlink"}
_NEVER = -1

Entry = tuple[str, str, int, int]
"""Path, kind, size and a time in nanoseconds."""


@dataclass
class Manifest:
    """What was extracted from one state of an archive.

    Attributes:
        archive: Size, time and change time of the archive's file in nanoseconds.
        kind: 'tar', 'zip', 'gz' …
        members: Each member with its change time as it was written. In a journal (`staging` is set): with the time
            of change that it has in the staging folder, and that a rename does not change.
        chosen: The patterns that the caller named; none: all members.
        links: Whether links were wanted.
        encoding: The encoding of names that the caller gave, or ''.
        complete: Whether all of them arrived; False after an interrupted extraction that somebody has interfered with.
        removed: The hash that the archive had to have ('' for none), where the archive was removed; else None.
        staging: Name of the staging folder of an extraction that has been decided and not finished; '' when it is.
        replaces: Files that the unfinished extraction may replace.
        stale: Members of an earlier state that the unfinished extraction removes, as they were then.
        kept: Members that an earlier call chose out of the same archive, and that stay as they are.
    """

    archive: list[int]
    kind: str
    members: list[Entry]
    chosen: list[str] = field(default_factory=list)
    links: bool = True
    encoding: str = ""
    complete: bool = True
    removed: str | None = None
    staging: str = ""
    replaces: list[str] = field(default_factory=list)
    stale: list[Entry] = field(default_factory=list)
    kept: list[Entry] = field(default_factory=list)
    version: int = VERSION

    def names(self) -> set[str]:
        """The paths of all members."""
        return {member[0] for member in self.members}

    def choice(self) -> Choice:
        """Which members were wanted."""
        return Choice(self.chosen)


_FIELDS = {one.name for one in fields(Manifest)}


def read_manifest(folder: FolderHandle, sidecars: SidecarFiles) -> Manifest | None:
    """The download's manifest, or None where there is none that holds."""
    manifest = _read(folder, sidecars.manifest)
    if manifest is None or (manifest.staging and not sidecars.is_staging(manifest.staging)):
        return None
    return manifest


def _read(folder: FolderHandle, name: str) -> Manifest | None:
    try:
        with open(folder.open(name), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_MANIFEST_BYTES:
                return None
            return _checked(json.loads(file.read()))
    except (OSError, ValueError, RecursionError, MemoryError):
        return None


def _checked(read: Any) -> Manifest | None:
    """What was read as a manifest; None where one of its fields is not what it must be."""
    if not isinstance(read, dict) or set(read) != _FIELDS or not _has_right_types(read):
        return None
    entries = {name: _entries(read[name]) for name in ("members", "stale", "kept")}
    if None in entries.values():
        return None
    manifest = Manifest(**{**read, **entries})
    return manifest if _names_each_once(manifest) else None


def _has_right_types(read: dict[str, Any]) -> bool:
    """Whether the fields without members hold what a manifest of this version has there."""
    if read["version"] != VERSION or not _are(read["archive"], int) or len(read["archive"]) != 3:
        return False
    texts = [read["kind"], read["encoding"], read["staging"]]
    if read["removed"] is not None:
        texts.append(read["removed"])
    lists = [read["chosen"], read["replaces"]]
    return _are(texts, str) and _are([read["links"], read["complete"]], bool) and all(_are(one, str) for one in lists)


def _names_each_once(manifest: Manifest) -> bool:
    """Whether no name is in it twice, and only members replace something."""
    names = manifest.names()
    others = {entry[0] for entry in manifest.stale + manifest.kept}
    if len(names) != len(manifest.members) or len(others) != len(manifest.stale) + len(manifest.kept):
        return False
    return names.isdisjoint(others) and names.issuperset(manifest.replaces)


def _are(values: Any, kind: type) -> bool:
    return type(values) is list and all(type(value) is kind for value in values)


def _entries(rows: Any) -> list[Entry] | None:
    """The rows as members; None when one of them is none, or its name leaves the folder."""
    if type(rows) is not list:
        return None
    for row in rows:
        if type(row) is not list or [type(value) for value in row] != _TYPES or row[1] not in _KINDS:
            return None
    return [tuple(row) for row in rows] if are_safe([row[0] for row in rows], MAX_DEPTH) else None


def write_manifest(folder: FolderHandle, sidecars: SidecarFiles, manifest: Manifest) -> None:
    """Put the manifest in place, whole and synced."""
    part = sidecars.new_manifest_part()
    try:
        with open(folder.open(part, WRITE), "w", encoding="ascii") as file:
            file.write(json.dumps(vars(manifest), separators=(",", ":")))
            file.flush()
            os.fsync(file.fileno())
        folder.rename(part, folder, sidecars.manifest)
    finally:
        with contextlib.suppress(FileNotFoundError):
            folder.remove(part)
    sync_handle(folder)


def sync_handle(folder: FolderHandle) -> None:
    """Make renames in that folder last through a power cut, where the system lets a folder be synced."""
    descriptor = folder.descriptor()
    if descriptor is not None:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)


def stamp_of_archive(path: str) -> list[int]:
    """What changes when the archive's file changes."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def entry_as_written(folder: FolderHandle, name: str, kind: str) -> Entry:
    """A member with its size and change time as they are on disk now; folders have neither."""
    status = folder.status(name)
    if kind == "folder" or status is None:
        return name, kind, 0, 0 if kind == "folder" else _NEVER
    return name, kind, status.st_size, status.st_ctime_ns


def entry_as_staged(folder: FolderHandle, name: str, kind: str) -> Entry:
    """A member with what stays the same when it is renamed."""
    status = folder.status(name)
    if kind == "folder" or status is None:
        return name, kind, 0, 0 if kind == "folder" else _NEVER
    return name, kind, status.st_size, status.st_mtime_ns


def never_intact(name: str, kind: str) -> Entry:
    """A member that is ours but must be written again."""
    return name, kind, 0, _NEVER


def kind_of(status: os.stat_result | None) -> str | None:
    """'file', 'folder' or 'symlink'; None for nothing, and 'other' for what no archive may hold."""
    if status is None:
        return None
    return _FORMS.get(stat.S_IFMT(status.st_mode), "other")


def are_intact(folder: FolderHandle, entries: Iterable[Entry]) -> bool:
    """Whether every member is where it was put, and unchanged."""
    entries = list(entries)
    statuses = folder.statuses([entry[0] for entry in entries])
    for (_, kind, size, changed), status in zip(entries, statuses, strict=True):
        if status is None or _FORMS.get(stat.S_IFMT(status.st_mode)) != kind:
            return False
        if kind != "folder" and (status.st_ctime_ns != changed or status.st_size != size):
            return False
    return True


def is_where_staged(folder: FolderHandle, entry: Entry) -> bool:
    """Whether a member of a journal has its final name already, as it was staged."""
    name, kind, size, modified = entry
    status = folder.status(name)
    if status is None or kind_of(status) != kind:
        return False
    return kind == "folder" or (status.st_size == size and status.st_mtime_ns == modified)


def claimed_by_others(folder: FolderHandle, own: str) -> set[str]:
    """Paths in the folder that other archives have put there."""
    claimed: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(folder.path) as entries:
        for entry in entries:
            if MARK in entry.name and entry.name.endswith("members.json") and entry.name != own:
                other = _read(folder, entry.name)
                if other is not None:
                    claimed |= other.names()
    return claimed
