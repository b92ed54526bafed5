"""What does an epoch in random order cost on compressed chunks, against reading in order and row by row?"""

from __future__ import annotations

import pathlib
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import h5py
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._harness import compare, store
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

        def few_rows_of_ours():
            # As large a share of an epoch as the slow peer's.
            for _, batch in zip(range(SAMPLE // BATCH), loader, strict=False):
                del batch

        def a_row_at_a_time():
            with h5py.File(path) as file:
                data = file["x"]
                for index in shuffled[:SAMPLE]:
                    torch.from_numpy(data[index])

        results = [
            compare(
                "a chunk-shuffled epoch of 210 MB, gzip-4",
                ours,
                {"sequential h5py": in_order},
                target={"sequential h5py": 1.3},
                repeats=5,
                warmup=1,
            ),
            compare(
                "640 shuffled rows, gzip-4 (a pool of 16 chunks is decoded for them)",
                few_rows_of_ours,
                {"a row at a time": a_row_at_a_time},
                target={"a row at a time": 1 / 25},
                repeats=5,
                warmup=1,
            ),
        ]
        per_epoch = results[1]["seconds"]["a row at a time"]["median"] * ROWS / SAMPLE
        ratio = results[0]["seconds"]["ours"]["median"] / per_epoch
        print(f"whole epoch: {1 / ratio:.1f} times faster than a row at a time (its time scaled up from {SAMPLE} rows)")
        results.append(
            {"question": "whole epoch, ours / a row at a time (scaled up)", "value": ratio, "target": 1 / 25}
        )
    store("chunk_shuffle", results)


if __name__ == "__main__":
    main()
