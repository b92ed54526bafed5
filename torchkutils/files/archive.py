"""All-or-nothing extraction: staged in a private folder, decided by one write, then moved into place.

    staging folder  ->  journal (the manifest with `staging` set)  ->  renames  ->  manifest

A process killed before the journal leaves a staging folder that the next call removes; one killed after it leaves
renames that the next call finishes.
"""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH100, PTH102, PTH112, PTH116, PTH118, PTH119, PTH120
from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import sys
import warnings
from collections.abc import Iterable

from torchkutils.errors import ArchiveError
from torchkutils.files.archive_readers import ENDINGS, BrokenArchive, archive_kind, members_of
from torchkutils.files.commit import commit, is_equal, is_real_folder
from torchkutils.files.manifest import (
    Manifest,
    claimed_by_others,
    is_intact,
    read_manifest,
    stamp_of_archive,
    write_manifest,
)
from torchkutils.files.sidecar_files import SidecarFiles, remove_whatever
from torchkutils.files.staging import Limits, Stage

MAX_BYTES = 1 << 40
"""Most bytes that one archive may unpack to."""
MAX_MEMBERS = 5_000_000
"""Most members that one archive may have."""
MAX_RATIO = 250
"""Most bytes that one byte of an archive may unpack to, once FREE_BYTES are passed."""
FREE_BYTES = 64 << 20
"""Up to so many unpacked bytes the ratio does not matter."""
MAX_DEPTH = 100
"""Most folders inside each other."""

AUTO = ("tar", "zip", "gz", "bz2", "xz")
_PYTHON_HAS_ZSTD = sys.version_info >= (3, 14)


def checked_formats(archive_format: str | Iterable[str] | None) -> tuple[str, ...]:
    """The formats that an `archive_format` argument allows.

    Raises:
        ValueError: It names a format that is not known, or that this Python lacks.
    """
    if archive_format is not None and not isinstance(archive_format, Iterable):
        raise ValueError(f"archive_format must be 'auto', a format, a list of them or None, got {archive_format!r}")
    named = [archive_format] if isinstance(archive_format, str) else list(archive_format or ())
    formats: list[str] = []
    for name in named:
        if name == "auto":
            formats += [*AUTO, *(["zst"] if _PYTHON_HAS_ZSTD else [])]
        elif name == "zst" and not _PYTHON_HAS_ZSTD:
            raise ValueError("archive_format 'zst' needs Python 3.14 or newer")
        elif name in ENDINGS:
            formats.append(name)
        else:
            raise ValueError(f"archive_format must be 'auto' or of {sorted(ENDINGS)}, None or a list, got {name!r}")
    return tuple(dict.fromkeys(formats))


def extraction_state(path: str, folder: str, formats: tuple[str, ...], *, allow_links: bool) -> str:
    """'complete' when all members lie unchanged in the folder, 'unknown' without a manifest, else 'incomplete'."""
    manifest = read_manifest(SidecarFiles(path).manifest)
    if manifest is None:
        return "unknown"
    links = any(kind == "symlink" for _, kind, _, _ in manifest.members)
    current = (
        not manifest.staging
        and manifest.kind in formats
        and manifest.folder == _relative(folder, path)
        and manifest.archive == stamp_of_archive(path)
        and (allow_links or not links)
    )
    return "complete" if current and is_intact(folder or ".", manifest) else "incomplete"


def unfinished_staging(path: str) -> str | None:
    """The name of the staging folder that a decided extraction still needs."""
    manifest = read_manifest(SidecarFiles(path).manifest)
    return (manifest.staging or None) if manifest else None


def extract_beside(
    path: str, folder: str, formats: tuple[str, ...], *, allow_links: bool = True, promised: str = ""
) -> None:
    """Unpack the archive at `path` into `folder`, all of it or nothing; only under the download's lock.

    `promised` names an entry of the folder that must be there afterwards.

    Raises:
        ArchiveError: It cannot be read, holds what must not be extracted, or a member would replace a file that
            is not its own.
        OSError: The disk is full or cannot be written.
    """
    sidecars = SidecarFiles(path)
    finish_interrupted(path, folder)
    kind = _kind_or_error(path, formats)
    if kind is None:
        return
    staging = sidecars.new_staging()
    try:
        os.mkdir(staging, 0o700)
        try:
            entries = _staged(path, kind, staging, allow_links=allow_links)
            journal = _journal(path, folder, kind, staging, entries)
            _check_promised(promised, folder, staging, journal)
        except BrokenArchive as err:
            where = f"member {err.member!r}: " if err.member is not None else ""
            raise ArchiveError(f"{path} is not extracted: {where}{err}", path=path, member=err.member) from err
        _sync_disk(staging)
        before = read_manifest(sidecars.manifest)
        write_manifest(sidecars.manifest, journal)
        commit(path, folder, journal, before)
    finally:
        remove_whatever(staging)


def _check_promised(promised: str, folder: str, staging: str, journal: Manifest) -> None:
    kept = promised not in journal.stale and os.path.lexists(os.path.join(folder, promised))
    if promised and not kept and not os.path.lexists(os.path.join(staging, promised)):
        raise BrokenArchive(f"untar=True promises {promised!r}, and it holds no entry {promised!r}; use extract=True")


def finish_interrupted(path: str, folder: str) -> None:
    """Finish the renames of an extraction that was decided and then killed."""
    sidecars = SidecarFiles(path)
    journal = read_manifest(sidecars.manifest)
    if journal is None or not journal.staging:
        return
    target = os.path.normpath(os.path.join(sidecars.folder, journal.folder))
    staging = os.path.join(sidecars.folder, journal.staging)
    if os.path.isdir(staging):
        commit(path, target, journal, None)
        remove_whatever(staging)
    else:
        pathlib.Path(sidecars.manifest).unlink()


def _kind_or_error(path: str, formats: tuple[str, ...]) -> str | None:
    kind = archive_kind(path, formats)
    if kind is not None:
        return kind
    lower = path.lower()
    if any(lower.endswith(ENDINGS[name]) for name in formats):
        raise ArchiveError(f"{path} is not extracted: it is named like an archive but is none of {formats}", path=path)
    warnings.warn(
        f"{path} is no archive of the formats {list(formats)}; it is left as it is", UserWarning, stacklevel=6
    )
    return None


def _staged(path: str, kind: str, staging: str, *, allow_links: bool) -> dict[str, str]:
    allowed = min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * os.stat(path).st_size))
    stage = Stage(staging, Limits(allowed, MAX_MEMBERS, MAX_DEPTH, allow_links))
    for member in members_of(path, kind):
        stage.add(member)
    stage.finish()
    return stage.entries


def _relative(folder: str, path: str) -> str:
    return os.path.relpath(folder or ".", os.path.dirname(path) or ".")


def _journal(path: str, folder: str, kind: str, staging: str, entries: dict[str, str]) -> Manifest:
    """Decide what happens to each name, without touching anything.

    Raises:
        BrokenArchive: A member would replace something that is not its own, or pass through a link.
    """
    before = read_manifest(SidecarFiles(path).manifest)
    ours = before.names() if before and before.folder == _relative(folder, path) else set()
    replaces = []
    others: set[str] | None = None
    for name, member_kind in entries.items():
        target = f"{folder or '.'}/{name}"
        if not os.path.lexists(target):
            continue
        if os.path.abspath(target) == os.path.abspath(path):
            raise BrokenArchive("it would replace the archive itself", name)
        if is_equal(f"{staging}/{name}", target, member_kind):
            continue
        if others is None:
            others = claimed_by_others(folder or ".", SidecarFiles(path).manifest)
        if name not in ours or name in others or member_kind == "folder" or is_real_folder(target):
            raise BrokenArchive(f"{target} is there already, different, and not this archive's; move it away", name)
        replaces.append(name)
    stale = _stale(path, folder, before, entries) if before and ours else []
    return Manifest(
        archive=stamp_of_archive(path),
        kind=kind,
        folder=_relative(folder, path),
        members=[(name, member_kind, 0, 0) for name, member_kind in entries.items()],
        staging=os.path.basename(staging),
        replaces=replaces,
        stale=stale,
    )


def _stale(path: str, folder: str, before: Manifest, entries: dict[str, str]) -> list[str]:
    """Files of the archive's earlier state that the new one has no more, that nobody changed and nobody else claims."""
    gone = [member for member in before.members if member[0] not in entries and member[1] != "folder"]
    if not gone:
        return []
    others = claimed_by_others(folder or ".", SidecarFiles(path).manifest)
    return [
        member[0]
        for member in gone
        if member[0] not in others and is_intact(folder or ".", dataclasses.replace(before, members=[member]))
    ]


def _sync_disk(folder: str) -> None:
    """One sync for all members: one for each would cost minutes."""
    with contextlib.suppress(Exception):
        import ctypes

        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) == 0:
                return
        finally:
            os.close(descriptor)
    if hasattr(os, "sync"):
        os.sync()
