"""What does the boundary between two epochs cost with workers whose Sequence changed?"""

from __future__ import annotations

import pathlib
import random
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

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


def started_anew(sequence, method):
    for _ in DataLoader(sequence, batch_size=None, num_workers=2, multiprocessing_context=method):
        pass
    sequence.on_epoch_end()


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
    store("epoch", results)


if __name__ == "__main__":
    main()
