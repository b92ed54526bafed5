"""Finding data sets in an open HDF5 file, and saying what is wrong where one cannot be found or read."""

from __future__ import annotations

import contextlib
import fnmatch
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkutils import _lazy
from torchkutils.data.hdf5_file import natural_order
from torchkutils.errors import DatasetNotFoundError

if TYPE_CHECKING:
    import h5py

_NAMES_SHOWN = 20

_OBJECTS_VISITED = 500
"""How many objects of a file are looked at for the list of names: a file may hold one data set a sample."""

_WATCHED_SOURCES = 64
"""Virtual data sets are watched for changes of so many source files: each one costs a look at every read."""

_UNREADABLE = (KeyError, OSError, RuntimeError)
"""What h5py raises for names that are not there, links that lead nowhere, and links in a circle."""

_FILTER_NAMES = {
    1: "gzip",
    2: "shuffle",
    3: "fletcher32",
    4: "szip",
    5: "nbit",
    6: "scaleoffset",
    307: "bzip2",
    32000: "lzf",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32017: "sz",
    32024: "sz3",
    32026: "blosc2",
    32028: "sperr",
}

_HDF5PLUGIN_FILTERS = {307, 32001, 32004, 32008, 32013, 32015, 32017, 32024, 32026, 32028}
"""What the package hdf5plugin brings."""


def find_rows(file: h5py.File, name: str, shown: str) -> h5py.Dataset | list[str]:
    """Give the data set of that name, or the names of the data sets of a group, each of which is a row.

    Args:
        file: The open file.
        name: A data set, a group, or a pattern with `*` of data sets.
        shown: What the file is called in messages.

    Raises:
        DatasetNotFoundError: There is none; the message names the broken link, or lists what the file holds.
        ValueError: It has no axis of rows.
    """
    try:
        found = file[name]
    except _UNREADABLE as error:
        matching = _matching(file, name) if "*" in name else []
        if matching:
            return matching
        raise _not_found(file, name, shown) from error
    if isinstance(found, _lazy.h5py.Group):
        members = _members(file, found, shown)
        if not members:
            raise DatasetNotFoundError(
                f"a group, not a dataset, lies at {name!r} in {shown!r}, and it holds no data sets to be its rows; "
                f"the file holds {_listing(file)}"
            )
        return members
    if not isinstance(found, _lazy.h5py.Dataset):
        raise DatasetNotFoundError(f"a type, not a dataset, lies at {name!r} in {shown!r}; it holds {_listing(file)}")
    if not found.shape:
        raise ValueError(f"dataset {name!r} in {shown!r} has no axis of rows: its shape is {found.shape}")
    return found


def files_behind(dataset: h5py.Dataset) -> tuple[str, ...]:
    """The local files that a data set's rows lie in, if they are not in the file that was opened alone."""
    files = [dataset.file.filename]
    if dataset.is_virtual:
        sources = {source.file_name for source in dataset.virtual_sources()}
        files += [path for path in map(_source_path(dataset), sorted(sources)) if path][:_WATCHED_SOURCES]
    external = dataset.external or ()
    files += [str(Path(dataset.file.filename).parent / part[0]) for part in external]
    return tuple(path for path in dict.fromkeys(files) if os.path.isfile(path))  # noqa: PTH113


def check_sources(dataset: h5py.Dataset, start: int, end: int, shown: str) -> None:
    """Refuse a virtual data set whose rows start … end come from files that are not there.

    HDF5 itself gives the fill value for them, without a word.

    Raises:
        FileNotFoundError: Such a file is missing.
    """
    if not dataset.is_virtual:
        return
    path_of = _source_path(dataset)
    for source in dataset.virtual_sources():
        path = path_of(source.file_name)
        if path is None or os.path.exists(path):  # noqa: PTH110 - there may be thousands
            continue
        low, high = source.vspace.get_select_bounds()
        if low[0] < end and high[0] >= start:
            raise FileNotFoundError(
                f"dataset {dataset.name!r} in {shown!r} is virtual, and the file {source.file_name!r} with its rows "
                f"{low[0]} to {high[0]} is missing: HDF5 would give the fill value for them. Put the file back, or "
                "leave these rows out by start and end"
            )


def load_filters(dataset: h5py.Dataset, shown: str) -> None:
    """Make the filters of a data set known to HDF5, from hdf5plugin where it is installed.

    Raises:
        OSError: A filter is missing; the message names it and the package that brings it.
    """
    available = _lazy.h5py.h5z.filter_avail
    missing = [code for code in filter_codes(dataset) if not available(code)]
    if missing and not _HDF5PLUGIN_FILTERS.isdisjoint(missing):
        with contextlib.suppress(ImportError):
            import hdf5plugin  # noqa: F401
    for code in missing:
        if available(code):
            continue
        package = "hdf5plugin" if code in _HDF5PLUGIN_FILTERS else None
        way_out = f"pip install {package}" if package else "its plugin must lie in HDF5_PLUGIN_PATH"
        raise OSError(
            f"dataset {dataset.name!r} in {shown!r} is compressed by the filter {filter_name(code)}, which HDF5 does "
            f"not have here: {way_out}"
        )


def filter_codes(dataset: h5py.Dataset) -> list[int]:
    """HDF5's numbers of the filters that a chunk has passed, in the order of writing."""
    creation = dataset.id.get_create_plist()
    return [int(creation.get_filter(i)[0]) for i in range(creation.get_nfilters())]


def filter_name(code: int) -> str:
    """A filter by name and number."""
    return f"{_FILTER_NAMES[code]} ({code})" if code in _FILTER_NAMES else str(code)


def _members(file: h5py.File, group: h5py.Group, shown: str) -> list[str]:
    """The data sets of a group in natural order; a link that leads nowhere would be a row that is left out."""
    names = []
    for key in sorted(group, key=natural_order):
        name = f"{group.name.rstrip('/')}/{key}"
        try:
            found = group[key]
        except _UNREADABLE as error:
            raise _not_found(file, name, shown) from error
        if isinstance(found, _lazy.h5py.Dataset):
            names.append(name)
    return names


def _matching(file: h5py.File, pattern: str) -> list[str]:
    """The data sets whose names match a pattern, component by component, in natural order."""
    groups: list[Any] = [file]
    parts = [part for part in pattern.split("/") if part]
    for part in parts:
        found = [
            group[key]
            for group in groups
            if isinstance(group, _lazy.h5py.Group)
            for key in sorted(group, key=natural_order)
            if fnmatch.fnmatchcase(key, part) and _opens(group, key)
        ]
        groups = found
    return [found.name for found in groups if isinstance(found, _lazy.h5py.Dataset)]


def _not_found(file: h5py.File, name: str, shown: str) -> DatasetNotFoundError:
    """An error that names the first link on the way that leads nowhere, or else lists what there is."""
    h5py = _lazy.h5py
    at = ""
    for part in [part for part in name.split("/") if part]:
        at = f"{at}/{part}"
        if _opens(file, at):
            continue
        link = file.get(at, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            return DatasetNotFoundError(
                f"no dataset {name!r} in {shown!r}: {at!r} is an external link to {link.path!r} in the file "
                f"{link.filename!r}, which cannot be opened"
            )
        if isinstance(link, h5py.SoftLink):
            return DatasetNotFoundError(
                f"no dataset {name!r} in {shown!r}: {at!r} is a soft link to {link.path!r}, which leads nowhere"
            )
        break
    return DatasetNotFoundError(f"no dataset {name!r} in {shown!r}; it holds {_listing(file)}")


def _opens(file: h5py.File, name: str) -> bool:
    try:
        file[name]
    except _UNREADABLE:
        return False
    return True


def _listing(file: h5py.File) -> str:
    names: list[str] = []
    for name in _dataset_names(file):
        names.append(name)
        if len(names) > _NAMES_SHOWN:
            break
    more = " and more" if len(names) > _NAMES_SHOWN else ""
    return f"{sorted(names[:_NAMES_SHOWN])}{more}"


def _dataset_names(file: h5py.File) -> Iterator[str]:
    """Names of data sets, links included, as far as looking at a few hundred objects finds them."""
    h5py = _lazy.h5py
    visited = 0
    pending: list[tuple[str, Any, int]] = [("", file, 0)]
    while pending:
        prefix, group, depth = pending.pop(0)
        for key in group:
            visited += 1
            if visited > _OBJECTS_VISITED:
                return
            link = group.get(key, getlink=True)
            try:
                found = group[key]
            except _UNREADABLE:
                continue
            if isinstance(found, h5py.Dataset):
                yield prefix + key
            elif isinstance(found, h5py.Group) and isinstance(link, h5py.HardLink) and depth < 20:
                pending.append((f"{prefix}{key}/", found, depth + 1))


def _source_path(dataset: h5py.Dataset) -> Any:
    """A function that gives the path of a virtual data set's source; None where it is in the same file or a pattern."""
    prefix = os.environ.get("HDF5_VDS_PREFIX", "")
    folder = Path(dataset.file.filename).parent

    def path_of(source: str) -> str | None:
        if source == "." or "%" in source:
            return None
        tried = [Path(prefix) / source if prefix else folder / source, folder / source, Path(source)]
        return str(next((path for path in tried if path.exists()), tried[1]))

    return path_of
