"""Image files as Pillow images and arrays, with Keras's function names."""

from __future__ import annotations

import io
import os
import pathlib
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from torchkutils import _lazy
from torchkutils._typing import PathLike
from torchkutils._whole_file import replacing

__all__ = ["array_to_img", "img_to_array", "load_img", "save_img"]

DataFormat = Literal["channels_first", "channels_last"]
MODES = {"grayscale": "L", "rgb": "RGB", "rgba": "RGBA"}
# 16 and 32 bits of grey are kept, as Keras does.
_DEEP_GREY = ("I;16", "I", "F")
RESAMPLING = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC", "hamming": "HAMMING", "box": "BOX"}
RESAMPLING["lanczos"] = "LANCZOS"


def load_img(
    path: PathLike | io.BytesIO,
    color_mode: str = "rgb",
    target_size: tuple[int, int] | None = None,
    interpolation: str = "nearest",
    keep_aspect_ratio: bool = False,
) -> Any:
    """Read an image file.

    Args:
        path: Of the file, or its bytes in a `BytesIO`.
        color_mode: 'grayscale', 'rgb' or 'rgba': the image is converted. Grey of 16 or 32 bits stays as it is.
        target_size: (height, width) to resize to; None keeps the size.
        interpolation: 'nearest', 'bilinear', 'bicubic', 'lanczos', 'box' or 'hamming' (Pillow's filters).
        keep_aspect_ratio: Cut the middle out in the target's ratio before resizing, instead of distorting.

    Returns:
        A `PIL.Image.Image`.

    Raises:
        ImportError: Pillow is missing (`pip install 'torchkutils[images]'`).
        ValueError: An unknown `color_mode` or `interpolation`, a `target_size` that is no pair of positive integers, or
            a file that is no image (it is named).
        OSError: The file cannot be read.
    """
    image_module = _lazy.optional("PIL.Image", "images")
    _one_of("color_mode", color_mode, MODES)
    _one_of("interpolation", interpolation, RESAMPLING)
    size = None if target_size is None else checked_size(target_size, "target_size")
    image = _opened(image_module, path)
    if image.mode != MODES[color_mode] and not (color_mode == "grayscale" and image.mode in _DEEP_GREY):
        image = image.convert(MODES[color_mode])
    if size is None or image.size == size[::-1]:
        return image
    box = _middle(image.size, size) if keep_aspect_ratio else None
    return image.resize(size[::-1], getattr(image_module.Resampling, RESAMPLING[interpolation]), box=box)


def _opened(image_module: Any, path: Any) -> Any:
    try:
        image = image_module.open(path if isinstance(path, io.BytesIO) else os.fspath(path))
        image.load()
    except (image_module.UnidentifiedImageError, image_module.DecompressionBombError, SyntaxError, EOFError) as error:
        raise ValueError(f"{path} is no image that Pillow can read: {error}") from error
    except OSError as error:
        if error.errno is None:
            # What Pillow says of a cut or damaged file.
            raise ValueError(f"{path} is a damaged image: {error}") from error
        raise
    return image


def _middle(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int, int, int]:
    """The largest box in the middle of an image (width, height) that has the ratio of the target (height, width)."""
    width, height = size
    box_height = min(height, width * target[0] // target[1])
    box_width = min(width, height * target[1] // target[0])
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def checked_size(size: Any, argument: str) -> tuple[int, int]:
    """(height, width) of positive integers; one number stands for both."""
    pair = (size, size) if isinstance(size, int) else size
    whole = isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(one, int) and one > 0 for one in pair)
    if not whole:
        raise ValueError(f"{argument} must be (height, width) in whole pixels, got {size!r}")
    return pair[0], pair[1]


def _one_of(argument: str, value: Any, known: Any) -> None:
    if value not in known:
        raise ValueError(f"{argument} must be one of {', '.join(map(repr, known))}, got {value!r}")


def channels_first(data_format: str | None) -> bool:
    if data_format is None:
        return False
    _one_of("data_format", data_format, ("channels_first", "channels_last"))
    return data_format == "channels_first"


def img_to_array(img: Any, data_format: DataFormat | None = None, dtype: Any = None) -> npt.NDArray[Any]:
    """Turn a Pillow image into an array.

    Args:
        img: A `PIL.Image.Image`.
        data_format: 'channels_last' (Keras's default, so also None): (height, width, channels); 'channels_first':
            (channels, height, width), which torch's layers take.
        dtype: Of the array; None means float32. Values are not scaled.

    Raises:
        ValueError: `data_format` is neither, or the image has another number of axes.
    """
    first = channels_first(data_format)
    array = np.array(img, dtype=dtype or np.float32)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ValueError(f"img must be an image, got an array of shape {array.shape}")
    return np.ascontiguousarray(array.transpose(2, 0, 1)) if first else array


def array_to_img(x: Any, data_format: DataFormat | None = None, scale: bool = True, dtype: Any = None) -> Any:
    """Turn an array or tensor into a Pillow image.

    Args:
        x: One image with 1, 3 or 4 channels.
        data_format: As in `img_to_array`.
        scale: Stretch the values to 0–255; otherwise they must be that already.
        dtype: In which this is computed; None means float32.

    Raises:
        ImportError: Pillow is missing (`pip install 'torchkutils[images]'`).
        ValueError: Not three axes, another number of channels, or an unknown `data_format`.
    """
    image_module = _lazy.optional("PIL.Image", "images")
    first = channels_first(data_format)
    given = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else x
    array = np.array(given, dtype=dtype or np.float32)
    if array.ndim != 3:
        raise ValueError(f"x must be one image with three axes, got shape {array.shape}")
    array = array.transpose(1, 2, 0) if first else array
    if scale:
        array = array - array.min(initial=np.inf)
        highest = array.max(initial=0)
        # In this order, as in Keras: the last bit depends on it.
        array = array / (highest or 1) * 255
    if array.shape[2] not in (1, 3, 4):
        raise ValueError(
            f"x must have 1, 3 or 4 channels, got shape {np.shape(x)}; data_format says which axis they are"
        )
    if array.shape[2] > 1:
        return image_module.fromarray(array.astype(np.uint8))
    grey = array[:, :, 0]
    return image_module.fromarray(grey.astype(np.int32 if grey.max(initial=0) > 255 else np.uint8))


def save_img(
    path: PathLike,
    x: Any,
    data_format: DataFormat | None = None,
    file_format: str | None = None,
    scale: bool = True,
    **kwargs: Any,
) -> None:
    """Write an array or tensor as an image file.

    Args:
        path: Where to; it appears whole or not at all.
        x: As in `array_to_img`.
        data_format: As in `img_to_array`.
        file_format: 'png', 'jpg', …; None takes the ending of `path`.
        scale: As in `array_to_img`.
        **kwargs: For Pillow's `Image.save`.

    Raises:
        ImportError: Pillow is missing (`pip install 'torchkutils[images]'`).
        ValueError: As in `array_to_img`, or an unknown format.
    """
    image = array_to_img(x, data_format, scale)
    known: dict[str, str] = _lazy.optional("PIL.Image", "images").registered_extensions()
    ending = f".{file_format.lower().lstrip('.')}" if file_format else pathlib.Path(path).suffix.lower()
    if ending not in known:
        raise ValueError(f"no image format for {ending or os.fspath(path)!r}; known are {', '.join(sorted(known))}")
    if known[ending] == "JPEG" and image.mode == "RGBA":
        image = image.convert("RGB")
    content = io.BytesIO()
    image.save(content, format=known[ending], **kwargs)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())
