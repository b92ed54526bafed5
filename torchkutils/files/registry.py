"""Registry: the files of one source by name and hash, of a folder on a server or of a DOI."""

# Paths stay text here, as everywhere about the cache.
# ruff: noqa: PTH118
from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import difflib
import json
import os
import pathlib
import shlex
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing
from torchkutils.errors import DownloadError
from torchkutils.files import arguments, cache_folder, doi
from torchkutils.files.addresses import address_key, is_http, is_same_origin, shown_url, split_credentials
from torchkutils.files.attempts import FailedAttempt
from torchkutils.files.doi import RemoteFile
from torchkutils.files.download_options import RETRIES, TIMEOUT, DownloadOptions, FileOptions, checked_caller
from torchkutils.files.get_file import get_file
from torchkutils.files.hashing import parse_hash
from torchkutils.files.http_source import open_http
from torchkutils.files.sidecar_files import MARK
from torchkutils.files.transfer import Attempts, Request

MAX_LISTING_BYTES = 64 << 20
"""Most bytes of one answer of an archive's API."""


class Registry:
    """Files that lie in one place, fetched by name and checked by hash.

    Args:
        base_url: The folder's address, a DOI (`doi:10.5281/zenodo.1234567`, `https://doi.org/10.…`), or the page of
            a record on Zenodo (or another InvenioRDM archive), figshare or a Dataverse.
        hashes: What each file must hash to, by name (None for a file that is not checked), as `get_file` takes it;
            or the path of a registry file as pooch writes them: a line a file, `name hash`, or `name hash url`. None
            for a DOI or a record: the archive's own list, with its hashes, which is kept beside the cache.
        urls: Addresses of single files that lie elsewhere, by name.
        mirrors: Further folders that hold the same files.
        headers: As in `get_file`. They, and a login in `base_url`, are sent to the host of `base_url` or of the record
            and to no other.
        **options: `cache_dir`, `cache_subdir`, `verify`, `netrc`, `timeout`, `retries`, `offline` and `progress`, as in
            `get_file` and with its defaults; for all files.

    Raises:
        TypeError: An option that is none of these.
        ValueError: A bad argument; a registry file with a line that is none; a hash that cannot be one.
        OSError: The registry file cannot be read.

    Not in Keras. A file of pooch's registry can be used as it is.

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.csv").write_text("1,2")
    >>> hashes = {"a.csv": "md5:05cf281c050be3da4eecf3bc6e8aac1b"}
    >>> registry = Registry(folder.as_uri(), hashes, cache_dir=folder, progress=False)
    >>> registry.names
    ['a.csv']
    >>> pathlib.Path(registry.fetch("a.csv")).read_text()
    '1,2'
    """

    def __init__(
        self,
        base_url: str,
        hashes: Mapping[str, str | None] | PathLike | None = None,
        *,
        urls: Mapping[str, str] | None = None,
        mirrors: Iterable[str] = (),
        headers: Mapping[str, str] | None = None,
        **options: Unpack[DownloadOptions],
    ) -> None:
        unknown = [name for name in options if name not in DownloadOptions.__annotations__]
        if unknown:
            known = ", ".join(DownloadOptions.__annotations__)
            raise TypeError(f"options must be of {known}, got {unknown[0]!r}; get_file's others go to fetch")
        self._options = options
        self._take_address(base_url, hashes, arguments.checked_headers(headers))
        self._mirrors = [arguments.checked_url(mirror, "mirrors") for mirror in mirrors]
        self._retries = arguments.checked_retries(options.get("retries", RETRIES))
        timeout, verify = options.get("timeout", TIMEOUT), options.get("verify", True)
        self._caller = checked_caller(None, timeout, verify, options.get("netrc", False))
        base_folder = cache_folder.base_folder(options.get("cache_dir"))
        self._folder = os.path.join(base_folder, os.fspath(options.get("cache_subdir", "datasets")))
        self._hashes, addresses = _checked_hashes(hashes)
        addresses |= {name: arguments.checked_url(url, "urls") for name, url in (urls or {}).items()}
        self._files: dict[str, RemoteFile] = {}
        if not self._record:
            for name in {**self._hashes, **addresses}:
                url = addresses.get(name) or _joined(self._base, name)
                self._files[name] = RemoteFile(url, self._hashes.get(name))

    def _take_address(self, base_url: str, hashes: object, headers: dict[str, str]) -> None:
        """Where the files or the record lie, and what is sent there."""
        self._record = _record_of(base_url, hashes)
        self._base = "" if self._record else arguments.checked_url(base_url, "base_url")
        self._headers = headers
        if is_http(self._record or self._base):
            # A login goes as a header: addresses are kept beside the cache, and handed out by url_of.
            bare, login = split_credentials(self._record or self._base)
            self._record, self._base = (bare, "") if self._record else ("", bare)
            if login is not None and "authorization" not in {name.lower() for name in headers}:
                self._headers["Authorization"] = login
        self._home = self._base

    @property
    def names(self) -> list[str]:
        """The names of all files, sorted; for a DOI, the archive is asked at the first use."""
        if not self._files:
            self._read_record()
        return sorted(self._files)

    def url_of(self, name: str) -> str:
        """The address of one file.

        Raises:
            ValueError: There is no file of that name.
        """
        return self._file(name).url

    def fetch(self, name: str, *, fname: PathLike | None = None, **options: Unpack[FileOptions]) -> str:
        """Fetch one file unless it is in the cache with the right hash.

        Args:
            name: One of `names`.
            fname: Its name in the cache; None means `name`.
            **options: Of `get_file`, for this file: `extract`, `force`, `progress` and others.

        Returns:
            The path of the file.

        Raises:
            ValueError: There is no file of that name; or its hash is wrong.
            DownloadError: It cannot be fetched, or the archive cannot be asked.
        """
        file = self._file(name)
        try:
            return self._fetched(name, file, fname, options)
        except (ValueError, DownloadError):
            # A record may have a new version since its list was kept.
            if not self._record or self._is_offline() or not self._refreshed(name, file):
                raise
        return self._fetched(name, self._file(name), fname, options)

    def _fetched(self, name: str, file: RemoteFile, fname: PathLike | None, options: FileOptions) -> str:
        mirrors = [_joined(mirror, name) for mirror in self._mirrors]
        sends_headers = is_http(file.url) and is_http(self._home) and is_same_origin(self._home, file.url)
        given: dict[str, Any] = {
            **self._options,
            "file_hash": file.hash,
            "mirrors": mirrors,
            "headers": self._headers if sends_headers else None,
            **options,
        }
        return get_file(name if fname is None else fname, file.url, **given)

    def fetch_all(
        self, names: Iterable[str] | None = None, *, jobs: int = 4, **options: Unpack[FileOptions]
    ) -> dict[str, str]:
        """Fetch several files at once, each with a bar of its own.

        Args:
            names: The files; None means all.
            jobs: How many at the same time.
            **options: As in `fetch`.

        Returns:
            The path of each file by its name.

        Raises:
            ValueError: There is no file of one of the names, before any is fetched; or a hash is wrong.
            DownloadError: A file cannot be fetched. The others are: those under way are finished first.
        """
        if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
            raise ValueError(f"jobs must be a number of files at a time ≥ 1, got {jobs!r}")
        wanted = self.names if names is None else list(dict.fromkeys(names))
        for name in wanted:
            self._file(name)
        pool = concurrent.futures.ThreadPoolExecutor(min(jobs, max(1, len(wanted))), "torchkutils-fetch")
        try:
            tasks = {name: pool.submit(self.fetch, name, **options) for name in wanted}
            concurrent.futures.wait(tasks.values())
        finally:
            pool.shutdown(cancel_futures=True)
        return _results(tasks)

    def refresh(self) -> None:
        """Ask the archive for its list anew; nothing happens for a registry that is no record.

        Raises:
            DownloadError: The archive cannot be asked.
            ValueError: It is none that is known.
        """
        if self._record:
            self._ask_record()

    def _file(self, name: str) -> RemoteFile:
        if name not in self._files and self._record:
            self._read_record()
            if name not in self._files and not self._is_offline():
                self._ask_record()
        if name not in self._files:
            close = difflib.get_close_matches(str(name), self._files, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it holds {sorted(self._files)[:10]}"
            raise ValueError(f"name must be one of the registry's files, got {name!r}; {hint}")
        return self._files[name]

    def _refreshed(self, name: str, file: RemoteFile) -> bool:
        with contextlib.suppress(DownloadError, ValueError):
            self._ask_record()
            return self._files.get(name, file) != file
        return False

    def _is_offline(self) -> bool:
        return self._options.get("offline", False) or arguments.switch_of("TORCHKUTILS_OFFLINE")

    def _listing_path(self) -> str:
        return os.path.join(self._folder, f".{address_key(self._record)}{MARK}listing")

    def _read_record(self) -> None:
        """The record's list: the kept one, else the archive's."""
        if not self._record:
            return
        with contextlib.suppress(OSError, ValueError):
            kept = json.loads(pathlib.Path(self._listing_path()).read_text(encoding="utf-8"))
            files = doi.read_listing(kept["files"])
            if files and isinstance(kept["home"], str):
                self._files, self._home = self._with_own_hashes(files), kept["home"]
                return
        self._ask_record()

    def _ask_record(self) -> None:
        if self._is_offline():
            raise DownloadError(
                f"offline, and what {shown_url(self._record)} holds was never asked; call once without it",
                url=shown_url(self._record),
                attempts=0,
            )
        self._home = self._record if is_http(self._record) else ""
        try:
            files = doi.files_of(self._record, self._ask)
        except doi.UnknownArchive as error:
            raise ValueError(f"base_url {shown_url(self._record)!r} cannot be used: {error}") from error
        self._files = self._with_own_hashes(files)
        kept = json.dumps({"home": self._home, "files": doi.listing_text(files)})
        if cache_folder.can_be_written(self._folder):
            with contextlib.suppress(OSError), replacing(self._listing_path()) as path:
                path.write_text(kept, encoding="utf-8")

    def _with_own_hashes(self, files: dict[str, RemoteFile]) -> dict[str, RemoteFile]:
        """The record's files; a hash that the caller gave counts before the archive's."""
        return {name: RemoteFile(file.url, self._hashes.get(name) or file.hash) for name, file in files.items()}

    def _ask(self, url: str) -> Any:
        """The JSON behind an address of the resolver or the archive; headers go to the archive only."""
        is_resolver = url.startswith(f"{doi.DOI_RESOLVER}/")
        if not is_resolver:
            self._home = url
        headers = {**({} if is_resolver else self._headers), "Accept": "application/json"}
        caller = dataclasses.replace(self._caller, headers=headers)
        attempts = Attempts(Request([url], None, caller, self._retries))

        def attempt(source: str) -> Any:
            answer = open_http(source, caller, attempts.deadline)
            try:
                return _json_of(answer)
            finally:
                answer.close()

        return attempts.first_success(attempt)


def _results(tasks: dict[str, concurrent.futures.Future[str]]) -> dict[str, str]:
    """What each task gave; the first error of all, which says how many there are."""
    failed = {name: error for name, task in tasks.items() if (error := task.exception()) is not None}
    for error in failed.values():
        if len(failed) > 1:
            error.add_note(f"{len(failed)} of {len(tasks)} files failed: {', '.join(failed)}")
        raise error
    return {name: task.result() for name, task in tasks.items()}


def _json_of(answer: Any) -> Any:
    text = bytearray()
    buffer = memoryview(bytearray(1 << 16))
    while count := answer.readinto(buffer):
        text += buffer[:count]
        if len(text) > MAX_LISTING_BYTES:
            raise FailedAttempt(f"a list of more than {MAX_LISTING_BYTES} bytes", retry=False, status=answer.status)
    if answer.length not in {None, len(text)}:
        raise FailedAttempt("the body ended early", retry=True, status=answer.status)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise FailedAttempt("the answer is no JSON", retry=False, status=answer.status) from None


def _record_of(base_url: object, hashes: object) -> str:
    """The DOI or page whose list is the archive's own; '' for a folder whose files are given."""
    if isinstance(base_url, str):
        named = doi.doi_in(base_url)
        if named is not None:
            return f"doi:{named}"
        if hashes is None and is_http(base_url):
            return arguments.checked_url(base_url, "base_url")
    if hashes is None:
        raise ValueError(
            "hashes must say which files there are (a dict or the path of a registry file), unless base_url is a DOI "
            f"or a record's page, got base_url {shown_url(base_url)!r}"
        )
    return ""


def _checked_hashes(
    hashes: Mapping[str, str | None] | PathLike | None,
) -> tuple[dict[str, str | None], dict[str, str]]:
    """The hash of each file, and the addresses that a registry file names."""
    if hashes is None:
        return {}, {}
    if isinstance(hashes, Mapping):
        given: dict[str, tuple[str | None, str | None]] = {name: (digest, None) for name, digest in hashes.items()}
    elif isinstance(hashes, (str, os.PathLike)):
        given = read_registry_file(hashes)
    else:
        raise ValueError(f"hashes must be a dict, the path of a registry file or None, got {type(hashes).__name__}")
    checked: dict[str, str | None] = {}
    for name, (digest, _) in given.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"hashes must map names of files to hashes, got the name {name!r}")
        checked[name] = None if digest is None else str(parse_hash(digest, argument=f"hashes[{name!r}]"))
    return checked, {name: arguments.checked_url(url, "hashes") for name, (_, url) in given.items() if url}


def _joined(base: str, name: str) -> str:
    return f"{base.rstrip('/')}/{urllib.parse.quote(name)}"


def read_registry_file(path: PathLike) -> dict[str, tuple[str | None, str | None]]:
    """The hash and the address (None for none) of each file that a registry file of pooch's names.

    Raises:
        ValueError: A line is none, or names a file twice.
        OSError: It cannot be read.
    """
    files: dict[str, tuple[str | None, str | None]] = {}
    for number, line in enumerate(pathlib.Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(line)
        except ValueError:
            words = []
        if len(words) not in {2, 3} or words[0] in files:
            raise ValueError(
                f"hashes must be a registry file of lines 'name hash' or 'name hash url', each file once; line "
                f"{number} of {os.fspath(path)!r} is {line[:80]!r}"
            )
        files[words[0]] = (words[1], words[2] if len(words) == 3 else None)
    return files
