"""The files of a folder with their classes, and their division into training and validation."""

from __future__ import annotations

import os
import pathlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from torchkutils._typing import PathLike

LabelMode = Literal["int", "categorical", "binary"]
Subset = Literal["training", "validation", "both"]


@dataclass(frozen=True)
class Labelling:
    """What was asked for, checked.

    Attributes:
        labels: "inferred", None, or a label for each file in the order of their paths.
        mode: How labels are given; None gives none.
        class_names: The folders to use, in this order; None takes all, sorted.
    """

    labels: Any
    mode: LabelMode | None
    class_names: tuple[str, ...] | None

    @classmethod
    def checked(cls, labels: Any, label_mode: Any, class_names: Any) -> Labelling:
        """The same from a caller's arguments.

        Raises:
            ValueError: `labels` or `label_mode` is unknown, or `class_names` is given without inferred labels.
        """
        if label_mode not in ("int", "categorical", "binary", None):
            raise ValueError(f"label_mode must be 'int', 'categorical', 'binary' or None, got {label_mode!r}")
        listed = isinstance(labels, list | tuple | np.ndarray)
        if not (listed or labels is None or labels == "inferred"):
            raise ValueError(f"labels must be 'inferred', None or a list of integers, got {labels!r}")
        if class_names is not None and (listed or labels is None):
            raise ValueError(f"class_names {list(class_names)} is for labels='inferred' only, got labels={labels!r}")
        if labels is None or label_mode is None:
            labels = label_mode = None
        return cls(labels, label_mode, None if class_names is None else tuple(class_names))


@dataclass(frozen=True)
class Listing:
    """Files with their labels.

    Attributes:
        paths: Of the files.
        labels: Class numbers, int64, one a file; None without labels.
        class_names: In the order of the class numbers; None without labels.
    """

    paths: list[str]
    labels: npt.NDArray[np.int64] | None
    class_names: list[str] | None

    def taken(self, order: npt.NDArray[np.int64]) -> Listing:
        """The files at these places, in this order."""
        labels = None if self.labels is None else self.labels[order]
        return Listing([self.paths[place] for place in order], labels, self.class_names)


def list_files(directory: PathLike, labelling: Labelling, endings: tuple[str, ...], follow_links: bool) -> Listing:
    """The files below a folder that have one of the endings, in the order of their paths.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: It holds no such file, a class of `class_names` has no folder, or the labels do not fit the files.
    """
    root = os.fspath(directory)
    if not pathlib.Path(root).is_dir():
        raise FileNotFoundError(f"directory {root!r} does not exist, or is no folder")
    inferred = isinstance(labelling.labels, str)
    folders = _class_folders(root, labelling.class_names) if inferred or labelling.labels is None else None
    if labelling.labels is None:
        listing = Listing(_files_below(root, endings, follow_links), None, None)
    elif inferred:
        listing = _inferred(root, folders or [], endings, follow_links)
    else:
        listing = _given(_files_below(root, endings, follow_links), labelling.labels)
    if not listing.paths:
        raise ValueError(f"no file below {root!r} ends in {', '.join(endings)}")
    _check_classes(listing, labelling.mode)
    return listing


def _check_classes(listing: Listing, mode: LabelMode | None) -> None:
    classes = len(listing.class_names or [])
    if mode == "binary" and classes != 2:
        raise ValueError(f"label_mode='binary' needs two classes, got {listing.class_names}")
    if mode in ("binary", "categorical") and listing.labels is not None and listing.labels.max() >= classes:
        raise ValueError(f"labels must be 0 to {classes - 1} for {classes} classes, got {listing.labels.max()}")


def _class_folders(root: str, class_names: tuple[str, ...] | None) -> list[str]:
    found = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if class_names is None:
        return found
    missing = [name for name in class_names if name not in found]
    if missing:
        raise ValueError(f"class_names must be folders of {root!r}, got {missing}; it has {found}")
    return list(class_names)


def _inferred(root: str, folders: list[str], endings: tuple[str, ...], follow_links: bool) -> Listing:
    if not folders:
        raise ValueError(f"{root!r} has no folder for a class; labels=None takes the files as they are")
    by_class = [_files_below(f"{root}{os.sep}{folder}", endings, follow_links) for folder in folders]
    labels = np.repeat(np.arange(len(folders)), [len(paths) for paths in by_class])
    return Listing([path for paths in by_class for path in paths], labels, folders)


def _given(paths: list[str], labels: Any) -> Listing:
    if len(labels) != len(paths):
        raise ValueError(f"labels must have one entry a file, got {len(labels)} for {len(paths)} files")
    numbers = np.asarray(labels)
    if numbers.dtype.kind not in "iu" or (numbers.size and numbers.min() < 0):
        raise ValueError(f"labels must be integers from 0 on, got {labels[:5]!r}")
    names = [str(number) for number in np.unique(numbers)]
    return Listing(paths, numbers.astype(np.int64), names)


def _files_below(folder: str, endings: tuple[str, ...], follow_links: bool) -> list[str]:
    walked = sorted(os.walk(folder, followlinks=follow_links))
    return [
        f"{root}{os.sep}{name}" for root, _, names in walked for name in sorted(names) if name.lower().endswith(endings)
    ]


def check_split(validation_split: float | None, subset: str | None, shuffle: bool, seed: int | None) -> None:
    """Refuse a division that is half asked for, or that would differ between two calls.

    Raises:
        ValueError: Only one of the two is given, one is out of range, or a shuffled division has no seed.
    """
    if validation_split is None and subset is None:
        return
    if validation_split is None or not 0 < validation_split < 1:
        raise ValueError(f"validation_split must lie in (0, 1) when subset is given, got {validation_split!r}")
    if subset not in ("training", "validation", "both"):
        raise ValueError(f"subset must be 'training', 'validation' or 'both' with validation_split, got {subset!r}")
    if shuffle and seed is None and subset != "both":
        raise ValueError("a shuffled division needs a seed (or shuffle=False), else training and validation overlap")


def divided(listing: Listing, validation_split: float, order: npt.NDArray[np.int64]) -> tuple[Listing, Listing]:
    """Training and validation, the latter from the end of the order.

    Raises:
        ValueError: One of them would be empty.
    """
    count = int(validation_split * len(order))
    if not 0 < count < len(order):
        raise ValueError(f"validation_split={validation_split} leaves a part of {len(order)} files empty")
    return listing.taken(order[:-count]), listing.taken(order[-count:])
