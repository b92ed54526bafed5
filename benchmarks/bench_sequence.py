"""What does a batch cost through a SequenceLoader, against a plain DataLoader over the same Sequence?"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader

from benchmarks._harness import compare, store
from torchkutils import Sequence


class Filled(Sequence):
    """Batches of so many bytes."""

    def __init__(self, size, length):
        self.size = size
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.full((self.size // 4,), float(index))


def run(loader):
    for _ in loader:
        pass


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for size, length in ((4 * 2**10, 600), (256 * 2**10, 400), (4 * 2**20, 100)):
        sequence = Filled(size, length)
        for workers, target in ((0, 1.2), (2, 1.1)):
            ours = sequence.loader(num_workers=workers)
            plain = DataLoader(sequence, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
            results.append(
                compare(
                    f"{length} batches of {size // 1024} KB, {workers} workers",
                    lambda ours=ours: run(ours),
                    {"DataLoader": lambda plain=plain: run(plain)},
                    target={"DataLoader": target},
                    repeats=15,
                )
            )
            ours.close()
            del plain
    store("sequence", results)


if __name__ == "__main__":
    main()
