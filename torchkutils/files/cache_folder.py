"""Where a download lies: Keras's rules for the base folder, and a way out when it cannot be written."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH102, PTH103, PTH111, PTH118
from __future__ import annotations

import os
import stat
import tempfile
import urllib.parse
import warnings

from torchkutils._typing import PathLike


def base_folder(cache_dir: PathLike | None) -> str:
    """`cache_dir`, else $TORCHKUTILS_HOME, else $KERAS_HOME, else ~/.keras; with `~` expanded."""
    named = cache_dir or os.environ.get("TORCHKUTILS_HOME") or os.environ.get("KERAS_HOME")
    return os.path.expanduser(os.fspath(named) if named else os.path.join("~", ".keras"))


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
    warnings.warn(f"the cache folder {base} cannot be written; {folder} is used instead", UserWarning, stacklevel=4)
    return folder


def file_name(fname: PathLike | None, origin: str) -> str:
    """The name below the cache folder: the caller's, or the last part of the address.

    Raises:
        ValueError: It is empty, leads out of the folder by `..`, or cannot be a file's name.
    """
    if fname is None:
        link = origin.split("::")[0]
        last = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rsplit("/", 1)[-1])
        if not last or last in {".", ".."} or any(letter in last for letter in "/\\\0"):
            raise ValueError(f"fname must be given: the last part of {origin!r} is no file name")
        return last
    name = os.fspath(fname)
    if not isinstance(name, str) or not name or "\0" in name or name.endswith(("/", os.sep)):
        raise ValueError(f"fname must be the name of a file, or None for the URL's last part, got {name!r}")
    if ".." in name.replace("\\", "/").split("/"):
        raise ValueError(f"fname must stay in the cache folder, got {name!r} with '..'; use cache_dir or cache_subdir")
    return name
