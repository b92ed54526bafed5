"""to_categorical and normalize against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkutils import normalize, to_categorical


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
