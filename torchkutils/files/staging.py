"""Members written into a private folder: no name, link, mode, size or number of theirs is taken on trust."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from torchkutils.files.archive_faults import PIECE, BrokenArchive, Member
from torchkutils.files.folder_handle import WRITE, FolderHandle
from torchkutils.files.member_names import Choice, is_macos_metadata, safe_name

MEMBER_COST = 2048
"""Bytes that a member counts for beside its content: even an empty one is a file to make."""
FOLDER_COST = 4096
"""Bytes that a folder counts for, a member's own or one on the way to it; making one takes longest of all."""
_LONGEST_TARGET = 4096
_LINK_STEPS = 40
_FREE_STEPS = 1_000_000
_STEPS_A_LINK = 64
_ABSOLUTE = re.compile(r"[A-Za-z]:|\\|/")


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold."""

    size: int
    members: int
    depth: int


@dataclass
class Budget:
    """What one archive may still cost: bytes that are unpacked or written, and members."""

    limits: Limits
    used: int = 0
    members: int = 0

    def check(self, more: int, name: str | None = None) -> None:
        """Raise BrokenArchive when that many bytes are too many; they are not counted yet."""
        if self.used + more > self.limits.size:
            raise BrokenArchive(
                f"it unpacks to more than {self.limits.size} bytes, its size allows no more "
                "(MAX_RATIO and MAX_BYTES of torchkutils.files.archive)",
                name,
            )

    def spend(self, more: int, name: str | None = None) -> None:
        """Count bytes."""
        self.check(more, name)
        self.used += more

    def count_member(self, letters: int) -> None:
        """Count one member and the letters of its names."""
        self.members += 1
        if self.members > self.limits.members:
            raise BrokenArchive(f"it has more than {self.limits.members} members")
        self.spend(MEMBER_COST + letters)


@dataclass
class Stage:
    """A folder that fills with an archive's members.

    `entries` maps each path below the folder, with `/`, to 'file', 'folder' or 'symlink'.
    """

    root: FolderHandle
    budget: Budget
    choice: Choice
    allow_links: bool | str
    entries: dict[str, str] = field(default_factory=dict)
    matched: set[str] = field(default_factory=set)
    nameless: int = 0
    of_macos: int = 0
    _links: dict[str, str] = field(default_factory=dict)
    _times: list[tuple[str, float]] = field(default_factory=list)
    _left_out: set[str] = field(default_factory=set)
    _beat: float = 0.0
    _steps: int = 0

    def add(self, member: Member) -> None:
        """Write one member; links wait for `finish`.

        Raises:
            BrokenArchive: The member must not be extracted.
            OSError: The disk refused it.
        """
        self.budget.count_member(len(member.name) + len(member.target))
        self.show_life()
        name = safe_name(member.name, self.budget.limits.depth)
        if not name:
            self.nameless += member.kind != "folder"
            return
        if not self._is_wanted(name, member):
            self._left_out.add(name)
            return
        if member.kind == "folder":
            self._make_folder(name, member.name)
            self._times.append((name, member.modified))
            return
        if member.kind == "hardlink" and safe_name(member.target, self.budget.limits.depth) == name:
            return  # GNU tar writes a file that was named twice as a link to itself
        self._make_folder(name.rpartition("/")[0], member.name)
        self._make_room(name, member.name)
        self._add_leaf(name, member)

    def _is_wanted(self, name: str, member: Member) -> bool:
        if is_macos_metadata(name):
            self.of_macos += member.kind != "folder"
            return False
        pattern = self.choice.matching(name)
        if pattern is None:
            return False
        if member.kind in {"symlink", "hardlink"} and self.allow_links is not True:
            if self.allow_links == "skip":
                return False
            raise BrokenArchive("it is a link, and allow_links=False", member.name)
        self.matched.add(pattern)
        return True

    def _make_room(self, name: str, member: str) -> None:
        """A file that was added to an archive again counts the last time, as for every tool."""
        there = self.entries.get(name)
        if there == "folder":
            raise BrokenArchive("its name stands in the archive twice, as different things", member)
        if there == "file":
            self.root.remove(name)
        self._links.pop(name, None)

    def _add_leaf(self, name: str, member: Member) -> None:
        if member.kind == "symlink":
            self.entries[name] = "symlink"
            self._links[name] = member.target
            return
        with _naming_faults(member.name):
            # The process's umask decides about group and others, as for any file that is made.
            descriptor = self.root.open(name, WRITE, (member.mode & 0o777) | 0o600)
        self.entries[name] = "file"
        try:
            if member.kind == "hardlink":
                self._copy_earlier(member, descriptor)
            else:
                self._write_file(member, descriptor)
        finally:
            os.close(descriptor)

    def _write_file(self, member: Member, descriptor: int) -> None:
        self.budget.check(member.size, member.name)
        for piece in member.pieces():
            self._write(descriptor, piece, member.name)
        _set_time(descriptor, member.modified)

    def _copy_earlier(self, member: Member, descriptor: int) -> None:
        source = safe_name(member.target, self.budget.limits.depth)
        if source in self._left_out:
            raise BrokenArchive(f"it is a hard link to {member.target!r}, which `members` leaves out", member.name)
        if self.entries.get(source) != "file":
            raise BrokenArchive(f"it is a hard link to {member.target!r}, which is no earlier file", member.name)
        with open(self.root.open(source), "rb", buffering=0) as earlier:
            status = os.fstat(earlier.fileno())
            while piece := earlier.read(PIECE):
                self._write(descriptor, piece, member.name)
            _set_time(descriptor, status.st_mtime)
            if hasattr(os, "fchmod"):
                os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)

    def _write(self, descriptor: int, piece: bytes, name: str) -> None:
        self.budget.spend(len(piece), name)
        self.show_life()
        done = os.write(descriptor, piece)
        while done < len(piece):
            done += os.write(descriptor, memoryview(piece)[done:])

    def _make_folder(self, name: str, member: str) -> None:
        known = self.entries.get(name, "folder" if not name else None)
        if known == "folder":
            return
        if known is not None:
            raise BrokenArchive(f"{name!r} is a {known} and a folder in the same archive", member)
        self._make_folder(name.rpartition("/")[0], member)
        self.budget.spend(FOLDER_COST, member)
        with _naming_faults(member):
            self.root.make_folder(name)
        self.entries[name] = "folder"

    def finish(self) -> None:
        """Make the links, now that nothing can be written through them.

        Raises:
            BrokenArchive: A link leads out of the folder, or runs in a circle.
        """
        # Each folder's names together: then whoever walks through them opens each folder once.
        self.entries = dict(sorted(self.entries.items()))
        for name, target in self._links.items():
            if not target or "\0" in target or _ABSOLUTE.match(target):
                raise BrokenArchive(f"it is a link to {target!r}, out of the folder", name)
            if len(target) > _LONGEST_TARGET:
                raise BrokenArchive("it is a link whose target is too long", name)
            self._check_link(name, target)
        for name, target in self._links.items():
            with _naming_faults(name):
                self.root.make_link(name, target)
        for name, modified in reversed(self._times):
            self.root.set_time(name, modified)

    def _check_link(self, name: str, target: str) -> None:
        """Follow the link through the archive's own entries; the disk is not asked, since names there can be cut.

        A part that is missing may come later, from another archive, as a link to any folder inside. So after it no
        `..` may follow.
        """
        folders, waiting = name.split("/")[:-1], target.split("/")[::-1]
        links = 0
        while waiting:
            part = waiting.pop()
            self._count_step(name)
            if part == "..":
                if not folders:
                    raise BrokenArchive(f"it is a link to {target!r}, out of the folder", name)
                folders.pop()
            elif part not in {"", "."}:
                path = "/".join([*folders, part])
                kind = self.entries.get(path)
                if kind == "symlink":
                    links += 1
                    if links > _LINK_STEPS:
                        raise BrokenArchive(f"it is a link to {target!r}, which is circular or too long", name)
                    waiting += self._links[path].split("/")[::-1]
                elif kind == "folder":
                    folders.append(part)
                elif ".." in waiting:
                    words = f"it is a link to {target!r}, out of the folder by way of a missing {path!r}"
                    raise BrokenArchive(words, name)
                else:
                    return

    def _count_step(self, name: str) -> None:
        self._steps += 1
        if self._steps > _FREE_STEPS + _STEPS_A_LINK * len(self._links):
            raise BrokenArchive("its links are too long to be followed", name)

    def show_life(self) -> None:
        """Processes that wait for the lock look at the folder's time."""
        now = time.monotonic()
        if now - self._beat > 1.0:
            self._beat = now
            with contextlib.suppress(OSError):
                os.utime(self.root.descriptor() or self.root.path)


def _set_time(descriptor: int, modified: float) -> None:
    # A time before 1970 or beyond what the disk can hold is no reason to refuse a data set.
    if os.utime in os.supports_fd:
        with contextlib.suppress(OSError, OverflowError, ValueError):
            os.utime(descriptor, (modified, modified))


@contextlib.contextmanager
def _naming_faults(member: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise BrokenArchive("its name stands in the archive twice, as different things", member) from error
    except UnicodeError as error:
        raise BrokenArchive("its name cannot be written here", member) from error
    except OSError as error:
        if error.errno in {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.ELOOP}:
            raise BrokenArchive(f"its name or link cannot be made here ({error.strerror})", member) from error
        raise
