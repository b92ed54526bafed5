"""get_file: the cache's rules, on top of transfer and archive."""

# Paths stay text here: the system is asked about each of thousands of members.
# ruff: noqa: PTH111, PTH100, PTH110, PTH116, PTH117, PTH118, PTH119, PTH120
from __future__ import annotations

import dataclasses
import os
import pathlib
import ssl
import stat
import sys
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torchkutils._caller_warnings import warn_caller
from torchkutils._typing import PathLike
from torchkutils.errors import DownloadError
from torchkutils.files import (
    archive,
    arguments,
    cache_folder,
    file_names,
    origins,
    resume,
    transfer,
)
from torchkutils.files.addresses import is_local, last_part, shown_url
from torchkutils.files.archive_kinds import without_tar_ending
from torchkutils.files.download_lock import only_one_process
from torchkutils.files.download_options import RETRIES, TIMEOUT, checked_caller
from torchkutils.files.extraction_options import Extraction, checked_extraction
from torchkutils.files.hashing import ExpectedHash, file_matches
from torchkutils.files.sidecar_files import SidecarFiles
from torchkutils.progress import Progbar


@dataclass(frozen=True)
class _Job:
    """A checked call."""

    request: transfer.Request
    force: bool
    offline: bool
    progress: bool
    extraction: Extraction
    untar: bool


@dataclass(frozen=True)
class _Paths:
    """The paths of one call.

    Attributes:
        file: The file or archive, as its name says.
        stored_file: The same; behind a link, what the link leads to.
        members_folder: The folder that the members of an archive go to.
        result: What the caller gets.
    """

    file: str
    stored_file: str
    members_folder: str
    result: str


class _Cached(NamedTuple):
    """The file in the cache: what changes when it changes (None for no file), and whether it is what was asked for."""

    signature: tuple[int, ...] | None
    valid: bool


def get_file(
    fname: PathLike | None = None,
    origin: str | None = None,
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
    force_download: bool = False,
    mirrors: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    verify: bool | PathLike | ssl.SSLContext = True,
    netrc: bool = False,
    timeout: float | tuple[float | None, ...] | None = TIMEOUT,
    retries: int = RETRIES,
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
            takes the last part of `origin`; where that has no ending, the name that the server gives
            (Content-Disposition), which is remembered beside the cache.
        origin: Any URL: http, https, ftp, and every protocol of fsspec (`file://`, `s3://`, `hf://`, `zip://…::…`).
        untar: Deprecated, use `extract`. The archive lies at `<folder>/<fname>.tar.gz`, is extracted into the
            folder, and `<folder>/<fname>` is returned.
        md5_hash: Deprecated, use `file_hash`; counts only without it.
        file_hash: Expected hash in hexadecimal digits, also as `sha256:…`, as an integrity value (`sha256-` and
            base64) or as lines of `sha256sum`; checked on a cached file and, while it streams, on a download.
        cache_subdir: Folder inside the cache; an absolute one wins.
        hash_algorithm: 'auto' (what `file_hash` says, else by the number of digits: MD5, SHA-1, SHA-256, SHA-512) or
            any name of hashlib's.
        extract: Unpack the file beside itself, all of it or nothing.
        archive_format: 'auto' (tar, zip and single compressed files), 'tar', 'zip', 'gz', 'bz2', 'xz', 'lzma', 'zst'
            (from Python 3.14 on, or with backports.zstd), '7z' (with py7zr), several of them, None or [] (extracts
            nothing).
        cache_dir: The cache; default `$TORCHKUTILS_HOME`, else `$KERAS_HOME`, else `~/.keras`.
        force: Download even if the file is there; it stays until the new one is whole.
        force_download: Keras 3's word for `force`.
        mirrors: Further URLs, tried in order when `origin` fails or gives a file of another hash.
        headers: For http; to another host that a redirect leads to, only User-Agent, Accept and Accept-Language go.
        verify: What https servers are checked against: True (the bundle that REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE
            names, else the system's), the path of a CA bundle, or an ssl.SSLContext.
        netrc: Whether logins are read from `~/.netrc` (or $NETRC), for each host that is asked.
        timeout: Seconds to connect, without any data, and for the whole download with all attempts, as
            `(connect, read)` or `(connect, read, total)`, or one number for the first two; None waits.
        retries: Attempts after the first, for each URL; on connection faults, HTTP 408, 429 and 5xx, and once after
            a wrong hash. What the server asks to wait (Retry-After, RateLimit) is waited, up to 5 minutes.
        offline: Never ask the network; an error when the file is missing or has another hash. The environment
            variable TORCHKUTILS_OFFLINE=1 does the same for every call; local addresses are still read then.
        progress: Show bytes, rate and remaining time on standard error; TORCHKUTILS_QUIET=1 shows nothing.
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
    machine. A call that failed or was killed leaves what came, if the server gave a strong entity tag, and the next
    one asks for the rest of the same version only. A server that sends neither a length nor chunks cannot be caught
    cutting a file: only `file_hash` can. No message holds a password, a token or a header's value.

    A web page that comes instead of data (a sign-in, a warning, an error with status 200) is an error, unless `fname`
    ends in .html, .htm or .xhtml, neither name nor address has an ending, or the hash is right.

    Differs from Keras: `fname` may be left out; a warning says when the cached file of that name came from another
    address (where the disk keeps extended attributes); the hash is checked after the download too, a failed download
    or extraction deletes nothing, extraction never leaves the folder nor replaces files that are not its own, what
    macOS adds to archives (`__MACOSX`, `._*`, `.DS_Store`) is left out, `fname` must not hold `..`, and 'auto' also
    unpacks a single compressed file (`x.csv.gz` to `x.csv`).

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "far.csv").write_text("1,2")
    >>> path = get_file("near.csv", (folder / "far.csv").as_uri(), cache_dir=folder, progress=False)
    >>> pathlib.Path(path).read_text()
    '1,2'
    """
    _warn_of_deprecated(untar=untar, md5_hash=md5_hash is not None)
    arguments.check_paths(fname=fname, cache_dir=cache_dir, cache_subdir=cache_subdir)
    arguments.check_switches(force=force, force_download=force_download, offline=offline, netrc=netrc)
    sources = arguments.checked_sources(origin, mirrors, fname)
    name = file_names.name_without_asking(fname, sources[0])
    short_name = os.path.basename(name or "")
    request = transfer.Request(
        sources,
        arguments.expected_hash(file_hash, md5_hash, hash_algorithm, short_name or last_part(sources[0])),
        checked_caller(headers, timeout, verify, netrc),
        arguments.checked_retries(retries),
        short_name,
    )
    force = force or force_download
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
    shows = progress and not arguments.switch_of("TORCHKUTILS_QUIET")
    job = _without_network(_Job(request, force, offline, shows, extraction, untar))
    base, subdir = cache_folder.base_folder(cache_dir), os.fspath(cache_subdir)
    if fname is None or name is None:
        return _get_unnamed(job, base, subdir, name)
    return _get(job, base, subdir, name)


def _warn_of_deprecated(**given: bool) -> None:
    """Say what replaces Keras's old arguments, at the line that calls get_file."""
    instead = {"untar": "extract=True", "md5_hash": "file_hash"}
    for argument in instead:
        if given[argument]:
            message = f"{argument} is deprecated; use {instead[argument]}"
            warnings.warn(message, DeprecationWarning, stacklevel=3)


def _get_unnamed(job: _Job, base: str, subdir: str, name: str | None) -> str:
    """The file of a call without `fname`: called as its address says, or, where that says nothing, as the server."""
    answer = None
    if name is None:
        name, answer = file_names.name_by_asking(job.request, os.path.join(base, subdir), offline=job.offline)
    try:
        if job.untar:
            name = without_tar_ending(name)
        request = dataclasses.replace(job.request, name=os.path.basename(name), first_answer=answer)
        return _get(dataclasses.replace(job, request=request), base, subdir, name)
    finally:
        if answer is not None:
            answer.close()


def _without_network(job: _Job) -> _Job:
    """The job under TORCHKUTILS_OFFLINE: local addresses are read; without any it is as with offline=True."""
    if job.offline or not arguments.switch_of("TORCHKUTILS_OFFLINE"):
        return job
    local = [source for source in job.request.sources if is_local(source)]
    if local:
        return dataclasses.replace(job, request=dataclasses.replace(job.request, sources=local))
    return dataclasses.replace(job, offline=True, force=False)


def _paths(job: _Job, base: str, subdir: str, name: str) -> _Paths:
    root = os.path.join(base, subdir)
    target = os.path.join(root, name)
    path = target + ".tar.gz" if job.untar else target
    if os.path.lexists(path) and os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"fname must name a file, but {path} is there already and is none; choose another fname")
    beside = os.path.dirname(path)
    stored = cache_folder.stored_path(path)
    if job.extraction.folder is not None:
        folder = os.path.join(beside, os.path.expanduser(job.extraction.folder))
        return _Paths(path, stored, folder, target if job.untar else folder)
    folder = root if job.untar and not os.path.isabs(name) else beside
    result = folder if job.extraction.remove_archive and not job.untar else target
    return _Paths(path, stored, folder, result)


def _get(job: _Job, base: str, subdir: str, name: str) -> str:
    paths = _paths(job, base, subdir, name)
    cached = _look_at_cached(job, paths)
    if cached.valid and job.request.expected is None:
        origins.warn_of_other_origin(paths.file, job.request.sources)
    if _is_done(job, paths, cached):
        return paths.result
    if job.offline and not cached.valid:
        raise DownloadError(_missing_offline(job, paths, cached), url=shown_url(job.request.sources[0]), attempts=0)
    folder = os.path.dirname(paths.file)
    if cache_folder.can_be_written(folder) and cache_folder.can_be_written(paths.members_folder):
        return _get_in_turn(job, paths, cached)
    if os.path.isabs(name) or os.path.isabs(subdir):
        raise PermissionError(f"the folder {folder} cannot be made or written; choose another cache_subdir or fname")
    fed = _with_local_source(job, paths.file) if cached.valid else job
    return _get(fed, cache_folder.substitute_folder(base), subdir, name)


def _get_in_turn(job: _Job, paths: _Paths, cached: _Cached) -> str:
    """Take the download's lock, and do what is left to do then."""
    sidecars = SidecarFiles(paths.stored_file, paths.members_folder)
    with only_one_process(sidecars, f"fetch {shown_url(job.request.sources[0])} to {paths.file}"):
        needed = {archive.unfinished_staging(paths.file, paths.members_folder), resume.kept_part(sidecars)}
        sidecars.remove_leftovers(keep=needed)
        return _get_alone(job, paths, cached)


def _look_at_cached(job: _Job, paths: _Paths) -> _Cached:
    signature = _signature(paths.file)
    wanted = signature is not None and not job.force
    return _Cached(signature, wanted and _has_hash(paths.file, job.request.expected))


def _is_done(job: _Job, paths: _Paths, cached: _Cached) -> bool:
    """Whether the cache holds all that is asked for."""
    if cached.signature is None:
        return _needs_no_archive(job, paths)
    return cached.valid and not job.extraction.remove_archive and _is_extracted(job, paths, downloaded=False)


def _needs_no_archive(job: _Job, paths: _Paths) -> bool:
    """Whether a call before this one unpacked the archive and removed it, as this one would."""
    if not job.extraction.remove_archive or job.force:
        return False
    expected = str(job.request.expected or "")
    return archive.is_unpacked_without_archive(paths.file, paths.members_folder, job.extraction, expected)


def _with_local_source(job: _Job, path: str) -> _Job:
    """The same job, but the first source is a valid file in a cache that cannot be written."""
    sources = [pathlib.Path(os.path.abspath(path)).as_uri(), *job.request.sources]
    request = dataclasses.replace(job.request, sources=sources, first_answer=None)
    return dataclasses.replace(job, request=request, offline=False)


def _get_alone(job: _Job, paths: _Paths, cached: _Cached) -> str:
    """The part that one process does while the others wait; `cached` is what it saw before it waited."""
    now, valid = _signature(paths.file), cached.valid
    if now is None and _needs_no_archive(job, paths):
        return paths.result
    if now != cached.signature:
        # Somebody else fetched it while this process waited: that counts for force, too.
        valid = now is not None and _has_hash(paths.file, job.request.expected)
    if not valid:
        with _Shown(job.progress, os.path.basename(paths.file)) as shown:
            transfer.fetch(job.request, paths.stored_file, shown.report)
        origins.write_origin(paths.file, job.request.sources[0])
    if not _is_extracted(job, paths, downloaded=not valid):
        _unpack(job, paths)
    if job.extraction.remove_archive:
        archive.remove_unpacked_archive(paths.file, paths.members_folder, str(job.request.expected or ""))
    return paths.result


def _unpack(job: _Job, paths: _Paths) -> None:
    unpacked = archive.extract_archive(paths.file, paths.members_folder, job.extraction)
    if job.untar and unpacked and not os.path.lexists(paths.result):
        warn_caller(
            f"untar=True returns {paths.result}, as Keras does, but {paths.file} holds no entry of that name; look "
            f"into {paths.members_folder}"
        )


def _is_extracted(job: _Job, paths: _Paths, *, downloaded: bool) -> bool:
    """Whether nothing is left to unpack; Keras takes an entry that is there as the result of untar."""
    if not job.extraction.formats:
        return True
    state = archive.extraction_state(paths.file, paths.members_folder, job.extraction)
    if job.untar and state == "unknown":
        return not downloaded and os.path.exists(paths.result)
    return state == "complete"


def _signature(path: str) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _has_hash(path: str, expected: ExpectedHash | None) -> bool:
    return expected is None or file_matches(path, expected)


def _missing_offline(job: _Job, paths: _Paths, cached: _Cached) -> str:
    state = "is not there" if cached.signature is None else f"has not the hash {job.request.expected}"
    url = shown_url(job.request.sources[0])
    return f"offline=True (or TORCHKUTILS_OFFLINE), and {paths.file} {state}; call once without it to fetch {url}"


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
