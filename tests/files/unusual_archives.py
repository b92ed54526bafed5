"""Archives that every other tool opens: old formats, odd writers, bytes where none should be."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.files.hostile_archives import (
    gnu_sparse,
    hard,
    link,
    pax,
    plain,
    raw_header,
    raw_zip,
    record,
    tar_of,
    zip_entry,
)


@dataclass
class Unusual:
    """An archive, and what must be in the folder afterwards."""

    make: Callable[[], bytes]
    files: dict[str, bytes]
    options: dict = field(default_factory=dict)
    warning: str = ""


def folder(name: str) -> tuple[str, bytes, dict]:
    return name, b"", {"type": tarfile.DIRTYPE}


def version_7(name: bytes, content: bytes) -> bytes:
    """A header without any mark of a format; a folder is a file whose name ends in a slash."""
    head = bytearray(raw_header(name, b"%011o\0" % len(content), b"\0"))
    head[257:265] = bytes(8)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + content + bytes(-len(content) % 512)


def zipped(*names: str, prefix: bytes = b"", method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name in names:
            file.writestr(name, name)
    return prefix + buffer.getvalue()


def zip64() -> bytes:
    """Sizes, place and count in their large forms, although they are small."""
    extra = struct.pack("<HHQQQ", 1, 24, 4, 4, 0)
    name, content, crc = b"a", b"evil", zlib.crc32(b"evil")
    body = struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 33, crc, 4, 4, 1, 0) + name + content
    full = 0xFFFFFFFF
    row = struct.pack("<4s4B4H3L5H2L", b"PK\1\2", 45, 3, 45, 0, 0, 0, 0, 33, crc, full, full, 1, 28, 0, 0, 0, 0, full)
    row += name + extra
    end = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, len(row), len(body))
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(body) + len(row), 1)
    last = struct.pack("<4s4H2LH", b"PK\5\6", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, full, full, 0)
    return body + row + end + locator + last


def old_name(text: str, codec: str) -> bytes:
    return raw_zip(zip_entry(text.encode(codec), b"x"))


def sparse_1_0() -> bytes:
    map_block = b"2\n1\n3\n8\n1\n" + bytes(502)
    names = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
    names += record(b"GNU.sparse.name", b"holes") + record(b"GNU.sparse.realsize", b"10")
    stored = raw_header(b"GNUSparseFile.0/holes", b"%011o\0" % 516) + map_block + b"abcz" + bytes(508)
    return pax(names, then=stored)


SPARSE = b"\0abc\0\0\0\0z\0"
one, tar_one = {"d/a": b"x"}, tar_of(plain("d/a", b"x"))
TARS: dict[str, Unusual] = {
    "no end marker": Unusual(lambda: tar_one[:1024], one, warning="without an end marker"),
    "one block of zeros at the end": Unusual(lambda: tar_one[:1536], one),
    "bytes behind the end": Unusual(lambda: tar_one + b"rest" * 999, one),
    "version 7": Unusual(lambda: version_7(b"d/", b"") + version_7(b"d/a", b"x") + bytes(1024), one),
    "label": Unusual(lambda: tar_of(plain("backup of May", b"", type=b"V"), plain("d/a", b"x")), one),
    "dump with lists of names": Unusual(
        lambda: tar_of(plain("d/", b"Ya\0\0" * 200, type=b"D"), plain("d/a", b"x")), one
    ),
    "dot folder first": Unusual(lambda: tar_of(folder("./"), folder("./d"), plain("./d/a", b"x")), one),
    "trailing slash of a file": Unusual(lambda: tar_of(plain("d/", b""), plain("d/a", b"x")), one),
    "appended": Unusual(lambda: tar_of(plain("d/a", b"old"), plain("d/a", b"x")), one),
    "file after a link of its name": Unusual(lambda: tar_of(link("d/a", "b"), plain("d/a", b"x")), one),
    "link after a file of its name": Unusual(
        lambda: tar_of(plain("d/b", b"x"), plain("d/a", b"y"), link("d/a", "b")), {"d/a": b"x", "d/b": b"x"}
    ),
    "hard link to an appended file": Unusual(
        lambda: tar_of(plain("a", b"1"), hard("h", "a"), plain("a", b"2")), {"a": b"2", "h": b"1"}
    ),
    "contiguous file": Unusual(lambda: tar_of(plain("d/a", b"x", type=b"7")), one),
    "global header": Unusual(lambda: pax(record(b"comment", b"c" * 99), b"g", tar_one), one),
    "pax header of 1 MiB": Unusual(lambda: pax(record(b"comment", b"c" * (1 << 20)), then=tar_one), one),
    "pax path and size": Unusual(
        lambda: pax(
            record(b"path", "数/é".encode()) + record(b"size", b"3") + record(b"mtime", b"1e9.5"[:3]),
            then=raw_header(b"m", b"0" * 11 + b"\0") + b"abc" + bytes(509),
        ),
        {"数/é": b"abc"},
    ),
    "binary numbers": Unusual(
        lambda: raw_header(b"a", b"\x80" + (2).to_bytes(11, "big")) + b"xy" + bytes(510) + bytes(1024), {"a": b"xy"}
    ),
    "GNU long name": Unusual(
        lambda: tar_of(plain("n" * 150 + "/" + "m" * 120, b"x")), {"n" * 150 + "/" + "m" * 120: b"x"}
    ),
    "holes, old GNU": Unusual(
        lambda: gnu_sparse((1, 3), (8, 1), (10, 0), size=10, stored=4) + b"abcz" + bytes(508 + 1024), {"holes": SPARSE}
    ),
    "nothing but a hole": Unusual(lambda: gnu_sparse((9, 0), size=9) + bytes(1024), {"holes": bytes(9)}),
    "holes, pax 0.0": Unusual(
        lambda: pax(
            record(b"GNU.sparse.size", b"10")
            + b"".join(
                record(b"GNU.sparse.offset", at) + record(b"GNU.sparse.numbytes", length)
                for at, length in ((b"1", b"3"), (b"8", b"1"))
            ),
            then=raw_header(b"holes", b"%011o\0" % 4) + b"abcz" + bytes(508),
        ),
        {"holes": SPARSE},
    ),
    "holes, pax 0.1": Unusual(
        lambda: pax(
            record(b"GNU.sparse.size", b"10")
            + record(b"GNU.sparse.map", b"1,3,8,1")
            + record(b"GNU.sparse.name", b"holes"),
            then=raw_header(b"short", b"%011o\0" % 4) + b"abcz" + bytes(508),
        ),
        {"holes": SPARSE},
    ),
    "holes, pax 1.0": Unusual(sparse_1_0, {"holes": SPARSE}),
    "name in Latin-1 bytes": Unusual(
        lambda: raw_header(b"caf\xe9", b"0" * 11 + b"\0") + bytes(1024), {"caf\udce9": b""}
    ),
    "name in an encoding that is given": Unusual(
        lambda: raw_header("表".encode("cp932"), b"0" * 11 + b"\0") + bytes(1024), {"表": b""}, {"encoding": "cp932"}
    ),
    "dangling link": Unusual(lambda: tar_of(plain("d/a", b"x"), link("d/l", "gone")), one),
    "links left out": Unusual(
        lambda: tar_of(plain("d/a", b"x"), link("d/l", "/etc/passwd"), hard("h", "d/a")), one, {"allow_links": "skip"}
    ),
    "what macOS adds": Unusual(
        lambda: tar_of(plain("._d", b"r"), plain("d/._a", b"r"), plain("d/.DS_Store", b"r"), plain("d/a", b"x")),
        one,
        warning="3 members that macOS adds",
    ),
    "file without a name": Unusual(lambda: tar_of(plain("", b"y"), plain("d/a", b"x")), one, warning="without a name"),
}
PACKED = {
    "gzip, bytes behind it": (lambda: gzip.compress(tar_one) + b"garbage", "behind its end"),
    "gzip, a line end behind it": (lambda: gzip.compress(tar_one) + b"\n", "behind its end"),
    "gzip, zeros behind it": (lambda: gzip.compress(tar_one) + bytes(700), ""),
    "gzip, zeros and bytes behind it": (lambda: gzip.compress(tar_one) + bytes(20) + b"x", "behind its end"),
    "gzip in pieces": (
        lambda: gzip.compress(tar_one[:700]) + gzip.compress(b"") * 40 + gzip.compress(tar_one[700:]),
        "",
    ),
    "bzip2, bytes behind it": (lambda: bz2.compress(tar_one) + b"garbage", "behind its end"),
    "bzip2 in pieces": (lambda: bz2.compress(tar_one[:9]) + bz2.compress(tar_one[9:]), ""),
    "xz, padding": (lambda: lzma.compress(tar_one) + bytes(8), ""),
    "xz in pieces": (lambda: lzma.compress(tar_one[:900]) + lzma.compress(tar_one[900:]), ""),
}
for label, (make, words) in PACKED.items():
    TARS[label] = Unusual(make, one, warning=words)

ZIPS: dict[str, Unusual] = {
    "a program in front": Unusual(lambda: zipped("d/a", prefix=b"MZ" + bytes(600)), {"d/a": b"d/a"}),
    "a script in front": Unusual(lambda: zipped("d/a", prefix=b"#!/bin/sh\n"), {"d/a": b"d/a"}),
    "a volume's mark in front": Unusual(lambda: zipped("d/a", prefix=b"PK00"), {"d/a": b"d/a"}),
    "a split mark in front": Unusual(lambda: zipped("d/a", prefix=b"PK\7\10"), {"d/a": b"d/a"}),
    "a comment": Unusual(lambda: zipped("d/a")[:-2] + b"\5\0hello", {"d/a": b"d/a"}),
    "bytes behind it": Unusual(lambda: zipped("d/a") + b"garbage", {"d/a": b"d/a"}),
    "bzip2": Unusual(lambda: zipped("d/a", method=zipfile.ZIP_BZIP2), {"d/a": b"d/a"}),
    "lzma": Unusual(lambda: zipped("d/a", method=zipfile.ZIP_LZMA), {"d/a": b"d/a"}),
    "xz": Unusual(
        lambda: raw_zip(zip_entry(b"a", lzma.compress(b"x"), method=95, size=1, crc=zlib.crc32(b"x"))), {"a": b"x"}
    ),
    "large form": Unusual(zip64, {"a": b"evil"}),
    "the same file twice": Unusual(lambda: raw_zip(zip_entry(b"a", b"1"), zip_entry(b"a", b"2")), {"a": b"2"}),
    "backslashes": Unusual(lambda: raw_zip(zip_entry(b"d\\a", b"x")), {"d/a": b"x"}),
    "a folder without a slash": Unusual(
        lambda: raw_zip(zip_entry(b"d", b"", attributes=0o40755 << 16), zip_entry(b"d/a", b"x")), {"d/a": b"x"}
    ),
    "no name": Unusual(
        lambda: raw_zip(zip_entry(b"", b"y"), zip_entry(b"a", b"x")), {"a": b"x"}, warning="without a name"
    ),
    "UTF-8 without its mark": Unusual(lambda: raw_zip(zip_entry("é.txt".encode(), b"x")), {"é.txt": b"x"}),
    "UTF-8 with its mark": Unusual(lambda: raw_zip(zip_entry("é.txt".encode(), b"x", flags=0x800)), {"é.txt": b"x"}),
    "UTF-8 in an extra field": Unusual(
        lambda: raw_zip(
            zip_entry(b"\x82", b"x", extra=struct.pack("<HHBL", 0x7075, 7, 1, zlib.crc32(b"\x82")) + "é".encode())
        ),
        {"é": b"x"},
    ),
    "code page 437": Unusual(lambda: old_name("é.txt", "cp437"), {"é.txt": b"x"}, warning="code page 437"),
    "Shift JIS, not told": Unusual(
        lambda: old_name("表示.txt", "cp932"),
        {"表示.txt".encode("cp932").decode("cp437"): b"x"},
        warning="valid are 'cp932'",
    ),
    "Shift JIS": Unusual(lambda: old_name("表/ソース.txt", "cp932"), {"表/ソース.txt": b"x"}, {"encoding": "cp932"}),
    "GBK": Unusual(lambda: old_name("閬.txt", "gbk"), {"閬.txt": b"x"}, {"encoding": "gbk"}),
    "Big5": Unusual(lambda: old_name("功能.txt", "big5"), {"功能.txt": b"x"}, {"encoding": "big5"}),
    "what macOS adds": Unusual(
        lambda: zipped("m/1.jpg", "__MACOSX/m/._1.jpg", "m/.DS_Store"),
        {"m/1.jpg": b"m/1.jpg"},
        warning="2 members that macOS adds (__MACOSX, ._*, .DS_Store) are left out",
    ),
    "another name in front of the content": Unusual(
        lambda: raw_zip(zip_entry(b"good", b"x")).replace(b"good", b"evil", 1), {"good": b"x"}
    ),
}
UNUSUAL = {f"tar: {label}": case for label, case in TARS.items()}
UNUSUAL |= {f"zip: {label}": case for label, case in ZIPS.items()}
