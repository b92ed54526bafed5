"""Members of zip, tar and single compressed files, one after another; a broken archive raises, never just ends."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH116, PTH119
from __future__ import annotations

import bz2
import contextlib
import gzip
import importlib
import lzma
import os
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

PIECE = 1 << 18
_LONGEST_TAR_HEADER = 1 << 16

ENDINGS = {
    "tar": (".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tar.gz", ".tar.bz2", ".tar.bz", ".tar.xz", ".tar.zst"),
    "zip": (".zip",),
    "gz": (".gz",),
    "bz2": (".bz2",),
    "xz": (".xz",),
    "zst": (".zst",),
}
MAGIC = {"gz": b"\x1f\x8b", "bz2": b"BZh", "xz": b"\xfd7zXZ\x00", "zst": b"\x28\xb5\x2f\xfd"}


class BrokenArchive(Exception):  # noqa: N818 - becomes an ArchiveError that knows the path
    """The archive cannot be read, or holds something that no data set needs."""

    def __init__(self, words: str, member: str | None = None) -> None:
        super().__init__(words)
        self.member = member


@dataclass
class Member:
    """One entry as the archive describes it; nothing of it has been judged yet.

    `kind` is 'file', 'folder', 'symlink' or 'hardlink'; `target` belongs to links; `size` is what the header says.
    """

    name: str
    kind: str
    size: int = 0
    mode: int = 0o644
    modified: float = 0.0
    target: str = ""
    pieces: Callable[[], Iterator[bytes]] = lambda: iter(())


@contextlib.contextmanager
def reading_faults(member: str | None = None) -> Iterator[None]:
    """Turn whatever the readers of the standard library raise on bad bytes into BrokenArchive."""
    try:
        yield
    except BrokenArchive:
        raise
    except MemoryError as err:
        raise BrokenArchive("it asks for more memory than there is", member) from err
    except Exception as err:
        raise BrokenArchive(f"it is damaged or cut ({type(err).__name__}: {err})", member) from err


def archive_kind(path: str, formats: tuple[str, ...]) -> str | None:
    """Which of the formats the file's first bytes show: 'tar', 'zip', a compression, or None."""
    with open(path, "rb") as file:
        head = file.read(512)
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        return "zip" if "zip" in formats else None
    packing = next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)
    if "tar" in formats:
        if packing is not None:
            with contextlib.suppress(BrokenArchive), reading_faults(), opened_stream(path, packing) as stream:
                head = stream.read(512)
        if _starts_a_tar(head, path):
            return "tar"
    return packing if packing in formats else None


def _starts_a_tar(head: bytes, path: str) -> bool:
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return len(head) == 512 and not any(head) and path.lower().endswith(ENDINGS["tar"])
    return True


def opened_stream(path: str, packing: str | None) -> IO[bytes]:
    """The decompressed bytes of a file."""
    if packing == "gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if packing == "bz2":
        return cast("IO[bytes]", bz2.open(path, "rb"))
    if packing == "xz":
        return cast("IO[bytes]", lzma.open(path, "rb"))
    if packing == "zst":
        try:
            zstandard = importlib.import_module("compression.zstd")
        except ImportError as err:
            raise BrokenArchive("Zstandard needs Python 3.14 or newer") from err
        return cast("IO[bytes]", zstandard.open(path, "rb"))
    return open(path, "rb")


def members_of(path: str, kind: str) -> Iterator[Member]:
    """Read the archive from front to back; each member's pieces must be taken before the next one is asked for."""
    if kind == "zip":
        return _zip_members(path)
    if kind == "tar":
        return _tar_members(path)
    return _single_member(path, kind)


def _single_member(path: str, kind: str) -> Iterator[Member]:
    name = os.path.basename(path)
    if not name.lower().endswith(ENDINGS[kind]) or len(name) == len(kind) + 1:
        raise BrokenArchive(f"a name ending in .{kind} is needed to know what the unpacked file is called")

    def pieces() -> Iterator[bytes]:
        with reading_faults(name), opened_stream(path, kind) as stream:
            while piece := stream.read(PIECE):
                yield piece

    yield Member(name[: -len(kind) - 1], "file", 0, 0o644, os.stat(path).st_mtime, pieces=pieces)


def _zip_members(path: str) -> Iterator[Member]:
    with contextlib.ExitStack() as stack:
        with reading_faults():
            file = stack.enter_context(zipfile.ZipFile(path))
            infos = file.infolist()
        for info in infos:
            yield _zip_member(file, info)


def _zip_member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Member:
    # Some writers on Windows use backslashes; there they would be separators, so they are everywhere.
    name = info.filename.replace("\\", "/")
    if info.flag_bits & 0x1:
        raise BrokenArchive("it is encrypted, and passwords are not supported", name)
    mode = info.external_attr >> 16
    form = stat.S_IFMT(mode)
    if form not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        raise BrokenArchive("it is a special file (device, pipe or socket)", name)
    with contextlib.suppress(ValueError, OverflowError):
        modified = time.mktime((*info.date_time, 0, 0, -1))
        return _zip_entry(file, info, name, mode, modified)
    return _zip_entry(file, info, name, mode, 0.0)


def _zip_entry(file: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, mode: int, modified: float) -> Member:
    def pieces() -> Iterator[bytes]:
        count = 0
        with reading_faults(name), file.open(info) as stream:
            while piece := stream.read(PIECE):
                count += len(piece)
                yield piece
            if count != info.file_size:
                raise BrokenArchive(f"it holds {count} bytes instead of {info.file_size}", name)

    if stat.S_ISLNK(mode):
        if info.file_size > 4096:
            raise BrokenArchive("its link target is too long", name)
        with reading_faults(name):
            target = os.fsdecode(file.read(info))
        return Member(name, "symlink", target=target)
    if info.is_dir() or stat.S_ISDIR(mode) or name.endswith("/"):
        return Member(name, "folder", 0, 0o755, modified)
    return Member(name, "file", info.file_size, stat.S_IMODE(mode) or 0o644, modified, pieces=pieces)


class _StrictTarInfo(tarfile.TarInfo):
    """A header that raises where tarfile would take damage for the end, or read without a bound."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str | None, errors: str) -> _StrictTarInfo:  # type: ignore[override, unused-ignore]
        header = super().frombuf(buf, encoding or "utf-8", errors)
        extra = header.type in {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"L", b"K"}
        if header.size < 0 or (extra and header.size > _LONGEST_TAR_HEADER):
            raise BrokenArchive(f"a header gives the size {header.size}", header.name)
        return header

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _StrictTarInfo:
        return _strict_header(super().fromtarfile, tarfile)


def _strict_header(read: Callable[[tarfile.TarFile], Any], archive: tarfile.TarFile) -> _StrictTarInfo:
    try:
        return cast("_StrictTarInfo", read(archive))
    except tarfile.HeaderError as err:
        if type(err).__name__ == "EOFHeaderError":
            raise
        raise BrokenArchive(f"it is damaged or cut: no end marker ({err})") from err


def _tar_members(path: str) -> Iterator[Member]:
    with open(path, "rb") as file:
        head = file.read(8)
    packing = next((name for name, magic in MAGIC.items() if head.startswith(magic)), None)
    with contextlib.ExitStack() as stack:
        with reading_faults():
            stream = stack.enter_context(opened_stream(path, packing))
            archive = tarfile.TarFile(fileobj=stream, tarinfo=_StrictTarInfo, errorlevel=1)
        while True:
            with reading_faults():
                info = archive.next()
            if info is None:
                break
            # tarfile keeps every header; a data set of a million pictures would fill the memory.
            cast("Any", archive).members.clear()
            yield _tar_member(archive, stream, info)
        with reading_faults():
            while stream.read(PIECE):  # the checksum of a compressed stream stands at its end
                pass


def _tar_member(archive: tarfile.TarFile, stream: IO[bytes], info: tarfile.TarInfo) -> Member:
    if info.size < 0:
        raise BrokenArchive(f"its header gives the size {info.size}", info.name)
    if info.isdir():
        return Member(info.name, "folder", 0, info.mode, info.mtime)
    if info.issym() or info.islnk():
        return Member(info.name, "symlink" if info.issym() else "hardlink", target=info.linkname)
    if not info.isreg():
        raise BrokenArchive("it is a special file (device, pipe or an unknown type)", info.name)
    sparse = getattr(info, "sparse", None)
    if sparse is not None and not _is_in_order(sparse, info.size):
        raise BrokenArchive("its map of holes contradicts itself", info.name)

    def pieces() -> Iterator[bytes]:
        source = stream if sparse is None else archive.extractfile(info)
        left = info.size
        with reading_faults(info.name):
            if sparse is None and stream.tell() != info.offset_data:
                stream.seek(info.offset_data)
            while left:
                piece = source.read(min(left, PIECE)) if source is not None else b""
                if not piece:
                    raise BrokenArchive(f"it is cut: {left} bytes of {info.size} are missing", info.name)
                left -= len(piece)
                yield piece

    return Member(info.name, "file", info.size, info.mode, info.mtime, pieces=pieces)


def _is_in_order(sparse: list[tuple[int, int]], size: int) -> bool:
    end = 0
    for offset, length in sparse:
        if offset < end or length < 0 or offset + length > size:
            return False
        end = offset + length
    return True
