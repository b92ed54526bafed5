"""From the staging folder into place: renames that are undone together, or settled by the next call.

The journal (a manifest with `staging` set) is written before the first rename and replaced after the last one. While
it is there, each member is either in the staging folder or was moved by us. A call that finds a journal does not
believe that nobody touched the folder since: it moves what is still to be moved, and writes down what it then finds.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from torchkutils.files.archive_faults import PIECE, BrokenArchive
from torchkutils.files.folder_handle import FolderHandle
from torchkutils.files.manifest import (
    Entry,
    Manifest,
    are_intact,
    entry_as_written,
    is_where_staged,
    kind_of,
    never_intact,
    sync_handle,
    write_manifest,
)
from torchkutils.files.sidecar_files import SidecarFiles, remove_whatever


def is_equal(staged: FolderHandle, folder: FolderHandle, name: str, kind: str) -> bool:
    """Whether what is there is what would be put there."""
    there, new = folder.status(name), staged.status(name)
    if there is None or new is None or kind_of(there) != kind:
        return False
    if kind == "folder":
        return True
    if kind == "symlink":
        return folder.read_link(name) == staged.read_link(name)
    return there.st_size == new.st_size and _have_equal_bytes(staged, folder, name)


def _have_equal_bytes(staged: FolderHandle, folder: FolderHandle, name: str) -> bool:
    with open(staged.open(name), "rb", buffering=0) as one, open(folder.open(name), "rb", buffering=0) as two:
        while piece := one.read(PIECE):
            if two.read(PIECE) != piece:
                return False
        return not two.read(1)


def commit(
    folder: FolderHandle, staging: FolderHandle, sidecars: SidecarFiles, journal: Manifest, before: Manifest | None
) -> None:
    """Move everything into place and say so; undo it all when that fails.

    Raises:
        BrokenArchive: Something appeared in the way meanwhile.
        OSError: A rename failed. Where undoing failed too, the journal stays for the next call.
    """
    moves = _Moves(folder, staging, journal)
    try:
        moves.make_all()
        if moves.conflicts:
            name = min(moves.conflicts)
            raise BrokenArchive(f"{folder.path}/{name} appeared meanwhile, and differs", name)
        members = [entry_as_written(folder, name, kind) for name, kind, _, _ in journal.members]
    except BaseException:
        if moves.undo():
            restore(folder, sidecars, before)
        raise
    _write_final(folder, sidecars, journal, members)


def restore(folder: FolderHandle, sidecars: SidecarFiles, before: Manifest | None) -> None:
    """Take the journal back: nothing of it has happened."""
    if before is not None:
        write_manifest(folder, sidecars, before)
        return
    with contextlib.suppress(FileNotFoundError):
        folder.remove(sidecars.manifest)


def settle(folder: FolderHandle, staging: FolderHandle | None, sidecars: SidecarFiles, journal: Manifest) -> None:
    """Go on where a killed commit stopped, whatever happened to the members since.

    `staging` is None where its folder is gone. What cannot be finished makes the manifest incomplete, so that the
    archive is unpacked anew; names that are ours stay ours.
    """
    moves = _Moves(folder, staging, journal)
    moves.make_all()
    found = [(entry, moves.entry_found(entry)) for entry in journal.members]
    members = [now for _, now in found if now is not None]
    complete = all(now is not None and now != never_intact(*now[:2]) for _, now in found)
    _write_final(folder, sidecars, replace(journal, complete=journal.complete and complete), members)


def _write_final(folder: FolderHandle, sidecars: SidecarFiles, journal: Manifest, members: list[Entry]) -> None:
    # First the folder, then the manifest that does not name it any more: so no kill leaves it behind unseen.
    sync_handle(folder)
    remove_whatever(f"{folder.path}/{journal.staging}")
    done = replace(journal, members=members + journal.kept, staging="", replaces=[], stale=[], kept=[])
    write_manifest(folder, sidecars, done)
    kept = journal.names() | {entry[0] for entry in journal.kept}
    for name, _, _, _ in journal.stale:
        _remove_empty_folders(folder, name, kept)
    sync_handle(folder)


def _remove_empty_folders(folder: FolderHandle, name: str, kept: set[str]) -> None:
    parent = name.rpartition("/")[0]
    while parent and parent not in kept:
        try:
            folder.remove_folder(parent)
        except OSError:
            return
        parent = parent.rpartition("/")[0]


@dataclass
class _Moves:
    """The renames of one journal, in order, so that they can be taken back."""

    folder: FolderHandle
    staging: FolderHandle | None
    journal: Manifest
    conflicts: set[str] = field(default_factory=set)
    _arrived: set[str] = field(default_factory=set)
    _whole: set[str] = field(default_factory=set)
    _moved: list[tuple[FolderHandle, str, FolderHandle, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # No member has a name that holds MARK.
        self._backups = f"{self.journal.staging}.replaced"

    def make_all(self) -> None:
        """Remove what is stale, then bring each member that is still in the staging folder to its place."""
        if self.staging is None:
            return
        with contextlib.suppress(FileExistsError):
            self.staging.make_folder(self._backups)
        for number, entry in enumerate(self.journal.stale):
            if are_intact(self.folder, [entry]):
                self._move(self.folder, entry[0], self.staging, f"{self._backups}/s{number}")
        replaces = set(self.journal.replaces)
        for number, (name, kind, _, _) in enumerate(self.journal.members):
            if name.rpartition("/")[0] in self._whole:
                # The folder above was moved in one rename; a link of it keeps its meaning.
                self._has_arrived(name, kind)
            elif self.staging.status(name) is not None:
                self._bring(self.staging, name, kind, f"{self._backups}/r{number}" if name in replaces else None)

    def _bring(self, staging: FolderHandle, name: str, kind: str, backup: str | None) -> None:
        there = kind_of(self.folder.status(name))
        if there is None:
            try:
                self._move(staging, name, self.folder, name)
            except NotADirectoryError:
                self.conflicts.add(name)
                return
            self._has_arrived(name, kind)
        elif is_equal(staging, self.folder, name, kind):
            self._arrived.add(name)
        elif backup is not None and there != "folder":
            self._move(self.folder, name, staging, backup)
            self._move(staging, name, self.folder, name)
            self._arrived.add(name)
        else:
            self.conflicts.add(name)

    def _has_arrived(self, name: str, kind: str) -> None:
        self._arrived.add(name)
        if kind == "folder":
            self._whole.add(name)

    def _move(self, source: FolderHandle, name: str, target: FolderHandle, new: str) -> None:
        source.rename(name, target, new)
        self._moved.append((source, name, target, new))

    def undo(self) -> bool:
        """Take the renames back; False when one could not be."""
        undone = True
        for source, name, target, new in reversed(self._moved):
            try:
                target.rename(new, source, name)
            except OSError:
                undone = False
        return undone

    def entry_found(self, entry: Entry) -> Entry | None:
        """What the next manifest says of a journal's member; None where it is not ours or not there."""
        name, kind, _, _ = entry
        if name in self._arrived or is_where_staged(self.folder, entry):
            return entry_as_written(self.folder, name, kind)
        there = kind_of(self.folder.status(name))
        if name in self.conflicts or there != kind:
            return None
        # Without the staging folder nobody knows whether the member was ever moved.
        ours = self.staging is not None or name in self.journal.replaces
        return never_intact(name, kind) if ours else None
