"""What does the boundary between two epochs cost with workers whose Sequence changed?"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks._harness import compare, store
from torchkutils import Sequence


class Small(Sequence):
    """Tiny batches, shuffled in place by the hook."""

    def __init__(self, length):
        self.order = list(range(length))

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return np.full(16, self.order[index], dtype="f4")

    def on_epoch_end(self):
        random.shuffle(self.order)


class Large(Small):
    """The same beside 64 MB in memory that do not change."""

    def __init__(self, length):
        super().__init__(length)
        self.data = np.zeros(16 * 2**20, dtype="f4")


def started_anew(sequence, method):
    for _ in DataLoader(sequence, batch_size=None, num_workers=2, multiprocessing_context=method):
        pass
    sequence.on_epoch_end()


def with_much_in_memory(length):
    """What did not change is not sent again; that it did not is found out by checksums."""
    sequence = Large(length)
    loader = sequence.loader(num_workers=2, multiprocessing_context="fork")
    kept = DataLoader(sequence, batch_size=None, num_workers=2, multiprocessing_context="fork", persistent_workers=True)
    found = compare(
        f"an epoch of {length} tiny batches, 2 workers, fork, 64 MB in the Sequence",
        lambda: list(loader),
        {
            "new workers by fork": lambda: started_anew(sequence, "fork"),
            "DataLoader, persistent workers": lambda: list(kept),
        },
        target={"DataLoader, persistent workers": 1.2},
        repeats=15,
        warmup=1,
        note="Persistent workers never see what on_epoch_end changed.",
    )
    loader.close()
    return found


def main() -> None:
    torch.set_num_threads(1)
    results = []
    # Two batches, one a worker, are the boundary and little else; twenty are an epoch in which batches cost, too.
    for method, target, length, repeats in (("fork", 0.3, 2, 31), ("fork", None, 20, 31), ("spawn", 0.02, 20, 5)):
        sequence = Small(length)
        loader = sequence.loader(num_workers=2, multiprocessing_context=method)
        results.append(
            compare(
                f"an epoch of {length} tiny batches, 2 workers, {method}",
                lambda loader=loader: list(loader),
                {f"new workers by {method}": lambda sequence=sequence, method=method: started_anew(sequence, method)},
                target={} if target is None else {f"new workers by {method}": target},
                repeats=repeats,
                warmup=1,
            )
        )
        loader.close()
    results.append(with_much_in_memory(20))
    store("epoch", results)


if __name__ == "__main__":
    main()
