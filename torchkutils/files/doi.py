"""The files that a DOI names: those of a record on Zenodo (or another InvenioRDM), figshare or a Dataverse.

    doi.org's handle API  ->  the record's page  ->  the archive's API  ->  names, addresses and hashes

Everything that comes back was written by others: names must be usable as files, addresses must be http, and hashes
must be hashes; an entry that is not so is left out.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from torchkutils.files.addresses import is_http
from torchkutils.files.file_names import is_usable_name
from torchkutils.files.hashing import parse_hash

DOI_RESOLVER = "https://doi.org"
"""Where DOIs are looked up."""
FIGSHARE_API = "https://api.figshare.com/v2"
"""figshare's pages and its API are on different hosts."""
MAX_FILES = 100_000
"""Most files of one record."""

_DOI = re.compile(r"(?:doi:|https?://(?:dx\.)?doi\.org/)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_INVENIO = re.compile(r"/(?:api/)?records?/([A-Za-z0-9-]+)")
_INVENIO_DOI = re.compile(r"/doi/10\.\d+/[a-z]+\.(\d+)", re.IGNORECASE)
_FIGSHARE = re.compile(r"/articles/(?:[^/]+/)*?(\d+)(?:/(\d+))?/?$")

Ask = Callable[[str], Any]
"""Gives the JSON behind an address."""


class RemoteFile(NamedTuple):
    """One file of a record: where it lies, and its hash (`md5:…`), None where the archive tells none."""

    url: str
    hash: str | None


class UnknownArchive(Exception):  # noqa: N818 - becomes a ValueError that knows the argument
    """The record's page belongs to no archive that is known, or its API answered something else."""


def doi_in(text: str) -> str | None:
    """The DOI that a text names: `10.5281/zenodo.1`, `doi:10.…` or `https://doi.org/10.…`; None for other texts."""
    match = _DOI.fullmatch(text.strip().rstrip("/"))
    return match[1] if match else None


def files_of(record: str, ask: Ask) -> dict[str, RemoteFile]:
    """The files of a record by their names, which may hold folders.

    Args:
        record: A DOI, or the address of the record's page.
        ask: Gives the JSON behind an address.

    Raises:
        UnknownArchive: It cannot be found out what the record holds.
    """
    doi = doi_in(record)
    page = _page_of(doi, ask) if doi is not None else record
    try:
        files = dict(_usable(_entries(page, doi, ask)))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise UnknownArchive(f"the archive's answer is none of its API ({type(error).__name__})") from error
    if not files:
        raise UnknownArchive("the record holds no files that can be fetched")
    return files


def _page_of(doi: str, ask: Ask) -> str:
    answer = ask(f"{DOI_RESOLVER}/api/handles/{urllib.parse.quote(doi)}?type=URL")
    for value in _as_list(_field(answer, "values")):
        page = _field(_field(value, "data"), "value")
        if isinstance(page, str) and is_http(page):
            return page
    raise UnknownArchive(f"the DOI {doi!r} leads nowhere")


def _field(value: Any, name: str) -> Any:
    """A field of a JSON object; None where there is none, or the value is no object."""
    return value.get(name) if isinstance(value, dict) else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _entries(page: str, doi: str | None, ask: Ask) -> Iterator[tuple[object, object, object]]:
    """The name, address and hash of each file, as the archive writes them."""
    parts = urllib.parse.urlsplit(page)
    host = f"{parts.scheme}://{parts.netloc}"
    invenio = _INVENIO.search(parts.path) or _INVENIO_DOI.search(parts.path)
    figshare = _FIGSHARE.search(parts.path)
    persistent = urllib.parse.parse_qs(parts.query).get("persistentId", [f"doi:{doi}" if doi else ""])[0]
    if invenio is not None:
        return _invenio_entries(host, invenio[1], ask)
    if figshare is not None:
        return _figshare_entries(figshare[1], figshare[2] or _version_in(doi), ask)
    if persistent:
        return _dataverse_entries(host, persistent, ask)
    raise UnknownArchive(f"{host} is no Zenodo, figshare or Dataverse page of a record")


def _invenio_entries(host: str, record: str, ask: Ask) -> Iterator[tuple[object, object, object]]:
    answer = ask(f"{host}/api/records/{record}")
    files = answer.get("files")
    if isinstance(files, dict):
        files = files.get("entries")
    if not files:
        files = ask(f"{host}/api/records/{record}/files")["entries"]
    for entry in files.values() if isinstance(files, dict) else files:
        name = entry.get("key") or entry.get("filename")
        links = entry.get("links") or {}
        quoted = urllib.parse.quote(str(name))
        url = links.get("content") or links.get("self") or f"{host}/api/records/{record}/files/{quoted}/content"
        yield name, url, entry.get("checksum")


def _version_in(doi: str | None) -> str | None:
    """figshare's DOIs end in `.v2` where they mean one version."""
    match = re.search(r"\.v(\d+)$", doi or "")
    return match[1] if match else None


def _figshare_entries(article: str, version: str | None, ask: Ask) -> Iterator[tuple[object, object, object]]:
    address = f"{FIGSHARE_API}/articles/{article}" + (f"/versions/{version}" if version else "")
    for entry in ask(address)["files"]:
        digest = entry.get("computed_md5") or entry.get("supplied_md5")
        yield entry["name"], entry["download_url"], f"md5:{digest}" if digest else None


def _dataverse_entries(host: str, persistent: str, ask: Ask) -> Iterator[tuple[object, object, object]]:
    answer = ask(f"{host}/api/datasets/:persistentId/?persistentId={urllib.parse.quote(persistent, safe=':/')}")
    for entry in answer["data"]["latestVersion"]["files"]:
        file = entry["dataFile"]
        name, address = file.get("filename") or entry.get("label"), f"{host}/api/access/datafile/{int(file['id'])}"
        if file.get("originalFileFormat"):
            # A table that Dataverse has converted: the hash is that of the file as it was uploaded.
            name, address = file.get("originalFileName") or name, f"{address}?format=original"
        folder = entry.get("directoryLabel")
        checksum = file.get("checksum") or {}
        digest = f"{checksum['type']}:{checksum['value']}" if checksum else file.get("md5")
        yield (f"{folder}/{name}" if folder else name), address, digest


def _usable(entries: Iterable[tuple[object, object, object]]) -> Iterator[tuple[str, RemoteFile]]:
    for number, (name, url, digest) in enumerate(entries):
        if number >= MAX_FILES:
            raise UnknownArchive(f"the record holds more than {MAX_FILES} files")
        if isinstance(name, str) and isinstance(url, str) and is_http(url) and _is_usable_path(name):
            yield name, RemoteFile(url, _usable_hash(digest))


def _is_usable_path(name: str) -> bool:
    return all(is_usable_name(part) for part in name.split("/"))


def _usable_hash(digest: object) -> str | None:
    """The hash as `get_file` takes it; None where the archive wrote none, or one that cannot be one."""
    if not isinstance(digest, str):
        return None
    try:
        return str(parse_hash(digest))
    except ValueError:
        return None


def listing_text(files: dict[str, RemoteFile]) -> str:
    """The listing as it is kept beside the cache."""
    return json.dumps({name: list(file) for name, file in files.items()})


def read_listing(text: str) -> dict[str, RemoteFile]:
    """A kept listing; empty where the text is none."""
    try:
        values = json.loads(text)
        return dict(_usable((name, url, digest) for name, (url, digest) in values.items()))
    except (ValueError, TypeError, AttributeError, RecursionError, UnknownArchive):
        return {}
