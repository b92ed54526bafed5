"""All-or-nothing extraction: staged in a private folder, decided by one write, then moved into place.

    staging folder  ->  journal (the manifest with `staging` set)  ->  renames  ->  manifest

A process killed before the journal leaves a staging folder that the next call removes. After one that was killed
later, the next call moves what is still to be moved, looks what is there, and unpacks anew if anything is missing.
"""

# ruff: noqa: PTH108, PTH116
from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from dataclasses import replace

from torchkutils._caller_warnings import warn_caller
from torchkutils.errors import ArchiveError
from torchkutils.files.archive_faults import BrokenArchive, Member, reading_faults
from torchkutils.files.archive_kinds import ENDINGS, ArchiveKind, archive_kind
from torchkutils.files.commit import commit, is_equal, settle
from torchkutils.files.extraction_options import Extraction
from torchkutils.files.folder_handle import FolderHandle
from torchkutils.files.manifest import (
    MAX_DEPTH,
    Entry,
    Manifest,
    are_intact,
    claimed_by_others,
    entry_as_staged,
    kind_of,
    read_manifest,
    stamp_of_archive,
    write_manifest,
)
from torchkutils.files.seven_zip_reader import seven_zip_members
from torchkutils.files.sidecar_files import SidecarFiles, is_in_use, remove_whatever
from torchkutils.files.staging import Budget, Limits, Stage
from torchkutils.files.tar_reader import tar_members
from torchkutils.files.unpacked_stream import UnpackedStream
from torchkutils.files.zip_reader import zip_members

MAX_BYTES = 1 << 40
"""Most bytes that one archive may unpack to."""
MAX_MEMBERS = 5_000_000
"""Most members that one archive may have."""
MAX_RATIO = 250
"""Most bytes that one byte of an archive may unpack to, once FREE_BYTES are passed."""
FREE_BYTES = 64 << 20
"""Up to so many unpacked bytes the ratio does not matter."""
FOLDER_PATIENCE = 60.0
"""Seconds to wait while another archive's members are being moved to the same folder."""


def extraction_state(path: str, folder: str, extraction: Extraction) -> str:
    """'complete' when all wanted members lie there unchanged, 'unknown' without a manifest, else 'incomplete'."""
    sidecars = SidecarFiles(path, folder)
    try:
        with FolderHandle(folder) as handle:
            manifest = read_manifest(handle, sidecars)
            if manifest is None:
                return "unknown"
            complete = _is_complete(handle, manifest, extraction) and manifest.archive == stamp_of_archive(path)
            return "complete" if complete else "incomplete"
    except FileNotFoundError:
        return "unknown"


def is_unpacked_without_archive(path: str, folder: str, extraction: Extraction, expected_hash: str) -> bool:
    """Whether the members are all there and the archive, which had that hash ('' for any), was removed after it."""
    try:
        with FolderHandle(folder) as handle:
            manifest = read_manifest(handle, SidecarFiles(path, folder))
            if manifest is None or manifest.removed is None:
                return False
            return expected_hash in {"", manifest.removed} and _is_complete(handle, manifest, extraction)
    except OSError:
        return False


def _is_complete(folder: FolderHandle, manifest: Manifest, extraction: Extraction) -> bool:
    """Whether every wanted member lies there as it was extracted."""
    if manifest.staging or not manifest.complete or not _serves(manifest, extraction):
        return False
    wanted = manifest.members
    choice = extraction.choice()
    if choice.patterns:
        wanted = [entry for entry in wanted if choice.matching(entry[0]) is not None]
    return are_intact(folder, wanted)


def _serves(manifest: Manifest, extraction: Extraction) -> bool:
    """Whether an extraction by these rules would have brought what is wanted now."""
    if manifest.kind not in extraction.formats or manifest.encoding != (extraction.encoding or ""):
        return False
    return _has_links_as_wanted(manifest, extraction) and manifest.choice().covers(extraction.choice())


def _has_links_as_wanted(manifest: Manifest, extraction: Extraction) -> bool:
    if extraction.allow_links == "skip":
        return True
    if extraction.allow_links:
        return manifest.links
    return manifest.links and all(kind != "symlink" for _, kind, _, _ in manifest.members)


def unfinished_staging(path: str, folder: str) -> str | None:
    """The name of the staging folder that a decided extraction still needs."""
    with contextlib.suppress(OSError), FolderHandle(folder) as handle:
        manifest = read_manifest(handle, SidecarFiles(path, folder))
        return (manifest.staging or None) if manifest else None
    return None


def extract_archive(path: str, folder: str, extraction: Extraction) -> bool:
    """Unpack the archive at `path` into `folder`, all of it or nothing; only under the download's lock.

    Returns:
        False when the file is no archive of these formats; then it is left as it is.

    Raises:
        ArchiveError: It cannot be read, holds what must not be extracted, or a member would replace a file that
            is not its own.
        OSError: The disk is full or cannot be written.
    """
    sidecars = SidecarFiles(path, folder)
    try:
        with FolderHandle(folder) as handle:
            settle_interrupted(handle, sidecars)
            if extraction_state(path, folder, extraction) == "complete":
                return True
            found = archive_kind(path, extraction.formats)
            if found is None:
                warn_caller(f"{path} is no archive of the formats {list(extraction.formats)}; it is left as it is")
                return False
            _extract(handle, sidecars, found, extraction)
            return True
    except BrokenArchive as error:
        where = f"member {error.member!r}: " if error.member is not None else ""
        raise ArchiveError(f"{path} is not extracted: {where}{error}", path=path, member=error.member) from error


def _extract(folder: FolderHandle, sidecars: SidecarFiles, found: ArchiveKind, extraction: Extraction) -> None:
    name = sidecars.new_staging()
    notes: list[str] = []
    folder.make_folder(name, 0o700)
    try:
        with FolderHandle(name, within=folder, private=True) as staging:
            _check_private(staging)
            stage = _staged(sidecars.path, found, staging, extraction, notes)
            _sync_disk(staging)
            with _alone_in(folder):
                before = read_manifest(folder, sidecars)
                journal = _journal(folder, sidecars, found.kind, stage, extraction, before)
                write_manifest(folder, sidecars, journal)
                commit(folder, staging, sidecars, journal, before)
    finally:
        now = read_manifest(folder, sidecars)
        if now is None or now.staging != name:
            remove_whatever(f"{folder.path}/{name}")
    if notes:
        warn_caller(f"{sidecars.path} is extracted, but {'; '.join(notes)}")


def _check_private(staging: FolderHandle) -> None:
    """Nobody may have put another folder there between its making and its opening."""
    descriptor = staging.descriptor()
    if descriptor is None or not hasattr(os, "geteuid"):
        return
    status = os.fstat(descriptor)
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(errno.EPERM, "somebody else exchanged the folder for members", staging.path)


def settle_interrupted(folder: FolderHandle, sidecars: SidecarFiles) -> None:
    """Bring an extraction that was decided and then killed to a state that can be relied upon."""
    journal = _abandoned_journal(folder, sidecars)
    if journal is None:
        return
    try:
        staging = FolderHandle(journal.staging, within=folder, private=True)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        with _alone_in(folder):
            settle(folder, None, sidecars, journal)
        return
    with staging, _alone_in(folder):
        settle(folder, staging, sidecars, journal)


def _abandoned_journal(folder: FolderHandle, sidecars: SidecarFiles) -> Manifest | None:
    """The journal of a killed extraction; where a lock excludes nobody, a living process may still be at work by it."""
    deadline = time.monotonic() + FOLDER_PATIENCE
    while True:
        journal = read_manifest(folder, sidecars)
        if journal is None or not journal.staging:
            return None
        if not is_in_use(f"{folder.path}/{journal.staging}"):
            return journal
        if time.monotonic() > deadline:
            raise TimeoutError(f"another process is moving the members of {sidecars.path} into place; call again")
        time.sleep(0.05)


def _staged(path: str, found: ArchiveKind, folder: FolderHandle, extraction: Extraction, notes: list[str]) -> Stage:
    allowed = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * os.stat(path).st_size))
    limits = Limits(allowed, MAX_MEMBERS, MAX_DEPTH)
    stage = Stage(folder, Budget(limits), extraction.choice(), extraction.allow_links)
    for member in _members(path, found, stage, extraction.encoding, notes):
        stage.add(member)
    stage.finish()
    if missing := stage.choice.unmatched(stage.matched):
        raise BrokenArchive(f"members names {missing}, and it holds nothing of that name")
    if stage.nameless:
        notes.append(f"{stage.nameless} members without a name are left out")
    if stage.of_macos:
        notes.append(f"{stage.of_macos} members that macOS adds (__MACOSX, ._*, .DS_Store) are left out")
    return stage


def _members(path: str, found: ArchiveKind, stage: Stage, encoding: str | None, notes: list[str]) -> Iterator[Member]:
    """Read the archive from front to back; what is read counts separately from what is written."""
    reading = Budget(stage.budget.limits)
    if found.kind == "7z":
        yield from seven_zip_members(path, stage.root, stage.budget)
        return
    with open(path, "rb") as file:
        if found.kind == "zip":
            yield from zip_members(file, encoding, notes, reading.spend)
            return
        with reading_faults():
            stream = UnpackedStream(file, found.packing, reading.spend)
        if found.kind == "tar":
            yield from tar_members(stream, encoding, notes)
        else:
            yield _single_member(path, found.kind, stream)
        if stream.has_trailing_bytes:
            notes.append("there are bytes behind its end, which are ignored")


def _single_member(path: str, kind: str, stream: UnpackedStream) -> Member:
    name = os.path.basename(path)  # noqa: PTH119
    if not name.lower().endswith(ENDINGS[kind]) or len(name) == len(kind) + 1:
        raise BrokenArchive(f"a name ending in .{kind} is needed to know what the unpacked file is called")
    return Member(
        name[: -len(kind) - 1], "file", modified=os.stat(path).st_mtime, pieces=lambda: _all_pieces(stream, name)
    )


def _all_pieces(stream: UnpackedStream, name: str) -> Iterator[bytes]:
    while True:
        with reading_faults(name):
            piece = stream.read(1 << 18)
        if not piece:
            return
        yield piece


def _journal(
    folder: FolderHandle,
    sidecars: SidecarFiles,
    kind: str,
    stage: Stage,
    extraction: Extraction,
    before: Manifest | None,
) -> Manifest:
    """Decide what happens to each name, without touching anything.

    Raises:
        BrokenArchive: A member would replace something that is not its own, or pass through a link.
    """
    ours = set() if before is None else before.names()
    decision = _Decision(folder, sidecars, ours, extraction.overwrite)
    journal = Manifest(
        archive=stamp_of_archive(sidecars.path),
        kind=kind,
        members=[entry_as_staged(stage.root, name, member) for name, member in stage.entries.items()],
        chosen=list(extraction.choice().patterns),
        links=extraction.allow_links != "skip",
        encoding=extraction.encoding or "",
        staging=os.path.basename(stage.root.path),  # noqa: PTH119
        replaces=[name for name, member in stage.entries.items() if decision.replaces(stage.root, name, member)],
    )
    if before is None:
        return journal
    earlier = [entry for entry in before.members if entry[0] not in stage.entries]
    if not _adds_members(journal, before, extraction):
        return replace(journal, stale=decision.stale(earlier))
    chosen = before.choice().with_patterns_of(extraction.choice())
    return replace(journal, chosen=list(chosen.patterns), links=journal.links and before.links, kept=earlier)


def _adds_members(journal: Manifest, before: Manifest, extraction: Extraction) -> bool:
    """Whether more members of the same archive are wanted, so that those which are there already stay."""
    same_archive = (before.archive, before.kind, before.encoding) == (journal.archive, journal.kind, journal.encoding)
    return bool(extraction.members) and same_archive


class _Decision:
    """What may be done to the names that are there already."""

    def __init__(self, folder: FolderHandle, sidecars: SidecarFiles, ours: set[str], overwrite: bool) -> None:
        self._folder, self._sidecars, self._ours, self._overwrite = folder, sidecars, ours, overwrite
        self._others: set[str] | None = None
        self._archive = os.stat(sidecars.path)

    def _is_anothers(self, name: str) -> bool:
        if self._others is None:
            self._others = claimed_by_others(self._folder, self._sidecars.manifest)
        return name in self._others

    def replaces(self, staged: FolderHandle, name: str, kind: str) -> bool:
        """Whether the member takes the place of something different; BrokenArchive when it must not."""
        there = self._folder.status(name)
        if there is None:
            return False
        if os.path.samestat(there, self._archive):
            raise BrokenArchive("it would replace the archive itself", name)
        if is_equal(staged, self._folder, name, kind):
            return False
        own = name in self._ours and not self._is_anothers(name)
        if kind == "folder" or kind_of(there) == "folder" or not (own or self._overwrite):
            words = f"{self._folder.path}/{name} is there already, different, and not this archive's"
            raise BrokenArchive(f"{words}; move it away, or use overwrite=True or extract_dir", name)
        return True

    def stale(self, earlier: list[Entry]) -> list[Entry]:
        """Members of the archive's earlier state that nobody changed and nobody else claims."""
        return [
            entry
            for entry in earlier
            if entry[1] != "folder" and not self._is_anothers(entry[0]) and are_intact(self._folder, [entry])
        ]


def remove_unpacked_archive(path: str, folder: str, expected_hash: str) -> None:
    """Write down that the archive is not needed any more, then remove it; only under the download's lock."""
    sidecars = SidecarFiles(path, folder)
    with FolderHandle(folder) as handle:
        manifest = read_manifest(handle, sidecars)
        if manifest is not None:
            write_manifest(handle, sidecars, replace(manifest, removed=expected_hash))
            os.unlink(path)


@contextlib.contextmanager
def _alone_in(folder: FolderHandle) -> Iterator[None]:
    """Keep other archives' members from being moved to the folder meanwhile, where it can be locked."""
    descriptor = folder.descriptor()
    if descriptor is None or not _lock_folder(descriptor):
        yield
        return
    import fcntl

    try:
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _lock_folder(descriptor: int) -> bool:
    import fcntl

    deadline = time.monotonic() + FOLDER_PATIENCE
    while time.monotonic() < deadline:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            return False  # renames that meet each other are undone, only less kindly
        else:
            return True
    return False


def _sync_disk(folder: FolderHandle) -> None:
    """One sync for all members: one for each would cost minutes."""
    descriptor = folder.descriptor()
    with contextlib.suppress(Exception):
        import ctypes

        if descriptor is not None and ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
            return
    if hasattr(os, "sync"):
        os.sync()
