"""Numbers: class labels to one-hot rows, and vectors to unit length."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from torchkutils._typing import ArrayLike, DTypeLike

__all__ = ["normalize", "to_categorical"]

Numbers = TypeVar("Numbers", torch.Tensor, "npt.NDArray[Any]")

# Labels are read in pieces of this many, so that checking them costs no second copy of them.
_BLOCK = 1 << 16
# So many squares are summed in float32, such sums in float64: it costs nothing and no digit is lost in long sums.
_ROWS = 512
_LONG = 4096
_TORCH_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
_INTEGER_VIEWS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def to_categorical(y: ArrayLike, num_classes: int | None = None, dtype: DTypeLike = "float32") -> Any:
    """Turn class numbers into one-hot rows.

    Args:
        y: Labels, shape S: integers, booleans, or floats that are whole numbers, in [0, num_classes). A last axis of
            length 1 is dropped when there is another one: (n, 1) counts as (n,), and (2, 1, 1) as (2, 1).
        num_classes: Length C of each row. None or 0 means max(y) + 1.
        dtype: Of the result: a string, a `numpy.dtype` or a `torch.dtype`.

    Returns:
        Shape S + (C,), one 1 in each row. A tensor on `y`'s device for a tensor, a NumPy array for everything else.
        At its peak the call holds the result and 8 bytes a label.

    Raises:
        ValueError: A label is negative, not below `num_classes`, NaN or no whole number (the first such label and its
            index are named); `y` is empty and `num_classes` is not given; `num_classes` is negative.
        TypeError: `y` does not hold numbers, `num_classes` is no integer, or `dtype` cannot hold numbers: bfloat16
            does for tensors only.

    Differs from Keras 2.3.1: negative labels raise instead of counting from the end, 1.9 raises instead of becoming
    1, an empty `y` with `num_classes` works, and tensors are taken as they are.

    >>> to_categorical([0, 2, 1])
    array([[1., 0., 0.],
           [0., 0., 1.],
           [0., 1., 0.]], dtype=float32)
    >>> to_categorical(torch.tensor([[1], [0]]), num_classes=2, dtype="int64").tolist()
    [[0, 1], [1, 0]]
    """
    classes = _checked_classes(num_classes)
    if isinstance(y, torch.Tensor):
        return _one_hot_tensor(y.detach(), classes, _torch_dtype(dtype))
    labels = _label_array(y)
    array_dtype = _numpy_dtype(dtype)
    shape = _label_shape(labels.shape)
    classes = _check_labels(labels.reshape(-1), shape, classes)
    rows = np.zeros((*shape, classes), dtype=array_dtype)
    _set_ones(rows.reshape(-1), labels.reshape(-1), classes, 1)
    return rows


def _checked_classes(num_classes: int | None) -> int:
    if num_classes is None:
        return 0
    try:
        classes = operator.index(num_classes)
    except TypeError:
        raise TypeError(f"num_classes must be an integer or None, got {num_classes!r}") from None
    if classes < 0:
        raise ValueError(f"num_classes must not be negative, got {classes}; None means max(y) + 1")
    return classes


def _label_array(y: ArrayLike) -> npt.NDArray[Any]:
    labels = np.asarray(y)
    if labels.dtype.kind == "O":
        labels = np.asarray(labels.tolist())
    if labels.dtype.kind == "O":
        for index, value in np.ndenumerate(labels):
            if isinstance(value, int) and not -(2**63) <= value < 2**63:
                where = index[0] if len(index) == 1 else index
                raise ValueError(f"labels in y must fit into 64 bits, got {value} at index {where}")
    if labels.dtype.kind in "US":
        try:
            labels = labels.astype(np.int64)
        except ValueError as err:
            raise ValueError(f"y must hold whole numbers, got text ({err})") from None
    if labels.dtype.kind not in "biuf":
        raise TypeError(f"y must hold whole numbers, got an array of dtype {labels.dtype}")
    return labels


def _label_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    # Keras 2.3.1 drops a last axis of length 1: (n, 1) labels give (n, C), not (n, 1, C).
    return tuple(shape[:-1]) if len(shape) > 1 and shape[-1] == 1 else tuple(shape)


def _check_labels(labels: npt.NDArray[Any], shape: tuple[int, ...], classes: int) -> int:
    """Give the number of classes, or raise for the first label that has no place among them."""
    if labels.size == 0:
        if classes == 0:
            raise ValueError("y is empty, so num_classes cannot be read from it; give num_classes")
        return classes
    highest = 0
    for start in range(0, labels.size, _BLOCK):
        block = labels[start : start + _BLOCK]
        if block.dtype.kind == "b":
            highest = max(highest, int(block.any()))
            continue
        # Infinity is whole by the first test and out of range by the second; NaN fails the first.
        wrong = np.trunc(block) != block if block.dtype.kind == "f" else np.zeros(0, bool)
        if wrong.any() or block.min() < 0 or not np.isfinite(block.max()):
            _refuse_label(block, start, shape, classes)
        highest = max(highest, int(block.max()))
        if classes and highest >= classes:
            _refuse_label(block, start, shape, classes)
    return classes or highest + 1


def _refuse_label(block: npt.NDArray[Any], start: int, shape: tuple[int, ...], classes: int) -> None:
    for offset, value in enumerate(block.tolist()):
        if value != value or value in (math.inf, -math.inf) or value != int(value):
            rule = "whole numbers"
        elif value < 0 or (classes and value >= classes):
            rule = f"lie in [0, {classes})" if classes else "not be negative"
        else:
            continue
        index = tuple(int(i) for i in np.unravel_index(start + offset, shape)) if shape else ()
        where = index[0] if len(index) == 1 else index
        verb = "must be" if rule == "whole numbers" else "must"
        raise ValueError(f"labels in y {verb} {rule}, got {value} at index {where}")


def _set_ones(flat: npt.NDArray[Any], labels: npt.NDArray[Any], classes: int, one: int) -> None:
    """Write `one` at row * classes + label of each row."""
    steps = np.arange(min(_BLOCK, labels.size), dtype=np.int64) * classes
    for start in range(0, labels.size, _BLOCK):
        block = labels[start : start + _BLOCK]
        places = block.astype(np.int64)
        places += steps[: len(block)]
        flat[start * classes : (start + len(block)) * classes][places] = one


def _one_hot_tensor(y: torch.Tensor, classes: int, dtype: torch.dtype) -> torch.Tensor:
    if y.dtype.is_complex:
        raise TypeError(f"y must hold whole numbers, got a tensor of dtype {y.dtype}")
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
        rows = np.zeros(flat.numel() * classes, dtype=_numpy_dtype(dtype))
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


def _torch_dtype(dtype: DTypeLike) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in _TORCH_DTYPES:
        return _TORCH_DTYPES[dtype.removeprefix("torch.")]
    try:
        return torch.from_numpy(np.empty(0, dtype=np.dtype(dtype))).dtype
    except TypeError:
        raise TypeError(f"dtype must name a torch dtype, got {dtype!r}") from None


def _numpy_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    name: Any = str(dtype).removeprefix("torch.") if isinstance(dtype, (torch.dtype, str)) else dtype
    try:
        result: np.dtype[Any] = np.dtype(name)
    except TypeError:
        result = np.dtype("V")
    if result.kind not in "biufcO":
        raise TypeError(f"dtype must be one that NumPy arrays can hold numbers in, got {dtype!r}; pass y as a tensor")
    return result


def normalize(x: ArrayLike, axis: int | tuple[int, ...] | None = -1, order: float = 2) -> Any:
    """Divide by the vector norm along an axis.

    Args:
        x: Numbers of any shape.
        axis: The axis the vectors lie along, several axes, or None for all of them. With several axes the norm is the
            vector norm of the flattened slice.
        order: Of the norm: any number but NaN. 0 counts what is not zero, inf is the largest magnitude, -inf the
            smallest.

    Returns:
        A new tensor on the same device for a tensor (gradients flow through it), a NumPy array for everything else,
        of x's shape. Slices whose norm is 0 come back unchanged. Float and complex dtypes are kept; integers and
        booleans become float64 in arrays and `torch.get_default_dtype()` in tensors.

    Raises:
        ValueError: `axis` does not exist or comes twice, or `order` is NaN.
        TypeError: `x` does not hold numbers, or `order` is no real number.

    The norm is Σ|x|^p ^ (1/p). Where that sum over- or underflows the slice is scaled first, so 1e30 and 1e-30 in
    float32 come out right.

    Differs from Keras 2.3.1: (n,) stays (n,) instead of becoming (1, n), two axes give a vector norm instead of a
    matrix norm, and nothing overflows.

    >>> normalize([3.0, 4.0])
    array([0.6, 0.8])
    >>> normalize(torch.tensor([[300.0, 300.0]], dtype=torch.float16)).tolist()
    [[0.70703125, 0.70703125]]
    """
    given: Any = order
    if not isinstance(given, numbers.Real):
        raise TypeError(f"order must be a real number, got {order!r}; 2 is the Euclidean norm")
    if math.isnan(order):
        raise ValueError("order must be a number, got nan; 2 is the Euclidean norm")
    if isinstance(x, torch.Tensor):
        dims = _checked_axes(axis, x.ndim)
        kept = x if x.is_floating_point() or x.is_complex() else x.to(torch.get_default_dtype())
        return _divide_by_norm(kept, float(order), dims)
    array = np.asarray(x)
    if array.dtype.kind in "biu":
        array = array.astype(np.float64)
    if array.dtype.kind not in "fc":
        raise TypeError(f"x must hold numbers, got an array of dtype {array.dtype}")
    dims = _checked_axes(axis, array.ndim)
    native = array.dtype.newbyteorder("=")
    if native.char in "gG":
        return _divide_long_double(array, float(order), dims)
    shared = torch.from_numpy(np.ascontiguousarray(array, dtype=native).reshape(array.shape))
    with torch.no_grad():
        return _divide_by_norm(shared, float(order), dims).numpy()


def _checked_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    try:
        wanted = tuple(operator.index(one) for one in (axis if isinstance(axis, (tuple, list)) else (axis,)))
    except TypeError:
        raise TypeError(f"axis must be an integer, a tuple of integers or None, got {axis!r}") from None
    for one in wanted:
        if not -ndim <= one < ndim:
            raise ValueError(f"axis must lie in [{-ndim}, {ndim}) for x with {ndim} axes, got {one}")
    dims = tuple(one % ndim for one in wanted)
    if len(set(dims)) < len(dims):
        raise ValueError(f"axis must name each axis once, got {axis!r}")
    return dims


def _divide_by_norm(x: torch.Tensor, order: float, dims: tuple[int, ...]) -> torch.Tensor:
    if x.numel() == 0 or (not dims and x.ndim):
        return x.clone()
    wide = x if x.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128) else None
    work = x.to(torch.complex64 if x.is_complex() else torch.float32) if wide is None else wide
    norm = _plain_norm(work, order, dims)
    low, high = _trusted_norms(norm.dtype, math.prod(x.shape[dim] for dim in dims), order)
    if not _all_within(norm.detach(), low, high):
        found = norm.detach()
        suspect = ~((found > low) & (found < high)) & ~found.isnan()
        scale = _scale(work.detach(), order, dims, suspect)
        work = work / scale
        # The gradient of a norm at zero is not defined: such slices are divided by a constant.
        zero = _plain_norm(work.detach(), order, dims) == 0
        norm = _plain_norm(work.masked_fill(zero, 1), order, dims).masked_fill(zero, 1)
    if x.device.type != "cpu" or x.requires_grad or work.dtype != x.dtype or norm.dtype != x.dtype:
        return (work / norm).to(x.dtype)
    # NumPy asks the system for large pages: the first write to the result costs half.
    result = torch.from_numpy(np.empty(x.shape, dtype=_numpy_dtype(x.dtype)))
    return torch.div(work, norm, out=result)


def _trusted_norms(dtype: torch.dtype, length: int, order: float) -> tuple[float, float]:
    """Between these bounds a norm is not 0 or infinite, nor made of powers that lost digits to underflow."""
    if order in (0.0, math.inf, -math.inf):
        return 0.0, math.inf
    limits = torch.finfo(dtype)
    edge = (length * limits.tiny / limits.eps) ** (1 / abs(order)) if abs(order) >= 0.01 else 1.0
    return (edge, math.inf) if order > 0 else (0.0, 1 / edge)


def _all_within(norm: torch.Tensor, low: float, high: float) -> bool:
    if norm.device.type == "cpu":  # torch would wake all its threads for these few numbers
        array = norm.numpy()
        return bool(array.min() > low and array.max() < high)
    return bool(((norm > low) & (norm < high)).all())


def _scale(x: torch.Tensor, order: float, dims: tuple[int, ...], suspect: torch.Tensor) -> torch.Tensor:
    """For each suspect slice its largest magnitude (smallest for a negative order), 1 for every other slice."""
    if order in (0.0, math.inf, -math.inf):
        return torch.ones_like(suspect, dtype=x.real.dtype)
    # |a + bi| itself may overflow; the larger part is as good a scale.
    parts = torch.maximum(x.real.abs(), x.imag.abs()) if x.is_complex() else x.abs()
    scale = parts.amax(dims, keepdim=True) if order > 0 else parts.amin(dims, keepdim=True)
    return torch.where(suspect & (scale > 0) & scale.isfinite(), scale, torch.ones_like(scale))


def _plain_norm(x: torch.Tensor, order: float, dims: tuple[int, ...]) -> torch.Tensor:
    """The norm by its formula, with the reduced axes kept at length 1."""
    if order == 2 and x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad and x.ndim >= 2:
        # One thread sums squares as fast as memory is read; torch's reduction takes twice that, over axis 0 far more.
        if dims == (x.ndim - 1,):
            return _root(_squares_of_rows(x.detach().resolve_neg().numpy()))
        if dims == (0,):
            return _root(_squares_of_columns(x.detach().resolve_neg().numpy()))
    if order < 0 and order != -math.inf:
        # vector_norm of |x|^p with p < 0 is fine as it stands, but for complex zeros.
        return x.abs().pow(order).sum(dims, keepdim=True).pow(1 / order)
    return cast(torch.Tensor, torch.linalg.vector_norm(x, order, dim=dims, keepdim=True))


def _squares_of_rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Σ x² over the last axis, kept: each piece in float32, the pieces in float64."""
    total = np.zeros(x.shape[:-1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, x.shape[-1], _LONG):
            piece = x[..., start : start + _LONG]
            total += np.vecdot(piece, piece)
    return total[..., None]


def _squares_of_columns(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Σ x² over the first axis, kept: each piece in float32, the pieces in float64."""
    flat = x.reshape(len(x), -1)
    total = np.zeros(flat.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(flat), _ROWS):
            piece = flat[start : start + _ROWS]
            total += np.einsum("ij,ij->j", piece, piece)
    return total.reshape(1, *x.shape[1:])


def _root(squares: npt.NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(np.sqrt(squares).astype(np.float32))


def _divide_long_double(x: npt.NDArray[Any], order: float, dims: tuple[int, ...]) -> npt.NDArray[Any]:
    """The same for dtypes that torch lacks: always scaled, since speed is no concern there."""
    if x.size == 0 or (not dims and x.ndim):
        return x.copy()
    size = np.abs(x)
    if order == 0:
        norm = (size != 0).sum(axis=dims, keepdims=True).astype(size.dtype)
    elif math.isinf(order):
        norm = size.max(axis=dims, keepdims=True) if order > 0 else size.min(axis=dims, keepdims=True)
    else:
        scale = size.max(axis=dims, keepdims=True) if order > 0 else size.min(axis=dims, keepdims=True)
        scale = np.where((scale > 0) & np.isfinite(scale), scale, 1)
        x = x / scale
        with np.errstate(divide="ignore"):
            norm = ((size / scale) ** order).sum(axis=dims, keepdims=True) ** (1 / np.asarray(order, size.dtype))
    return cast("npt.NDArray[Any]", x / np.where(norm == 0, np.ones_like(norm), norm))
