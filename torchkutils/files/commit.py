"""From the staging folder into place: renames that are undone together, or finished by the next call."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH103, PTH104, PTH105, PTH106, PTH112, PTH113, PTH114, PTH115, PTH116, PTH118
from __future__ import annotations

import os
import pathlib

from torchkutils.errors import ArchiveError
from torchkutils.files.archive_readers import BrokenArchive
from torchkutils.files.manifest import Manifest, stamped, write_manifest
from torchkutils.files.sidecar_files import SidecarFiles, sync_folder

_BACKUPS = "replaced"


def is_real_folder(path: str) -> bool:
    """A folder, not a link to one."""
    return os.path.isdir(path) and not os.path.islink(path)


def is_equal(staged: str, target: str, kind: str) -> bool:
    """Whether what is there is what would be put there."""
    if kind == "folder":
        return is_real_folder(target)
    if os.path.islink(target) or kind == "symlink":
        both = os.path.islink(target) and os.path.islink(staged)
        return both and os.readlink(target) == os.readlink(staged)
    if not os.path.isfile(target) or os.stat(target).st_size != os.stat(staged).st_size:
        return False
    with open(staged, "rb") as one, open(target, "rb") as two:
        while piece := one.read(1 << 18):
            if two.read(1 << 18) != piece:
                return False
    return True


def commit(path: str, folder: str, journal: Manifest, before: Manifest | None) -> None:
    """Move everything into place and say so; undo it all when a rename fails."""
    sidecars = SidecarFiles(path)
    staging = os.path.join(sidecars.folder, journal.staging)
    backups = f"{staging}{os.sep}{_backup_name(journal)}"
    moved: list[tuple[str, str]] = []
    os.makedirs(backups, exist_ok=True)
    try:
        _move_all(staging, folder or ".", backups, journal, moved)
        done = stamped(folder or ".", {name: kind for name, kind, _, _ in journal.members})
    except BaseException as err:
        for source, target in reversed(moved):
            os.replace(target, source)
        if before is not None:
            write_manifest(sidecars.manifest, before)
        else:
            pathlib.Path(sidecars.manifest).unlink(missing_ok=True)
        if isinstance(err, BrokenArchive):
            raise ArchiveError(f"{path} is not extracted: {err}", path=path, member=err.member) from err
        raise
    write_manifest(sidecars.manifest, Manifest(journal.archive, journal.kind, journal.folder, done))
    for name in journal.stale:
        _remove_empty_folders(folder or ".", name, journal)
    sync_folder(folder)


def _backup_name(journal: Manifest) -> str:
    """A name in the staging folder that no member has."""
    return f"{journal.staging}.{_BACKUPS}"


def _move_all(staging: str, folder: str, backups: str, journal: Manifest, moved: list[tuple[str, str]]) -> None:
    def move(source: str, target: str) -> None:
        os.rename(source, target)
        moved.append((source, target))

    replaces, whole = set(journal.replaces), set[str]()
    for number, name in enumerate(journal.stale):
        if os.path.lexists(f"{folder}/{name}"):
            move(f"{folder}/{name}", f"{backups}/s{number}")
    for number, (name, kind, _, _) in enumerate(journal.members):
        source, target = f"{staging}/{name}", f"{folder}/{name}"
        parent = name.rpartition("/")[0]
        if parent in whole:
            # The folder above was moved in one rename; a link of it keeps its meaning.
            if kind == "folder":
                whole.add(name)
            continue
        if not os.path.lexists(source):
            continue
        if not os.path.lexists(target):
            move(source, target)
            if kind == "folder":
                whole.add(name)
        elif kind != "folder" and not is_equal(source, target, kind):
            if name not in replaces:
                raise BrokenArchive(f"{target} appeared meanwhile, and differs", name)
            move(target, f"{backups}/r{number}")
            move(source, target)


def _remove_empty_folders(folder: str, name: str, journal: Manifest) -> None:
    members = journal.names()
    parent = name.rpartition("/")[0]
    while parent and parent not in members:
        try:
            os.rmdir(f"{folder}/{parent}")
        except OSError:
            return
        parent = parent.rpartition("/")[0]
