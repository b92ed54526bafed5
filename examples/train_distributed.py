"""The digits of train_digits.py on several processes or machines: data sharded, one file to resume from.

    torchrun --nproc-per-node 2 examples/train_distributed.py [--strategy ddp|fsdp] [--epochs 12] [--exact]
    python examples/train_distributed.py      # the same training in one process

Run again in the same folder it goes on after the last finished epoch, on as many processes as there are now. `--exact`
trains a float64 network without dropout and batch normalisation: there the final weights do not depend on the number
of processes, but for rounding. The output folder is one that all machines see.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import distributed, nn
from train_digits import DIGITS, DIGITS_SHA256, TRAINING_ROWS, DigitNet, as_images, predict, write_hdf5

import torchkutils as ku

BATCH = 64


class DigitParts(ku.Sequence):
    """Each batch of 64 digits cut into one part for each rank; in a new order every epoch.

    Item `batch * parts + part`: ranks that read it by `loader(world_size='auto')` have one batch between them at each
    step, whatever their number. The last batch is smaller, its parts unequal.
    """

    def __init__(self, images: ku.HDF5Matrix, labels: ku.HDF5Matrix, parts: int) -> None:
        self.images, self.labels, self.parts = images, labels, parts
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH) * self.parts

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        batch, part = divmod(index, self.parts)
        order = np.random.default_rng([0, self.epoch]).permutation(len(self.images))
        rows = np.array_split(order[batch * BATCH : (batch + 1) * BATCH], self.parts)[part]
        return self.images[rows], self.labels[rows]

    def on_epoch_end(self) -> None:
        self.epoch += 1

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch = state["epoch"]


def exact_net() -> nn.Module:
    """Couples no samples and draws no random numbers."""
    layers = [nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 10)).double()


@contextlib.contextmanager
def process_group() -> Iterator[tuple[int, int]]:
    """Rank and world size; torchrun says them, and where it did not start this process it is alone."""
    if "WORLD_SIZE" not in os.environ:
        yield 0, 1
        return
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if gpus else "gloo")
    try:
        yield distributed.get_rank(), distributed.get_world_size()
    finally:
        distributed.destroy_process_group()


def digits(output: pathlib.Path, rank: int) -> pathlib.Path:
    """The HDF5 file: every rank asks for the download, one request is made; the first converts it."""
    csv_gz = ku.get_file("digits.csv.gz", DIGITS.as_uri(), file_hash=DIGITS_SHA256, cache_dir=output / "cache")
    path = output / "digits.h5"
    if rank == 0:
        write_hdf5(csv_gz, path)
    if distributed.is_initialized():
        distributed.barrier()
    return path


def save(model: nn.Module, path: pathlib.Path, rank: int, strategy: str, **extra: Any) -> None:
    """Under 'fsdp' every rank holds a part, and all make the call; else the first alone has all."""
    if strategy == "fsdp" or rank == 0:
        ku.save_model(model, path, **extra)
    if distributed.is_initialized():
        distributed.barrier()


def step_loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean over the whole batch, also where the ranks hold unequal parts of it."""
    loss = nn.CrossEntropyLoss()
    if distributed.is_initialized():
        return model.sharded_loss(loss, images, labels)
    return loss(model(images), labels)


def train(
    model: nn.Module, batches: DigitParts, epochs: int, checkpoint: pathlib.Path, rank: int, strategy: str
) -> None:
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loader = batches.loader(world_size="auto")
    if checkpoint.exists():
        state = ku.read_metadata(checkpoint)
        ku.load_weights(model, checkpoint)
        ku.load_optimizer(checkpoint, optimizer)
        schedule.load_state_dict(state["schedule"])
        loader.load_state_dict(state["loader"])
    model.train()
    for epoch in range(loader.epoch, epochs):
        # Dropout's numbers follow from epoch and rank: a resumed training draws what it would have drawn.
        torch.manual_seed(epoch * 1000 + rank)
        for images, labels in loader:
            loss = step_loss(model, images.to(dtype), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        state = {"loader": loader.state_dict(), "schedule": schedule.state_dict()}
        save(model, checkpoint, rank, strategy, optimizer=optimizer, metadata=state)
        if rank == 0:
            print(f"epoch {epoch + 1}/{epochs}: loss {loss.item():.4f}, saved", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategy", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("demo-output/distributed"))
    parser.add_argument("--exact", action="store_true")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)

    with process_group() as (rank, world):
        data = digits(output, rank)
        images = ku.HDF5Matrix(data, "images", end=TRAINING_ROWS, normalizer=as_images)
        labels = ku.HDF5Matrix(data, "labels", end=TRAINING_ROWS)
        torch.manual_seed(0)
        model = exact_net() if arguments.exact else DigitNet()
        strategy = arguments.strategy if distributed.is_initialized() else "one process"
        if distributed.is_initialized():
            model = ku.multi_gpu_model(model, strategy=strategy, outputs="local")
        if rank == 0:
            print(f"{world} process(es), {strategy}", flush=True)
        train(model, DigitParts(images, labels, world), arguments.epochs, output / "checkpoint.h5", rank, strategy)

        dtype = next(model.parameters()).dtype
        test_images = ku.HDF5Matrix(
            data, "images", start=TRAINING_ROWS, normalizer=as_doubles if arguments.exact else as_images
        )
        # Every rank predicts all: under 'fsdp' no rank can call the model alone.
        predictions = predict(model, test_images, next(model.parameters()).device)
        truth = ku.HDF5Matrix(data, "labels", start=TRAINING_ROWS)[:]
        accuracy = (predictions.argmax(-1) == truth).to(dtype).mean().item()
        save(model, output / "model.h5", rank, strategy, metadata={"accuracy": accuracy})
        if rank == 0:
            print(f"test accuracy: {accuracy:.2%}")


def as_doubles(rows: np.ndarray) -> np.ndarray:
    return as_images(rows).astype("float64")


if __name__ == "__main__":
    main()
