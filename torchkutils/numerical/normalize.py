"""Vectors to unit length, where squares over- or underflow too."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from torchkutils._call_hints import hinting, rectangular, shown
from torchkutils._dtypes import numpy_dtype
from torchkutils._torch_versions import values_can_be_read
from torchkutils._typing import ArrayLike

__all__ = ["normalize"]

Numbers = TypeVar("Numbers", torch.Tensor, "npt.NDArray[Any]")

# So many squares are summed in float32, such sums in float64: it costs nothing and no digit is lost in long sums.
_ROWS = 512
_LONG = 4096


@hinting(ord="order", p="order", dim="axis")
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
        TypeError: `x` does not hold numbers or is sparse, or `order` is no real number.

    Masked entries of a `numpy.ma.MaskedArray` count 0, and stay masked. Works under `torch.compile`, `torch.vmap`,
    `torch.func` and `torch.export`, and on the meta device.

    The norm is Σ|x|^p ^ (1/p). Where that sum over- or underflows the slice is scaled first, so 1e30 and 1e-30 in
    float32 come out right.

    Differs from Keras 2.3.1: (n,) stays (n,) instead of becoming (1, n), two axes give a vector norm instead of a
    matrix norm, and nothing overflows.

    >>> normalize([3.0, 4.0])
    array([0.6, 0.8])
    >>> normalize(torch.tensor([[300.0, 300.0]], dtype=torch.float16)).tolist()
    [[0.70703125, 0.70703125]]
    """
    power = _checked_order(order)
    if isinstance(x, torch.Tensor):
        return _normalized_tensor(x, axis, power)
    if hasattr(x, "toarray"):
        raise TypeError(f"x must be dense, got a sparse {type(x).__name__}; pass x.toarray()")
    if isinstance(x, np.ma.MaskedArray):
        filled = _normalized_array(np.asarray(x.filled(0)), axis, power)
        return np.ma.MaskedArray(filled, mask=np.ma.getmaskarray(x))
    array = rectangular(x, "x")
    if array.dtype.kind == "O" and array.ndim == 0:
        raise TypeError(f"x must hold numbers, got {shown(x)}")
    return _normalized_array(array, axis, power)


def _checked_order(order: Any) -> float:
    if not isinstance(order, numbers.Real):
        raise TypeError(f"order must be a real number, got {order!r}; 2 is the Euclidean norm")
    if math.isnan(order):
        raise ValueError("order must be a number, got nan; 2 is the Euclidean norm")
    return float(order)


def _normalized_tensor(x: torch.Tensor, axis: int | tuple[int, ...] | None, order: float) -> torch.Tensor:
    if x.layout is not torch.strided:
        raise TypeError(f"x must be dense, got a sparse tensor ({x.layout}); pass x.to_dense()")
    dims = _checked_axes(axis, x.ndim)
    is_kept = x.is_floating_point() or x.is_complex()
    return _divide_by_norm(x if is_kept else x.to(torch.get_default_dtype()), order, dims)


def _normalized_array(x: npt.NDArray[Any], axis: int | tuple[int, ...] | None, order: float) -> npt.NDArray[Any]:
    if x.dtype.kind in "biu":
        x = x.astype(np.float64)
    if x.dtype.kind not in "fc":
        raise TypeError(f"x must hold numbers, got an array of dtype {x.dtype}")
    dims = _checked_axes(axis, x.ndim)
    native = x.dtype.newbyteorder("=")
    if native.char in "gG":
        return _divide_long_double(x, order, dims)
    contiguous = np.ascontiguousarray(x, dtype=native).reshape(x.shape)
    # torch warns of a read-only array, since it cannot know that nothing here writes to it.
    shared = torch.from_numpy(contiguous if contiguous.flags.writeable else contiguous.copy())
    with torch.no_grad():
        return np.asarray(_divide_by_norm(shared, order, dims).numpy())


def _checked_axes(axis: int | tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes, counted from 0, each once; None means all."""
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
    """A new tensor of unit vectors; slices of norm 0 stay as they are."""
    if _has_no_slices(x, dims):
        return x.clone()
    work = _in_wide_dtype(x)
    if not values_can_be_read(x) or (x.requires_grad and order < 1):
        # Nothing may be decided by a value; and below 1 the gradient overflows where the norm does not.
        work, norm = _scaled(work, order, dims, None)
        return (work / norm).to(x.dtype)
    norm = _plain_norm(work, order, dims)
    low, high = _trusted_norms(norm.dtype, math.prod(x.shape[dim] for dim in dims), order)
    found = norm.detach()
    if not _all_within(found, low, high):
        work, norm = _scaled(work, order, dims, ~((found > low) & (found < high)) & ~found.isnan())
    is_plain = x.device.type == "cpu" and not x.requires_grad
    if is_plain and work.dtype == norm.dtype == x.dtype:
        return _quotient_in_new_pages(work, norm)
    return (work / norm).to(x.dtype)


def _has_no_slices(x: Any, dims: tuple[int, ...]) -> bool:
    """Whether there is nothing to divide: no numbers, or no axes out of several."""
    return 0 in x.shape or (not dims and x.ndim > 0)


def _in_wide_dtype(x: torch.Tensor) -> torch.Tensor:
    """The numbers in a dtype in which norms are computed: float16 and bfloat16 in float32."""
    if x.dtype in (torch.float32, torch.float64, torch.complex64, torch.complex128):
        return x
    return x.to(torch.complex64 if x.is_complex() else torch.float32)


def _quotient_in_new_pages(work: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    # NumPy asks the system for large pages: the first write to the result costs half.
    result = torch.from_numpy(np.empty(work.shape, dtype=numpy_dtype(work.dtype)))
    return torch.div(work, norm, out=result)


def _scaled(
    x: torch.Tensor, order: float, dims: tuple[int, ...], suspect: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The slices divided by their scale, and the norms of these; None scales all slices."""
    work = x / _scale(x.detach(), order, dims, suspect)
    # The gradient of a norm at zero is not defined: such slices are divided by a constant.
    zero = _plain_norm(work.detach(), order, dims) == 0
    return work, _plain_norm(work.masked_fill(zero, 1), order, dims).masked_fill(zero, 1)


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


def _scale(x: torch.Tensor, order: float, dims: tuple[int, ...], suspect: torch.Tensor | None) -> torch.Tensor:
    """For each suspect slice its largest magnitude (smallest for a negative order), 1 for every other slice."""
    if order in (0.0, math.inf, -math.inf):
        return torch.ones((), dtype=x.real.dtype, device=x.device)
    # |a + bi| itself may overflow; the larger part is as good a scale.
    parts = torch.maximum(x.real.abs(), x.imag.abs()) if x.is_complex() else x.abs()
    scale = parts.amax(dims, keepdim=True) if order > 0 else parts.amin(dims, keepdim=True)
    usable = (scale > 0) & scale.isfinite()
    return torch.where(usable if suspect is None else suspect & usable, scale, torch.ones_like(scale))


def _plain_norm(x: torch.Tensor, order: float, dims: tuple[int, ...]) -> torch.Tensor:
    """The norm by its formula, with the reduced axes kept at length 1."""
    plain = x.dtype == torch.float32 and x.device.type == "cpu" and not x.requires_grad and values_can_be_read(x)
    if order == 2 and plain and x.ndim >= 2:
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
            total += _dot_of_rows(piece)
    return total[..., None]


def _dot_of_rows(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if hasattr(np, "vecdot"):
        return np.asarray(np.vecdot(x, x))
    # NumPy 1.26
    return np.asarray(np.einsum("...i,...i->...", x, x))


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
    if _has_no_slices(x, dims):
        return x.copy()
    size = np.abs(x)
    extreme = size.max(axis=dims, keepdims=True) if order > 0 else size.min(axis=dims, keepdims=True)
    if order == 0:
        norm = (size != 0).sum(axis=dims, keepdims=True).astype(size.dtype)
    elif math.isinf(order):
        norm = extreme
    else:
        scale = np.where((extreme > 0) & np.isfinite(extreme), extreme, 1)
        x = x / scale
        with np.errstate(divide="ignore"):
            norm = ((size / scale) ** order).sum(axis=dims, keepdims=True) ** (1 / np.asarray(order, size.dtype))
    return cast("npt.NDArray[Any]", x / np.where(norm == 0, np.ones_like(norm), norm))
