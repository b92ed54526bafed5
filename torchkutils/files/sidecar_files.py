"""The hidden files of a download: their names, and whether whoever made one of them is still at work.

Beside the download lie its lock and its parts (bodies that are being written). In the folder that its members go to
lie the manifest and, for the time of an extraction, the staging folder. All these names hold MARK, and no file of
the user's or of a stranger's may have such a name.

The name of a part or of a staging folder tells which process made it. So what a killed process left can be told
from what another process is writing, on file systems too where a lock excludes nobody.
"""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH100, PTH110, PTH112, PTH114, PTH115, PTH118, PTH119
from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import re
import secrets
import shutil
import time
import unicodedata
from collections.abc import Collection

MARK = ".torchkutils-"
"""A part of the name of every file that is ours and not the user's."""

LOCK_PATIENCE = 600.0
"""Seconds that a process waits for another one which shows no progress."""

LEFTOVER_AGE = 3600.0
"""Seconds without a change after which a temporary file of another machine counts as left by a killed process."""

_OWNER = re.compile(r"([0-9a-f]{8})-([0-9a-f]+)-([0-9a-f]+)-[0-9a-f]{16}\.(?:part|staging)")


def is_reserved(part: str) -> bool:
    """Whether a part of a path could be taken for one of our files, on systems too that see some letters as equal."""
    if part.isascii():
        return MARK in part.lower()
    letters = unicodedata.normalize("NFKC", part).casefold()
    return MARK in "".join(letter for letter in letters if unicodedata.category(letter) != "Cf")


class SidecarFiles:
    """Names of the files that belong to one download.

    Args:
        path: Where the download lies.
        members_folder: The folder that its members go to; None: the download's own.
    """

    def __init__(self, path: str, members_folder: str | None = None) -> None:
        self.path = path
        self.folder: str
        self.folder, name = os.path.split(path)
        self.members_folder: str = self.folder if members_folder is None else members_folder
        # A name may be 255 bytes long, and ours are longer than the download's own.
        label = name if len(os.fsencode(name)) <= 140 else hashlib.sha256(os.fsencode(name)).hexdigest()[:40]
        self._prefix = f".{label}{MARK}"
        self.lock: str = os.path.join(self.folder, f"{self._prefix}lock")
        self.resume: str = os.path.join(self.folder, f"{self._prefix}resume.json")
        self._members_prefix = self._prefix
        if os.path.abspath(self.members_folder) != os.path.abspath(self.folder):
            # Archives of equal names from several folders may have their members in one folder.
            path_digest = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
            self._members_prefix = f".{label}-{path_digest}{MARK}"
        self.manifest: str = f"{self._members_prefix}members.json"

    def new_part(self) -> str:
        """A fresh path for a body that is being written."""
        return os.path.join(self.folder, f"{self._prefix}{_owner()}.part")

    def new_manifest_part(self) -> str:
        """A fresh name, in the folder of the members, for a manifest that is being written."""
        return f"{self._members_prefix}{_owner()}.part"

    def new_staging(self) -> str:
        """A fresh name, in the folder of the members, for a folder that members are being extracted to."""
        return f"{self._members_prefix}{_owner()}.staging"

    def is_staging(self, name: str) -> bool:
        """Whether it is the name of a staging folder of this download."""
        tail = name.removeprefix(self._members_prefix)
        return tail != name and tail.endswith(".staging") and _OWNER.fullmatch(tail) is not None

    def leftovers(self) -> list[str]:
        """Parts and staging folders of this download, a running process's too."""
        found = _entries(self.folder, self._prefix)
        if self._members_prefix != self._prefix:
            found += _entries(self.members_folder, self._members_prefix)
        return found

    def remove_leftovers(self, *, keep: Collection[str | None] = ()) -> None:
        """Remove what killed processes left; only under the lock. `keep` holds names that a later step needs."""
        for path in self.leftovers():
            if os.path.basename(path) not in keep and not is_in_use(path):
                remove_whatever(path)


def _entries(folder: str, prefix: str) -> list[str]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder or ".") as entries:
        return [
            entry.path
            for entry in entries
            if entry.name.startswith(prefix) and entry.name.endswith((".part", ".staging"))
        ]
    return []


def _owner() -> str:
    return f"{this_machine()}-{process_token()}-{secrets.token_hex(8)}"


@functools.cache
def this_machine() -> str:
    """The same for all processes whose numbers this process can look up: a start of a machine, and a container."""
    marks = [platform.node()]
    with contextlib.suppress(OSError):
        marks.append(pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        marks.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:8]


def process_token() -> str:
    """This process's number and, where the system tells it, when it started: numbers are used again."""
    return f"{os.getpid():x}-{_started(os.getpid()):x}"


def _started(process: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = pathlib.Path(f"/proc/{process}/stat").read_bytes()
        return int(text.rpartition(b")")[2].split()[19])
    return 0


def is_alive(process: int, started: int) -> bool:
    """Whether that process of this machine still runs."""
    if os.name == "nt":
        return True  # asking would end it there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # it is another user's
    return started in {0, _started(process)}


def is_in_use(path: str) -> bool:
    """Whether another process may still be writing a part or a staging folder.

    What this process made is not in use: its threads exclude each other by a lock that never fails.
    """
    found = _OWNER.search(os.path.basename(path))
    if found is None:
        return _changed_lately(path)
    machine, process, started = found[1], int(found[2], 16), int(found[3], 16)
    if machine != this_machine():
        return _changed_lately(path)
    return process != os.getpid() and is_alive(process, started) and (os.name != "nt" or _changed_lately(path))


def was_killed_here(path: str) -> bool:
    """Whether the process that wrote a part ran since this machine was started, and is no more.

    After a power cut, bytes that never reached the disk look like zeros: where a start of the machine cannot be told
    from another one, the answer is False.
    """
    found = _OWNER.search(os.path.basename(path))
    if found is None or found[1] != this_machine() or not os.path.exists("/proc/sys/kernel/random/boot_id"):
        return False
    process = int(found[2], 16)
    return process != os.getpid() and not is_alive(process, int(found[3], 16))


def _changed_lately(path: str) -> bool:
    try:
        return time.time() - os.lstat(path).st_mtime < LEFTOVER_AGE
    except OSError:
        return False


def remove_whatever(path: str) -> None:
    """Remove a file, a link or a folder with everything in it; nothing happens where there is none."""
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        pathlib.Path(path).unlink(missing_ok=True)


def sync_folder(folder: str) -> None:
    """Make a rename in that folder last through a power cut, where the system lets a folder be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
