"""A batch that travels as bytes is the batch that was made."""

from __future__ import annotations

import pickle
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_convert

from torchkutils import Sequence
from torchkutils.data.parcel import PARCEL_BYTES, Packing, Parcel

Pair = namedtuple("Pair", "x y")
DTYPES = [
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64, torch.uint64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128),
    *(torch.float8_e4m3fn, torch.float8_e5m2),
]
ROWS = np.arange(12.0, dtype="f4").reshape(3, 4)
PLAIN = {
    "an array": ROWS,
    "a transposed array that is copied": np.ascontiguousarray(ROWS.T),
    "a tuple": (ROWS, np.arange(3)),
    "a dict": {"x": ROWS, "deeper": [ROWS + 1, "text", None, 3, 0.5]},
    "a named tuple": Pair(ROWS, np.int64(3)),
    "no rows": np.zeros((0, 4), "i2"),
    "a number": np.float64(0.25),
    "a scalar tensor": torch.tensor(3.5),
    "text and bytes": ["a", b"b", np.array(["c"])],
    "a piece of a larger tensor": torch.arange(100)[10:20],
    "the limit": torch.zeros(PARCEL_BYTES - 4096, dtype=torch.uint8),
}
WHOLE = torch.arange(12.0).reshape(3, 4)
TORCHS_WAY = {
    "beyond the limit": torch.zeros(PARCEL_BYTES + 1, dtype=torch.uint8),
    "many that are beyond it together": [torch.zeros(PARCEL_BYTES // 8, dtype=torch.uint8) for _ in range(9)],
    "bytes beyond it": b"x" * (PARCEL_BYTES + 1),
    "strides of its own": WHOLE.T,
    "two views of one memory": (WHOLE, WHOLE[:2]),
    "a gradient": torch.ones(2, requires_grad=True),
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a subclass": torch.nn.Parameter(torch.ones(2), requires_grad=False),
    "a conjugate": torch.ones(2, dtype=torch.complex64).conj(),
    "what cannot be pickled": lambda: None,
}


def arrived(batch):
    packed = Packing(None)(batch)
    assert isinstance(packed, Parcel)
    return pickle.loads(pickle.dumps(packed))


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert (found.dtype, found.shape) == (wanted.dtype, wanted.shape)
        assert found.numel() == 0 or found.stride() == wanted.stride()
        assert found.reshape(-1).view(torch.uint8).equal(wanted.reshape(-1).view(torch.uint8))
    elif isinstance(wanted, np.ndarray):
        np.testing.assert_array_equal(found, wanted)
    elif isinstance(wanted, dict):
        assert list(found) == list(wanted)
        assert_same(list(found.values()), list(wanted.values()))
    elif isinstance(wanted, (list, tuple)):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    else:
        assert found == wanted


@pytest.mark.parametrize("name", PLAIN)
def test_a_batch_arrives_as_it_was_made(name):
    assert_same(arrived(PLAIN[name]), default_convert(PLAIN[name]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3)], ids=str)
def test_every_dtype_keeps_its_bits(dtype, shape):
    size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    values = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8)
    assert_same(arrived(tensor := values.view(dtype).reshape(shape)), tensor)


@pytest.mark.parametrize("name", TORCHS_WAY)
def test_what_is_more_than_its_values_takes_torchs_way(name):
    batch = TORCHS_WAY[name]
    packed = Packing(lambda same: same)(batch)
    assert packed is batch


def test_what_arrives_is_the_receivers_own():
    source = np.ones(3, "f4")
    found = arrived(source)
    found += 1
    assert found.tolist() == [2, 2, 2]
    assert source.tolist() == [1, 1, 1]


def test_one_tensor_twice_arrives_as_one():
    one = torch.ones(2)
    first, second = arrived((one, one))
    assert first is second


class Mixed(Sequence):
    """Every kind of batch in turn."""

    def __len__(self):
        return len(PLAIN) + 2

    def __getitem__(self, index):
        return [*PLAIN.values(), torch.full((PARCEL_BYTES,), 7.0), (WHOLE, WHOLE[:2])][index]


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_give_what_no_workers_give(method):
    loader = Mixed().loader(num_workers=2, multiprocessing_context=method)
    try:
        for found, wanted in zip(loader, Mixed().loader(), strict=True):
            assert_same(found, wanted)
    finally:
        loader.close()


class Refilled(Sequence):
    """One array, filled anew for each batch: what was sent must not change any more."""

    def __init__(self):
        self.array = np.empty(64, "i8")

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.array[:] = index
        return self.array


def test_an_array_that_is_filled_again_arrives_as_it_was():
    loader = Refilled().loader(num_workers=1, multiprocessing_context="fork", prefetch_factor=8)
    assert [batch.unique().tolist() for batch in loader] == [[index] for index in range(50)]
    loader.close()
