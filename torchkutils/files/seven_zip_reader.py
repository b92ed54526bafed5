"""Members of a 7z archive, through the package py7zr.

py7zr hands out all members in one go, from its own threads. So they are written to numbered files in the staging
folder first, counted while they come, and read from there as the members of any other archive.
"""

# ruff: noqa: PTH100
from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torchkutils import _lazy
from torchkutils.files.archive_faults import PIECE, BrokenArchive, Member, reading_faults
from torchkutils.files.folder_handle import WRITE, FolderHandle
from torchkutils.files.sidecar_files import MARK
from torchkutils.files.staging import Budget


def seven_zip_members(path: str, staging: FolderHandle, budget: Budget) -> Iterator[Member]:
    """The members in the archive's order.

    Raises:
        BrokenArchive: The archive is damaged, encrypted, or larger than the budget allows.
    """
    base = os.path.abspath(staging.path)
    # py7zr needs a folder for its names, and writes nothing there when a factory takes the content.
    store = _Store(staging, base, Budget(budget.limits))
    with reading_faults(), _lazy.py7zr.SevenZipFile(path) as archive:
        if archive.needs_password():
            raise BrokenArchive("it is encrypted, and passwords are not supported")
        rows = archive.list()
        names = [row.filename for row in rows]
        if len(set(names)) != len(names):
            raise BrokenArchive("a name stands in the archive twice")
        if len(rows) > budget.limits.members:
            raise BrokenArchive(f"it has more than {budget.limits.members} members")
        archive.extract(path=base, factory=store.factory())
    for row in rows:
        modified = row.creationtime.timestamp() if row.creationtime is not None else 0.0
        if row.is_directory:
            yield Member(row.filename, "folder", 0, 0o755, modified)
        elif row.is_symlink:
            yield Member(row.filename, "symlink", target=os.fsdecode(b"".join(store.pieces(row.filename))))
        else:
            pieces = store.reader(row.filename)
            yield Member(row.filename, "file", row.uncompressed, 0o666, modified, pieces=pieces)


@dataclass
class _Store:
    """Numbered files for what py7zr hands out."""

    staging: FolderHandle
    base: str
    budget: Budget
    _files: dict[str, str] = field(default_factory=dict)

    def factory(self) -> Any:
        """What py7zr asks for somewhere to write a member to."""
        store = self
        from py7zr.io import Py7zIO, WriterFactory

        class Writer(Py7zIO):  # type: ignore[misc, unused-ignore]
            def __init__(self, name: str) -> None:
                self._descriptor = store.staging.open(name, WRITE, 0o600)
                self._size = 0

            def write(self, s: bytes | bytearray) -> int:
                store.budget.spend(len(s))
                done = 0
                while done < len(s):
                    done += os.write(self._descriptor, memoryview(s)[done:])
                self._size += len(s)
                return len(s)

            def read(self, size: int | None = None) -> bytes:
                return b""

            def seek(self, offset: int, whence: int = 0) -> int:
                return 0

            def flush(self) -> None:
                pass

            def size(self) -> int:
                return self._size

            def close(self) -> None:
                if self._descriptor >= 0:
                    os.close(self._descriptor)
                    self._descriptor = -1

            def __del__(self) -> None:
                self.close()

        class Factory(WriterFactory):  # type: ignore[misc, unused-ignore]
            def create(self, filename: str) -> Any:
                relative = os.path.relpath(filename, store.base)
                number = f"{MARK}{len(store._files)}"
                store._files[relative] = number
                return Writer(number)

        return Factory()

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of one member; its file is removed behind it."""
        number = self._files.get(os.path.normpath(name))
        if number is None:
            return  # an empty file
        with open(self.staging.open(number), "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                yield piece
        with contextlib.suppress(OSError):
            self.staging.remove(number)

    def reader(self, name: str) -> Any:
        """The function that a member carries."""
        return lambda: self.pieces(name)
