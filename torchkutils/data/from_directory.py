"""Images, texts and sounds of a folder in batches, under Keras's names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from torchkutils import _lazy
from torchkutils._keras_names import taken_for_keras
from torchkutils._typing import PathLike
from torchkutils.data.directory_index import (
    Labelling,
    LabelMode,
    Listing,
    Subset,
    check_split,
    divided,
    list_files,
)
from torchkutils.data.images import MODES, DataFormat, channels_first, checked_size, load_img
from torchkutils.data.sequence import Sequence

__all__ = ["audio_dataset_from_directory", "image_dataset_from_directory", "text_dataset_from_directory"]

IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".png")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3")
_MODES = {
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "nearest": {"mode": "nearest-exact"},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "area": {"mode": "area"},
}


class FileBatches(Sequence):
    """Batches of files, read when they are asked for; made by the functions of this module.

    Attributes:
        file_paths: In the order of the files before they are shuffled.
        class_names: In the order of the class numbers; None without labels.
        labels: Class numbers, one a file; None without labels.
    """

    labels: npt.NDArray[np.int64] | None

    def __init__(
        self,
        listing: Listing,
        read: Callable[[list[str]], Any],
        label_mode: LabelMode | None,
        batch_size: int | None,
        seed: int | None,
    ) -> None:
        self.file_paths: list[str] = listing.paths
        self.labels = listing.labels
        self.class_names: list[str] | None = listing.class_names
        self._read, self._label_mode, self._batch_size = read, label_mode, batch_size
        # None: in the order of the files.
        self._seed, self._epoch = seed, 0
        # Drawn once an epoch, not once a batch.
        self._drawn: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return -(-len(self.file_paths) // (self._batch_size or 1))

    def on_epoch_end(self) -> None:
        """The next epoch has another order, where files are shuffled."""
        self._epoch += 1

    def state_dict(self) -> dict[str, int]:
        """The number of the epoch, which the order depends on."""
        return {"epoch": self._epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with that epoch's order."""
        self._epoch = state["epoch"]

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(f"batch {index} is out of range: there are {len(self)}")
        size = self._batch_size or 1
        start = index % len(self) * size
        places = self._order()[start : start + size]
        inputs = self._read([self.file_paths[place] for place in places])
        labels = self._encoded(places)
        if self._batch_size is None:
            inputs, labels = inputs[0], None if labels is None else labels[0]
        return inputs if labels is None else (inputs, labels)

    def _order(self) -> npt.NDArray[np.int64]:
        if self._seed is None:
            return np.arange(len(self.file_paths))
        if self._drawn is None or self._drawn[0] != self._epoch:
            draw = np.random.default_rng((self._seed, self._epoch))
            self._drawn = self._epoch, draw.permutation(len(self.file_paths))
        return self._drawn[1]

    def _encoded(self, places: npt.NDArray[np.int64]) -> torch.Tensor | None:
        if self.labels is None:
            return None
        labels = torch.from_numpy(self.labels[places])
        if self._label_mode == "binary":
            return labels.float().unsqueeze(1)
        if self._label_mode == "categorical":
            return functional.one_hot(labels, len(self.class_names or [])).float()
        return labels


@dataclass(frozen=True)
class _Batching:
    """What the functions of this module are told alike: how the files of a folder become batches.

    Attributes:
        labelling: Their labels.
        batch_size: Files in a batch; None gives single files.
        shuffle: Whether their order is drawn.
        seed: Of the order and of the division; None draws one.
        validation_split: The fraction kept apart; None divides nothing.
        subset: Which part is given.
        follow_links: Go into folders that links lead to.
        verbose: Print how many files were found.
    """

    labelling: Labelling
    batch_size: int | None
    shuffle: bool
    seed: int | None
    validation_split: float | None
    subset: Subset | None
    follow_links: bool
    verbose: bool

    def __post_init__(self) -> None:
        size = self.batch_size
        if size is not None and (not isinstance(size, int) or size < 1):
            raise ValueError(f"batch_size must be 1 or more, or None for single files, got {size!r}")
        check_split(self.validation_split, self.subset, self.shuffle, self.seed)

    def batches(self, directory: PathLike, endings: tuple[str, ...], read: Callable[[list[str]], Any]) -> Any:
        """One Sequence of the files that have one of the endings, or two for subset='both'."""
        listing = list_files(directory, self.labelling, endings, self.follow_links)
        if self.verbose:
            classes = "" if listing.class_names is None else f" belonging to {len(listing.class_names)} classes"
            print(f"Found {len(listing.paths)} files{classes}.")
        seed = np.random.randint(10**6) if self.seed is None else self.seed
        order_seed = seed if self.shuffle else None
        parts = [
            FileBatches(part, read, self.labelling.mode, self.batch_size, order_seed)
            for part in self._parts(listing, seed)
        ]
        return parts[0] if len(parts) == 1 else tuple(parts)

    def _parts(self, listing: Listing, seed: int) -> list[Listing]:
        if self.validation_split is None:
            return [listing]
        order = np.arange(len(listing.paths))
        if self.shuffle:
            # The same generator as in Keras, so that a seed divides the files as it does there.
            np.random.RandomState(seed).shuffle(order)
        training, validation = divided(listing, self.validation_split, order)
        return {"training": [training], "validation": [validation]}.get(str(self.subset), [training, validation])


class ImageReader:
    """Reads image files as one tensor."""

    def __init__(
        self, color_mode: str, size: tuple[int, int], interpolation: str, crop: bool, pad: bool, first: bool = True
    ) -> None:
        self.color_mode: str = color_mode
        self.size: tuple[int, int] = size
        self.interpolation: str = interpolation
        self.crop: bool = crop
        self.pad: bool = pad
        self.channels_first: bool = first

    def __call__(self, paths: list[str]) -> torch.Tensor:
        images = torch.stack([self._image(path) for path in paths])
        return images if self.channels_first else images.permute(0, 2, 3, 1).contiguous()

    def _image(self, path: str) -> torch.Tensor:
        pixels = torch.from_numpy(np.array(load_img(path, self.color_mode), dtype=np.float32))
        image = (pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)).unsqueeze(0)
        if self.crop:
            image = self._cropped(image)
        if self.pad:
            image = self._padded(image)
        if tuple(image.shape[2:]) != self.size:
            image = functional.interpolate(image, self.size, **_MODES[self.interpolation])  # type: ignore[arg-type]
        return image[0].contiguous()

    def _cropped(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        high, wide = (
            min(height, width * self.size[0] // self.size[1]),
            min(width, height * self.size[1] // self.size[0]),
        )
        top, left = (height - high) // 2, (width - wide) // 2
        return image[:, :, top : top + high, left : left + wide]

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        height, width = image.shape[2:]
        high, wide = (
            max(height, width * self.size[0] // self.size[1]),
            max(width, height * self.size[1] // self.size[0]),
        )
        top, left = (high - height) // 2, (wide - width) // 2
        return functional.pad(image, (left, wide - width - left, top, high - height - top))


@taken_for_keras(format=("tf", "grain"))
def image_dataset_from_directory(
    directory: PathLike,
    labels: Any = "inferred",
    label_mode: LabelMode | None = "int",
    class_names: Any = None,
    color_mode: Literal["grayscale", "rgb", "rgba"] = "rgb",
    batch_size: int | None = 32,
    image_size: tuple[int, int] | int = (256, 256),
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: Subset | None = None,
    interpolation: str = "bilinear",
    follow_links: bool = False,
    crop_to_aspect_ratio: bool = False,
    pad_to_aspect_ratio: bool = False,
    verbose: bool = True,
    *,
    data_format: DataFormat | None = None,
) -> Any:
    """Give batches of the images below a folder; each is read when its batch is asked for.

    Args:
        directory: With one folder a class, where labels are inferred.
        labels: 'inferred' (from the folders), None, or an integer for each file in the order of their paths.
        label_mode: 'int' (int64, shape (N,)), 'categorical' (float32, (N, classes)), 'binary' (float32, (N, 1)), or
            None.
        class_names: The folders to use, in the order of their class numbers. None: all, sorted.
        color_mode: 'grayscale', 'rgb' or 'rgba': 1, 3 or 4 channels C.
        batch_size: Images N in a batch; the last may have fewer. None gives single images without that axis.
        image_size: (height H, width W) that images are resized to; one number stands for both.
        shuffle: Draw the order of the images, anew for each epoch of a loader.
        seed: Of the order and of the division. None draws one from NumPy's generator.
        validation_split: The fraction kept apart for validation.
        subset: 'training', 'validation', or 'both' (a pair of Sequences); with `validation_split`.
        interpolation: 'bilinear', 'nearest', 'bicubic' or 'area'.
        follow_links: Go into folders that links lead to.
        crop_to_aspect_ratio: Cut the middle out in the ratio of `image_size` instead of distorting.
        pad_to_aspect_ratio: Add zeros around the image to that ratio instead of distorting.
        verbose: Print how many files were found.
        data_format: 'channels_first' (also None), or 'channels_last' for (N, H, W, C).

    Returns:
        A `Sequence` of (images, labels), or of images without labels: float32 of shape (N, C, H, W), values 0–255. Its
        `class_names` and `file_paths` say what is in it. `.loader(num_workers=2)` reads in workers, by one thread each;
        without workers torch resizes by `torch.get_num_threads()` threads, which wait for each other at each image
        where other programs keep the cores busy.

    Raises:
        ImportError: Pillow is missing (`pip install 'torchkutils[images]'`).
        FileNotFoundError: The folder does not exist.
        ValueError: An argument is out of range, no image is there, or (when its batch is read) a file is no image; the
            file is named.

    Differs from Keras 3: tensors have torch's order of axes, labels are int64 (torch's losses take these), and the
    filters that torch lacks (`lanczos3`, `lanczos5`, `gaussian`, `mitchellcubic`) are refused. `bicubic` is torch's
    (a = -0.75). Keras's `format` may be given and has no effect: there is one kind of result.
    """
    _lazy.optional("PIL.Image", "images")
    labelling = Labelling.checked(labels, label_mode, class_names)
    if color_mode not in MODES:
        raise ValueError(f"color_mode must be 'grayscale', 'rgb' or 'rgba', got {color_mode!r}")
    if interpolation not in _MODES:
        raise ValueError(f"interpolation must be one of {', '.join(map(repr, _MODES))}, got {interpolation!r}")
    if crop_to_aspect_ratio and pad_to_aspect_ratio:
        raise ValueError("crop_to_aspect_ratio and pad_to_aspect_ratio exclude each other; give one")
    size = checked_size(image_size, "image_size")
    first = data_format is None or channels_first(data_format)
    read = ImageReader(color_mode, size, interpolation, crop_to_aspect_ratio, pad_to_aspect_ratio, first)
    batching = _Batching(labelling, batch_size, shuffle, seed, validation_split, subset, follow_links, verbose)
    return batching.batches(directory, IMAGES, read)


class TextReader:
    """Reads text files as a list of strings."""

    def __init__(self, max_length: int | None) -> None:
        self.max_length = max_length

    def __call__(self, paths: list[str]) -> list[str]:
        return [self._text(path) for path in paths]

    def _text(self, path: str) -> str:
        with open(path, "rb") as file:
            content = file.read()
        try:
            return content.decode("utf-8")[: self.max_length]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text: {error.reason} at byte {error.start}") from error


@taken_for_keras(format=("tf", "grain"))
def text_dataset_from_directory(
    directory: PathLike,
    labels: Any = "inferred",
    label_mode: LabelMode | None = "int",
    class_names: Any = None,
    batch_size: int | None = 32,
    max_length: int | None = None,
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: Subset | None = None,
    follow_links: bool = False,
    verbose: bool = True,
) -> Any:
    """Give batches of the texts (`.txt`, UTF-8) below a folder; each is read when its batch is asked for.

    Args:
        max_length: Characters after which a text is cut; None cuts nothing.

    All other arguments are those of `image_dataset_from_directory`, for texts.

    Returns:
        A `Sequence` of (texts, labels), or of texts without labels; texts are a list of strings.

    Raises:
        FileNotFoundError: The folder does not exist.
        ValueError: An argument is out of range, no text is there, or (when its batch is read) a file is no UTF-8; the
            file is named.

    Differs from Keras 3: texts are strings, since torch has no tensors of text, and `max_length` counts characters.
    """
    if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
        raise ValueError(f"max_length must be 1 or more, or None, got {max_length!r}")
    labelling = Labelling.checked(labels, label_mode, class_names)
    batching = _Batching(labelling, batch_size, shuffle, seed, validation_split, subset, follow_links, verbose)
    return batching.batches(directory, (".txt",), TextReader(max_length))


class SoundReader:
    """Reads sound files as one tensor."""

    def __init__(self, rate: int | None, length: int | None) -> None:
        self.rate: int | None = rate
        self.length: int | None = length

    def __call__(self, paths: list[str]) -> torch.Tensor:
        sounds = [self._sound(path) for path in paths]
        channels = {sound.shape[0] for sound in sounds}
        if len(channels) > 1:
            raise ValueError(f"the files of a batch must have equally many channels, got {channels} in {paths}")
        length = self.length or max(sound.shape[1] for sound in sounds)
        return torch.stack(
            [functional.pad(sound[:, :length], (0, max(0, length - sound.shape[1]))) for sound in sounds]
        )

    def _sound(self, path: str) -> torch.Tensor:
        soundfile = _lazy.optional("soundfile", "audio")
        try:
            samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise ValueError(f"{path} is no sound that can be read: {error}") from error
        if self.rate is not None and rate != self.rate:
            samples = _lazy.optional("soxr", "audio").resample(samples, rate, self.rate)
        return torch.from_numpy(np.ascontiguousarray(samples.T))


def audio_dataset_from_directory(
    directory: PathLike,
    labels: Any = "inferred",
    label_mode: LabelMode | None = "int",
    class_names: Any = None,
    batch_size: int | None = 32,
    sampling_rate: int | None = None,
    output_sequence_length: int | None = None,
    ragged: bool = False,
    shuffle: bool = True,
    seed: int | None = None,
    validation_split: float | None = None,
    subset: Subset | None = None,
    follow_links: bool = False,
    verbose: bool = True,
) -> Any:
    """Give batches of the sounds (wav, flac, ogg, mp3) below a folder; each is read when its batch is asked for.

    Args:
        sampling_rate: In Hz, that sounds are converted to; None keeps each file's.
        output_sequence_length: Samples T that sounds are cut or filled with zeros to; None: the longest of the batch.
        ragged: Refused: torch has no ragged tensors of this kind.

    All other arguments are those of `image_dataset_from_directory`, for sounds.

    Returns:
        A `Sequence` of (sounds, labels), or of sounds without labels: float32 of shape (N, channels, T) in [-1, 1].

    Raises:
        ImportError: soundfile or, for another sampling rate, soxr is missing (`pip install 'torchkutils[audio]'`).
        FileNotFoundError: The folder does not exist.
        ValueError: An argument is out of range, no sound is there, or (when its batch is read) a file cannot be read;
            the file is named.

    Differs from Keras 3: tensors have torch's order of axes, and more formats than wav are read.
    """
    _lazy.optional("soundfile", "audio")
    if ragged:
        raise ValueError("ragged=True is not supported; give output_sequence_length, or batch_size=None")
    for argument, number in (("sampling_rate", sampling_rate), ("output_sequence_length", output_sequence_length)):
        if number is not None and (not isinstance(number, int) or number < 1):
            raise ValueError(f"{argument} must be 1 or more, or None, got {number!r}")
    labelling = Labelling.checked(labels, label_mode, class_names)
    batching = _Batching(labelling, batch_size, shuffle, seed, validation_split, subset, follow_links, verbose)
    return batching.batches(directory, SOUNDS, SoundReader(sampling_rate, output_sequence_length))
