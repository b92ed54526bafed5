"""Where a download lies: Keras's rules for the base folder, and a substitute where it cannot be written."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH102, PTH103, PTH111, PTH114, PTH115, PTH118, PTH120
from __future__ import annotations

import os
import stat
import tempfile
import urllib.parse

from torchkutils._caller_warnings import warn_caller
from torchkutils._typing import PathLike
from torchkutils.files.sidecar_files import is_reserved


def base_folder(cache_dir: PathLike | None) -> str:
    """`cache_dir`, else $TORCHKUTILS_HOME, else $KERAS_HOME, else ~/.keras; with `~` expanded.

    Where nobody knows the home (no HOME and no entry for the user, as in many containers), the substitute folder.
    """
    named = cache_dir or os.environ.get("TORCHKUTILS_HOME") or os.environ.get("KERAS_HOME")
    base = os.fspath(named) if named else os.path.join("~", ".keras")
    expanded = os.path.expanduser(base)
    unknown_home = base == "~" or base.startswith("~/")
    if unknown_home and not os.environ.get("HOME", "x"):
        expanded = _home_by_user(base)
    # A folder called ~ in the current one is never what anybody wants.
    return substitute_folder(base) if expanded.startswith("~") else expanded


def _home_by_user(base: str) -> str:
    """HOME is set and empty: what the user's entry says, or the path as it was."""
    try:
        import pwd

        return pwd.getpwuid(os.getuid()).pw_dir + base[1:]
    except (ImportError, KeyError):
        return base


def can_be_written(folder: str) -> bool:
    """Make the folder where it is missing, and tell whether files can be made in it."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids)


def substitute_folder(base: str) -> str:
    """A folder of the user's own under the system's temporary one, for a base that cannot be written."""
    owner = os.getuid() if hasattr(os, "getuid") else None
    name = f"torchkutils-{owner if owner is not None else 'cache'}"
    folder = os.path.join(tempfile.gettempdir(), name)
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        status = os.lstat(folder)
        foreign = owner is not None and (status.st_uid != owner or stat.S_IMODE(status.st_mode) & 0o077)
        # Somebody else may have put a folder or a link there to hand us their files.
        if foreign or not stat.S_ISDIR(status.st_mode):
            folder = tempfile.mkdtemp(prefix=f"{name}-")
    warn_caller(f"the cache folder {base} cannot be written; {folder} is used instead")
    return folder


def file_name(fname: PathLike | None, origin: str) -> str:
    """The name below the cache folder: the caller's, or the last part of the address.

    Raises:
        ValueError: It is empty, leads out of the folder by `..`, is one of our own files', or cannot be a file's name.
    """
    if fname is None:
        link = origin.split("::")[0]
        name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rsplit("/", 1)[-1])
        if not is_plain_name(name):
            raise ValueError("fname must be given: the last part of the address is no file name")
        return name
    given = os.fspath(fname)
    if not isinstance(given, str) or not given or _has_control_characters(given):
        raise ValueError(f"fname must be the name of a file without control characters, or None, got {given!r}")
    _check_parts(given)
    return given


def _check_parts(given: str) -> None:
    parts = given.replace("\\", "/").split("/")
    if parts[-1] in {"", "."}:
        raise ValueError(f"fname must be the name of a file, or None for the URL's last part, got {given!r}")
    if ".." in parts:
        raise ValueError(f"fname must stay in the cache folder, got {given!r} with '..'; use cache_dir or cache_subdir")
    if any(is_reserved(part) for part in parts):
        raise ValueError(f"fname must not be a name of the cache's own files (.torchkutils-…), got {given!r}")


def is_plain_name(name: str) -> bool:
    """Whether a name from a server can be a file's: one part of a path, printable, and not one of our own."""
    if name in {"", ".", ".."} or _has_control_characters(name):
        return False
    return "/" not in name and "\\" not in name and not is_reserved(name)


def _has_control_characters(name: str) -> bool:
    return any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in name)


def stored_path(path: str) -> str:
    """Where a file of the cache is written: a link stays one where this user or root made it, and its target is filled.

    Somebody else's link could lead to any file of this user's, so it is replaced by a file.
    """
    if not os.path.islink(path):
        return path
    stored, links = path, 0
    while os.path.islink(stored) and links < 40:
        if not _is_own_link(stored):
            return path
        stored = os.path.join(os.path.dirname(stored), os.readlink(stored))
        links += 1
    folder, name = os.path.split(stored)
    return os.path.join(os.path.realpath(folder), name)


def _is_own_link(path: str) -> bool:
    return not hasattr(os, "geteuid") or os.lstat(path).st_uid in {0, os.geteuid()}
