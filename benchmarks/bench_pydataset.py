"""How does a Sequence's loader compare with Keras 3's PyDataset, read as `fit` reads it, both with two workers?"""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Iterator
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from keras.src.backend.torch.trainer import TorchEpochIterator

from benchmarks._harness import compare, store
from torchkutils import Sequence
from torchkutils.data.sequence_loader import SequenceLoader

ROWS, WIDTH = 64, 1024
NOTES = {
    "boundary": "Twenty batches are little more than what lies between two epochs: fit starts a new pool of workers "
    "for each epoch, and ends it with a wait of 0.1 s; ours stay. Keras's threads are cheap to start, and wait too.",
    "inflate": "zlib lets other threads run meanwhile, so Keras's threads do well here, and copy nothing.",
    "parse": "Parsing keeps Python's lock: threads cannot share it out, processes can.",
}


class Tiny:
    """Batches of 16 numbers, shuffled in place by the hook."""

    def prepare(self, length: int) -> None:
        self.order = list(range(length))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return np.full(16, self.order[index], dtype="f4"), np.zeros(1, dtype="f4")

    def on_epoch_end(self) -> None:
        random.shuffle(self.order)


class Inflated:
    """64 rows of 4 KB, inflated and scaled: what compressed images or chunks cost."""

    def prepare(self, length: int) -> None:
        self.length = length
        rows = np.random.default_rng(0).integers(0, 16, (ROWS, WIDTH), dtype="u4")
        self.packed = zlib.compress(rows.tobytes(), 4)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.frombuffer(zlib.decompress(self.packed), "u4").reshape(ROWS, WIDTH)
        return rows.astype("f4") / 255, np.full(ROWS, index, dtype="f4")


class Parsed:
    """64 rows of 256 numbers, parsed from text in Python."""

    def prepare(self, length: int) -> None:
        self.length = length
        self.lines = [" ".join(f"{value:.4f}" for value in row) for row in np.random.default_rng(0).random((ROWS, 256))]

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rows = [[float(word) for word in line.split()] for line in self.lines]
        return np.array(rows, dtype="f4"), np.full(ROWS, index, dtype="f4")


class OurTiny(Tiny, Sequence):
    pass


class OurInflated(Inflated, Sequence):
    pass


class OurParsed(Parsed, Sequence):
    pass


class TheirTiny(Tiny, keras.utils.PyDataset):
    pass


class TheirInflated(Inflated, keras.utils.PyDataset):
    pass


class TheirParsed(Parsed, keras.utils.PyDataset):
    pass


def of_ours(kind: type, length: int, workers: int, threads: bool = False) -> SequenceLoader:
    batches = kind()
    batches.prepare(length)
    if threads:
        return batches.loader(num_workers=workers, workers="threads")
    return batches.loader(num_workers=workers, multiprocessing_context="fork" if workers else None)


class OfKeras:
    """Epochs of a PyDataset as `fit` takes them: hooks, workers and the conversion to tensors included."""

    def __init__(self, kind: type, length: int, **options: Any) -> None:
        batches = kind(**options)
        batches.prepare(length)
        self.epochs = TorchEpochIterator(x=batches)

    def __iter__(self) -> Iterator[Any]:
        for _, _, (batch,) in self.epochs.enumerate_epoch():
            yield batch


def read(batches: Any) -> float:
    """One epoch; the sum of the targets says that both sides gave the same batches."""
    return sum(float(targets.sum()) for _, targets in batches)


def an_epoch(
    question: str, kinds: tuple[type, type], length: int, repeats: int, note: str, target: float | None
) -> dict[str, Any]:
    """Two workers on both sides; every round is one whole epoch, the hook included."""
    loader = of_ours(kinds[0], length, 2)
    peers = {
        "PyDataset, 2 processes": OfKeras(kinds[1], length, workers=2, use_multiprocessing=True),
        "PyDataset, 2 threads": OfKeras(kinds[1], length, workers=2),
    }
    try:
        assert len({read(batches) for batches in (loader, *peers.values())}) == 1
        return compare(
            question,
            lambda: read(loader),
            {name: lambda batches=batches: read(batches) for name, batches in peers.items()},
            target={} if target is None else {"PyDataset, 2 processes": target},
            repeats=repeats,
            warmup=1,
            note=note,
        )
    finally:
        loader.close()


def by_threads(length: int) -> dict[str, Any]:
    """Threads on both sides, on work that lets them run."""
    loader, peer = of_ours(OurInflated, length, 2, threads=True), OfKeras(TheirInflated, length, workers=2)
    assert read(loader) == read(peer)
    return compare(
        f"an epoch of {length} inflated batches of 256 KB, 2 threads on both sides",
        lambda: read(loader),
        {"PyDataset, 2 threads": lambda: read(peer)},
        target={"PyDataset, 2 threads": 0.9},
        repeats=9,
        warmup=1,
    )


def without_workers(length: int) -> dict[str, Any]:
    loader, peer = of_ours(OurTiny, length, 0), OfKeras(TheirTiny, length)
    question = f"an epoch of {length} tiny batches, no workers"
    return compare(question, lambda: read(loader), {"PyDataset": lambda: read(peer)}, repeats=9)


def main() -> None:
    torch.set_num_threads(1)
    tiny, inflated, parsed = (OurTiny, TheirTiny), (OurInflated, TheirInflated), (OurParsed, TheirParsed)
    rows = [
        an_epoch("an epoch of 20 tiny batches, 2 workers", tiny, 20, 11, NOTES["boundary"], 0.2),
        an_epoch("an epoch of 400 inflated batches of 256 KB, 2 workers", inflated, 400, 5, NOTES["inflate"], None),
        an_epoch("an epoch of 300 parsed batches of 64 KB, 2 workers", parsed, 300, 5, NOTES["parse"], None),
        by_threads(400),
        without_workers(1000),
    ]
    store("pydataset", rows)


if __name__ == "__main__":
    main()
