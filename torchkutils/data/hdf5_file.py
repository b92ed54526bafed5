"""Where an HDF5 file lies, how it is opened for reading, and how a change of it is noticed."""

from __future__ import annotations

import contextlib
import dataclasses
import glob
import os
import re
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torchkutils import _lazy
from torchkutils.data.remote_bytes import RemoteBytes, RemoteFile, cause_of

if TYPE_CHECKING:
    import h5py

FileStamp: TypeAlias = "tuple[tuple[int, ...], ...]"
"""Device, inode, size and modification time of each file that is watched: changes when one is written or replaced."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*@")

_own_files: dict[int, bool] = {}
"""The h5py files that this package holds open, by `id`, and whether each shares its state with a writer.

If more are open in this process, they are the user's.
"""


@dataclass(frozen=True)
class OpenOptions:
    """How files are opened.

    Attributes:
        storage_options: Keyword arguments for fsspec's file system.
        swmr: Read what a single writer appends meanwhile.
        locking: As h5py.File takes it; None leaves HDF5's default.
    """

    storage_options: Mapping[str, Any] = field(default_factory=dict)
    swmr: bool = False
    locking: bool | str | None = None

    def for_h5py(self) -> dict[str, Any]:
        """Keyword arguments of `h5py.File`."""
        arguments: dict[str, Any] = {"swmr": True, "libver": "latest"} if self.swmr else {}
        return arguments if self.locking is None else {**arguments, "locking": self.locking}


@dataclass(frozen=True)
class Opened:
    """An open file, and for a URL its bytes, which can be fetched many ranges at a time."""

    file: h5py.File
    remote: RemoteBytes | None = None


@dataclass(frozen=True)
class Location:
    """A file by its absolute local path, by a URL that fsspec opens, or as an object that is open already.

    Attributes:
        address: The path, the URL, or what the object is called in messages.
        local: True for a path.
        options: How it is opened.
        held: The open object: a file-like object or an `h5py.File` that has no path.
        process: The process to which `held` belongs, where it cannot be read in another one.
    """

    address: str
    local: bool
    options: OpenOptions = field(default_factory=OpenOptions)
    held: Any = None
    process: int | None = None

    @property
    def shown(self) -> str:
        """The address for messages: without a password."""
        return _PASSWORD.sub("", self.address)

    def stamp(self, watched: tuple[str, ...] = ()) -> FileStamp:
        """What to compare to notice that a local file, or one that its links lead to, was replaced or written to."""
        paths = (self.address, *watched) if self.local else watched
        return tuple([self._stamp_of(path) for path in paths])

    def _stamp_of(self, path: str) -> tuple[int, ...]:
        try:
            status = os.stat(path)  # noqa: PTH116 - runs at every read, a Path costs twice as much
        except FileNotFoundError as error:
            raise FileNotFoundError(f"datapath: no file {path!r} any more") from error
        if self.options.swmr:
            return status.st_dev, status.st_ino
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @contextlib.contextmanager
    def opened(self) -> Iterator[h5py.File]:
        """Open the file for reading, for the time of a `with` block."""
        with contextlib.ExitStack() as stack:
            yield self.open(stack).file

    def open(self, stack: contextlib.ExitStack) -> Opened:
        """Open the file for reading; `stack` closes what was opened.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: It cannot be read, or is no HDF5 file.
        """
        if self.held is not None:
            return self._open_held(stack)
        if self.local:
            if not os.path.exists(self.address):  # noqa: PTH110 - runs for each of many files
                raise FileNotFoundError(f"datapath: no file {self.address!r}")
            return Opened(self._hdf5(self.address, stack))
        try:
            source, remote = _open_url(self.address, self.options.storage_options, stack)
        except Exception as error:
            raise self._url_error(error) from error
        return Opened(self._hdf5(source, stack), remote)

    def _open_held(self, stack: contextlib.ExitStack) -> Opened:
        if self.process is not None and self.process != os.getpid():
            raise RuntimeError(f"datapath: {self.shown} was opened by another process; give its path or URL instead")
        if isinstance(self.held, _lazy.h5py.File):
            return Opened(self.held)
        return Opened(self._hdf5(self.held, stack))

    def _hdf5(self, source: Any, stack: contextlib.ExitStack) -> h5py.File:
        try:
            file = _lazy.h5py.File(source, "r", **self.options.for_h5py())
        except OSError as error:
            raise self._hdf5_error(error) from error
        except Exception as error:
            if self.local:
                raise
            # h5py reads a URL through Python, and hands on whatever the transport raises.
            raise self._url_error(error) from error
        _own_files[id(file)] = bool(file.id.get_intent() & _lazy.h5py.h5f.ACC_RDWR)
        stack.callback(_close, file)
        return file

    def _hdf5_error(self, error: OSError) -> OSError:
        says = f"datapath: {self.shown!r} cannot be read as an HDF5 file: {error}"
        if "lock file" in str(error):
            says += (
                "; a writer holds it. Pass locking=False (or set HDF5_USE_FILE_LOCKING=FALSE) if the file system "
                "cannot lock or the writer is done, swmr=True if it writes in SWMR mode"
            )
        elif "SWMR" in str(error) or "already open for write" in str(error):
            says += "; if its writer is in SWMR mode, pass swmr=True"
        return OSError(error.errno, says) if error.errno else OSError(says)

    def _url_error(self, error: Exception) -> OSError:
        cause = cause_of(error)
        if cause is None:
            return FileNotFoundError(f"datapath: no file {self.shown!r}")
        says = f"datapath: {self.shown!r} cannot be read: {_PASSWORD.sub('', cause)}"
        if "seek" in cause:
            says += (
                "; the server does not tell the file's length, so it can only be read whole: put simplecache:: before "
                "the URL"
            )
        return OSError(says)


def locations_of(datapath: Any, options: OpenOptions) -> list[Location]:
    """Say which files a `datapath` names: one, those of a list in its order, or those of a glob in natural order.

    Raises:
        TypeError: It is nothing that can be opened.
        FileNotFoundError: A glob that matches nothing.
        ValueError: An empty list.
    """
    if isinstance(datapath, (list, tuple)):
        if not datapath:
            raise ValueError("datapath must name at least one file, got an empty list")
        return [place for part in datapath for place in locations_of(part, options)]
    if not isinstance(datapath, (str, os.PathLike)):
        return [_held_location(datapath, options)]
    address = os.fspath(datapath)
    if not isinstance(address, str):
        raise TypeError(f"datapath must be a path or URL as text, got {datapath!r}")
    return _named_locations(address, options)


def _named_locations(address: str, options: OpenOptions) -> list[Location]:
    """The files that a path, a glob or a URL names."""
    if not _is_url(address):
        return _local_locations(address, options)
    if address.startswith(("file://", "local://")):
        return _local_locations(_path_of_uri(address), options)
    if any(sign in address for sign in "*["):
        return _matching_urls(address, options)
    head, chained, last = address.rpartition("::")
    if chained and "://" not in last and Path(last).exists():
        # A relative path at the end of a chain must survive a change of folder.
        address = f"{head}::{Path(last).absolute()}"
    return [Location(address, local=False, options=options)]


def natural_order(name: str) -> list[Any]:
    """A key that sorts numbers inside of names as numbers: demo_2 before demo_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"([0-9]+)", name)]


def _written_name(file: Any, writing: int) -> bytes | None:
    """The name of a file that is open for writing; None for one that is not, or that another thread closes now."""
    try:
        name: bytes | None = file.name if file.get_intent() & writing else None
    except (ValueError, RuntimeError):
        return None
    return name


def writer_in_this_process(paths: tuple[str, ...]) -> bool:
    """Whether this process itself holds one of the files open for writing: HDF5 may keep what was written in memory.

    A file that was opened for reading while a writer had it open shares the writer's state, also after the writer is
    closed.
    """
    if "h5py" not in _lazy.__dict__:
        return False
    h5f = _lazy.h5py.h5f
    if h5f.get_obj_count(h5f.OBJ_ALL, h5f.OBJ_FILE) <= len(_own_files) and not any(list(_own_files.values())):
        return False
    names = [_written_name(found, h5f.ACC_RDWR) for found in h5f.get_obj_ids(h5f.OBJ_ALL, h5f.OBJ_FILE)]
    written = [name for name in names if name is not None]
    return any(_same_file(os.fsdecode(name), path) for name in written for path in paths)


def _same_file(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)  # noqa: PTH121
    except OSError:
        return False


def _close(file: h5py.File) -> None:
    _own_files.pop(id(file), None)
    file.close()


def _is_url(address: str) -> bool:
    if _URL.match(address):
        return True
    first, chained, _ = address.partition("::")
    # A colon is allowed in the name of a local file.
    return bool(chained) and not Path(address).exists() and first in _lazy.fsspec.available_protocols()


def _local_locations(path: str, options: OpenOptions) -> list[Location]:
    absolute = str(Path(path).absolute())
    if not glob.has_magic(path) or Path(path).exists():
        return [Location(absolute, local=True, options=options)]
    found = sorted(glob.glob(absolute, recursive=True), key=natural_order)  # noqa: PTH207 - takes ** and absolute paths
    if not found:
        raise FileNotFoundError(f"datapath: no file matches {path!r}")
    return [Location(name, local=True, options=options) for name in found]


def _path_of_uri(address: str) -> str:
    raw = re.sub(r"^(file|local)://(localhost(?=/))?", "", address)
    # fsspec writes such URLs without percent-encoding, pathlib's as_uri() with it.
    if Path(raw).exists():
        return raw
    return urllib.request.url2pathname(raw) if os.name == "nt" else urllib.parse.unquote(raw)


def _matching_urls(address: str, options: OpenOptions) -> list[Location]:
    system, path = _lazy.fsspec.core.url_to_fs(address, **options.storage_options)
    try:
        names = system.glob(path)
    except NotImplementedError:
        names = []
    if not names:
        # Servers without listings have names with these signs too.
        return [Location(address, local=False, options=options)]
    found = sorted((system.unstrip_protocol(name) for name in names), key=natural_order)
    return [Location(name, local=False, options=options) for name in found]


def _held_location(held: Any, options: OpenOptions) -> Location:
    """A file-like object or an open h5py.File; by its path where it has one, so that each process opens its own."""
    h5py = _lazy.h5py
    if isinstance(held, h5py.File):
        return _open_file_location(held, options)
    if hasattr(held, "fs") and hasattr(held, "path") and hasattr(held.fs, "unstrip_protocol"):
        # fsspec's own files: each process opens its own.
        options = dataclasses.replace(options, storage_options=dict(held.fs.storage_options))
        return locations_of(held.fs.unstrip_protocol(held.path), options)[0]
    if not (hasattr(held, "read") and hasattr(held, "seek")):
        raise TypeError(
            "datapath must be a path or URL (a str or an os.PathLike), a list of them, a file-like object or an open "
            f"h5py.File, got {held!r}"
        )
    name = getattr(held, "name", None)
    if isinstance(name, str) and Path(name).is_file():
        return Location(str(Path(name).absolute()), local=True, options=options)
    # Memory is copied by a fork; whatever else a file-like object reads from may be shared with the parent.
    shared = not hasattr(held, "getbuffer")
    return Location(f"<{type(held).__name__}>", False, options, held, os.getpid() if shared else None)


def _open_file_location(held: h5py.File, options: OpenOptions) -> Location:
    if held.id and held.driver == "sec2":
        return Location(str(Path(held.filename).absolute()), local=True, options=options)
    return Location(f"<{held!r}>", False, options, held, os.getpid())


def _open_url(
    address: str, storage_options: Mapping[str, Any], stack: contextlib.ExitStack
) -> tuple[Any, RemoteBytes | None]:
    system, path = _lazy.fsspec.core.url_to_fs(address, **storage_options)
    if system.async_impl and "::" not in address:
        remote = RemoteBytes(system, path)
        return RemoteFile(remote), remote
    # An OpenFile closes what it opened once it is collected: it is kept as long as the file is read.
    opener = _lazy.fsspec.open(address, "rb", **storage_options)
    return stack.enter_context(opener), None
