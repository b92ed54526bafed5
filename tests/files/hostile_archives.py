"""Archives that want to leave their folder, fill the disk, replace other files, or pass for whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
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
    "file over a link": [link("l", "../outside.txt"), plain("l")],
    "link over a file": [plain("l"), link("l", "../outside.txt")],
    "chain out": [plain("d/e/x"), link("a", "d/e"), link("b", "a/../../.."), link("c", "b/outside.txt")],
    "dangling": [link("l", "nothing")],
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
    "unknown type": [plain("p", b"", type=b"V")],
    "twice": [plain("x", b"1"), plain("x", b"2")],
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
add("tar:20000 members", lambda own: tar_of(*(plain(f"m{number}", b"") for number in range(20_000))))
add("zip:20000 members", lambda own: zip_of(*((f"m{number}", b"", 0) for number in range(20_000))))
add("tar:truncated", lambda own: fine[:2000])
add("tar:cut between members", lambda own: fine[:1024])
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


def _encrypted() -> bytes:
    data = bytearray(good_zip)
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := data.find(mark, start)) >= 0:
            data[start + place] |= 1
            start += 4
    return bytes(data)
