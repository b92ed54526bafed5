"""Names of members: which are safe, which are left out, and which the caller wants."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Iterable

from torchkutils.files.archive_faults import BrokenArchive
from torchkutils.files.sidecar_files import MARK, is_reserved

_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
# Most names of most archives: nothing in them needs a closer look.
_PART = r"[0-9A-Za-z_\-][0-9A-Za-z_\-. +,=@()]*"
_PLAIN = re.compile(rf"{_PART}(?:/{_PART})*")
_PLAIN_LINES = re.compile(rf"(?:{_PART}(?:/{_PART}){{0,50}}\n)*")


def safe_name(name: str, depth: int) -> str:
    """A member's path with `/` and without `.`; '' for the folder itself.

    Raises:
        BrokenArchive: It is absolute, holds `..`, is too deep, or has a form that some system reads otherwise.
    """
    if os.name != "nt" and _PLAIN.fullmatch(name) and name.count("/") < depth and MARK not in name.lower():
        return name
    parts = [part for part in name.split("/") if part not in {"", "."}]
    fault = _fault_of_whole(name) or _fault_of_parts(parts, depth)
    if fault:
        raise BrokenArchive(fault, name)
    return "/".join(parts)


def _fault_of_whole(name: str) -> str:
    """What is wrong with a whole name; '' where nothing is."""
    if "\0" in name:
        return "its name holds a zero byte"
    if name.startswith("/") or re.match(r"[A-Za-z]:([/\\]|$)", name):
        return "its name is absolute, out of the folder"
    if ".." in name.replace("\\", "/").split("/"):
        return "its name leads out of the folder by '..'"
    return ""


def _fault_of_parts(parts: list[str], depth: int) -> str:
    """What is wrong with the folders and the last part of a name; '' where nothing is."""
    if len(parts) > depth:
        return f"it lies deeper than {depth} folders"
    if any(is_reserved(part) for part in parts):
        return "its name is reserved for the cache's own files"
    if os.name == "nt" and any(_is_odd_on_windows(part) for part in parts):
        return "its name means something else on Windows"
    return ""


def _is_odd_on_windows(part: str) -> bool:
    return bool(re.search(r'[<>:"|?*\\]', part)) or part[-1] in ". " or bool(_DEVICES.fullmatch(part))


def are_safe(names: list[str], depth: int) -> bool:
    """Whether all are members' paths as `safe_name` returns them."""
    lines = "\n".join([*names, ""])
    if os.name != "nt" and depth > 50 and _PLAIN_LINES.fullmatch(lines) and MARK not in lines.lower():
        return True
    try:
        return all(name and safe_name(name, depth) == name for name in names)
    except BrokenArchive:
        return False


def is_macos_metadata(name: str) -> bool:
    """What macOS adds for itself: resource forks and view settings, which no other reader of a data set expects."""
    parts = name.split("/")
    return "__MACOSX" in parts or parts[-1] == ".DS_Store" or parts[-1].startswith("._")


class Choice:
    """Which members the caller wants: all, or those that one of several patterns names.

    A pattern is a member's path, a folder (with everything below it), or has `*`, `?` and `[…]` as in `fnmatch`,
    where `*` matches any letters, `/` too.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        self.patterns: tuple[str, ...] = tuple(dict.fromkeys(patterns))
        self._plain = {pattern.strip("/") for pattern in self.patterns}
        self._tests = {
            pattern: re.compile(fnmatch.translate(pattern))
            for pattern in self.patterns
            if re.search(r"[*?\[]", pattern)
        }

    def matching(self, name: str) -> str | None:
        """The pattern that the member's name fits; '' when all are wanted, None when it is not wanted."""
        if not self.patterns:
            return ""
        end = len(name)
        while end > 0:
            if name[:end] in self._plain:
                return name[:end]
            end = name.rfind("/", 0, end)
        return next((pattern for pattern, test in self._tests.items() if test.match(name)), None)

    def unmatched(self, matched: set[str]) -> list[str]:
        """The patterns that no member fitted, of what `matching` returned for all of them."""
        return [pattern for pattern in self.patterns if pattern not in matched and pattern.strip("/") not in matched]

    def covers(self, other: Choice) -> bool:
        """Whether what this choice brought is enough for the other one."""
        return not self.patterns or (bool(other.patterns) and set(other.patterns) <= set(self.patterns))

    def with_patterns_of(self, other: Choice) -> Choice:
        """What both name; all, when one of them wants all."""
        if not self.patterns or not other.patterns:
            return Choice()
        return Choice(self.patterns + other.patterns)
