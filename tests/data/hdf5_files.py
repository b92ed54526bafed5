"""HDF5 files that tests read, each with the array it must be equal to."""

from __future__ import annotations

import h5py
import numpy as np

DTYPES = ("f4", "f8", "f2", "i1", "i8", "u1", "u2", "?", "c8", ">f4", ">i2", ">c16")


def some_values(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    numbers = np.random.default_rng(5).integers(0, 200, size=shape)
    return (numbers % 2 == 0) if dtype == "?" else numbers.astype(dtype)


STORAGES = {
    "contiguous": {},
    "chunked": {"chunks": True},
    "gzip": {"chunks": True, "compression": "gzip"},
    "lzf": {"chunks": True, "compression": "lzf", "shuffle": True},
    "checksummed": {"chunks": True, "fletcher32": True},
    "growing": {"chunks": True, "maxshape": True},
}


def write(path, storage: str, array: np.ndarray, *, chunk_rows: int = 7) -> None:
    """Store an array as data set 'x'."""
    options = dict(STORAGES[storage])
    if options.pop("chunks", False) and array.size:
        inner = tuple(max(1, -(-length // 2)) for length in array.shape[1:])
        options["chunks"] = (min(chunk_rows, len(array)), *inner)
    elif "compression" in options or "maxshape" in options or "fletcher32" in options:
        options["chunks"] = True
    if options.pop("maxshape", False):
        options["maxshape"] = (None, *array.shape[1:])
    if array.size == 0 and "maxshape" not in options:
        options = {}
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=array, **options)
