"""get_file: the cache's rules, on top of transfer and archive."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH100, PTH110, PTH116, PTH117, PTH118, PTH119, PTH120
from __future__ import annotations

import os
import pathlib
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torchkutils._typing import PathLike
from torchkutils.errors import ArchiveError, DownloadError
from torchkutils.files import archive, arguments, cache_folder, transfer
from torchkutils.files.hashing import ExpectedHash, file_matches
from torchkutils.files.sidecar_files import SidecarFiles, only_one_process
from torchkutils.progress import Progbar


@dataclass(frozen=True)
class _Job:
    """A checked call."""

    wish: transfer.Wish
    force: bool
    offline: bool
    progress: bool
    formats: tuple[str, ...]
    allow_links: bool
    untar: bool


@dataclass(frozen=True)
class _Place:
    """Where the archive or file lies, where its members go, and what the caller gets."""

    path: str
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
    allow_links: bool = True,
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
        archive_format: 'auto' (tar, zip and single compressed files), 'tar', 'zip', 'gz', 'bz2', 'xz', 'zst' (where
            this Python has it), several of them, None or [] (extracts nothing).
        cache_dir: The cache; default `$TORCHKUTILS_HOME`, else `$KERAS_HOME`, else `~/.keras`.
        force: Download even if the file is there; it stays until the new one is whole.
        mirrors: Further URLs, tried in order when `origin` fails or gives a file of another hash.
        headers: For http; they are not sent to another host that a redirect leads to.
        timeout: Seconds to connect and seconds without any data, as a pair or one number for both; None waits.
            There is no limit on the total.
        retries: Attempts after the first, for each URL; on connection faults, HTTP 408, 429 and 5xx.
        offline: Never ask the network; an error when the file is missing or has another hash.
        progress: Show bytes, rate and remaining time on standard error.
        allow_links: Whether an archive may hold links (they never lead out of its folder anyway).

    Returns:
        The path of the file (of the archive with `extract`, of the extracted entry with `untar`).

    Raises:
        ValueError: A bad argument, before any request; or, after the download, a wrong hash.
        DownloadError: The file cannot be fetched; has `url`, `status` and `attempts`. An OSError.
        ArchiveError: The archive cannot be read or must not be extracted; nothing of it was kept. A ValueError.
        ImportError: The protocol needs a package that is not installed.
        TimeoutError: Another process holds this download's lock and makes no progress.
        OSError: The disk is full or cannot be written.

    The file appears whole or not at all, and an old one is never lost to a failure. Any number of processes may ask
    for the same file at once (every rank of a torch.distributed job, for instance): one request is made on a
    machine. A server that sends neither a length nor chunks cannot be caught cutting a file: only `file_hash` can.

    Differs from Keras: the hash is checked after the download too, a failed download or extraction deletes nothing,
    extraction never leaves the folder nor replaces files that are not its own, `fname` must not hold `..`, and
    'auto' also unpacks a single compressed file (`x.csv.gz` to `x.csv`).

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
    for argument, switch in (("force", force), ("offline", offline), ("allow_links", allow_links)):
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
    formats = ("tar",) if untar else archive.checked_formats(archive_format)
    job = _Job(wish, force, offline, progress, formats if extract or untar else (), allow_links, untar)
    base = cache_folder.base_folder(cache_dir)
    return _get(job, base, os.fspath(cache_subdir), name)


def _place(job: _Job, base: str, subdir: str, name: str) -> _Place:
    root = os.path.join(base, subdir)
    target = os.path.join(root, name)
    path = target + ".tar.gz" if job.untar else target
    if os.path.lexists(path) and os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"fname must name a file, but {path} is there already and is none; choose another fname")
    beside = os.path.dirname(path)
    return _Place(path, root if job.untar and not os.path.isabs(name) else beside, target)


def _get(job: _Job, base: str, subdir: str, name: str) -> str:
    place = _place(job, base, subdir, name)
    seen = _signature(place.path)
    valid = seen is not None and not job.force and _has_hash(place.path, job.wish.expected)
    if valid and _is_extracted(job, place, downloaded=False):
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
    sidecars = SidecarFiles(place.path)
    with only_one_process(sidecars, f"fetch {transfer.without_password(job.wish.sources[0])} to {place.path}"):
        sidecars.remove_leftovers(keep=archive.unfinished_staging(place.path))
        return _get_alone(job, place, seen, valid)


def _fed_by(job: _Job, path: str) -> _Job:
    """The same job, but the first source is a valid file in a cache that cannot be written."""
    import dataclasses

    sources = [pathlib.Path(os.path.abspath(path)).as_uri(), *job.wish.sources]
    return dataclasses.replace(job, wish=dataclasses.replace(job.wish, sources=sources), offline=False)


def _get_alone(job: _Job, place: _Place, seen: tuple[int, ...] | None, valid: bool) -> str:
    """The part that one process does while the others wait."""
    now = _signature(place.path)
    if now != seen:
        # Somebody else fetched it while this process waited: that counts for force, too.
        valid = now is not None and _has_hash(place.path, job.wish.expected)
    if not valid:
        with _Shown(job.progress, os.path.basename(place.path)) as shown:
            transfer.fetch(job.wish, place.path, shown.report)
    if not _is_extracted(job, place, downloaded=not valid):
        promised = os.path.relpath(place.result, place.folder or ".") if job.untar else ""
        archive.extract_beside(place.path, place.folder, job.formats, allow_links=job.allow_links, promised=promised)
    if job.untar and not os.path.lexists(place.result):
        entry = os.path.basename(place.result)
        raise ArchiveError(
            f"untar=True promises {place.result}, but the archive {place.path} holds no entry {entry!r}; "
            "use extract=True",
            path=place.path,
            member=entry,
        )
    return place.result


def _is_extracted(job: _Job, place: _Place, *, downloaded: bool) -> bool:
    """Whether nothing is left to unpack; Keras takes an entry that is there as the result of untar."""
    if not job.formats:
        return True
    state = archive.extraction_state(place.path, place.folder, job.formats, allow_links=job.allow_links)
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
