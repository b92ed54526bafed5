"""Class labels to one-hot rows."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from torchkutils._call_hints import hinting, rectangular, shown
from torchkutils._dtypes import numpy_dtype, torch_dtype
from torchkutils._keras_names import also_called
from torchkutils._torch_versions import values_can_be_read
from torchkutils._typing import ArrayLike, DTypeLike

__all__ = ["to_categorical"]

# Labels are read in pieces of this many, so that checking them costs no second copy of them.
_BLOCK = 1 << 16
_INTEGER_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@also_called(x="y")
@hinting(n_classes="num_classes", nb_classes="num_classes")
def to_categorical(
    y: ArrayLike, num_classes: int | None = None, dtype: DTypeLike = "float32", *, ignore_index: int | None = None
) -> Any:
    """Turn class numbers into one-hot rows.

    Args:
        y: Labels, shape S: integers, booleans, or floats that are whole numbers, in [0, num_classes). A last axis of
            length 1 is dropped when there is another one: (n, 1) counts as (n,), and (2, 1, 1) as (2, 1).
        num_classes: Length C of each row. None or 0 means max(y) + 1.
        dtype: Of the result: a string, a `numpy.dtype` or a `torch.dtype`.
        ignore_index: A label that gives a row of zeros, in or out of range (torch's losses call it so; -100 or 255
            in many data sets). Keras has no such argument.

    Returns:
        Shape S + (C,), one 1 in each row. A tensor on `y`'s device for a tensor, a NumPy array for everything else.
        At its peak the call holds the result and 8 bytes a label.

    Raises:
        ValueError: A label is negative, not below `num_classes`, NaN or no whole number (the first such label and its
            index are named); `y` holds no label that counts and `num_classes` is not given; `num_classes` is
            negative; `y` holds masked labels, or text that is no whole number.
        TypeError: `y` does not hold numbers, `num_classes` is no integer, or `dtype` cannot hold numbers: bfloat16
            does for tensors only.

    Differs from Keras 2.3.1: negative labels raise instead of counting from the end, 1.9 raises instead of becoming
    1, an empty `y` with `num_classes` works, and tensors are taken as they are. Keras 3 calls the labels `x`; both
    names work.

    Under `torch.compile`, `torch.vmap`, `torch.export` and on the meta device labels cannot be read: `num_classes` must
    be given, nothing is checked, and a label out of range gives a row of zeros.

    >>> to_categorical([0, 2, 1])
    array([[1., 0., 0.],
           [0., 0., 1.],
           [0., 1., 0.]], dtype=float32)
    >>> to_categorical(torch.tensor([[1], [0]]), num_classes=2, dtype="int64").tolist()
    [[0, 1], [1, 0]]
    """
    classes = _checked_classes(num_classes)
    ignored = None if ignore_index is None else _checked_integer(ignore_index, "ignore_index")
    if isinstance(y, torch.Tensor):
        return _rows_of_tensor(y.detach(), classes, torch_dtype(dtype), ignored)
    labels = _label_array(y)
    array_dtype = numpy_dtype(dtype)
    shape = _label_shape(labels.shape)
    flat, zeros = _without_ignored(labels.reshape(-1), ignored)
    classes = _check_labels(flat, shape, classes, nothing_counts=zeros is not None and bool(zeros.all()))
    rows = np.zeros((*shape, classes), dtype=array_dtype)
    _set_ones(rows.reshape(-1), flat, classes, 1)
    if zeros is not None:
        rows.reshape(-1, classes)[zeros] = 0
    return rows


def _without_ignored(
    labels: npt.NDArray[Any], ignored: int | None
) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_] | None]:
    """The labels with 0 in place of the ignored one, and where it stood; None where it does not occur."""
    zeros = labels == ignored if ignored is not None else None
    if zeros is None or not zeros.any():
        return labels, None
    return np.where(zeros, labels.dtype.type(0), labels), zeros


def _checked_integer(value: Any, argument: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{argument} must be an integer or None, got {value!r}") from None


def _checked_classes(num_classes: int | None) -> int:
    """How many classes were asked for; 0 where the labels are to say."""
    if num_classes is None:
        return 0
    classes = _checked_integer(num_classes, "num_classes")
    if classes < 0:
        raise ValueError(f"num_classes must not be negative, got {classes}; None means max(y) + 1")
    return classes


def _label_array(y: ArrayLike) -> npt.NDArray[Any]:
    """The labels as an array of whole numbers, floats or booleans; text is read where it holds whole numbers."""
    if isinstance(y, np.ma.MaskedArray) and np.ma.getmaskarray(y).any():
        where = np.argwhere(np.ma.getmaskarray(y))[0].tolist()
        raise ValueError(f"y holds masked labels, the first at {where}; fill them: y.filled(-1) with ignore_index=-1")
    labels = rectangular(y, "y")
    if labels.dtype.kind == "O":
        labels = rectangular(labels.tolist(), "y")
    if labels.dtype.kind == "O":
        _refuse_objects(labels)
    if labels.dtype.kind in "US":
        labels = _numbers_in_text(labels)
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"y must hold whole numbers, got an array of dtype {labels.dtype}")
    return labels


def _refuse_objects(labels: npt.NDArray[Any]) -> None:
    """Name the integer for which NumPy has no dtype, or what is no number."""
    for index, value in np.ndenumerate(labels):
        where = f" at index {_index_text(index)}" if index else ""
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"labels in y must fit into 64 bits, got {value}{where}")
        if not isinstance(value, int | float):
            raise TypeError(f"y must hold whole numbers, got {shown(value)}{where}")


def _numbers_in_text(labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    try:
        return labels.astype(np.int64)
    except ValueError as error:
        raise ValueError(
            f"y must hold whole numbers, got text ({error}); number it: names, y = numpy.unique(y, return_inverse=True)"
        ) from None


def _index_text(index: tuple[int, ...]) -> str:
    """An index as a message shows it: a number for one axis, a tuple for several."""
    return str(index[0] if len(index) == 1 else index)


def _label_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the labels that rows are made for."""
    # Keras 2.3.1 drops a last axis of length 1: (n, 1) labels give (n, C), not (n, 1, C).
    return tuple(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else tuple(shape)


def _check_labels(labels: npt.NDArray[Any], shape: tuple[int, ...], classes: int, nothing_counts: bool = False) -> int:
    """Give the number of classes, or raise for the first label that is not one of them."""
    if labels.size == 0 or nothing_counts:
        if classes == 0:
            held = "is empty" if labels.size == 0 else "holds ignore_index only"
            raise ValueError(f"y {held}, so num_classes cannot be read from it; give num_classes")
        return classes
    highest = 0
    for start in range(0, labels.size, _BLOCK):
        block = labels[start : start + _BLOCK]
        last = _highest_label(block)
        if last is None or (classes and last >= classes):
            _refuse_label(block, start, shape, classes)
        else:
            highest = max(highest, last)
    return classes or highest + 1


def _highest_label(block: npt.NDArray[Any]) -> int | None:
    """The highest of some labels; None where one of them is negative or no whole number."""
    if block.dtype.kind == "b":
        return int(block.any())
    # NaN is not equal to its whole part; infinity is.
    if block.dtype.kind == "f" and not np.array_equal(np.trunc(block), block):
        return None
    highest = block.max()
    return int(highest) if block.min() >= 0 and np.isfinite(highest) else None


def _refuse_label(block: npt.NDArray[Any], start: int, shape: tuple[int, ...], classes: int) -> None:
    """Name the first label of a block that breaks a rule."""
    for offset, value in enumerate(block.tolist()):
        rule = _broken_rule(value, classes)
        if rule:
            index = tuple(int(i) for i in np.unravel_index(start + offset, shape)) if shape else ()
            is_above = rule.startswith("lie") and value >= classes
            hint = f"; num_classes={int(value) + 1} has a place for it" if is_above else ""
            raise ValueError(f"labels in y must {rule}, got {value} at index {_index_text(index)}{hint}")


def _broken_rule(value: float, classes: int) -> str:
    """The rule that a label breaks; '' for none."""
    if not math.isfinite(value) or value != int(value):
        return "be whole numbers"
    if not classes:
        return "not be negative" if value < 0 else ""
    return "" if 0 <= value < classes else f"lie in [0, {classes})"


def _set_ones(flat: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int, one: int) -> None:
    """Write `one` at row * classes + label of each row."""
    steps = np.arange(min(_BLOCK, labels.size), dtype=np.int64) * classes
    for start in range(0, labels.size, _BLOCK):
        block = labels[start : start + _BLOCK]
        indices = block.astype(np.int64)
        indices += steps[: len(block)]
        flat[start * classes : (start + len(block)) * classes][indices] = one


def _rows_of_tensor(y: torch.Tensor, classes: int, dtype: torch.dtype, ignored: int | None) -> torch.Tensor:
    """The rows of a tensor of labels, on its device."""
    if y.dtype.is_complex:
        raise TypeError(f"y must hold whole numbers, got a tensor of dtype {y.dtype}")
    if not values_can_be_read(y):
        return _rows_of_unread(y, classes, dtype, ignored)
    if ignored is None:
        return _one_hot_tensor(y, classes, dtype)
    zeros = y == ignored
    if y.numel() and not classes and bool(zeros.all()):
        raise ValueError("y holds ignore_index only, so num_classes cannot be read from it; give num_classes")
    rows = _one_hot_tensor(y.masked_fill(zeros, 0), classes, dtype)
    return rows.masked_fill_(zeros.reshape(rows.shape[:-1]).unsqueeze(-1), 0)


def _rows_of_unread(y: torch.Tensor, classes: int, dtype: torch.dtype, ignored: int | None) -> torch.Tensor:
    """The rows where no label can be read: a label out of range equals no class."""
    if not classes:
        raise ValueError("num_classes must be given where labels cannot be read: under compile, vmap, export, on meta")
    labels = y.reshape(_label_shape(tuple(y.shape))).unsqueeze(-1)
    rows = labels == torch.arange(classes, device=y.device)
    if ignored is not None and 0 <= ignored < classes:
        rows = rows & (labels != ignored)
    return rows.to(dtype)


def _one_hot_tensor(y: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    shape = _label_shape(tuple(y.shape))
    on_cpu = y.device.type == "cpu"
    flat = y.reshape(-1)
    if flat.dtype in (torch.bfloat16,) or (y.is_floating_point() and flat.element_size() < 2):
        flat = flat.float()
    if not on_cpu:
        return _one_hot_on_device(flat, shape, classes, dtype)
    labels = flat.numpy()
    classes = _check_labels(labels, shape, classes)
    # NumPy takes zeroed pages from the system, torch.zeros writes every zero: five times slower for wide rows.
    # A dtype that NumPy lacks is written as the integer with the bits of its one.
    view = _INTEGER_VIEWS.get(dtype.itemsize)
    if view is None:
        rows = np.zeros(flat.numel() * classes, dtype=numpy_dtype(dtype))
        _set_ones(rows, labels, classes, 1)
        return torch.from_numpy(rows).reshape(*shape, classes)
    one = int(torch.ones((), dtype=dtype).view(view).item())
    bits = np.zeros(flat.numel() * classes, dtype=torch.empty(0, dtype=view).numpy().dtype)
    _set_ones(bits, labels, classes, one)
    return torch.from_numpy(bits).view(dtype).reshape(*shape, classes)


def _one_hot_on_device(flat: torch.Tensor, shape: tuple[int, ...], classes: int, dtype: torch.dtype) -> torch.Tensor:
    summary = torch.stack([flat.amin(), flat.amax()]).cpu() if flat.numel() else None
    whole = not flat.is_floating_point() or bool((flat.trunc() == flat).all())
    if summary is None or not whole or summary[0] < 0 or not 0 <= summary[1] < (classes or math.inf):
        classes = _check_labels(flat.cpu().numpy(), shape, classes)
    else:
        classes = classes or int(summary[1]) + 1
    rows = torch.zeros(flat.numel(), classes, dtype=dtype, device=flat.device)
    if flat.numel():
        rows.scatter_(1, flat.long().unsqueeze(1), 1)
    return rows.reshape(*shape, classes)
