"""Where an HDF5 data set lies, how it is opened, and what to say when it is not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torchkutils import _lazy
from torchkutils.errors import DatasetNotFoundError

if TYPE_CHECKING:
    import h5py

    from torchkutils._typing import PathLike

FileStamp: TypeAlias = tuple[int, int, int, int]
"""Device, inode, size and modification time: changes when a file is written to or replaced."""

_NAMES_SHOWN = 20


@dataclass(frozen=True)
class Location:
    """A file by its absolute local path, or by a URL that fsspec opens.

    Attributes:
        address: The path or the URL.
        local: True for a path.
    """

    address: str
    local: bool

    @classmethod
    def of(cls, datapath: PathLike) -> Location:
        """Read a path or URL; `file://` URLs become plain paths, which are read faster."""
        if not isinstance(datapath, (str, os.PathLike)) or not isinstance(os.fspath(datapath), str):
            raise TypeError(f"datapath must be a str or an os.PathLike of str, got {datapath!r}")
        address = os.fspath(datapath)
        if "://" not in address and "::" not in address:
            return cls(str(Path(address).absolute()), local=True)
        if address.startswith(("file://", "local://")):
            path = _lazy.fsspec.core.url_to_fs(address)[1]
            return cls(str(Path(path).absolute()), local=True)
        return cls(address, local=False)

    def stamp(self) -> FileStamp | None:
        """What to compare to notice that a local file was replaced; None for a URL."""
        if not self.local:
            return None
        status = os.stat(self.address)  # noqa: PTH116 - runs at every read, a Path costs twice as much
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @contextlib.contextmanager
    def opened(self) -> Iterator[h5py.File]:
        """Open the file for reading, for the time of a `with` block."""
        with contextlib.ExitStack() as stack:
            yield self.open(stack)

    def open(self, stack: contextlib.ExitStack) -> h5py.File:
        """Open the file for reading; `stack` closes what was opened.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read, or is no HDF5 file.
        """
        if self.local:
            if not Path(self.address).exists():
                raise FileNotFoundError(f"datapath: no file {self.address!r}")
            source: Any = self.address
        else:
            try:
                source = stack.enter_context(_lazy.fsspec.open(self.address, "rb").open())
            except FileNotFoundError as err:
                raise FileNotFoundError(f"datapath: no file {self.address!r}") from err
        try:
            return stack.enter_context(_lazy.h5py.File(source, "r"))
        except OSError as err:
            raise OSError(f"datapath: {self.address!r} cannot be read as an HDF5 file: {err}") from err


def find_dataset(file: h5py.File, name: str, address: str) -> h5py.Dataset:
    """Give the data set of that name.

    Raises:
        DatasetNotFoundError: There is none; the message lists those that exist.
        ValueError: It has no axis of rows.
    """
    found = file.get(name)
    if not isinstance(found, _lazy.h5py.Dataset):
        wrong = "no dataset" if found is None else "a group, not a dataset, lies at"
        raise DatasetNotFoundError(f"{wrong} {name!r} in {address!r}; it holds {_listing(file)}")
    if not found.shape:
        raise ValueError(f"dataset {name!r} in {address!r} has no axis of rows: its shape is {found.shape}")
    return found


def _listing(file: h5py.File) -> str:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, _lazy.h5py.Dataset) else None)
    names.sort()
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{names[:_NAMES_SHOWN]}{more}"
