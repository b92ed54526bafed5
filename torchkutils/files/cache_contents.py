"""What lies in the cache: its files with where they came from, and what ended calls have left."""

# Paths stay text here, as everywhere about the cache.
# ruff: noqa: PTH108, PTH112, PTH113, PTH114, PTH116, PTH118, PTH119, PTH120
from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

from torchkutils.files.download_lock import only_if_free
from torchkutils.files.origins import read_origin
from torchkutils.files.sidecar_files import MARK, SidecarFiles, is_in_use, remove_whatever

_TEMPORARY = (".part", ".staging", "resume.json")
_YOUNG_SECONDS = 60.0
"""What changed within so many seconds is taken for a running call's, even where locks do nothing."""


@dataclass(frozen=True)
class CachedFile:
    """One file of the cache: its path, bytes, time of change, and where it came from ('' where nothing is noted)."""

    path: str
    size: int
    modified: float
    origin: str


def cached_files(base: str) -> Iterator[CachedFile]:
    """The files that were fetched into the cache, in the order of their paths.

    A file counts that says where it came from, or that lies in the base folder or in a folder of it: members of
    extracted archives lie deeper, mostly.
    """
    for path, depth in _files_with_depth(base):
        origin = read_origin(path) or ""
        if not origin and depth > 1:
            continue
        with contextlib.suppress(OSError):
            status = os.stat(path)
            yield CachedFile(path, status.st_size, status.st_mtime, origin)


def _files_with_depth(base: str) -> Iterator[tuple[str, int]]:
    """The users' files below a folder by name, each with the number of folders between."""
    for folder, folders, names in os.walk(base):
        folders[:] = sorted(name for name in folders if MARK not in name)
        depth = 0 if folder == base else os.path.relpath(folder, base).count(os.sep) + 1
        for name in sorted(names):
            path = os.path.join(folder, name)
            if MARK not in name and os.path.isfile(path):
                yield path, depth


def leftovers(base: str) -> dict[str, list[str]]:
    """Temporary files of ended and running calls, by the hidden prefix of the download they belong to."""
    found: dict[str, list[str]] = {}
    for folder, folders, names in os.walk(base):
        for name in [*folders, *names]:
            if MARK in name and name.endswith(_TEMPORARY):
                label = name[1 : name.rindex(MARK)]
                found.setdefault(os.path.join(folder, label), []).append(os.path.join(folder, name))
        folders[:] = [name for name in folders if MARK not in name]
    return found


def remove_leftovers(base: str, *, only_count: bool = False) -> tuple[int, int]:
    """Remove what no running call holds; the number of files and folders, and their bytes."""
    count = size = 0
    for download, paths in leftovers(base).items():
        with contextlib.suppress(OSError), only_if_free(SidecarFiles(download)):
            for path in filter(_is_abandoned, paths):
                count, size = count + 1, size + size_of(path)
                if not only_count:
                    remove_whatever(path)
    return count, size


def _is_abandoned(path: str) -> bool:
    age = time.time() - os.lstat(path).st_mtime
    return age >= _YOUNG_SECONDS and not is_in_use(path)


def remove_file(path: str) -> None:
    """Remove one file of the cache and the hidden files beside it; members of an archive stay.

    Raises:
        OSError: It cannot be removed.
    """
    os.unlink(path)
    folder, prefix = os.path.dirname(path), f".{os.path.basename(path)}{MARK}"
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 - paths are text here
            if name.startswith(prefix) and not name.endswith("lock"):
                remove_whatever(os.path.join(folder, name))


def size_of(path: str) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not os.path.isdir(path) or os.path.islink(path):
        return os.lstat(path).st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
