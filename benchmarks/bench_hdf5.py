"""How near does HDF5Matrix come to memcpy, in order and at random, and does it keep its memory?"""

from __future__ import annotations

import pathlib
import tempfile

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks._harness import compare, figure, store
from torchkutils import HDF5Matrix

ROWS, WIDTH, BATCH = 50_000, 1024, 64


class RowAtATime(Dataset):
    """The recipe of today: one row a read, through an open h5py file."""

    def __init__(self, path):
        self.data = h5py.File(path)["x"]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return torch.from_numpy(self.data[index])


class InMemory(Dataset):
    """Memcpy and the DataLoader's own cost: batches copied out of an array, split into rows."""

    def __init__(self, array):
        self.array = array

    def __len__(self):
        return len(self.array)

    def __getitems__(self, indices):
        return list(torch.from_numpy(self.array.take(indices, axis=0)).unbind(0))


def epoch(dataset):
    for _ in DataLoader(dataset, batch_size=BATCH):
        pass


def slices(rows, convert=torch.from_numpy):
    """The best way in order: a slice a batch."""
    for first in range(0, len(rows), BATCH):
        convert(rows[first : first + BATCH])


def fancy(data, pick):
    """What h5py gives for rows in any order: it wants them sorted and without repeats."""
    rows, places = np.unique(pick, return_inverse=True)
    return data[rows][places]


def private_bytes() -> int:
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def memory(folder: pathlib.Path) -> list[dict]:
    path = folder / "sparse.h5"
    with h5py.File(path, "w") as file:
        data = file.create_dataset("x", (2**31 // 4096, 1024), "f4")
        data[-1] = 1.0
    rows = HDF5Matrix(path, "x")
    epoch(HDF5Matrix(path, "x", end=1000))
    before = private_bytes()
    epoch(rows)
    grown = (private_bytes() - before) / 2**20
    small = HDF5Matrix(path, "x", end=2000)
    epoch(small)
    before = private_bytes()
    for _ in range(50):
        epoch(small)
    return [
        figure("private memory after an epoch of 2 GB", grown, "MiB more", target=64),
        figure("private memory after 50 epochs", (private_bytes() - before) / 2**20, "MiB more", target=8),
    ]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.h5"
        array = np.random.default_rng(0).random((ROWS, WIDTH), dtype="f4")
        with h5py.File(path, "w") as file:
            file["x"] = array
        rows, by_row, in_memory = HDF5Matrix(path, "x"), RowAtATime(path), InMemory(array)
        picks = [np.random.default_rng(i).integers(0, ROWS, BATCH) for i in range(100)]
        plain = HDF5Matrix(path, "x", as_tensor=False)
        assert np.array_equal(plain[picks[0]], fancy(by_row.data, picks[0]))
        results = [
            compare(
                "an epoch of 205 MB, contiguous, through a DataLoader",
                lambda: epoch(rows),
                {"a row at a time": lambda: epoch(by_row)},
                floor={"memcpy + DataLoader": lambda: epoch(in_memory)},
                target={"a row at a time": 0.2, "memcpy + DataLoader": 1.3},
                repeats=9,
                warmup=1,
                note="A DataLoader asks for rows and puts them together again: the floor alone is about a quarter of "
                "a row at a time, so that target could not be met. Whoever reads in order takes slices: next line.",
            ),
            compare(
                "an epoch of 205 MB, contiguous, a slice of 64 rows at a time",
                lambda: slices(rows, convert=lambda batch: batch),
                {"h5py": lambda: slices(by_row.data)},
                floor={"memcpy": lambda: slices(array, convert=lambda batch: torch.from_numpy(batch.copy()))},
                repeats=9,
                warmup=1,
            ),
            compare(
                "100 random batches of 64",
                lambda: [plain[pick] for pick in picks],
                {"h5py fancy indexing": lambda: [fancy(by_row.data, pick) for pick in picks]},
                floor={"taking from memory": lambda: [array.take(pick, axis=0) for pick in picks]},
                target={"h5py fancy indexing": 0.05, "taking from memory": 1.5},
                repeats=11,
                note="A take from memory alone is about a fifth of h5py's time.",
            ),
            *memory(pathlib.Path(folder)),
        ]
    store("hdf5", results)


if __name__ == "__main__":
    main()
