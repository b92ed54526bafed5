"""What does an epoch over gzip chunks cost, in order and shuffled, beside h5py in order and a row at a time?"""

from __future__ import annotations

import pathlib
import tempfile

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._harness import clocked, compare, figure, store
from torchkutils import ChunkShuffleSampler, HDF5Matrix

ROWS, WIDTH, BATCH = 25_600, 1024, 64
SAMPLE = 640
"""Rows that the slow peer reads: its time is scaled up, for a whole epoch of it takes minutes."""

TARGETS = {1: 0.55, 2: 0.4}
"""Of h5py's time in order, by the number of threads that decode."""

LOADED = (
    "Two threads need two cores. Linux shares a busy machine out among sessions (sched_autogroup), so that a second "
    "thread brings its session no more time then: with much `other_work` in the results, two threads say nothing."
)

ALONE = (
    "Inflating by libdeflate, the fastest library that was tried (isal takes a third more), is about half of the time "
    "that h5py takes in order; copying shuffled rows to their places and out of them is most of the rest."
)


def write(path: pathlib.Path, *, shuffle: bool) -> None:
    generator = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        data = file.create_dataset(
            "x", (ROWS, WIDTH), "f4", chunks=(64, WIDTH), compression="gzip", compression_opts=4, shuffle=shuffle
        )
        for first in range(0, ROWS, 6400):
            data[first : first + 6400] = generator.integers(0, 256, (6400, WIDTH)).astype("f4")


def h5py_in_order(path: pathlib.Path) -> None:
    with h5py.File(path) as file:
        data = file["x"]
        for first in range(0, ROWS, BATCH):
            torch.from_numpy(data[first : first + BATCH])


def slices_in_order(rows: HDF5Matrix) -> None:
    for first in range(0, ROWS, BATCH):
        rows[first : first + BATCH]


def shuffled_batches(rows: HDF5Matrix, sampler: ChunkShuffleSampler) -> None:
    batch = []
    for index in sampler:
        batch.append(index)
        if len(batch) == BATCH:
            rows[batch]
            batch = []


def decoding(path: pathlib.Path, name: str) -> list[dict]:
    """Sequential and chunk-shuffled batches, by one thread and by two."""
    found = []
    for threads, target in TARGETS.items():
        rows = HDF5Matrix(path, "x", threads=threads)
        sampler = ChunkShuffleSampler(rows)
        ways = {
            "slices of 64 in order": lambda rows=rows: slices_in_order(rows),
            "chunk-shuffled batches of 64": lambda rows=rows, sampler=sampler: shuffled_batches(rows, sampler),
        }
        for way, run in ways.items():
            found.append(
                compare(
                    f"{way}, {name}, {threads} thread{'s' if threads > 1 else ''}",
                    run,
                    {"sequential h5py": lambda: h5py_in_order(path)},
                    target={"sequential h5py": target},
                    repeats=9,
                    warmup=1,
                    setup=rows.close,
                    note=LOADED if threads > 1 else ALONE,
                )
            )
    return found


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path, shuffled_bytes = pathlib.Path(folder) / "a.h5", pathlib.Path(folder) / "b.h5"
        write(path, shuffle=False)
        write(shuffled_bytes, shuffle=True)
        results = decoding(path, "gzip-4") + decoding(shuffled_bytes, "gzip-4 after shuffle")
        rows = HDF5Matrix(path, "x")
        loader = DataLoader(rows, batch_size=BATCH, sampler=ChunkShuffleSampler(rows))
        order = np.random.default_rng(1).permutation(ROWS)

        def ours():
            for _ in loader:
                pass

        def shuffled_from_a_cache():
            # h5py's own means: its chunk cache as large as the data. A prime number of slots, as its manual advises.
            with h5py.File(path, rdcc_nbytes=ROWS * WIDTH * 4 + 2**20, rdcc_nslots=80_021) as file:
                data = file["x"]
                for first in range(0, ROWS, BATCH):
                    torch.stack([torch.from_numpy(data[index]) for index in order[first : first + BATCH]])

        def a_row_at_a_time():
            with h5py.File(path) as file:
                data = file["x"]
                for index in order[:SAMPLE]:
                    torch.from_numpy(data[index])

        results.append(
            compare(
                "a chunk-shuffled epoch of 105 MB through a DataLoader, gzip-4",
                ours,
                {"h5py, all chunks in its cache": shuffled_from_a_cache},
                floor={"sequential h5py": lambda: h5py_in_order(path)},
                target={"sequential h5py": 1.3},
                repeats=5,
                warmup=1,
                setup=rows.close,
                note="h5py's cache gives a full shuffle and holds all 105 MB decoded; ours holds 34 chunks, 9 MB: one "
                "pool that is handed out and one that is decoded meanwhile.",
            )
        )
        slow = clocked(f"{SAMPLE} shuffled rows, a row at a time by h5py", a_row_at_a_time, "s", repeats=5)
        ratio = results[-1]["seconds"]["ours"]["median"] / (slow["value"] * ROWS / SAMPLE)
        note = f"A whole epoch of theirs takes a minute: its time is that of {SAMPLE} rows, scaled up."
        title = "a whole epoch, ours / h5py's default cache, a row at a time"
        results += [slow, figure(title, ratio, "×", target=1 / 25, note=note)]
    store("chunk_shuffle", results)


if __name__ == "__main__":
    main()
