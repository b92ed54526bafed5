"""Where a cached file came from, written on the file itself, so that one name from two addresses is noticed.

curl and wget write the same extended attribute, `user.xdg.origin.url`. Systems without such attributes (macOS and
Windows in Python, some disks) keep nothing, and nothing is noticed there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from torchkutils._caller_warnings import warn_caller
from torchkutils._printable import printable
from torchkutils.files.addresses import MASK, shown_url

_ATTRIBUTE = "user.xdg.origin.url"
_LONGEST = 4096


def write_origin(path: str, url: str) -> None:
    """Note on a file where it came from; the address without its secrets."""
    if hasattr(os, "setxattr"):
        with contextlib.suppress(OSError):
            os.setxattr(path, _ATTRIBUTE, _noted(url).encode("utf-8")[:_LONGEST])


def _noted(url: str) -> str:
    """The address as it is noted: a login does not make it another one."""
    return shown_url(url).replace(f"//{MASK}@", "//")


def read_origin(path: str) -> str | None:
    """Where a file came from; None where nothing is noted."""
    if not hasattr(os, "getxattr"):
        return None
    try:
        return os.getxattr(path, _ATTRIBUTE).decode("utf-8", "replace")
    except OSError:
        return None


def warn_of_other_origin(path: str, sources: Sequence[str]) -> None:
    """Warn where the file that a call is given came from an address that the call does not name."""
    noted = read_origin(path)
    if noted is None or noted in sources or noted in {_noted(source) for source in sources}:
        return
    warn_caller(
        f"{path} came from {printable(noted)}, not from {shown_url(sources[0])}, and is returned as it is; give fname "
        "to keep both, file_hash to be sure, or force=True to replace it"
    )
