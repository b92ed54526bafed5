"""Files that appear at their final path whole or not at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

from torchkutils._typing import PathLike

with contextlib.suppress(ImportError):
    import fcntl

__all__ = ["replacing"]

# Windows has no such locks, and needs none: a file that someone holds open cannot be removed there.
_LOCKS = importlib.util.find_spec("fcntl") is not None


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block ends well.

    What killed processes left behind for the same path is removed; what running ones write to is not.

    Raises:
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: `path` is a folder.
        OSError: The disk is full, or the folder cannot be written; the old file is as it was.
    """
    final = Path(os.path.realpath(path))  # a link stays, its target is replaced
    if final.is_dir():
        raise IsADirectoryError(f"path must name a file, got the folder {os.fspath(path)}")
    if not final.parent.is_dir():
        raise FileNotFoundError(f"the folder of path {os.fspath(path)} does not exist; make {final.parent} first")
    _remove_abandoned(final)
    handle: int | None
    temporary, handle = _locked_temporary(final)
    try:
        yield temporary
        os.fsync(handle)
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o7777)
        if not _LOCKS:
            os.close(handle)  # Windows moves closed files only
            handle = None
        temporary.replace(final)
        _sync_folder(final.parent)
    finally:
        if handle is not None:
            os.close(handle)
        temporary.unlink(missing_ok=True)


def _locked_temporary(final: Path) -> tuple[Path, int]:
    """A new file beside `final`, locked as long as its handle is open, which says that a process is writing it."""
    while True:
        temporary = final.with_name(f"{_prefix(final)}{secrets.token_hex(6)}.tmp")
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if not _LOCKS:
            return temporary, handle
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return temporary, handle
        os.close(handle)  # another process took it for abandoned before it was locked


def _remove_abandoned(final: Path) -> None:
    ours = re.compile(re.escape(_prefix(final)) + r"[0-9a-f]{12}\.tmp")
    for name in filter(ours.fullmatch, os.listdir(final.parent)):  # noqa: PTH208
        with contextlib.suppress(OSError):
            handle = os.open(final.parent / name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if _LOCKS:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    (final.parent / name).unlink()
            finally:
                os.close(handle)
            if not _LOCKS:
                (final.parent / name).unlink()


def _prefix(final: Path) -> str:
    return f".{final.name[:100]}."


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; there the rename is as durable as the system makes it.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
