"""Real handwritten digits, from a download to a reloaded model: every name of torchkutils at its ordinary work.

    python examples/train_digits.py [--epochs 12] [--output demo-output]

The 1,797 digits of 8 × 8 pixels are those that scikit-learn ships (UCI's "Optical Recognition of Handwritten
Digits", test part); everything that is made lies in the output folder, the downloaded file in its cache/.
"""

from __future__ import annotations

import argparse
import pathlib
import time

import h5py
import matplotlib
import numpy as np
import sklearn.datasets
import torch
from torch import nn

import torchkutils as ku

matplotlib.use("Agg")
import matplotlib.pyplot as plt

DIGITS = pathlib.Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
DIGITS_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
TRAINING_ROWS = 1437  # four fifths; the rest is the test set


class ChannelScale(nn.Module):
    """The custom layer: one learned factor a channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.factor = nn.Parameter(torch.ones(channels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images * self.factor[:, None, None]

    def get_config(self) -> dict[str, int]:
        return {"channels": self.channels}


class DigitNet(nn.Module):
    """A small convolutional network with one residual connection, for images of 1 × 8 × 8."""

    def __init__(self, width: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.width, self.classes = width, classes
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), ChannelScale(width)
        )
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(4 * width, classes))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.stem(images)
        return self.head(self.pool(features + self.body(features)))

    def get_config(self) -> dict[str, int]:
        return {"width": self.width, "classes": self.classes}


class DigitBatches(ku.Sequence):
    """Batches of images and one-hot labels, in a new order after every epoch."""

    def __init__(self, images: ku.HDF5Matrix, labels: ku.HDF5Matrix, batch_size: int) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.random = np.random.default_rng(0)
        self.order = self.random.permutation(len(images))

    def __len__(self) -> int:
        return int(np.ceil(len(self.order) / self.batch_size))

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return self.images[rows], ku.to_categorical(self.labels[rows], 10)

    def on_epoch_end(self) -> None:
        self.order = self.random.permutation(len(self.images))


def as_images(rows: np.ndarray) -> np.ndarray:
    """The normalizer: 64 grey values of 0 to 16 become one channel of 8 × 8 in [0, 1]."""
    return (rows.reshape(*rows.shape[:-1], 1, 8, 8) / 16).astype("float32")


def write_hdf5(csv_gz: str, path: pathlib.Path) -> None:
    """Write the digits to HDF5 once, in a fixed random order."""
    if path.exists():
        return
    table = np.loadtxt(csv_gz, delimiter=",")
    table = table[np.random.default_rng(0).permutation(len(table))]
    with h5py.File(path, "w") as file:
        file["images"] = table[:, :-1].astype("uint8")
        file["labels"] = table[:, -1].astype("int64")


def train(model: nn.Module, batches: ku.Sequence, epochs: int, device: torch.device) -> list[float]:
    """A plain PyTorch loop; gives the loss of every step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    loader = batches.loader(num_workers=2, seed=0)
    losses: list[float] = []
    model.train()
    for epoch in range(epochs):
        print(f"epoch {epoch + 1}/{epochs}")
        progress = ku.Progbar(len(loader))
        for images, targets in loader:
            outputs = model(images.to(device))
            loss = nn.functional.cross_entropy(outputs, targets.to(outputs.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            progress.add(1, values=[("loss", losses[-1])])
        schedule.step()
    return losses


@torch.no_grad()
def predict(model: nn.Module, images: ku.HDF5Matrix, device: torch.device) -> torch.Tensor:
    """The model called on slices of an HDF5Matrix."""
    model.eval()
    return torch.cat([model(images[start : start + 100].to(device)).cpu() for start in range(0, len(images), 100)])


def draw_loss(losses: list[float], path: pathlib.Path) -> None:
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    axes.plot(losses)
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log", title="Training on handwritten digits")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("demo-output"))
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)

    csv_gz = ku.get_file("digits.csv.gz", DIGITS.as_uri(), file_hash=DIGITS_SHA256, cache_dir=output / "cache")
    data = output / "digits.h5"
    write_hdf5(csv_gz, data)
    training = DigitBatches(
        ku.HDF5Matrix(data, "images", end=TRAINING_ROWS, normalizer=as_images),
        ku.HDF5Matrix(data, "labels", end=TRAINING_ROWS),
        batch_size=64,
    )
    test_images = ku.HDF5Matrix(data, "images", start=TRAINING_ROWS, normalizer=as_images)
    test_labels = ku.HDF5Matrix(data, "labels", start=TRAINING_ROWS)
    print(f"{len(training.images)} training and {len(test_images)} test images, shape {tuple(test_images.shape[1:])}")

    model = DigitNet().to(device)
    ku.print_summary(model, input_size=(1, 1, 8, 8))
    for name in ("model.png", "model.svg"):
        ku.plot_model(model, output / name, show_shapes=True, expand_nested=True, input_size=(1, 1, 8, 8))

    try:
        parallel_model = ku.multi_gpu_model(model)
        print("Training using multiple GPUs..")
    except ValueError as reason:
        parallel_model = model
        print(f"Training using a single {device.type.upper()}.. ({reason})")
    losses = train(parallel_model, training, arguments.epochs, device)

    predictions = predict(model, test_images, device)
    accuracy = (predictions.argmax(-1) == test_labels[:]).float().mean().item()
    print(f"test accuracy: {accuracy:.2%}")
    draw_loss(losses, output / "loss.png")

    ku.save_model(model, output / "digits_model.h5", metadata={"accuracy": accuracy, "epochs": arguments.epochs})
    with ku.CustomObjectScope({"DigitNet": DigitNet, "ChannelScale": ChannelScale}):
        reloaded = ku.load_model(output / "digits_model.h5", device=device)
    if not torch.equal(predict(reloaded, test_images, device), predictions):
        raise SystemExit("the reloaded model predicts something else")
    print("the reloaded model predicts the same")

    print(f"\n{time.perf_counter() - started:.0f} s; what was made:")
    for path in sorted(path for path in output.rglob("*") if path.is_file()):
        print(f"  {path}  ({path.stat().st_size:,} bytes)")
    if accuracy < 0.97 and arguments.epochs >= 12:
        raise SystemExit(f"test accuracy {accuracy:.2%} is below 97 %")


if __name__ == "__main__":
    main()
