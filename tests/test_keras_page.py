"""Keras 2.3.1's page of utils, code block by code block, as literally as PyTorch allows."""

from __future__ import annotations

import pathlib

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from torchkutils import (
    CustomObjectScope,
    HDF5Matrix,
    Sequence,
    deserialize_keras_object,
    load_model,
    multi_gpu_model,
    plot_model,
    print_summary,
    save_model,
    to_categorical,
)


class MyObject(nn.Module):
    def __init__(self, units: int) -> None:
        super().__init__()
        self.units = units
        self.kernel = nn.Parameter(torch.full((units,), 2.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.kernel

    def get_config(self) -> dict[str, int]:
        return {"units": self.units}


def imread(file_name: str) -> np.ndarray:
    return np.asarray(Image.open(file_name))


def resize(image: np.ndarray, output_shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(output_shape)) / 255


# fmt: off
# Here, `x_set` is list of path to the images
# and `y_set` are the associated classes.


class CIFAR10Sequence(Sequence):

    def __init__(self, x_set, y_set, batch_size):
        self.x, self.y = x_set, y_set
        self.batch_size = batch_size

    def __len__(self):
        return int(np.ceil(len(self.x) / float(self.batch_size)))

    def __getitem__(self, idx):
        batch_x = self.x[idx * self.batch_size:(idx + 1) * self.batch_size]
        batch_y = self.y[idx * self.batch_size:(idx + 1) * self.batch_size]

        return np.array([
            resize(imread(file_name), (200, 200))
               for file_name in batch_x]), np.array(batch_y)
# fmt: on


def small_xception(classes: int = 10) -> nn.Module:
    """Separable convolutions and global pooling: Xception's parts at a size that a test can train."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8, bias=False),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, classes),
    )


def fit(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, batch_size: int) -> list[float]:
    """What compile(loss='categorical_crossentropy', optimizer='rmsprop') and fit stand for."""
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(epochs):
        for first in range(0, len(x), batch_size):
            outputs = model(x[first : first + batch_size])
            loss = nn.functional.cross_entropy(outputs, y[first : first + batch_size].to(outputs.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@pytest.fixture
def dummy_data() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    num_samples, num_classes = 64, 10
    labels = torch.randint(0, num_classes, (num_samples,))
    x = torch.rand(num_samples, 3, 24, 24) + labels[:, None, None, None] / 5
    return x, to_categorical(labels, num_classes)


def test_custom_object_scope_lets_a_name_stand_for_a_custom_object(tmp_path: pathlib.Path) -> None:
    with CustomObjectScope({"MyObject": MyObject}):
        layer = deserialize_keras_object({"class_name": "MyObject", "config": {"units": 3}})
        save_model(layer, tmp_path / "layer.h5")
        again = load_model(tmp_path / "layer.h5")
    assert type(again) is MyObject
    assert torch.equal(again(torch.ones(3)), torch.full((3,), 2.0))
    with pytest.raises(ValueError, match="MyObject"):
        load_model(tmp_path / "layer.h5")


def test_hdf5_matrix_feeds_a_model(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pathlib.Path("input").mkdir()
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype("float32")
    with h5py.File("input/file.hdf5", "w") as file:
        file["data"] = rows
    model = nn.Linear(4, 2)

    x_data = HDF5Matrix("input/file.hdf5", "data")
    predictions = torch.cat([model(x_data[first : first + 8]) for first in range(0, len(x_data), 8)])

    torch.testing.assert_close(predictions, model(torch.from_numpy(rows)))


def test_hdf5_matrix_takes_a_slice_and_a_normalizer(tmp_path: pathlib.Path) -> None:
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        file["data"] = np.arange(20.0)
    x_data = HDF5Matrix(tmp_path / "file.hdf5", "data", 5, 10, lambda piece: piece / 10)
    np.testing.assert_allclose(np.asarray(x_data), np.arange(5, 10) / 10)


def test_sequence_runs_word_for_word(tmp_path: pathlib.Path) -> None:
    names = []
    for number in range(5):
        names.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(np.full((32, 32, 3), number, dtype="uint8")).save(names[-1])
    sequence = CIFAR10Sequence(names, [0, 1, 2, 3, 4], batch_size=2)
    for num_workers in (0, 2):
        batches = list(sequence.loader(num_workers=num_workers))
        assert [tuple(x.shape) for x, _ in batches] == [(2, 200, 200, 3), (2, 200, 200, 3), (1, 200, 200, 3)]
        assert torch.cat([y for _, y in batches]).tolist() == [0, 1, 2, 3, 4]
        assert [round(x[0, 0, 0, 0].item() * 255) for x, _ in batches] == [0, 2, 4]
    assert len(list(sequence)) == 3


def test_to_categorical_gives_the_page_s_array() -> None:
    labels = np.array([0, 2, 1, 2, 0])
    expected = np.array(
        [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype="float32"
    )
    result = to_categorical(labels)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


def test_print_summary_and_plot_model_take_the_page_s_arguments(tmp_path: pathlib.Path) -> None:
    model, lines = small_xception(), []
    print_summary(model, line_length=100, positions=[0.33, 0.55, 0.67, 1.0], print_fn=lines.append)
    assert lines[0] == 'Model: "Sequential"'
    plot_model(
        model, str(tmp_path / "model.png"), show_shapes=False, show_layer_names=True, rankdir="TB",
        expand_nested=False, dpi=96,
    )  # fmt: skip
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")


def test_example_1_trains_a_model_with_weights_on_the_cpu(dummy_data, tmp_path: pathlib.Path) -> None:
    x, y = dummy_data
    # Instantiate the base (or "template") model. We recommend doing this under a CPU device scope.
    with torch.device("cpu"):
        model = small_xception(classes=10)

    # Replicates the model on 8 devices.
    parallel_model = multi_gpu_model(model, devices=["cpu"] * 8)
    losses = fit(parallel_model, x, y, epochs=4, batch_size=32)
    assert losses[-1] < losses[0]

    # Save model via the template model (which shares the same weights):
    save_model(model, tmp_path / "my_model.h5")
    again = load_model(tmp_path / "my_model.h5")
    torch.testing.assert_close(again(x), parallel_model(x))


def test_example_1_without_eight_gpus_says_what_there_is() -> None:
    with pytest.raises(ValueError, match="we expect the following devices to be available"):
        multi_gpu_model(small_xception(), gpus=torch.cuda.device_count() + 8)


@pytest.mark.parametrize("idiom", [{"cpu_relocation": True}, {"cpu_merge": False}], ids=["example 2", "example 3"])
@pytest.mark.parametrize("devices", [None, ["cpu", "cpu"]], ids=["what is visible", "two simulated"])
def test_examples_2_and_3_fall_back_to_one_device(idiom, devices, dummy_data, capsys) -> None:
    model = small_xception()
    try:
        parallel_model = multi_gpu_model(model, **idiom, devices=devices)
        print("Training using multiple GPUs..")
    except ValueError:
        parallel_model = model
        print("Training using single GPU or CPU..")
    losses = fit(parallel_model, *dummy_data, epochs=4, batch_size=32)
    assert losses[-1] < losses[0]
    several = devices is not None or torch.cuda.device_count() > 1
    assert capsys.readouterr().out.startswith("Training using multiple" if several else "Training using single")
