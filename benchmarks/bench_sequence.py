"""What does a batch cost through a SequenceLoader, against a plain DataLoader over the same Sequence?"""

from __future__ import annotations

import tracemalloc

import torch
from torch.utils.data import DataLoader

from benchmarks._harness import clocked, compare, figure, store
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


def handed_over(size, length, target, reuse=False):
    """An epoch through two workers."""
    sequence = Filled(size, length)
    ours = sequence.loader(num_workers=2, reuse=reuse)
    plain = DataLoader(sequence, batch_size=None, num_workers=2, persistent_workers=True)
    found = compare(
        f"{length} batches of {size // 1024} KB, 2 workers" + ", reuse=True" * reuse,
        lambda: run(ours),
        {"DataLoader": lambda: run(plain)},
        target={"DataLoader": target},
        repeats=15,
    )
    ours.close()
    return found


def first_batch_of_many():
    """The first batch of 2 * 10**7, shuffled or not, and what it takes in memory."""
    rows = []
    for shuffle in (False, True):
        how = "shuffled" if shuffle else "in order"
        sequence = Filled(4096, 2 * 10**7)
        rows.append(
            clocked(
                f"the first batch of 2e7, {how}",
                lambda sequence=sequence, shuffle=shuffle: next(iter(sequence.loader(shuffle=shuffle))),
                "ms",
                target=50.0,
            )
        )
        tracemalloc.start()
        next(iter(sequence.loader(shuffle=shuffle)))
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        rows.append(figure(f"memory for the first batch of 2e7, {how}", peak, "MB", target=1.0))
    return rows


def main() -> None:
    torch.set_num_threads(1)
    results = []
    for size, length, target in ((4 * 2**10, 600, 0.3), (256 * 2**10, 400, 0.3), (4 * 2**20, 100, 0.45)):
        sequence = Filled(size, length)
        plain, ours = DataLoader(sequence, batch_size=None), sequence.loader()
        results.append(
            compare(
                f"{length} batches of {size // 1024} KB, 0 workers",
                lambda ours=ours: run(ours),
                {"DataLoader": lambda plain=plain: run(plain)},
                target={"DataLoader": 1.2},
                repeats=15,
            )
        )
        results.append(handed_over(size, length, target))
    results.append(handed_over(4 * 2**20, 100, 0.25, reuse=True))
    store("sequence", [*results, *first_batch_of_many()])


if __name__ == "__main__":
    main()
