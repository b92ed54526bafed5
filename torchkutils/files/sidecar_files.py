"""The hidden files beside a download: its lock, its temporary files, its list of extracted members."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH112, PTH114, PTH118, PTH119
from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Collection, Iterator

from torchkutils import _lazy

MARK = ".torchkutils-"
"""Stands in the name of every file that is ours and not the user's; no archive may hold such a name."""

LOCK_PATIENCE = 600.0
"""Seconds that a process waits for another one which shows no progress."""

_POLL_SECONDS = 2.0


class SidecarFiles:
    """Names of the files that belong to one download, all of them hidden and in its folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.folder, name = os.path.split(path)
        # A name may be 255 bytes long, and ours have to be longer than the download's own.
        label = name if len(os.fsencode(name)) <= 180 else hashlib.sha256(os.fsencode(name)).hexdigest()[:40]
        self._prefix = f".{label}{MARK}"
        self.lock = self._beside("lock")
        self.manifest = self._beside("members.json")
        self.resume = self._beside("resume.json")

    def _beside(self, ending: str) -> str:
        return os.path.join(self.folder, self._prefix + ending)

    def new_part(self) -> str:
        """A fresh name for a file that is being written."""
        return self._beside(f"{secrets.token_hex(8)}.part")

    def new_staging(self) -> str:
        """A fresh name for a folder that members are being extracted to; nobody can guess it."""
        return self._beside(f"{secrets.token_hex(16)}.staging")

    def leftovers(self) -> list[str]:
        """Temporary files and folders of this download, a running one's too."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder or ".") as entries:
            return [
                entry.path
                for entry in entries
                if entry.name.startswith(self._prefix) and entry.name.endswith((".part", ".staging"))
            ]
        return []

    def remove_leftovers(self, *, keep: Collection[str | None] = ()) -> None:
        """Remove what a killed process left; only under the lock, where nobody else writes."""
        for path in self.leftovers():
            if os.path.basename(path) not in keep:
                remove_whatever(path)


def remove_whatever(path: str) -> None:
    """Remove a file, a link or a folder with everything in it; nothing happens where there is none."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


@contextlib.contextmanager
def only_one_process(sidecars: SidecarFiles, purpose: str) -> Iterator[None]:
    """Hold the download's lock; wait for another holder as long as its temporary files change.

    Raises:
        TimeoutError: Another process held the lock for LOCK_PATIENCE seconds without any visible progress.
    """
    lock = _lazy.filelock.FileLock(sidecars.lock)
    seen, deadline = _progress_marks(sidecars), time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            lock.acquire(timeout=min(_POLL_SECONDS, LOCK_PATIENCE), poll_interval=0.02)
            break
        except _lazy.filelock.Timeout:
            marks = _progress_marks(sidecars)
            if marks != seen:
                seen, deadline = marks, time.monotonic() + LOCK_PATIENCE
            elif time.monotonic() >= deadline:
                raise TimeoutError(
                    f"process {os.getpid()} waited {LOCK_PATIENCE:g} s to {purpose}, but another process holds the "
                    f"lock {sidecars.lock} and makes no progress; end that process and call again"
                ) from None
    try:
        yield
    finally:
        # Unlinked while it is held: whoever opened it in between sees that its name is gone and opens a new one.
        if os.name == "posix":
            pathlib.Path(sidecars.lock).unlink(missing_ok=True)
        lock.release()


def _progress_marks(sidecars: SidecarFiles) -> set[tuple[str, int, int]]:
    marks = set()
    for path in sidecars.leftovers():
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            marks.add((path, status.st_size, status.st_mtime_ns))
    return marks


def sync_folder(folder: str) -> None:
    """Make a rename in that folder last through a power cut, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
