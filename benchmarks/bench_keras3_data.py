"""What do windows, padding, image folders and the seed cost beside Keras 3's, and how much memory do windows take?"""

from __future__ import annotations

import importlib.util
import os
import pathlib
import tempfile
import tracemalloc
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np
import torch

from benchmarks._harness import compare, figure, store
from torchkutils import (
    image_dataset_from_directory,
    load_img,
    pad_sequences,
    save_img,
    set_random_seed,
    timeseries_dataset_from_array,
)

STEPS, FEATURES, BATCH, LENGTH = 10**7, 8, 256, 32
IMAGES, SIZE = 96, (128, 128)
HAS_GRAIN = importlib.util.find_spec("grain") is not None
"""Keras's data sets need it."""


def peak_of(work: Any) -> float:
    """Bytes that Python and NumPy held at once during the work, above what they held before."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return float(peak)


def decoded(paths: list[str]) -> torch.Tensor:
    """Decoding and resizing alone, in one process."""
    resized = []
    for path in paths:
        image = torch.from_numpy(np.array(load_img(path), dtype=np.float32)).permute(2, 0, 1)[None]
        resized.append(torch.nn.functional.interpolate(image, SIZE, mode="bilinear", align_corners=False))
    return torch.cat(resized)


def of_images(folder: str) -> list[dict[str, Any]]:
    """A folder of images, here and by two workers, beside Keras's and beside what decoding alone costs."""
    import keras

    images = image_dataset_from_directory(folder, image_size=SIZE, shuffle=False, verbose=False, batch_size=16)
    peers: dict[str, Any] = {}
    if HAS_GRAIN:
        theirs = keras.utils.image_dataset_from_directory(
            folder, image_size=SIZE, shuffle=False, verbose=False, batch_size=16, format="grain"
        )
        mine, other = next(iter(images))[0], next(iter(theirs))[0]
        assert torch.equal(mine, torch.as_tensor(other).permute(0, 3, 1, 2))
        peers = {"Keras 3, grain": lambda: list(theirs)}
    loader = images.loader(num_workers=2)
    note = "Grain reads ahead by 16 threads of one process, which share Python's lock."
    found = [
        compare(
            f"image_dataset_from_directory, {IMAGES} JPEG files, {how}",
            lambda epoch=epoch: list(epoch),
            peers,
            floor={"decoding and resizing alone, one process": lambda: decoded(images.file_paths)},
            target={"decoding and resizing alone, one process": 1.1, "Keras 3, grain": 1.0},
            repeats=7,
            warmup=1,
            note=note,
        )
        for how, epoch in (("no workers", images), ("two workers", loader))
    ]
    loader.close()
    return found


def main() -> None:
    """Measure and store."""
    import keras

    # Two threads that wait for each other within each small image cost more than they save.
    torch.set_num_threads(1)
    data = np.random.default_rng(0).standard_normal((STEPS, FEATURES), dtype=np.float32)
    windows = timeseries_dataset_from_array(data, None, LENGTH, batch_size=BATCH)
    batch_bytes = BATCH * LENGTH * FEATURES * 4
    measured = [
        figure(
            "windows over 1e7 × 8 float32, batches of 256 × 32: peak above the data / bytes of a batch",
            peak_of(lambda: [windows[index].sum() for index in range(200)]) / batch_bytes,
            unit="batches",
            target=2.0,
        )
    ]
    small = data[:20000]
    if HAS_GRAIN:
        measured.append(
            compare(
                "windows: an epoch over 20,000 steps",
                lambda: list(timeseries_dataset_from_array(small, None, LENGTH, batch_size=BATCH)),
                {
                    "Keras 3, grain": lambda: list(
                        keras.utils.timeseries_dataset_from_array(small, None, LENGTH, batch_size=BATCH, format="grain")
                    )
                },
                target={"Keras 3, grain": 0.5},
                repeats=5,
            )
        )
    draw = np.random.default_rng(1)
    ragged = [draw.integers(0, 9, draw.integers(1, 60)).tolist() for _ in range(10**5)]
    measured.append(
        compare(
            "pad_sequences, 1e5 ragged lists",
            lambda: pad_sequences(ragged),
            {"Keras 3": lambda: keras.utils.pad_sequences(ragged)},
            target={"Keras 3": 1 / 3},
            repeats=5,
        )
    )
    measured.append(
        compare("set_random_seed", lambda: set_random_seed(3), {"Keras 3": lambda: keras.utils.set_random_seed(3)})
    )
    with tempfile.TemporaryDirectory() as folder:
        for number in range(IMAGES):
            path = pathlib.Path(folder) / f"class_{number % 2}" / f"{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            save_img(path, draw.integers(0, 255, (300, 400, 3)).astype(np.uint8), scale=False)
        measured += of_images(folder)
    store("keras3_data", measured)


if __name__ == "__main__":
    main()
