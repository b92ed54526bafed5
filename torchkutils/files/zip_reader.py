"""Members of a zip archive, by its central directory, as unzip and zipfile find it: bytes in front of it are allowed.

Names are read as the bytes that they are. Those without the flag for UTF-8 come from whatever the writer's system
used: UTF-8 where all of them are valid UTF-8, else code page 437, the format's own, unless the caller names another.
"""

from __future__ import annotations

import bz2
import contextlib
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from torchkutils.files.archive_faults import PIECE, BrokenArchive, Member, reading_faults
from torchkutils.files.unpacked_stream import (
    Decoder,
    InflateDecoder,
    new_lzma_decoder,
    new_xz_decoder,
    new_zstandard_decoder,
)

_END, _END_64, _LOCATOR, _ENTRY, _LOCAL = b"PK\5\6", b"PK\6\6", b"PK\6\7", b"PK\1\2", b"PK\3\4"
_ENTRY_FIELDS = struct.Struct("<4s4B4HL2L5H2L")
_FULL = 0xFFFFFFFF
_LINK_BYTES = 4096
_UNREAD_METHODS = {
    1: "Shrink",
    2: "Reduce",
    3: "Reduce",
    4: "Reduce",
    5: "Reduce",
    6: "Implode",
    9: "Deflate64",
    10: "PKWARE Implode",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
}
_READ_METHODS = {8: "Deflate", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}
_GUESSES = ("cp932", "gbk", "big5", "euc_kr", "cp1251")


@dataclass
class _Entry:
    """One row of the central directory."""

    raw_name: bytes
    flags: int
    method: int
    date: int
    clock: int
    crc: int
    packed: int
    size: int
    attributes: int
    at: int
    unicode_name: str | None


@dataclass
class _Directory:
    """Where the rows lie, and what to add to each member's offset."""

    start: int
    size: int
    count: int
    shift: int


def find_zip_end(file: BinaryIO) -> int | None:
    """The offset of the record at the end of a zip archive; None where there is none."""
    length = file.seek(0, os.SEEK_END)
    start = max(0, length - (1 << 16) - 22)
    file.seek(start)
    tail = file.read()
    at = tail.rfind(_END)
    while at >= 0:
        if len(tail) - at >= 22:
            return start + at
        at = tail.rfind(_END, 0, at)
    return None


def zip_members(
    file: BinaryIO, encoding: str | None, notes: list[str], spend: Callable[[int], None]
) -> Iterator[Member]:
    """The members in the order of the central directory.

    `notes` gets what is worth a warning, `spend` is told of the work on each row.

    Raises:
        BrokenArchive: The archive is damaged, cut, encrypted, or packed by a method that is not supported.
    """
    with reading_faults():
        length = file.seek(0, os.SEEK_END)
        directory = _directory(file)
        names = _NameReader(encoding)
        if encoding is None:
            for entry in _entries(file, directory, spend):
                names.learn(entry)
    notes += names.notes()
    for entry in _faults_named(_entries(file, directory, spend)):
        yield _member(file, entry, names.name(entry), directory, length)


def _faults_named(entries: Iterator[_Entry]) -> Iterator[_Entry]:
    while True:
        with reading_faults():
            entry = next(entries, None)
        if entry is None:
            return
        yield entry


def _directory(file: BinaryIO) -> _Directory:
    end = find_zip_end(file)
    if end is None:
        raise BrokenArchive("it is damaged or cut: a zip archive's last record is missing")
    file.seek(end)
    disk, first_disk, _, count, size, offset = struct.unpack("<4x4H2L2x", file.read(22))
    behind = end
    if _FULL in {size, offset} or 0xFFFF in {count, disk, first_disk}:
        file.seek(max(end - 20, 0))
        locator = file.read(20)
        if locator[:4] == _LOCATOR:
            behind, disk, count, size, offset = _directory_64(file, end - 20, locator)
    if disk not in {0, 0xFFFF}:
        raise BrokenArchive("it consists of several files; put them together first")
    start = behind - size
    if start < 0 or start < offset:
        raise BrokenArchive("it is damaged or cut: its directory is not where it should be")
    # Bytes in front of the archive (a program that unpacks it) move all offsets that it gives.
    return _Directory(start, size, count, start - offset)


def _directory_64(file: BinaryIO, locator_at: int, locator: bytes) -> tuple[int, int, int, int, int]:
    """The record for large archives: its own offset, then disk, count, size and offset of the directory."""
    said = int(struct.unpack("<8xQ4x", locator)[0])
    for at in (locator_at - 56, said):
        file.seek(max(at, 0))
        record = file.read(56)
        if record[:4] == _END_64 and len(record) == 56:
            disk, _, _, count, size, offset = struct.unpack("<16x2L4Q", record)
            return at, disk, count, size, offset
    raise BrokenArchive("it is damaged or cut: the record of a large zip archive is missing")


def _entries(file: BinaryIO, directory: _Directory, spend: Callable[[int], None]) -> Iterator[_Entry]:
    """The rows, read in pieces; between two rows the caller may read elsewhere in the file."""
    at, end, count = directory.start, directory.start + directory.size, 0
    buffer, used = b"", 0
    while at < end:
        longest = 46 + 3 * 0xFFFF
        if len(buffer) - used < longest and at + len(buffer) - used < end:
            file.seek(at)
            buffer, used = file.read(min(end - at, 4 * longest)), 0
        entry, length = _entry(buffer, used)
        spend(length)
        used, at, count = used + length, at + length, count + 1
        yield entry
    if count & 0xFFFF != directory.count & 0xFFFF:
        raise BrokenArchive(f"it is damaged or cut: its directory has {count} rows instead of {directory.count}")


def _entry(buffer: bytes, start: int) -> tuple[_Entry, int]:
    if buffer[start : start + 4] != _ENTRY or len(buffer) - start < 46:
        raise BrokenArchive("it is damaged or cut: a row of its directory is none")
    fields = _ENTRY_FIELDS.unpack_from(buffer, start)
    flags, method, clock, date, crc, packed, size, name, extra, comment = fields[5:15]
    attributes, at = fields[17:]
    length = 46 + name + extra + comment
    if len(buffer) - start < length:
        raise BrokenArchive("it is damaged or cut: its directory breaks off")
    raw = buffer[start + 46 : start + 46 + name]
    entry = _Entry(raw, flags, method, date, clock, crc, packed, size, attributes, at, None)
    _read_extras(entry, buffer[start + 46 + name : start + 46 + name + extra])
    return entry, length


def _read_extras(entry: _Entry, extra: bytes) -> None:
    """Sizes beyond 4 GiB, and the name in UTF-8 as Info-ZIP stores it."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + length]
        at += 4 + length
        if kind == 1:
            _read_large_sizes(entry, body)
        elif kind == 0x7075 and body[:1] == b"\1" and body[1:5] == zlib.crc32(entry.raw_name).to_bytes(4, "little"):
            with contextlib.suppress(UnicodeDecodeError):
                entry.unicode_name = body[5:].decode()


def _read_large_sizes(entry: _Entry, body: bytes) -> None:
    numbers = iter(struct.unpack(f"<{len(body) // 8}Q", body[: len(body) // 8 * 8]))
    if entry.size == _FULL:
        entry.size = next(numbers, entry.size)
    if entry.packed == _FULL:
        entry.packed = next(numbers, entry.packed)
    if entry.at == _FULL:
        entry.at = next(numbers, entry.at)


class _NameReader:
    """Decides once for the whole archive in which encoding its unmarked names are."""

    def __init__(self, encoding: str | None) -> None:
        self._given = encoding
        self._is_utf8 = True
        self._possible = set(_GUESSES)

    def learn(self, entry: _Entry) -> None:
        """See one name before any is read."""
        raw = entry.raw_name
        if entry.flags & 0x800 or entry.unicode_name is not None or raw.isascii():
            return
        self._is_utf8 = self._is_utf8 and _fits(raw, "utf-8")
        self._possible = {encoding for encoding in self._possible if _fits(raw, encoding)}

    def notes(self) -> list[str]:
        """What to tell the caller about the guess."""
        if self._given is not None or self._is_utf8:
            return []
        possible = ", ".join(repr(encoding) for encoding in _GUESSES if encoding in self._possible)
        return [
            "its names are in an encoding that it does not tell, and are read as code page 437; "
            f"give encoding= if they look wrong{f' (valid are {possible})' if possible else ''}"
        ]

    def name(self, entry: _Entry) -> str:
        """The member's path with `/`.

        Raises:
            BrokenArchive: The name is not in the encoding that the caller gave.
        """
        raw = entry.raw_name
        if entry.unicode_name is not None:
            return entry.unicode_name.replace("\\", "/")
        if raw.isascii():
            # Some writers on Windows use backslashes; there they would be separators, so they are everywhere.
            return raw.decode().replace("\\", "/")
        if entry.flags & 0x800 and _fits(raw, "utf-8"):
            return raw.decode().replace("\\", "/")
        if self._given is not None:
            if not _fits(raw, self._given):
                raise BrokenArchive(f"its name is not in the encoding {self._given!r}", raw.decode("cp437"))
            return raw.decode(self._given).replace("\\", "/")
        if self._is_utf8 and not entry.flags & 0x800:
            return raw.decode().replace("\\", "/")
        return _as_cp437(raw)


def _fits(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _as_cp437(raw: bytes) -> str:
    """In Japanese and Chinese encodings a backslash is often the second half of a letter: then it separates nothing."""
    letters = []
    for position, byte in enumerate(raw):
        is_separator = byte == 0x5C and (position == 0 or raw[position - 1] < 0x80)
        letters.append(0x2F if is_separator else byte)
    return bytes(letters).decode("cp437")


def _member(file: BinaryIO, entry: _Entry, name: str, directory: _Directory, length: int) -> Member:
    if entry.flags & 0x2041 or entry.method == 99:
        raise BrokenArchive("it is encrypted, and passwords are not supported", name)
    if entry.flags & 0x20:
        raise BrokenArchive("it is a patch of another archive, which is not supported", name)
    mode = entry.attributes >> 16
    form = stat.S_IFMT(mode)
    if form not in {0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK}:
        raise BrokenArchive("it is a special file (device, pipe or socket)", name)
    modified = _time(entry)
    if name.endswith("/") or form == stat.S_IFDIR:
        return Member(name, "folder", 0, 0o755, modified)
    content = _Content(file, entry, name, directory.shift, length)
    if form == stat.S_IFLNK:
        if entry.size > _LINK_BYTES:
            raise BrokenArchive("its link target is too long", name)
        target = b"".join(content.pieces())
        return Member(name, "symlink", target=os.fsdecode(target))
    return Member(name, "file", entry.size, stat.S_IMODE(mode) or 0o666, modified, pieces=content.pieces)


def _time(entry: _Entry) -> float:
    day, clock = entry.date, entry.clock
    fields = (1980 + (day >> 9), day >> 5 & 15, day & 31, clock >> 11, clock >> 5 & 63, clock % 32 * 2, 0, 0, -1)
    with contextlib.suppress(ValueError, OverflowError):
        return time.mktime(fields)
    return 0.0


@dataclass
class _Content:
    """The bytes of one member: unpacked, counted, and compared with their checksum."""

    file: BinaryIO
    entry: _Entry
    name: str
    shift: int
    length: int

    def pieces(self) -> Iterator[bytes]:
        """The unpacked bytes.

        Raises:
            BrokenArchive: They are damaged, cut, or not as many as the directory says.
        """
        count = crc = 0
        pieces = self._unpacked()
        while True:
            with reading_faults(self.name):
                piece = next(pieces, None)
                if piece is None:
                    break
                count, crc = count + len(piece), zlib.crc32(piece, crc)
                if count > self.entry.size:
                    raise BrokenArchive(f"it holds more than the {self.entry.size} bytes that it announces", self.name)
            yield piece
        if count != self.entry.size:
            raise BrokenArchive(f"it holds {count} bytes instead of {self.entry.size}", self.name)
        if crc != self.entry.crc:
            raise BrokenArchive("it is damaged: its checksum is wrong", self.name)

    def _unpacked(self) -> Iterator[bytes]:
        packed = self._packed()
        if self.entry.method == 0:
            yield from packed
            return
        decoder = self._decoder(packed)
        while not decoder.eof:
            data = b""
            if decoder.needs_input:
                data = next(packed, b"")
                if not data:
                    raise BrokenArchive("it is damaged or cut: its compressed data break off", self.name)
            try:
                piece = decoder.decompress(data, PIECE)
            except Exception as error:
                method = _READ_METHODS[self.entry.method]
                raise BrokenArchive(f"its content is no {method} as its header says ({error})", self.name) from error
            if piece:
                yield piece
            elif not data and not decoder.eof and not decoder.needs_input:
                raise BrokenArchive("it is damaged: its compressed data give no more bytes and do not end", self.name)

    def _packed(self) -> Iterator[bytes]:
        """The stored bytes; the file's position is set anew for each piece, others read it too."""
        at = self.entry.at + self.shift
        self.file.seek(at)
        local = self.file.read(30)
        if local[:4] != _LOCAL or len(local) < 30:
            raise BrokenArchive("it is damaged or cut: it is not where the directory says", self.name)
        at += 30 + sum(struct.unpack("<26x2H", local))
        left = self.entry.packed
        if at + left > self.length:
            raise BrokenArchive("it is damaged or cut: it reaches beyond the end of the archive", self.name)
        while left:
            self.file.seek(at)
            piece = self.file.read(min(left, PIECE))
            if not piece:
                raise BrokenArchive("it is damaged or cut: it reaches beyond the end of the archive", self.name)
            at, left = at + len(piece), left - len(piece)
            yield piece

    def _decoder(self, packed: Iterator[bytes]) -> Decoder:
        method = self.entry.method
        if method == 14:
            return self._lzma_decoder(packed)
        makers: dict[int, Callable[[], Decoder]] = {
            8: lambda: InflateDecoder(-15),
            12: bz2.BZ2Decompressor,
            93: new_zstandard_decoder,
            95: new_xz_decoder,
        }
        if method not in makers:
            known = _UNREAD_METHODS.get(method, "of that number")
            words = f"it is packed by method {method} ({known}), which is not supported; unpack it by another program"
            raise BrokenArchive(words, self.name)
        return makers[method]()

    def _lzma_decoder(self, packed: Iterator[bytes]) -> Decoder:
        """A zip archive stores the parameters in another form than a .lzma file, and the size elsewhere."""
        first = next(packed, b"")
        width = int.from_bytes(first[2:4], "little")
        size = -1 if self.entry.flags & 2 else self.entry.size
        decoder = new_lzma_decoder()
        head = first[4 : 4 + width] + size.to_bytes(8, "little", signed=True) + first[4 + width :]
        decoder.decompress(head, 0)
        return decoder
