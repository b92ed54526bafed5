"""get_file: the cache's rules, on top of transfer and archive."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH111, PTH100, PTH110, PTH116, PTH117, PTH118, PTH119, PTH120
from __future__ import annotations

import os
import pathlib
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from torchkutils._typing import PathLike
from torchkutils.errors import DownloadError
from torchkutils.files import archive, arguments, cache_folder, transfer
from torchkutils.files.caller_warnings import warn_caller
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.extraction_options import Extraction, checked_extraction
from torchkutils.files.hashing import ExpectedHash, file_matches
from torchkutils.files.sidecar_files import SidecarFiles
from torchkutils.progress import Progbar


@dataclass(frozen=True)
class _Job:
    """A checked call."""

    wish: transfer.Wish
    force: bool
    offline: bool
    progress: bool
    extraction: Extraction
    untar: bool


@dataclass(frozen=True)
class _Place:
    """Where the archive or file lies (`stored`: behind a link), where its members go, and what the caller gets."""

    path: str
    stored: str
    folder: str
    result: str


def get_file(
    fname: PathLike | None,
    origin: str,
    untar: bool = False,
    md5_hash: str | None = None,
    file_hash: str | None = None,
    cache_subdir: PathLike = "datasets",
    hash_algorithm: str = "auto",
    extract: bool = False,
    archive_format: str | Iterable[str] | None = "auto",
    cache_dir: PathLike | None = None,
    *,
    force: bool = False,
    mirrors: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    timeout: float | tuple[float | None, float | None] | None = (10, 30),
    retries: int = 3,
    offline: bool = False,
    progress: bool = True,
    allow_links: bool | Literal["skip"] = True,
    overwrite: bool = False,
    extract_dir: PathLike | None = None,
    members: str | Iterable[str] | None = None,
    remove_archive: bool = False,
    encoding: str | None = None,
) -> str:
    """Download a file unless it is in the cache already, check it, and extract it if wished.

    Args:
        fname: Name of the file in the cache; it may hold folders, an absolute path wins over the cache folder, None
            takes the last part of `origin`.
        origin: Any URL: http and https, and every protocol of fsspec (`file://`, `s3://`, `hf://`, `zip://…::…`).
        untar: Deprecated, use `extract`. The archive lies at `<folder>/<fname>.tar.gz`, is extracted into the
            folder, and `<folder>/<fname>` is returned.
        md5_hash: Deprecated, use `file_hash`; counts only without it.
        file_hash: Expected hash in hexadecimal digits, also as `sha256:…`; checked on a cached file and, while it
            streams, on a download.
        cache_subdir: Folder inside the cache; an absolute one wins.
        hash_algorithm: 'auto' (by the number of digits), 'md5', 'sha1', 'sha256' or 'sha512'.
        extract: Unpack the file beside itself, all of it or nothing.
        archive_format: 'auto' (tar, zip and single compressed files), 'tar', 'zip', 'gz', 'bz2', 'xz', 'lzma', 'zst'
            (from Python 3.14 on, or with backports.zstd), '7z' (with py7zr), several of them, None or [] (extracts
            nothing).
        cache_dir: The cache; default `$TORCHKUTILS_HOME`, else `$KERAS_HOME`, else `~/.keras`.
        force: Download even if the file is there; it stays until the new one is whole.
        mirrors: Further URLs, tried in order when `origin` fails or gives a file of another hash.
        headers: For http; they are not sent to another host that a redirect leads to.
        timeout: Seconds to connect and seconds without any data, as a pair or one number for both; None waits.
            There is no limit on the total.
        retries: Attempts after the first, for each URL; on connection faults, HTTP 408, 429 and 5xx.
        offline: Never ask the network; an error when the file is missing or has another hash.
        progress: Show bytes, rate and remaining time on standard error.
        allow_links: Whether an archive may hold links (they never lead out of its folder anyway); 'skip' leaves them
            out.
        overwrite: Whether a member replaces a different file that is there and is not this archive's own.
        extract_dir: Unpack to this folder, relative to the archive's; it is returned. Implies `extract`.
        members: Unpack only these: paths of members, folders, or patterns such as 'train/*.csv'.
        remove_archive: Remove the archive once it is unpacked; the folder of the members is returned. A later call
            asks for nothing while they are unchanged.
        encoding: Encoding of names in a zip or tar that does not tell it, such as 'cp932'; None: UTF-8 if they are
            valid, else code page 437 with a warning (zip) or the bytes as they are (tar).

    Returns:
        The path of the file; of the archive with `extract`, of the extracted entry with `untar` (with a warning where
        the archive holds none of that name), of the members' folder with `extract_dir` or `remove_archive`.

    Raises:
        ValueError: A bad argument, before any request; or, after the download, a wrong hash.
        DownloadError: The file cannot be fetched; has `url`, `status` and `attempts`. An OSError.
        ArchiveError: The archive cannot be read or must not be extracted; nothing of it was kept. A ValueError.
        ImportError: The protocol or an archive format needs a package that is not installed.
        TimeoutError: Another process holds this download's lock and makes no progress.
        OSError: The disk is full or cannot be written.

    The file appears whole or not at all, and an old one is never lost to a failure. Any number of processes may ask
    for the same file at once (every rank of a torch.distributed job, for instance): one request is made on a
    machine. A server that sends neither a length nor chunks cannot be caught cutting a file: only `file_hash` can.

    Differs from Keras: the hash is checked after the download too, a failed download or extraction deletes nothing,
    extraction never leaves the folder nor replaces files that are not its own, what macOS adds to archives
    (`__MACOSX`, `._*`, `.DS_Store`) is left out, `fname` must not hold `..`, and 'auto' also unpacks a single
    compressed file (`x.csv.gz` to `x.csv`).

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "far.csv").write_text("1,2")
    >>> path = get_file("near.csv", (folder / "far.csv").as_uri(), cache_dir=folder, progress=False)
    >>> pathlib.Path(path).read_text()
    '1,2'
    """
    if untar:
        warnings.warn("untar is deprecated; use extract=True", DeprecationWarning, stacklevel=2)
    if md5_hash is not None:
        warnings.warn("md5_hash is deprecated; use file_hash", DeprecationWarning, stacklevel=2)
    for argument, path in (("fname", fname), ("cache_dir", cache_dir), ("cache_subdir", cache_subdir)):
        if not isinstance(path, (str, os.PathLike)) and (path is not None or argument == "cache_subdir"):
            raise ValueError(f"{argument} must be a text or a pathlib.Path, got {path!r}")
    for argument, switch in (("force", force), ("offline", offline)):
        if not isinstance(switch, bool):
            raise ValueError(f"{argument} must be True or False, got {switch!r}")
    sources = arguments.checked_sources(origin, mirrors)
    name = cache_folder.file_name(fname, sources[0])
    wish = transfer.Wish(
        sources,
        arguments.expected_hash(file_hash, md5_hash, hash_algorithm),
        arguments.checked_headers(headers),
        arguments.checked_timeout(timeout),
        arguments.checked_retries(retries),
    )
    if force and offline:
        raise ValueError("force=True asks for a download and offline=True forbids it; give one of them")
    extraction = checked_extraction(
        extract=extract,
        untar=untar,
        archive_format=archive_format,
        allow_links=allow_links,
        overwrite=overwrite,
        extract_dir=extract_dir,
        members=members,
        encoding=encoding,
        remove_archive=remove_archive,
    )
    job = _Job(wish, force, offline, progress, extraction, untar)
    base = cache_folder.base_folder(cache_dir)
    return _get(job, base, os.fspath(cache_subdir), name)


def _place(job: _Job, base: str, subdir: str, name: str) -> _Place:
    root = os.path.join(base, subdir)
    target = os.path.join(root, name)
    path = target + ".tar.gz" if job.untar else target
    if os.path.lexists(path) and os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"fname must name a file, but {path} is there already and is none; choose another fname")
    beside = os.path.dirname(path)
    stored = cache_folder.stored_path(path)
    if job.extraction.folder is not None:
        folder = os.path.join(beside, os.path.expanduser(job.extraction.folder))
        return _Place(path, stored, folder, target if job.untar else folder)
    folder = root if job.untar and not os.path.isabs(name) else beside
    result = folder if job.extraction.remove_archive and not job.untar else target
    return _Place(path, stored, folder, result)


def _get(job: _Job, base: str, subdir: str, name: str) -> str:
    place = _place(job, base, subdir, name)
    seen = _signature(place.path)
    valid = seen is not None and not job.force and _has_hash(place.path, job.wish.expected)
    if valid and _is_extracted(job, place, downloaded=False) and not job.extraction.remove_archive:
        return place.result
    if seen is None and _needs_no_archive(job, place):
        return place.result
    if job.offline and not valid:
        raise DownloadError(_missing_offline(job, place, seen), url=job.wish.sources[0], attempts=0)
    folder = os.path.dirname(place.path)
    if not (cache_folder.can_be_written(folder) and cache_folder.can_be_written(place.folder)):
        if os.path.isabs(name) or os.path.isabs(subdir):
            raise PermissionError(
                f"the folder {folder} cannot be made or written; choose another cache_subdir or fname"
            )
        if valid:
            job = _fed_by(job, place.path)
        return _get(job, cache_folder.substitute_folder(base), subdir, name)
    sidecars = SidecarFiles(place.stored, place.folder)
    with only_one_process(sidecars, f"fetch {transfer.without_password(job.wish.sources[0])} to {place.path}"):
        sidecars.remove_leftovers(keep=archive.unfinished_staging(place.path, place.folder))
        return _get_alone(job, place, seen, valid)


def _needs_no_archive(job: _Job, place: _Place) -> bool:
    """Whether a call before this one unpacked the archive and removed it, as this one would."""
    if not job.extraction.remove_archive or job.force:
        return False
    expected = str(job.wish.expected or "")
    return archive.is_unpacked_without_archive(place.path, place.folder, job.extraction, expected)


def _fed_by(job: _Job, path: str) -> _Job:
    """The same job, but the first source is a valid file in a cache that cannot be written."""
    import dataclasses

    sources = [pathlib.Path(os.path.abspath(path)).as_uri(), *job.wish.sources]
    return dataclasses.replace(job, wish=dataclasses.replace(job.wish, sources=sources), offline=False)


def _get_alone(job: _Job, place: _Place, seen: tuple[int, ...] | None, valid: bool) -> str:
    """The part that one process does while the others wait."""
    now = _signature(place.path)
    if now is None and _needs_no_archive(job, place):
        return place.result
    if now != seen:
        # Somebody else fetched it while this process waited: that counts for force, too.
        valid = now is not None and _has_hash(place.path, job.wish.expected)
    if not valid:
        with _Shown(job.progress, os.path.basename(place.path)) as shown:
            transfer.fetch(job.wish, place.stored, shown.report)
    if not _is_extracted(job, place, downloaded=not valid):
        unpacked = archive.extract_archive(place.path, place.folder, job.extraction)
        if job.untar and unpacked and not os.path.lexists(place.result):
            warn_caller(
                f"untar=True returns {place.result}, as Keras does, but {place.path} holds no entry of that name; look "
                f"into {place.folder}"
            )
    if job.extraction.remove_archive:
        archive.remove_unpacked_archive(place.path, place.folder, str(job.wish.expected or ""))
    return place.result


def _is_extracted(job: _Job, place: _Place, *, downloaded: bool) -> bool:
    """Whether nothing is left to unpack; Keras takes an entry that is there as the result of untar."""
    if not job.extraction.formats:
        return True
    state = archive.extraction_state(place.path, place.folder, job.extraction)
    if job.untar and state == "unknown":
        return not downloaded and os.path.exists(place.result)
    return state == "complete"


def _signature(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _has_hash(path: str, expected: ExpectedHash | None) -> bool:
    return expected is None or file_matches(path, expected)


def _missing_offline(job: _Job, place: _Place, seen: tuple[int, ...] | None) -> str:
    state = "is not there" if seen is None else f"has not the hash {job.wish.expected}"
    return f"offline=True, and {place.path} {state}; call once without offline to fetch {job.wish.sources[0]}"


class _Shown:
    """The progress bar of one transfer; a new body starts a new one."""

    def __init__(self, wanted: bool, name: str) -> None:
        self._wanted, self._name = wanted, name
        self._bar: Progbar | None = None
        self._total: int | None = None

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def report(self, received: int, total: int | None) -> None:
        if not self._wanted:
            return
        if self._bar is None or total != self._total:
            self.__exit__()
            self._total = total
            self._bar = Progbar(total, unit="B", description=self._name, file=sys.stderr, interval=0.1)
        self._bar.update(received)
