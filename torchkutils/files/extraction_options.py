"""The arguments of get_file that concern unpacking, checked before anything is asked, made or changed."""

from __future__ import annotations

import codecs
import os
from collections.abc import Iterable
from dataclasses import dataclass

from torchkutils._typing import PathLike
from torchkutils.files.archive_kinds import checked_formats
from torchkutils.files.arguments import check_switches
from torchkutils.files.member_names import Choice


@dataclass(frozen=True)
class Extraction:
    """What is to be unpacked, and how.

    Attributes:
        formats: Kinds of archives that are unpacked; none: nothing is.
        allow_links: True makes links, 'skip' leaves them out, False refuses an archive that holds one.
        overwrite: Whether members replace different files that are not this archive's own.
        members: Patterns of the wanted members; none: all.
        encoding: Encoding of names that do not tell theirs; None: guessed.
        remove_archive: Whether the archive is removed once it is unpacked.
        folder: Where the members go; None: beside the archive.
    """

    formats: tuple[str, ...]
    allow_links: bool | str = True
    overwrite: bool = False
    members: tuple[str, ...] = ()
    encoding: str | None = None
    remove_archive: bool = False
    folder: str | None = None

    def choice(self) -> Choice:
        """Which members are wanted."""
        return Choice(self.members)


def checked_extraction(
    *,
    extract: bool,
    untar: bool,
    archive_format: str | Iterable[str] | None,
    allow_links: bool | str,
    overwrite: bool,
    extract_dir: PathLike | None,
    members: str | Iterable[str] | None,
    encoding: str | None,
    remove_archive: bool,
) -> Extraction:
    """The arguments as one value; `extract_dir` implies `extract`.

    Raises:
        ValueError: An argument has none of its values, or asks for what is not unpacked.
        ImportError: A format needs a package that is not installed.
    """
    check_switches(overwrite=overwrite, remove_archive=remove_archive)
    if not isinstance(allow_links, bool) and allow_links != "skip":
        raise ValueError(f"allow_links must be True, False or 'skip', got {allow_links!r}")
    folder = _checked_folder(extract_dir)
    formats = ("tar",) if untar else checked_formats(archive_format)
    if not (extract or untar or folder is not None):
        formats = ()
    patterns = _checked_members(members)
    for name, given in (("remove_archive", remove_archive), ("members", bool(patterns))):
        if given and not formats:
            raise ValueError(f"{name} must come with extract=True, since nothing is unpacked without")
    return Extraction(formats, allow_links, overwrite, patterns, _checked_encoding(encoding), remove_archive, folder)


def _checked_folder(extract_dir: PathLike | None) -> str | None:
    if extract_dir is None:
        return None
    folder = os.fspath(extract_dir) if isinstance(extract_dir, (str, os.PathLike)) else None
    if not isinstance(folder, str) or not folder or "\0" in folder:
        raise ValueError(f"extract_dir must be a folder as text or pathlib.Path, or None, got {extract_dir!r}")
    if ".." in folder.replace("\\", "/").split("/") and not os.path.isabs(folder):  # noqa: PTH117
        raise ValueError(f"extract_dir must stay below the archive's folder or be absolute, got {extract_dir!r}")
    return folder


def _checked_members(members: str | Iterable[str] | None) -> tuple[str, ...]:
    if members is None:
        return ()
    if isinstance(members, str):
        members = [members]
    patterns: list[object] = list(members) if isinstance(members, Iterable) else []
    if not patterns or not all(isinstance(pattern, str) and pattern.strip("/") for pattern in patterns):
        raise ValueError(f"members must be a pattern such as 'train/*.csv', a list of them or None, got {members!r}")
    return tuple(str(pattern) for pattern in patterns)


def _checked_encoding(encoding: str | None) -> str | None:
    if encoding is None:
        return None
    try:
        # Some codecs of Python turn bytes into bytes; those are no encodings of names.
        known = isinstance(encoding, str) and isinstance(codecs.decode(b"a", encoding), str)
    except (LookupError, ValueError, UnicodeError):
        known = False
    if not known:
        raise ValueError(f"encoding must be an encoding of text such as 'cp932', or None, got {encoding!r}")
    return encoding
