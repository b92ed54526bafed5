"""Archives that want to leave their folder, fill the disk, replace other files, or pass for whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable

HOSTILE: dict[str, Callable[[str], bytes]] = {}
Entry = tuple[str, bytes, dict]


def tar_of(*entries: Entry, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content, fields in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(*entries: tuple[str, bytes, int]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content, mode in entries:
            info = zipfile.ZipInfo(name)
            info.filename = name
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(info, content)
    return buffer.getvalue()


def plain(name: str, content: bytes = b"evil", **fields) -> Entry:
    return name, content, fields


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Entry:
    return name, b"", {"type": kind, "linkname": target}


def hard(name: str, target: str) -> Entry:
    return link(name, target, tarfile.LNKTYPE)


def raw_header(name: bytes, size_field: bytes, kind: bytes = b"0") -> bytes:
    head = bytearray(512)
    head[: len(name)] = name
    head[100:108], head[124:136], head[156:157], head[257:265] = b"0000644\0", size_field, kind, b"ustar\x0000"
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


def add(name: str, make: Callable[[str], bytes]) -> None:
    assert name not in HOSTILE
    HOSTILE[name] = make


ok = plain("first.txt", b"fine")
NAMES = {
    "dotdot": "../evil", "deep-dotdot": "a/b/../../../evil", "inner-dotdot": "a/../evil", "absolute": "/tmp/evil",
    "backslash-dotdot": "..\\evil", "drive": "C:/evil", "reserved": ".v.zip.torchkutils-members.json",
    "victim": "victim.txt", "sibling": "other.bin", "itself": "ARCHIVE", "deep": "d/" * 120 + "x", "long": "n" * 300,
}  # fmt: skip
for label, bad in NAMES.items():
    add(f"tar:{label}", lambda own, bad=bad: tar_of(ok, plain(bad.replace("ARCHIVE", own))))
    add(
        f"zip:{label}",
        lambda own, bad=bad: zip_of(("first.txt", b"fine", 0), (bad.replace("ARCHIVE", own), b"evil", 420)),
    )

LINKS = {
    "absolute link": [link("l", "/etc/passwd")],
    "dotdot link": [link("l", "../outside.txt")],
    "link to victim": [link("l", "../cache/victim.txt")],
    "nested dotdot link": [plain("d/x"), link("d/l", "../../outside.txt")],
    "write through a link": [link("l", ".."), plain("l/outside.txt")],
    "write through a link to a folder": [link("l", "/tmp"), plain("l/evil")],
    "link over a file": [plain("l"), link("l", "../outside.txt")],
    "chain out": [plain("d/e/x"), link("a", "d/e"), link("b", "a/../../.."), link("c", "b/outside.txt")],
    "dangling by way of what is missing": [link("l", "nothing/../x")],
    "dangling by way of a file": [plain("f"), link("l", "f/../x")],
    "dangling out": [link("l", "nothing/../../outside.txt")],
    "circle": [link("a", "b"), link("b", "a")],
    "to itself": [link("a", "a")],
    "empty target": [link("a", "")],
    "hard link out": [hard("h", "../outside.txt")],
    "hard link absolute": [hard("h", "/etc/passwd")],
    "hard link to nothing": [hard("h", "missing")],
    "hard link to a link": [plain("x"), link("l", "x"), hard("h", "l")],
    "hard link forward": [hard("h", "x"), plain("x")],
    "hard link through a link": [link("l", ".."), hard("h", "l/outside.txt")],
    "pipe": [plain("p", b"", type=tarfile.FIFOTYPE)],
    "character device": [plain("p", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [plain("p", b"", type=tarfile.BLKTYPE, devmajor=1, devminor=3)],
    "unknown type": [plain("p", b"", type=b"Q")],
    "file and folder": [plain("x", b"1"), plain("x/y", b"2")],
    "folder and file": [plain("x/y", b"1"), plain("x", b"2")],
}
for label, entries in LINKS.items():
    add(f"tar:{label}", lambda own, entries=entries: tar_of(ok, *entries))


def path_max_chain(own: str) -> bytes:
    entries, folder, steps = [], "d" * 247, "abcdefghijklmnop"
    path = ""
    for letter in steps:
        entries.append((path + folder, b"", {"type": tarfile.DIRTYPE}))
        entries.append(link(path + letter, folder))
        path += folder + "/"
    long_name = "/".join(steps) + "/" + "l" * 254
    entries.append(link(long_name, "../" * len(steps)))
    entries.append(link("escape", long_name + "/../outside.txt"))
    entries.append(hard("flag", "escape"))
    return tar_of(*entries)


def sparse(own: str) -> bytes:
    head = bytearray(raw_header(b"holes", b"00000000000\0", b"S"))
    head[257:265] = b"ustar  \0"
    head[386:398], head[398:410] = b"00000000000\0", b"00000000000\0"
    head[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)


fine = tar_of(ok, plain("second.txt", b"x" * 3000))
packed = gzip.compress(fine)
add("tar:path-max chain", path_max_chain)
add("tar:sparse terabyte", sparse)
add("tar:zeros", lambda own: gzip.compress(tar_of(plain("zeros", bytes(80 << 20)))))
add("zip:zeros", lambda own: zip_of(("zeros", bytes(80 << 20), 0)))
add("tar:negative size", lambda own: tar_of(ok)[:1024] + raw_header(b"n", b"\xff" * 12) + bytes(1024))
add("tar:huge pax header", lambda own: raw_header(b"p", b"77777777777\0", b"x") + bytes(2048))
add(
    "tar:negative pax header",
    lambda own: tar_of(ok)[:1024] + raw_header(b"p", b"\xff" * 10 + b"\xfe\0", b"x") + bytes(2048),
)
add("tar:too many members", lambda own: tar_of(*(plain(f"m{number}", b"") for number in range(2_500))))
add("zip:too many members", lambda own: zip_of(*((f"m{number}", b"", 0) for number in range(2_500))))
add("tar:truncated", lambda own: fine[:2000])
add("tar:header damaged", lambda own: fine[:1024] + b"?" * 512 + fine[1536:])
add("tar:gz truncated", lambda own: packed[:-9])
add("tar:gz checksum", lambda own: packed[:-8] + b"\0\0\0\0" + packed[-4:])
add("tar:gz garbage", lambda own: packed[:40] + b"\xff" * 40)
add("tar:bz2 truncated", lambda own: bz2.compress(fine)[:-9])
add("tar:xz truncated", lambda own: lzma.compress(fine)[:-9])
add("tar:html", lambda own: b"<html>Sign in</html>")
good_zip = zip_of(("first.txt", b"fine" * 99, 0), ("second.txt", b"more", 0))
add("zip:truncated", lambda own: good_zip[:-30])
add("zip:crc", lambda own: good_zip[:45] + b"\xff\xff" + good_zip[47:])
add("zip:encrypted", lambda own: _encrypted())
add("zip:link out", lambda own: zip_of(("l", b"../outside.txt", stat.S_IFLNK | 0o777)))
add("zip:link absolute", lambda own: zip_of(("l", b"/etc/passwd", stat.S_IFLNK | 0o777)))
add("zip:pipe", lambda own: zip_of(("p", b"", stat.S_IFIFO | 0o644)))
add("zip:device", lambda own: zip_of(("p", b"", stat.S_IFCHR | 0o644)))
add("zip:html", lambda own: b"<html>Sign in</html>")


def pax(body: bytes, kind: bytes = b"x", then: bytes = b"") -> bytes:
    """An extended header with that content, and a member behind it."""
    head = raw_header(b"p", b"%011o\0" % len(body), kind)
    return head + body + bytes(-len(body) % 512) + (then or raw_header(b"m", b"00000000000\0")) + bytes(1024)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d" % length) + len(key) + len(value) + 3 != length:
        length = len(b"%d" % length) + len(key) + len(value) + 3
    return b"%d %s=%s\n" % (length, key, value)


def gnu_sparse(*pieces: tuple[int, int], size: int, stored: int = 0, extended: bytes = b"\0") -> bytes:
    head = bytearray(raw_header(b"holes", b"%011o\0" % stored, b"S"))
    head[257:265] = b"ustar  \0"
    for place, (offset, length) in enumerate(pieces):
        head[386 + 24 * place : 410 + 24 * place] = b"%011o\0%011o\0" % (offset, length)
    head[482:483], head[483:495] = extended, b"%011o\0" % size
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head)


# Few bytes, much work: each must be ended by a limit.
EMPTY_HEADER = raw_header(b"e", b"00000000000\0")
WORK: dict[str, Callable[[], bytes]] = {
    "pax digits": lambda: gzip.compress(pax(b"1" * 65_000) * 3),
    "pax records that overlap": lambda: gzip.compress(pax(b"3 a" * 21_800 + b"=\n") * 3),
    "pax two bytes": lambda: gzip.compress(pax(b"2 " * 32_000 + b"a=\n") * 3),
    "pax 15 MiB of records": lambda: gzip.compress(pax(b"6 a=b\n" * 2_600_000) * 5),
    "pax 20 MiB": lambda: gzip.compress(pax(record(b"comment", b"c" * (20 << 20)))),
    "pax name of 1 MiB": lambda: gzip.compress(pax(record(b"path", b"./" * (1 << 19) + b"x"))),
    "global name of 30000 bytes": lambda: gzip.compress(
        pax(record(b"path", b"./" * 15_000 + b"x"), b"g", EMPTY_HEADER * 60_000)
    ),
    "pax sparse pieces": lambda: gzip.compress(pax(record(b"GNU.sparse.offset", b"0") * 600_000)),
    "pax sparse without size": lambda: pax(record(b"GNU.sparse.map", b"0,1")),
    "pax sparse odd": lambda: pax(record(b"GNU.sparse.map", b"0,1,2") + record(b"GNU.sparse.size", b"9")),
    "pax size without digits": lambda: pax(record(b"size", b"-1")),
    "pax time without digits": lambda: pax(record(b"mtime", b"soon")),
    "sparse map in data without end": lambda: gzip.compress(
        pax(
            record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.realsize", b"9"),
            then=raw_header(b"m", b"%011o\0" % (60 << 20)) + b"9999999\n" + b"0\n" * (30 << 20),
        )
    ),
    "sparse blocks without end": lambda: gzip.compress(
        gnu_sparse(size=1 << 20, extended=b"\1") + (b"0" * 504 + b"\1" + bytes(7)) * 120_000
    ),
    "sparse pieces that overlap": lambda: gnu_sparse((0, 512), (256, 512), size=2048, stored=1024) + bytes(3072),
    "sparse piece behind the end": lambda: gnu_sparse((4096, 512), size=2048, stored=512) + bytes(2048),
    "sparse more than stored": lambda: gnu_sparse((0, 2048), size=2048, stored=512) + bytes(2048),
    "bzip2 tail": lambda: bz2.compress(tar_of(ok) + bytes(80 << 20)),
    "gzip tail": lambda: gzip.compress(tar_of(ok) + bytes(80 << 20)),
    "empty members in bzip2": lambda: bz2.compress(EMPTY_HEADER * 140_000 + bytes(1024)),
    "empty folders in gzip": lambda: gzip.compress(
        b"".join(raw_header(b"%d/" % n + b"d/" * 45, b"0" * 11 + b"\0", b"5") for n in range(3000)) * 2 + bytes(1024)
    ),
    "hard links to 60 MB": lambda: gzip.compress(
        tar_of(plain("x", bytes(30 << 20)), *(hard(f"h{n}", "x") for n in range(100)))
    ),
    "one file a thousand times": lambda: gzip.compress(tar_of(*[plain("x", bytes(1 << 20))] * 100)),
    "long links": lambda: gzip.compress(
        tar_of(
            *(link(f"l{n}", "./" * 1000 + f"l{n + 1}") for n in range(39)), *[link(f"m{n}", "l0") for n in range(9000)]
        )
    ),
    "multi-volume": lambda: tar_of(plain("v", b"", type=b"M")),
}
for label, make_work in WORK.items():
    add(f"tar:{label}", lambda own, make_work=make_work: make_work())


def zip_entry(name: bytes, content: bytes = b"evil", **fields: int) -> tuple[bytes, bytes, dict]:
    return name, content, fields


def raw_zip(*entries: tuple[bytes, bytes, dict], count: int | None = None, behind: bytes = b"") -> bytes:
    """A zip archive written field by field, so that any of them may lie."""
    body, rows = b"", b""
    for name, content, fields in entries:
        extra = fields.get("extra", b"")
        common = (
            fields.get("flags", 0),
            fields.get("method", 0),
            *(0, 33),
            fields.get("crc", zlib.crc32(content)),
            fields.get("packed", len(content)),
            fields.get("size", len(content)),
            len(name),
        )
        row = (20, 3, 20, 0, *common, len(extra), 0, 0, 0, fields.get("attributes", 0o100644 << 16))
        rows += struct.pack("<4s4B4H3L5H2L", b"PK\1\2", *row, fields.get("at", len(body))) + name + extra
        body += struct.pack("<4s5H3L2H", b"PK\3\4", 20, *common, 0) + name + content
    total = len(entries) if count is None else count
    return body + rows + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, total, total, len(rows), len(body), 0) + behind


deflated = zlib.compress(bytes(50 << 20), 9)[2:-4]
ZIPS: dict[str, Callable[[], bytes]] = {
    "dotdot in the directory": lambda: raw_zip(zip_entry(b"../evil")),
    "dotdot in the Unicode name": lambda: raw_zip(
        zip_entry(b"good", extra=struct.pack("<HHBL", 0x7075, 12, 1, zlib.crc32(b"good")) + b"../evil")
    ),
    "zero byte": lambda: raw_zip(zip_entry(b"a\0/../../evil")),
    "unc": lambda: raw_zip(zip_entry(b"\\\\host\\share\\x")),
    "link through a file": lambda: raw_zip(zip_entry(b"l", b"..", attributes=0o120777 << 16), zip_entry(b"l/evil")),
    "link with a lie about its size": lambda: raw_zip(
        zip_entry(b"l", b"../outside.txt", size=3, attributes=0o120777 << 16)
    ),
    "link that unpacks to 50 MB": lambda: raw_zip(
        zip_entry(b"l", deflated, method=8, size=100, attributes=0o120777 << 16)
    ),
    "file and folder": lambda: raw_zip(zip_entry(b"d"), zip_entry(b"d/x")),
    "size too small": lambda: raw_zip(zip_entry(b"a", b"evil" * 999, size=4)),
    "size too large": lambda: raw_zip(zip_entry(b"a", size=1 << 30)),
    "packed size beyond the end": lambda: raw_zip(zip_entry(b"a", packed=1 << 30)),
    "deflate bomb": lambda: raw_zip(zip_entry(b"a", deflated * 2, method=8, size=100 << 20)),
    "deflate bomb that lies": lambda: raw_zip(zip_entry(b"a", deflated, method=8, size=10)),
    "one content 2000 times": lambda: raw_zip(
        *(zip_entry(b"%d" % n, deflated if n == 0 else b"", method=8, packed=len(deflated), at=0, size=50 << 20,
                    crc=1) for n in range(2000))
    ),
    "wrong checksum": lambda: raw_zip(zip_entry(b"a", crc=1)),
    "place beyond the end": lambda: raw_zip(zip_entry(b"a", at=0x7FFFFFFF)),
    "too many rows announced": lambda: raw_zip(zip_entry(b"a"), count=500),
    "encrypted by a strong method": lambda: raw_zip(zip_entry(b"a", flags=0x41)),
    "encrypted directory": lambda: raw_zip(zip_entry(b"a", flags=0x2000)),
    "patch": lambda: raw_zip(zip_entry(b"a", flags=0x20)),
    "AES": lambda: raw_zip(zip_entry(b"a", method=99)),
    "PPMd": lambda: raw_zip(zip_entry(b"a", method=98)),
    "Deflate64": lambda: raw_zip(zip_entry(b"a", method=9)),
    "name of 60000 bytes": lambda: raw_zip(zip_entry(b"n/" * 30_000)),
    "extra fields in tiny pieces": lambda: raw_zip(
        *(zip_entry(b"../%d" % n, extra=struct.pack("<HH", 0, 0) * 16_000) for n in range(100))
    ),
    "second volume": lambda: good_zip[:-18] + b"\1\0\1\0" + good_zip[-14:],
}  # fmt: skip
for label, make_zip in ZIPS.items():
    add(f"zip:{label}", lambda own, make_zip=make_zip: make_zip())


def _encrypted() -> bytes:
    data = bytearray(good_zip)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := data.find(mark, start)) >= 0:
            data[start + place] |= 1
            start += 4
    return bytes(data)
