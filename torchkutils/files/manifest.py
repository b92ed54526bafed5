"""The list of extracted members beside an archive: what is ours, and what an interrupted extraction had decided."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH105, PTH116, PTH120
from __future__ import annotations

import contextlib
import json
import os
import pathlib
import secrets
import stat
from dataclasses import asdict, dataclass, field

from torchkutils.files.sidecar_files import MARK, sync_folder

VERSION = 1


@dataclass
class Manifest:
    """What was extracted from one state of an archive.

    Attributes:
        archive: Size, time and change time of the archive's file in nanoseconds.
        kind: 'tar', 'zip', 'gz' …
        folder: Where the members lie, relative to the archive's folder.
        members: Path, kind, size and change time of each.
        staging: Name of the staging folder of an extraction that has been decided and not finished; '' when it is.
        replaces: Files that the unfinished extraction may replace.
        stale: Files of an earlier state that the unfinished extraction removes.
    """

    archive: list[int]
    kind: str
    folder: str
    members: list[tuple[str, str, int, int]]
    staging: str = ""
    replaces: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    version: int = VERSION

    def names(self) -> set[str]:
        """The paths of all members."""
        return {member[0] for member in self.members}


def read_manifest(path: str) -> Manifest | None:
    """The manifest, or None where there is none that can be understood."""
    try:
        with open(path, "rb") as file:
            manifest = Manifest(**json.loads(file.read()))
    except (OSError, ValueError, TypeError):
        return None
    return manifest if manifest.version == VERSION else None


def write_manifest(path: str, manifest: Manifest) -> None:
    """Put the manifest in place, whole and synced."""
    # Named like the download's other temporary files, so that the next call removes it after a kill.
    part = f"{path.removesuffix('members.json')}{secrets.token_hex(8)}.part"
    try:
        with open(part, "x", encoding="ascii") as file:
            file.write(json.dumps(asdict(manifest), separators=(",", ":")))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        pathlib.Path(part).unlink(missing_ok=True)
    sync_folder(os.path.dirname(path))


def stamp_of_archive(path: str) -> list[int]:
    """What changes when the archive's file changes."""
    status = os.stat(path)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def stamped(folder: str, entries: dict[str, str]) -> list[tuple[str, str, int, int]]:
    """Each member with its size and change time as they are on disk now; folders have neither."""
    members = []
    for name, kind in entries.items():
        if kind == "folder":
            members.append((name, kind, 0, 0))
        else:
            status = os.lstat(f"{folder}/{name}")
            members.append((name, kind, status.st_size, status.st_ctime_ns))
    return members


def is_intact(folder: str, manifest: Manifest) -> bool:
    """Whether every member is where it was put, and unchanged."""
    lstat = os.lstat
    try:
        for name, kind, size, changed in manifest.members:
            status = lstat(f"{folder}/{name}")
            if kind == "folder":
                if not stat.S_ISDIR(status.st_mode):
                    return False
            elif status.st_ctime_ns != changed or status.st_size != size:
                return False
    except OSError:
        return False
    return True


def claimed_by_others(folder: str, own: str) -> set[str]:
    """Paths in the folder that belong to other archives of the same folder, relative to it."""
    claimed: set[str] = set()
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if MARK in entry.name and entry.name.endswith("members.json") and entry.path != own:
                other = read_manifest(entry.path)
                if other is not None and other.folder == ".":
                    claimed |= other.names()
    return claimed
