"""Which kind of archive a file is, by its first bytes, its ending and what the caller allows."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from torchkutils.files.archive_faults import BrokenArchive, reading_faults
from torchkutils.files.tar_reader import BLOCK, starts_a_tar
from torchkutils.files.unpacked_stream import MAGIC, UnpackedStream, can_read_zstandard
from torchkutils.files.zip_reader import find_zip_end

ENDINGS: dict[str, tuple[str, ...]] = {
    "tar": (
        *(".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tlz", ".tzst"),
        *(".tar.gz", ".tar.bz2", ".tar.bz", ".tar.xz", ".tar.lzma", ".tar.zst"),
    ),
    "zip": (".zip",),
    "gz": (".gz",),
    "bz2": (".bz2",),
    "xz": (".xz",),
    "lzma": (".lzma",),
    "zst": (".zst",),
    "7z": (".7z",),
}
_LZMA_ENDINGS = (".lzma", ".tlz")
_PACKAGES = {"zst": "Python 3.14 or newer, or: pip install backports.zstd", "7z": "a package: pip install py7zr"}
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")
_SEVEN_ZIP = b"7z\xbc\xaf\x27\x1c"
# First bytes and endings of what no reader here knows; the name is for the message.
_OTHERS = {
    b"Rar!\x1a\x07": "RAR",
    b"\x1f\x9d": "compress (.Z)",
    b"\x04\x22\x4d\x18": "LZ4",
    b"LZIP": "lzip",
    b"MSCF": "a Windows cabinet (.cab)",
}
_OTHER_ENDINGS = {
    ".rar": "RAR",
    ".z": "compress (.Z)",
    ".lz4": "LZ4",
    ".lz": "lzip",
    ".br": "Brotli",
    ".cab": "cabinet",
}


def checked_formats(archive_format: str | Iterable[str] | None) -> tuple[str, ...]:
    """The formats that an `archive_format` argument allows.

    Raises:
        ValueError: It names a format that is not known.
        ImportError: It names one that needs a package which is not installed.
    """
    if archive_format is not None and not isinstance(archive_format, Iterable):
        raise ValueError(f"archive_format must be 'auto', a format, a list of them or None, got {archive_format!r}")
    named = [archive_format] if isinstance(archive_format, str) else list(archive_format or ())
    formats: list[str] = []
    for name in named:
        if name == "auto":
            formats += ENDINGS
        elif name not in ENDINGS:
            raise ValueError(f"archive_format must be 'auto' or of {sorted(ENDINGS)}, None or a list, got {name!r}")
        elif not _can_read(name):
            raise ImportError(f"archive_format {name!r} needs {_PACKAGES[name]}")
        else:
            formats.append(name)
    return tuple(dict.fromkeys(formats))


def without_tar_ending(name: str) -> str:
    """What a tar archive's name begins with, as the entry that it is expected to hold."""
    ending = next((ending for ending in ENDINGS["tar"][::-1] if name.lower().endswith(ending)), "")
    return name[: len(name) - len(ending)] or name


def _can_read(kind: str) -> bool:
    if kind == "zst":
        return can_read_zstandard()
    return kind != "7z" or importlib.util.find_spec("py7zr") is not None


class ArchiveKind(NamedTuple):
    """What a file is: 'tar', 'zip', '7z' or a compression, and the compression of the whole file."""

    kind: str
    packing: str | None


def archive_kind(path: str, formats: tuple[str, ...]) -> ArchiveKind | None:
    """The kind of an archive of one of these formats; None for what is no archive.

    Raises:
        BrokenArchive: It is an archive by its first bytes or its ending, and cannot be read.
    """
    lower = path.lower()
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        packing = _packing(head, lower, formats)
        found = next((one for one in _possible_kinds(file, head, lower, packing) if one.kind in formats), None)
    if found is None:
        _refuse_unreadable(head, lower, formats)
    else:
        _check_readable(found)
    return found


def _possible_kinds(file: BinaryIO, head: bytes, lower: str, packing: str | None) -> Iterator[ArchiveKind]:
    """What a file may be, the surest first; it is looked at only as far as the caller asks."""
    if head.startswith(_ZIP_BEGINNINGS):
        yield ArchiveKind("zip", None)
    if head.startswith(_SEVEN_ZIP):
        yield ArchiveKind("7z", None)
    if _is_tar(file, head, packing, lower):
        yield ArchiveKind("tar", packing)
    if packing is not None:
        yield ArchiveKind(packing, packing)
    elif find_zip_end(file) is not None:
        yield ArchiveKind("zip", None)


def _packing(head: bytes, lower: str, formats: tuple[str, ...]) -> str | None:
    """The compression; the old lzma format has no sure first bytes, so its ending or the caller must name it."""
    for name, magic in MAGIC.items():
        sure = name != "lzma" or lower.endswith(_LZMA_ENDINGS) or formats == ("lzma",)
        if head.startswith(magic) and sure:
            return name
    return None


def _is_tar(file: BinaryIO, head: bytes, packing: str | None, lower: str) -> bool:
    named = lower.endswith(ENDINGS["tar"])
    if packing == "zst" and not can_read_zstandard():
        return named
    if packing is not None:
        file.seek(0)
        with contextlib.suppress(BrokenArchive), reading_faults():
            head = UnpackedStream(file, packing, lambda count: None).read(BLOCK)
    # An archive without members is nothing but zeros.
    return starts_a_tar(head) or (named and len(head) == BLOCK and not any(head))


def _check_readable(found: ArchiveKind) -> None:
    for needed in found:
        if needed is not None and not _can_read(needed):
            raise BrokenArchive(f"a {needed} file needs {_PACKAGES[needed]}")


def _refuse_unreadable(head: bytes, lower: str, formats: tuple[str, ...]) -> None:
    if any(lower.endswith(ENDINGS[name]) for name in formats):
        raise BrokenArchive(f"it is named like an archive but is none of {formats}")
    by_head = [name for magic, name in _OTHERS.items() if head.startswith(magic)]
    by_ending = [name for ending, name in _OTHER_ENDINGS.items() if lower.endswith(ending)]
    unsupported = [*by_head, *by_ending]
    if unsupported and formats:
        raise BrokenArchive(f"the format {unsupported[0]} is not supported; unpack it by another program")
