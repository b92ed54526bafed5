"""to_categorical and normalize against plain NumPy."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkutils import from_categorical, normalize, to_categorical


@pytest.mark.parametrize(
    ("labels", "shape"),
    [([[0], [2]], (2, 3)), (np.ones((2, 1, 1), int), (2, 1, 2)), ([1], (1, 2)), (3, (4,)), ([[0, 1]], (1, 2, 2))],
)
def test_a_last_axis_of_one_is_dropped(labels, shape):
    assert to_categorical(labels).shape == shape
    assert tuple(to_categorical(torch.as_tensor(labels)).shape) == shape


@given(st.lists(st.integers(0, 30), min_size=1, max_size=40), st.sampled_from(["float32", "int8", "bool", "complex64"]))
@settings(deadline=None, max_examples=40)
def test_rows_equal_numpys_eye(labels, dtype):
    wanted = np.eye(31, dtype=dtype)[labels]
    assert np.array_equal(to_categorical(labels, 31, dtype), wanted)
    assert np.array_equal(to_categorical(torch.tensor(labels), 31, dtype).numpy(), wanted)


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, -1], r"got -1 at index 1"),
        ([0.0, 1.5], r"got 1\.5 at index 1"),
        ([[0, 1], [7, 1]], r"got 7 at index \(1, 0\)"),
        ([float("nan")], r"got nan at index 0"),
        ([float("inf")], r"got inf at index 0"),
    ],
)
def test_a_label_without_a_class_is_named(wrap, labels, message):
    with pytest.raises(ValueError, match=message):
        to_categorical(wrap(labels), 3)


def test_a_label_beyond_64_bits_is_named():
    with pytest.raises(ValueError, match=rf"got {2**70} at index \(0, 1\)"):
        to_categorical([[1, 2**70]])


@pytest.mark.parametrize("shape", [(700, 5), (3, 5000), (600, 2, 3)])
@pytest.mark.parametrize("axis", [-1, 0])
def test_long_sums_of_float32_keep_numpys_precision(shape, axis):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    wanted = x / np.sqrt((x.astype(np.float64) ** 2).sum(axis, keepdims=True))
    assert np.allclose(normalize(x, axis), wanted, rtol=4e-7, atol=0)
    assert np.allclose(normalize(torch.from_numpy(x).mT.mT, axis).numpy(), wanted, rtol=4e-7, atol=0)


def test_empty_labels_need_num_classes():
    assert to_categorical([], 3).shape == (0, 3)
    for empty in ([], torch.tensor([])):
        with pytest.raises(ValueError, match="give num_classes"):
            to_categorical(empty)


def test_bfloat16_is_for_tensors_alone():
    assert to_categorical(torch.tensor([1]), 2, "bfloat16").tolist() == [[0.0, 1.0]]
    with pytest.raises(TypeError, match="bfloat16"):
        to_categorical([1], 2, torch.bfloat16)


@pytest.mark.parametrize("axis", [-1, 0, 1, (0, 2), None])
@pytest.mark.parametrize("order", [2, 1, 3, 0.5, 0, np.inf, -np.inf, -2])
def test_normalize_is_the_plain_formula_on_ordinary_values(axis, order):
    x = np.random.default_rng(0).standard_normal((4, 5, 6))
    moved = x.reshape(-1) if axis is None else x
    kept = None if axis is None else axis
    if order == 0:
        norm = (moved != 0).sum(kept, keepdims=True)
    elif np.isinf(order):
        norm = (np.max if order > 0 else np.min)(np.abs(moved), kept, keepdims=True)
    else:
        norm = (np.abs(moved) ** order).sum(kept, keepdims=True) ** (1 / order)
    wanted = (moved / norm).reshape(x.shape)
    assert np.allclose(normalize(x, axis, order), wanted, rtol=1e-12)
    assert np.allclose(normalize(torch.from_numpy(x), axis, order).numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("value", [1e30, 1e-30, 1e38, 1e-44, 1e-20])
def test_rows_of_extreme_size_come_out_within_four_ulp(value):
    x = np.full((3, 256), value, np.float32)
    wanted = np.float32(1 / 16)
    assert np.abs(normalize(x) - wanted).max() <= 4 * np.spacing(wanted)
    assert np.abs(normalize(torch.from_numpy(x)).numpy() - wanted).max() <= 4 * np.spacing(wanted)


def test_small_dtypes_do_not_overflow():
    assert np.allclose(normalize(np.int8([-128, -128])), -(0.5**0.5), rtol=1e-15)
    assert normalize(np.float16([300, 300])).dtype == np.float16
    assert np.allclose(normalize(np.float16([65504, 65504])), 0.5**0.5, rtol=1e-3)
    assert np.allclose(normalize(np.longdouble([3, 4])), [0.6, 0.8])


def test_zero_slices_come_back_unchanged_and_carry_a_gradient():
    x = torch.tensor([[0.0, 0.0], [3.0, 4.0]], dtype=torch.float64, requires_grad=True)
    assert normalize(x)[0].tolist() == [0.0, 0.0]
    normalize(x).sum().backward()
    assert x.grad[0].tolist() == [1.0, 1.0]
    y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normalize, (y,))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0], 1), ValueError, "axis"),
        (([1.0], (0, -1)), ValueError, "once"),
        (([1.0], -1, "fro"), TypeError, "order"),
        (([1.0], -1, float("nan")), ValueError, "order"),
        ((["a"],), TypeError, "numbers"),
    ],
)
def test_bad_arguments_of_normalize_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        normalize(*arguments)


# -- where no value can be read: torch.compile, vmap, export, meta -----------------------------------------------------

ROWS = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e-30, 2e-30], [1e30, 2e30]])


class Normalized(torch.nn.Module):
    def forward(self, x):
        return normalize(x)


TRANSFORMS = {
    "vmap": lambda f, x: torch.vmap(f)(x),
    "compile": lambda f, x: torch.compile(f, fullgraph=True, backend="eager")(x),
    "vmap of vmap": lambda f, x: torch.vmap(torch.vmap(lambda v: f(v[None])[0]))(x[None])[0],
}


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_normalize_gives_the_same_under_a_transform(transform):
    torch.testing.assert_close(transform(normalize, ROWS), normalize(ROWS))


def test_normalize_is_exported_and_has_shapes_on_meta():
    program = torch.export.export(Normalized(), (torch.rand(4, 2),))
    torch.testing.assert_close(program.module()(ROWS), normalize(ROWS))
    assert normalize(ROWS.to("meta")).shape == ROWS.shape


def test_the_derivatives_of_normalize_are_those_of_the_formula():
    x = torch.rand(3, 4, dtype=torch.float64) + 0.1
    plain = torch.func.jacrev(lambda v: v / torch.linalg.vector_norm(v, dim=-1, keepdim=True))(x)
    torch.testing.assert_close(torch.func.jacrev(normalize)(x), plain)
    torch.testing.assert_close(torch.func.jacfwd(normalize)(x), plain)


@pytest.mark.parametrize("order", [0.5, 1, 2, 3, float("inf"), -2])
def test_gradients_stay_finite_at_the_extremes(order):
    x = ROWS[[0, 2, 3]].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(normalize(x, order=order)[:, 0].sum(), x)
    assert torch.isfinite(gradient).all()
    y = torch.rand(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: normalize(t, order=order), y)


@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
@pytest.mark.parametrize("ignored", [None, 1, 7])
def test_to_categorical_gives_the_same_under_a_transform(transform, ignored):
    y = torch.tensor([[0, 1], [2, 1]])
    rows = transform(lambda t: to_categorical(t, 3, ignore_index=ignored), y)
    assert torch.equal(rows, to_categorical(y, 3, ignore_index=ignored))


def test_labels_that_cannot_be_read_are_not_checked():
    assert to_categorical(torch.empty(4, 1, dtype=torch.int64, device="meta"), 3).shape == (4, 3)
    rows = torch.vmap(lambda t: to_categorical(t, 2))(torch.tensor([[0, 5, -1]]))
    assert rows.tolist() == [[[1, 0], [0, 0], [0, 0]]]
    with pytest.raises(ValueError, match="num_classes must be given where labels cannot be read"):
        to_categorical(torch.empty(4, device="meta"))


# -- labels that do not count, and the way back ------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [np.asarray, torch.tensor, list])
def test_an_ignored_label_gives_a_row_of_zeros(wrap):
    rows = to_categorical(wrap([0, 255, 2]), 3, ignore_index=255)
    assert rows.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 1]]
    assert to_categorical(wrap([0, -100, 1]), ignore_index=-100).shape == (3, 2)
    assert to_categorical(wrap([[1], [0]]), 2, ignore_index=1).tolist() == [[0, 0], [1, 0]]
    with pytest.raises(ValueError, match="got 9 at index 1"):
        to_categorical(wrap([255, 9]), 3, ignore_index=255)
    with pytest.raises(ValueError, match="y holds ignore_index only"):
        to_categorical(wrap([255, 255]), ignore_index=255)


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "uint16", "uint32", "uint64", "int64", "bfloat16", "float8_e5m2", "float32"]
)
def test_the_ignored_label_may_be_of_every_dtype_and_so_may_the_rows(dtype) -> None:
    kind = getattr(torch, dtype)
    rows = to_categorical(torch.tensor([0, 1, 0]).to(kind), 2, dtype=kind, ignore_index=1)
    assert rows.dtype == kind
    assert rows.float().tolist() == [[1, 0], [0, 0], [1, 0]]


def test_a_norm_of_complex_numbers_gives_no_warning(request) -> None:
    # torch gives some warnings once a process.
    request.addfinalizer(functools.partial(torch.set_warn_always, torch.is_warn_always_enabled()))
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rows = normalize(torch.tensor([[1j, 0, 2]]), axis=0, order=0)
    assert rows.tolist() == [[1j, 0, 2]]


@given(st.lists(st.integers(-1, 6), min_size=1, max_size=20), st.booleans())
@settings(deadline=None, max_examples=40)
def test_from_categorical_is_the_way_back(labels, as_tensor):
    rows = to_categorical(torch.tensor(labels) if as_tensor else labels, 7, ignore_index=-1)
    back = from_categorical(rows, ignore_index=-1)
    assert isinstance(back, torch.Tensor) is as_tensor
    assert (back.tolist(), back.dtype) == (labels, torch.int64 if as_tensor else np.int64)


@pytest.mark.parametrize(
    ("rows", "axis", "message"),
    [
        ([[0, 0], [0, 1]], -1, "row at index 0 is all zeros"),
        ([[0.5, float("nan")]], -1, "row at index 0 holds NaN"),
        ([[1, 0]], 2, r"axis must lie in \[-2, 2\)"),
        (np.zeros((2, 0)), -1, "at least one class"),
    ],
)
@pytest.mark.parametrize("wrap", [np.asarray, torch.as_tensor])
def test_rows_without_a_class_are_named(rows, axis, message, wrap):
    with pytest.raises(ValueError, match=message):
        from_categorical(wrap(rows), axis)


# -- inputs of other kinds ---------------------------------------------------------------------------------------------


def test_what_is_masked_stays_masked():
    x = np.ma.array([3.0, 4.0, 100.0], mask=[0, 0, 1])
    result = normalize(x)
    assert np.allclose(result.compressed(), [0.6, 0.8])
    assert result.mask.tolist() == [False, False, True]
    assert to_categorical(np.ma.array([0, 1])).shape == (2, 2)
    with pytest.raises(ValueError, match=r"y holds masked labels, the first at \[1\]; fill them"):
        to_categorical(np.ma.array([0, 1], mask=[0, 1]))


def test_text_is_pointed_to_numpys_unique():
    with pytest.raises(ValueError, match=r"numpy.unique\(y, return_inverse=True\)"):
        to_categorical(["cat", "dog"])


def test_what_is_sparse_is_refused_by_name():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match="must be dense, got a sparse csr_"):
        normalize(sparse.eye(3).tocsr())
    with pytest.raises(TypeError, match="must be dense, got a sparse tensor"):
        normalize(torch.eye(3).to_sparse())


@pytest.mark.filterwarnings("error")
def test_a_read_only_array_gives_no_warning():
    x = np.array([3.0, 4.0])
    x.flags.writeable = False
    labels = np.array([0, 1])
    labels.flags.writeable = False
    assert np.allclose(normalize(x), [0.6, 0.8])
    assert to_categorical(labels).shape == (2, 2)
    assert from_categorical(x) == 1
    assert x.tolist() == [3.0, 4.0]


def test_keras_3s_name_of_the_labels_works():
    assert to_categorical(x=[0, 1]).shape == (2, 2)
    with pytest.raises(TypeError, match="got y and x, which are the same"):
        to_categorical(y=[0, 1], x=[0, 1])
