"""Members of a tar archive: the formats of POSIX (ustar, pax), GNU and Unix version 7, as GNU tar and bsdtar read them.

Every step takes time in proportion to the bytes that it reads, and the stream counts those.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from torchkutils.files.archive_faults import PIECE, BrokenArchive, Member, reading_faults
from torchkutils.files.unpacked_stream import UnpackedStream

BLOCK = 512
LONGEST_HEADER = 16 << 20
"""Most bytes of one extended header: names, attributes and maps of holes."""

RECORD_COST = 64
"""Bytes that one record of an extended header or one piece of a map counts for: it takes longer than to be read."""

_FOR_ALL = b"g"
"""The kind of an extended header that holds for all members behind it."""
_GNU_LONG = {b"L": "path", b"K": "linkpath"}
_FOR_NEXT = {b"x", b"X", *_GNU_LONG}
"""Kinds of extended headers that hold for the next member."""
_LABEL = b"V"
_FORMS = {
    **dict.fromkeys((b"0", b"\0", b"7", b"S"), "file"),
    **dict.fromkeys((b"5", b"D"), "folder"),
    b"1": "hardlink",
    b"2": "symlink",
}
_WITHOUT_DATA = {b"1", b"2", b"3", b"4", b"5", b"6"}
_KEYS = {b"path", b"linkpath", b"size", b"mtime"}
_SPARSE = b"GNU.sparse."
_LONGEST_NAME = 1 << 13
Pieces = list[tuple[int, int]]
"""Offset and length of what a sparse file holds between its holes."""


@dataclass
class _Header:
    """The fields of one header block, still as bytes where they are names."""

    name: bytes
    kind: bytes
    size: int
    mode: int
    modified: float
    target: bytes
    block: bytes


@dataclass
class _Extra:
    """What extended headers say about the next member."""

    fields: dict[str, bytes] = field(default_factory=dict)
    sparse: dict[bytes, bytes] = field(default_factory=dict)
    pieces: list[bytes] = field(default_factory=list)

    def copy(self) -> _Extra:
        """Another one to add to."""
        return _Extra(dict(self.fields))


def starts_a_tar(block: bytes) -> bool:
    """Whether 512 bytes are the header of a tar archive."""
    try:
        return len(block) == BLOCK and _read_header(block) is not None
    except BrokenArchive:
        return False


def tar_members(stream: UnpackedStream, encoding: str | None, notes: list[str]) -> Iterator[Member]:
    """The members from front to back; each one's pieces must be taken before the next one is asked for.

    `notes` gets what is worth a warning. Names are UTF-8, other bytes are kept as they are, unless `encoding` is given.

    Raises:
        BrokenArchive: The archive is damaged, cut, or holds what no data set needs.
    """
    shared, extra = _Extra(), _Extra()
    # What the consumer of the members raises does not come through here: these are faults of reading alone.
    with reading_faults():
        while (header := _next_header(stream, notes)) is not None:
            if header.kind in _FOR_NEXT:
                _read_extra(stream, header, extra)
                continue
            if header.kind == _FOR_ALL:
                _read_extra(stream, header, shared)
            else:
                found = _member(stream, header, extra, encoding)
                if found is not None:
                    yield found.described
                    found.data.finish()
            extra = shared.copy()
        stream.read_rest()


def _next_header(stream: UnpackedStream, notes: list[str]) -> _Header | None:
    """The next header block; None at the end of the archive."""
    block = stream.read(BLOCK)
    header = _read_header(block) if len(block) == BLOCK else None
    if header is None:
        _check_end(block, notes)
    return header


def _check_end(block: bytes, notes: list[str]) -> None:
    if any(block):
        raise BrokenArchive("it is damaged or cut: it ends within a header")
    if not block:
        notes.append("it ends without an end marker; if members are missing, it was cut")


def _read_header(block: bytes) -> _Header | None:
    """The fields of a block; None for a block of zeros, which ends the archive."""
    if not any(block):
        return None
    expected = _number(block[148:156])
    unsigned = sum(block) - sum(block[148:156]) + 8 * 32
    if expected != unsigned and expected != _signed_sum(block):
        raise BrokenArchive("it is damaged: a header has a wrong checksum")
    name = _text(block[:100])
    # GNU tar keeps other things where POSIX has the front part of a name.
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    size = _number(block[124:136])
    if size < 0:
        raise BrokenArchive(f"its header gives the size {size}", name.decode("utf-8", "replace"))
    modified = float(_number(block[136:148]))
    mode = _number(block[100:108]) & 0o7777
    return _Header(name, block[156:157], size, mode, modified, _text(block[157:257]), block)


def _signed_sum(block: bytes) -> int:
    """Some old writers added the bytes as signed numbers."""
    rest = block[:148] + block[156:]
    return sum(byte - 256 if byte > 127 else byte for byte in rest) + 8 * 32


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _number(field: bytes) -> int:
    if field[0] in {0x80, 0xFF}:
        # GNU's binary form, for numbers that octal digits have no room for.
        return int.from_bytes(field[1:] if field[0] == 0x80 else field, "big", signed=field[0] == 0xFF)
    digits = _text(field).strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise BrokenArchive("it is damaged: a header holds no octal number") from error


def _read_extra(stream: UnpackedStream, header: _Header, extra: _Extra) -> None:
    if header.size > LONGEST_HEADER:
        raise BrokenArchive(f"an extended header has {header.size} bytes, more than {LONGEST_HEADER}")
    body = stream.read(header.size)
    if len(body) < header.size:
        raise BrokenArchive("it is damaged or cut: it ends within an extended header")
    stream.skip(-header.size % BLOCK)
    if header.kind in _GNU_LONG:
        extra.fields[_GNU_LONG[header.kind]] = _text(body)
        return
    for key, value in _pax_records(body):
        stream.spend(RECORD_COST)
        if key in _KEYS:
            extra.fields[f"pax {key.decode()}"] = value
        elif header.kind == _FOR_ALL:
            continue  # a map of holes belongs to one member
        elif key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            extra.pieces.append(value)
        elif key.startswith(_SPARSE):
            extra.sparse[key.removeprefix(_SPARSE)] = value


def _pax_records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """`length key=value` lines; the length counts itself, so each record tells where the next one begins."""
    start = 0
    while start < len(body) and body[start]:
        space = body.find(b" ", start, start + 20)
        digits = body[start:space]
        if space < 0 or not digits.isdigit():
            raise BrokenArchive("it is damaged: an extended header holds no length")
        end = start + int(digits)
        equals = body.find(b"=", space + 1, end)
        if end > len(body) or end <= space + 1 or equals < 0 or body[end - 1 : end] != b"\n":
            raise BrokenArchive("it is damaged: an extended header has a record that is none")
        yield body[space + 1 : equals], body[equals + 1 : end - 1]
        start = end


class _Data:
    """The stored bytes of one member."""

    def __init__(self, stream: UnpackedStream, size: int, name: str) -> None:
        self.stream, self._left, self._name = stream, size, name
        self._padding = -size % BLOCK

    def read(self, count: int) -> bytes:
        """That many bytes; BrokenArchive when the member or the archive has no more."""
        wanted = min(count, self._left)
        piece = self.stream.read(wanted)
        self._left -= len(piece)
        if len(piece) < count:
            raise BrokenArchive(f"it is cut: {count - len(piece)} bytes are missing", self._name)
        return piece

    @property
    def left(self) -> int:
        """Bytes that were not read yet."""
        return self._left

    def finish(self) -> None:
        """Go to the next header."""
        if self.stream.skip(self._left):
            raise BrokenArchive("it is cut: bytes are missing", self._name)
        self.stream.skip(self._padding)
        self._left = self._padding = 0


@dataclass
class _Found:
    """A member and the bytes that belong to it."""

    described: Member
    data: _Data


def _member(stream: UnpackedStream, header: _Header, extra: _Extra, encoding: str | None) -> _Found | None:
    """The member of a header; None for what is no member."""
    name = _name(extra, "path", header.name, encoding)
    if real := extra.sparse.get(b"name"):
        name = real.decode("utf-8", "surrogateescape")
    stored = _pax_size(extra, header.size)
    data = _Data(stream, 0 if header.kind in _WITHOUT_DATA else stored, name)
    modified = _pax_time(extra, header.modified)
    if header.kind == _LABEL:
        data.finish()  # the label of the whole archive
        return None
    form = _form(header.kind, name)
    if form == "folder":
        return _Found(Member(name, form, 0, header.mode, modified), data)
    if form != "file":
        return _Found(Member(name, form, target=_name(extra, "linkpath", header.target, encoding)), data)
    size, pieces = _sparse_map(stream, header, extra, data, name)
    if pieces is None:
        return _Found(Member(name, form, stored, header.mode, modified, pieces=lambda: _dense(data, name)), data)
    _check_map(pieces, size, data.left, name)
    described = Member(name, form, size, header.mode, modified, pieces=lambda: _with_holes(data, pieces, size, name))
    return _Found(described, data)


def _form(kind: bytes, name: str) -> str:
    """What a member is: 'file', 'folder', 'hardlink' or 'symlink'."""
    if kind == b"M":
        raise BrokenArchive("it goes on from another volume; put the volumes together first", name)
    if kind not in _FORMS:
        raise BrokenArchive("it is a special file (device, pipe or an unknown type)", name)
    # The first tar programs had no kind for folders: their names end in a slash.
    is_old_folder = _FORMS[kind] == "file" and name.endswith("/")
    return "folder" if is_old_folder else _FORMS[kind]


def _name(extra: _Extra, key: str, short: bytes, encoding: str | None) -> str:
    """A path of pax is UTF-8 by its standard; other names are in whatever encoding their writer used."""
    pax = extra.fields.get(f"pax {key}")
    raw = extra.fields.get(key, short) if pax is None else pax
    if len(raw) > _LONGEST_NAME:
        raise BrokenArchive(f"it has a name of {len(raw)} bytes")
    if encoding is None or pax is not None:
        return raw.decode("utf-8", "surrogateescape")
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        raise BrokenArchive(f"its name is not in the encoding {encoding!r}", raw.decode("latin-1")) from error


def _pax_size(extra: _Extra, size: int) -> int:
    text = extra.fields.get("pax size")
    return size if text is None else _decimal(text)


def _pax_time(extra: _Extra, modified: float) -> float:
    text = extra.fields.get("pax mtime")
    return modified if text is None else float(text)


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 20:
        raise BrokenArchive("it is damaged: an extended header holds no number")
    return int(text)


def _sparse_map(
    stream: UnpackedStream, header: _Header, extra: _Extra, data: _Data, name: str
) -> tuple[int, Pieces | None]:
    """The size of a file with its holes and what lies between them; None for an ordinary file."""
    if header.kind == b"S":
        return _old_gnu_map(stream, header.block)
    if extra.sparse.get(b"major") == b"1":
        return _decimal(extra.sparse.get(b"realsize", b"")), _map_in_data(data, name)
    if b"map" in extra.sparse or extra.pieces:
        values = extra.sparse[b"map"].split(b",") if b"map" in extra.sparse else extra.pieces
        return _decimal(extra.sparse.get(b"size", b"")), _pairs([_decimal(value) for value in values], name)
    return 0, None


def _pairs(numbers: list[int], name: str) -> Pieces:
    if len(numbers) % 2:
        raise BrokenArchive("its map of holes contradicts itself", name)
    return [(offset, length) for offset, length in zip(numbers[::2], numbers[1::2], strict=True) if length]


def _old_gnu_map(stream: UnpackedStream, block: bytes) -> tuple[int, Pieces]:
    """Up to four pieces are in the header, 21 in each block behind it as long as there is a further one."""
    size, pieces = _number(block[483:495]), _block_of_pieces(block[386:482])
    more = block[482]
    while more:
        block = stream.read(BLOCK)
        stream.spend(21 * RECORD_COST)
        if len(block) < BLOCK:
            raise BrokenArchive("it is damaged or cut: it ends within a map of holes")
        pieces += _block_of_pieces(block[:504])
        more = block[504]
    return size, pieces


def _block_of_pieces(fields: bytes) -> Pieces:
    pairs = ((_number(fields[at : at + 12]), _number(fields[at + 12 : at + 24])) for at in range(0, len(fields), 24))
    return [(offset, length) for offset, length in pairs if length]


def _map_in_data(data: _Data, name: str) -> Pieces:
    """Decimal numbers, one a line, in blocks before the content: how many pieces, then offset and length of each."""
    numbers: list[int] = []
    rest = b""
    while True:
        *lines, rest = (rest + data.read(BLOCK)).split(b"\n")
        data.stream.spend(RECORD_COST * len(lines))
        numbers += [_decimal(line) for line in lines]
        if numbers and len(numbers) >= 1 + 2 * numbers[0]:
            return _pairs(numbers[1 : 1 + 2 * numbers[0]], name)
        if len(rest) > 20:
            raise BrokenArchive("it is damaged: its map of holes holds no number", name)


def _check_map(pieces: Pieces, size: int, stored: int, name: str) -> None:
    end = total = 0
    for offset, length in pieces:
        if offset < end or length < 0:
            raise BrokenArchive("its map of holes contradicts itself", name)
        end, total = offset + length, total + length
    if end > size or total > stored:
        raise BrokenArchive("its map of holes contradicts itself", name)


def _dense(data: _Data, name: str) -> Iterator[bytes]:
    while data.left:
        with reading_faults(name):
            piece = data.read(min(data.left, PIECE))
        yield piece


def _with_holes(data: _Data, pieces: Pieces, size: int, name: str) -> Iterator[bytes]:
    end = 0
    for offset, length in [*pieces, (size, 0)]:
        yield from _zeros(offset - end)
        end = offset + length
        while length:
            with reading_faults(name):
                piece = data.read(min(length, PIECE))
            length -= len(piece)
            yield piece


def _zeros(count: int) -> Iterator[bytes]:
    for _ in range(count // PIECE):
        yield bytes(PIECE)
    if count % PIECE:
        yield bytes(count % PIECE)
