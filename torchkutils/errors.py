"""The errors that callers must be able to tell apart; everything else is a built-in type.

OSError
├── DownloadError      a file could not be fetched: url, status, attempts
└── FileNotFoundError
    └── DatasetNotFoundError   an HDF5 file lacks the data set; also a KeyError, as h5py's is
ValueError
└── ArchiveError       an archive that must not or cannot be extracted: path, member
"""

from __future__ import annotations


class DownloadError(OSError):
    """A file could not be fetched.

    Attributes:
        url: The address that was asked last.
        status: The HTTP status of the last answer, None when there was none.
        attempts: How many requests were made in all.
    """

    def __init__(self, message: str, *, url: str, status: int | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.url = url
        self.status = status
        self.attempts = attempts


class ArchiveError(ValueError):
    """An archive cannot be read, or must not be extracted; nothing of it was kept.

    Attributes:
        path: Where the archive lies.
        member: The name of the member that was refused, None when it concerns the whole archive.
    """

    def __init__(self, message: str, *, path: str, member: str | None = None) -> None:
        super().__init__(message)
        self.path = path
        self.member = member


class DatasetNotFoundError(FileNotFoundError, KeyError):
    """An HDF5 file holds no data set of that name; the message lists those that it holds."""
