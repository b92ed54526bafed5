"""What does an epoch in random order cost on compressed chunks, beside one in order and reading row by row?"""

from __future__ import annotations

import pathlib
import tempfile

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._harness import clocked, compare, figure, store
from torchkutils import ChunkShuffleSampler, HDF5Matrix

ROWS, WIDTH, BATCH = 51_200, 1024, 64
SAMPLE = 640
"""Rows that the slow peer reads: its time is scaled up, for a whole epoch of it takes minutes."""


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.h5"
        generator = np.random.default_rng(0)
        with h5py.File(path, "w") as file:
            data = file.create_dataset(
                "x", (ROWS, WIDTH), "f4", chunks=(64, WIDTH), compression="gzip", compression_opts=4
            )
            for first in range(0, ROWS, 6400):
                data[first : first + 6400] = generator.integers(0, 256, (6400, WIDTH)).astype("f4")
        rows = HDF5Matrix(path, "x")
        loader = DataLoader(rows, batch_size=BATCH, sampler=ChunkShuffleSampler(rows))
        shuffled = generator.permutation(ROWS)

        def ours():
            for _ in loader:
                pass

        def in_order():
            with h5py.File(path) as file:
                data = file["x"]
                for first in range(0, ROWS, BATCH):
                    torch.from_numpy(data[first : first + BATCH])

        def shuffled_from_a_cache():
            # h5py's own means: its chunk cache as large as the data. A prime number of slots, as its manual advises.
            with h5py.File(path, rdcc_nbytes=ROWS * WIDTH * 4 + 2**20, rdcc_nslots=80_021) as file:
                data = file["x"]
                for first in range(0, ROWS, BATCH):
                    torch.stack([torch.from_numpy(data[index]) for index in shuffled[first : first + BATCH]])

        def a_row_at_a_time():
            with h5py.File(path) as file:
                data = file["x"]
                for index in shuffled[:SAMPLE]:
                    torch.from_numpy(data[index])

        results = [
            compare(
                "a chunk-shuffled epoch of 210 MB, gzip-4",
                ours,
                {"h5py, all chunks in its cache": shuffled_from_a_cache},
                floor={"sequential h5py": in_order},
                target={"sequential h5py": 1.3},
                repeats=5,
                warmup=1,
                setup=rows.close,
                note="The floor decodes the same chunks in order, without a DataLoader or mixing. h5py's cache gives a "
                "full shuffle and holds all 210 MB decoded; ours holds 17 chunks, 4.5 MB.",
            )
        ]
        slow = clocked(f"{SAMPLE} shuffled rows, a row at a time by h5py", a_row_at_a_time, "s", repeats=5)
        ratio = results[0]["seconds"]["ours"]["median"] / (slow["value"] * ROWS / SAMPLE)
        note = f"A whole epoch of theirs takes a minute: its time is that of {SAMPLE} rows, scaled up."
        title = "a whole epoch, ours / h5py's default cache, a row at a time"
        results += [slow, figure(title, ratio, "×", target=1 / 25, note=note)]
    store("chunk_shuffle", results)


if __name__ == "__main__":
    main()
