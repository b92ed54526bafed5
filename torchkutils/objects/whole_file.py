"""Files that appear at their final path whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from torchkutils._typing import PathLike

__all__ = ["replacing"]


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """A temporary path in the same folder that takes the place of `path` when the block ends well.

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
    temporary = final.with_name(f".{final.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        if final.exists():
            temporary.chmod(final.stat().st_mode & 0o7777)
        temporary.replace(final)
        _sync_folder(final.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; there the rename is as durable as the system makes it.
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
