"""Members written into a private folder: no name, link, mode, size or number of theirs is taken on trust."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH102, PTH117, PTH211
from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass, field

from torchkutils.files.archive_readers import PIECE, BrokenArchive, Member
from torchkutils.files.sidecar_files import MARK

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold."""

    size: int
    members: int
    depth: int
    allow_links: bool


@dataclass
class Stage:
    """A folder that fills with an archive's members.

    `entries` maps each path below the folder, with `/`, to 'file', 'folder' or 'symlink'.
    """

    root: str
    limits: Limits
    entries: dict[str, str] = field(default_factory=dict)
    _links: list[tuple[str, str]] = field(default_factory=list)
    _times: list[tuple[str, float]] = field(default_factory=list)
    _written: int = 0
    _seen: int = 0
    _beat: float = 0.0

    def add(self, member: Member) -> None:
        """Write one member; links wait for `finish`.

        Raises:
            BrokenArchive: The member must not be extracted.
            OSError: The disk refused it.
        """
        self._seen += 1
        if self._seen > self.limits.members:
            raise BrokenArchive(f"it has more than {self.limits.members} members")
        self._show_life()
        name = safe_name(member.name, self.limits.depth)
        if not name:
            if member.kind == "folder":
                return
            raise BrokenArchive("its name is empty", member.name)
        if member.kind == "folder":
            self._make_folder(name, member.name)
            self._times.append((name, member.modified))
            return
        if member.kind == "hardlink" and safe_name(member.target, self.limits.depth) == name:
            return  # GNU tar writes a file that was named twice as a link to itself
        if member.kind != "file" and not self.limits.allow_links:
            raise BrokenArchive("it is a link, and allow_links=False", member.name)
        if name in self.entries:
            raise BrokenArchive("the name stands in the archive twice", member.name)
        self._make_folder(name.rpartition("/")[0], member.name)
        self._add_leaf(name, member)

    def _add_leaf(self, name: str, member: Member) -> None:
        if member.kind == "symlink":
            self.entries[name] = "symlink"
            self._links.append((name, member.target))
            return
        with _naming_faults(member.name):
            descriptor = os.open(self._path(name), _WRITE, (member.mode & 0o755) | 0o600)
        self.entries[name] = "file"
        try:
            if member.kind == "hardlink":
                self._copy_earlier(member, descriptor)
            else:
                self._write_file(member, descriptor)
        finally:
            os.close(descriptor)

    def _write_file(self, member: Member, descriptor: int) -> None:
        self._check_size(member.size, member.name)
        for piece in member.pieces():
            self._write(descriptor, piece, member.name)
        _set_time(descriptor, member.modified)

    def _copy_earlier(self, member: Member, descriptor: int) -> None:
        source = safe_name(member.target, self.limits.depth)
        if self.entries.get(source) != "file":
            raise BrokenArchive(f"it is a hard link to {member.target!r}, which is no earlier file", member.name)
        with open(os.open(self._path(source), _READ), "rb", buffering=0) as earlier:
            status = os.fstat(earlier.fileno())
            while piece := earlier.read(PIECE):
                self._write(descriptor, piece, member.name)
            _set_time(descriptor, status.st_mtime)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, status.st_mode & 0o755)

    def _write(self, descriptor: int, piece: bytes, name: str) -> None:
        self._check_size(len(piece), name)
        self._written += len(piece)
        self._show_life()
        done = os.write(descriptor, piece)
        while done < len(piece):
            done += os.write(descriptor, memoryview(piece)[done:])

    def _check_size(self, more: int, name: str) -> None:
        if self._written + more > self.limits.size:
            raise BrokenArchive(f"it unpacks to more than {self.limits.size} bytes, its size allows no more", name)

    def _make_folder(self, name: str, member: str) -> None:
        known = self.entries.get(name, "folder" if not name else None)
        if known == "folder":
            return
        if known is not None:
            raise BrokenArchive(f"{name!r} is a {known} and a folder in the same archive", member)
        self._make_folder(name.rpartition("/")[0], member)
        with _naming_faults(member):
            os.mkdir(self._path(name))
        self.entries[name] = "folder"

    def finish(self) -> None:
        """Make the links, now that nothing can be written through them, and check where each one leads.

        Raises:
            BrokenArchive: A link leads out of the folder, or nowhere.
        """
        for name, target in self._links:
            if not target or "\0" in target or os.path.isabs(target) or re.match(r"[A-Za-z]:|\\", target):
                raise BrokenArchive(f"it is a link to {target!r}, out of the folder", name)
            with _naming_faults(name):
                os.symlink(target, self._path(name))
        root = os.path.realpath(self.root, strict=True)
        for name, target in self._links:
            try:
                end = os.path.realpath(self._path(name), strict=True)
            except (OSError, RecursionError) as err:
                words = f"it is a link to {target!r}, which is not there, circular or too long"
                raise BrokenArchive(f"{words}; such archives have to be unpacked by hand", name) from err
            if os.path.commonpath([root, end]) != root:
                raise BrokenArchive(f"it is a link to {target!r}, out of the folder", name)
        for name, modified in reversed(self._times):
            descriptor = os.open(self._path(name), os.O_RDONLY) if os.utime in os.supports_fd else None
            if descriptor is not None:
                _set_time(descriptor, modified)
                os.close(descriptor)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _show_life(self) -> None:
        """Processes that wait for the lock look at the folder's time."""
        now = time.monotonic()
        if now - self._beat > 1.0:
            self._beat = now
            os.utime(self.root)


def safe_name(name: str, depth: int) -> str:
    """A member's path with `/` and without `.`; '' for the folder itself.

    Raises:
        BrokenArchive: It is absolute, holds `..`, is too deep, or has a form that some system reads otherwise.
    """
    if "\0" in name:
        raise BrokenArchive("its name holds a zero byte", name)
    if name.startswith("/") or re.match(r"[A-Za-z]:([/\\]|$)", name):
        raise BrokenArchive("its name is absolute, out of the folder", name)
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in name.replace("\\", "/").split("/"):
        raise BrokenArchive("its name leads out of the folder by '..'", name)
    if len(parts) > depth:
        raise BrokenArchive(f"it lies deeper than {depth} folders", name)
    if any(MARK in part.lower() for part in parts):
        raise BrokenArchive("its name is reserved for the cache's own files", name)
    if os.name == "nt" and any(_is_odd_on_windows(part) for part in parts):
        raise BrokenArchive("its name means something else on Windows", name)
    return "/".join(parts)


def _is_odd_on_windows(part: str) -> bool:
    return bool(re.search(r'[<>:"|?*\\]', part)) or part[-1] in ". " or bool(_DEVICES.fullmatch(part))


def _set_time(descriptor: int, modified: float) -> None:
    # A time before 1970 or beyond what the disk can hold is no reason to refuse a data set.
    if os.utime in os.supports_fd:
        with contextlib.suppress(OSError, OverflowError, ValueError):
            os.utime(descriptor, (modified, modified))


@contextlib.contextmanager
def _naming_faults(member: str):  # type: ignore[no-untyped-def]
    try:
        yield
    except (FileExistsError, NotADirectoryError) as err:
        raise BrokenArchive("its name stands in the archive twice, as different things", member) from err
    except UnicodeError as err:
        raise BrokenArchive("its name cannot be written here", member) from err
    except OSError as err:
        import errno

        if err.errno in {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP}:
            raise BrokenArchive(f"its name or link cannot be made here ({err.strerror})", member) from err
        raise
