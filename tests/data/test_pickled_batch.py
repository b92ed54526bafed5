"""A batch that travels from a worker is the batch that was made."""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections import namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import default_convert

from torchkutils import Sequence
from torchkutils.data.pickled_batch import INLINE_BYTES, Receiver, Sender
from torchkutils.data.shared_slots import LARGEST, Slots

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
    "what goes along": torch.arange(INLINE_BYTES, dtype=torch.uint8),
    "what goes into a slot": torch.arange(INLINE_BYTES + 1, dtype=torch.int64),
    "many that go into it together": [torch.full((INLINE_BYTES // 8,), number) for number in range(9)],
    "bytes of text": b"x" * 100_000,
    "images with channels last": torch.arange(24576.0).view(2, 3, 64, 64).to(memory_format=torch.channels_last),
    "a transposed tensor": torch.arange(12000.0).view(40, 300).T,
    "a turned one of three axes": torch.arange(6000.0).view(3, 40, 50).permute(2, 0, 1),
    "a conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj(),
    "the imaginary part of a conjugate": torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
    "no elements, strides of its own": torch.empty(0, 3).T,
}
WHOLE = torch.arange(12.0).reshape(3, 4)
TORCHS_WAY = {
    "gaps between elements": torch.arange(12.0).reshape(3, 4)[:, ::2],
    "two views of one memory": (WHOLE, WHOLE[:2]),
    "a gradient": torch.ones(2, requires_grad=True),
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a subclass": torch.nn.Parameter(torch.ones(2), requires_grad=False),
}


@pytest.fixture(scope="module")
def slots():
    slots = Slots(1)
    yield slots
    slots.close()


def through(slots, batch, reuse=False):
    """A batch as a worker sends it and the loader receives it."""
    message = Sender(slots).pack(default_convert(batch), 0)
    return Receiver(slots, reuse, pin=False).unpack(pickle.loads(pickle.dumps(message))), message


def assert_same(found, wanted):
    assert type(found) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert (found.dtype, found.shape, found.layout) == (wanted.dtype, wanted.shape, wanted.layout)
        found, wanted = found.detach().to_dense(), wanted.detach().to_dense().resolve_conj().resolve_neg()
        assert found.numel() == 0 or found.stride() == wanted.stride()
        assert found.contiguous().view(-1).view(torch.uint8).equal(wanted.contiguous().view(-1).view(torch.uint8))
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
@pytest.mark.parametrize("reuse", [False, True])
def test_a_batch_arrives_as_it_was_made(name, reuse, slots):
    found, message = through(slots, PLAIN[name], reuse)
    assert_same(found, default_convert(PLAIN[name]))
    assert len(message.content) < 2000 or name == "bytes of text"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (2, 3), (100, 400)], ids=str)
def test_every_dtype_keeps_its_bits(dtype, shape, slots):
    size = torch.empty(shape, dtype=dtype).numel() * dtype.itemsize
    values = torch.randint(0, 2 if dtype is torch.bool else 256, (size,), dtype=torch.uint8)
    tensor = values.view(dtype).reshape(shape)
    assert_same(through(slots, tensor)[0], tensor)


@pytest.mark.parametrize("name", TORCHS_WAY)
def test_what_is_more_than_its_values_takes_torchs_way(name, slots):
    message = Sender(slots).pack(TORCHS_WAY[name], 0)
    assert message.sizes == ()
    assert message.slot == -1


@pytest.mark.parametrize("name", PLAIN)
def test_beside_what_takes_torchs_way_a_batch_arrives_as_it_was_made(name, slots):
    batch = (PLAIN[name], TORCHS_WAY["a sparse tensor"])
    assert_same(through(slots, batch)[0], default_convert(batch))


@pytest.mark.parametrize("length", [3, 2**16])
def test_what_arrives_is_the_receivers_own(length, slots):
    source = np.ones(length, "f4")
    found, again = through(slots, source)[0], through(slots, source)[0]
    found += 1
    assert (found == 2).all()
    assert (again == 1).all()
    assert (source == 1).all()
    assert found.untyped_storage().nbytes() == source.nbytes


def test_with_reuse_the_next_batch_lies_where_the_last_one_lay(slots):
    first = through(slots, np.ones(2**16, "f4"), reuse=True)[0]
    second = through(slots, np.full(2**16, 2, "f4"), reuse=True)[0]
    assert first.data_ptr() == second.data_ptr()
    assert (first == 2).all()


def test_one_tensor_twice_arrives_as_one(slots):
    one = torch.ones(2)
    first, second = through(slots, (one, one))[0]
    assert first is second


def test_arrays_that_are_not_converted_are_the_receivers_own(slots):
    for source in (np.arange(5), np.arange(2**16), np.asfortranarray(np.ones((300, 200)))):
        message = Sender(slots).pack({"x": source}, 0)
        found = Receiver(slots, reuse=False, pin=False).unpack(pickle.loads(pickle.dumps(message)))["x"]
        np.testing.assert_array_equal(found, source)
        assert found.flags.writeable
        assert found.strides == source.strides


@pytest.mark.parametrize("slot", [-1, 0])
def test_what_has_no_slot_or_does_not_fit_takes_torchs_way(slot, slots, monkeypatch):
    if slot == 0:
        monkeypatch.setattr("torchkutils.data.pickled_batch.LARGEST", 100_000)
    assert LARGEST > 100_000
    batch = torch.arange(600_000, dtype=torch.uint8)
    message = Sender(slots).pack(batch, slot)
    assert message.slot == -1
    assert torch.equal(Receiver(slots, reuse=False, pin=False).unpack(message), batch)


UNSENDABLE = {
    "batch is the function <lambda>": lambda: None,
    r"batch\[1\]\['deep'\] is of type lock": (0, {"deep": threading.Lock()}),
    r"batch\['rows'\] is of type generator": {"rows": (row for row in ())},
    "batch is of type TextIOWrapper": sys.__stdout__,
}


@pytest.mark.parametrize("says", UNSENDABLE)
def test_the_part_of_a_batch_that_cannot_be_sent_is_named(says, slots):
    with pytest.raises(TypeError, match=says):
        Sender(slots).pack(UNSENDABLE[says], 0)


class Mixed(Sequence):
    """Every kind of batch in turn."""

    def __len__(self):
        return len(PLAIN) + len(TORCHS_WAY)

    def __getitem__(self, index):
        return [*PLAIN.values(), *TORCHS_WAY.values()][index]


@pytest.mark.parametrize(
    "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("spawn", "forkserver"))]
)
@pytest.mark.parametrize("reuse", [False, True])
def test_workers_give_what_no_workers_give(method, reuse):
    before = set(os.listdir("/dev/shm"))
    loader = Mixed().loader(num_workers=2, multiprocessing_context=method, reuse=reuse)
    try:
        for _ in range(3):
            for found, wanted in zip(loader, Mixed().loader(), strict=True):
                assert_same(found, wanted)
        next(iter(loader))
    finally:
        loader.close()
    assert {name for name in set(os.listdir("/dev/shm")) - before if not name.startswith("sem.")} == set()


class Refilled(Sequence):
    """One array, filled anew for each batch: what was sent must not change any more."""

    def __init__(self):
        self.array = np.empty(64, "i8")
        self.large = np.empty(2**15, "i8")

    def __len__(self):
        return 50

    def __getitem__(self, index):
        self.array[:] = self.large[:] = index
        return self.array, self.large


def test_an_array_that_is_filled_again_arrives_as_it_was():
    loader = Refilled().loader(num_workers=1, multiprocessing_context="fork", prefetch_factor=8)
    batches = list(loader)
    assert [small.unique().tolist() for small, _ in batches] == [[index] for index in range(50)]
    assert [large.unique().tolist() for _, large in batches] == [[index] for index in range(50)]
    loader.close()


class Pinning:
    """What torch is asked to pin, on a machine without an accelerator."""

    def __init__(self, monkeypatch):
        self.made, self.copied = [], []
        empty = torch.empty

        def noted_empty(*arguments, pin_memory=False, **options):
            if pin_memory:
                self.made.append(tuple(arguments[0]))
            return empty(*arguments, **options)

        def noted_pin(tensor):
            self.copied.append(tuple(tensor.shape))
            return tensor

        monkeypatch.setattr(torch, "empty", noted_empty)
        monkeypatch.setattr(torch.Tensor, "pin_memory", noted_pin)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)


class PinsItself:
    """A batch class of one's own, as in torch's documentation on pinned memory."""

    def __init__(self, rows):
        self.rows = rows
        self.pinned = 0

    def pin_memory(self):
        self.pinned += 1
        return self


SIZES = {"inline": 8, "in a slot": 2**16}


class Floats(Sequence):
    def __init__(self, size, kind):
        self.size = size
        self.kind = kind

    def __len__(self):
        return 4

    def __getitem__(self, index):
        x = torch.full((self.size,), float(index))
        if self.kind == "of torch's way":
            return x.to_sparse()
        if self.kind == "object":
            return PinsItself(x), x + 1
        return {"x": x, "text": "a", "y": [x + 1]}


@pytest.mark.parametrize("reuse", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_a_batch_from_a_worker_is_copied_straight_into_pinned_memory(size, reuse, monkeypatch):
    asked = Pinning(monkeypatch)
    loader = Floats(SIZES[size], "plain").loader(
        num_workers=1, pin_memory=True, reuse=reuse, multiprocessing_context="fork"
    )
    for index, batch in enumerate(loader):
        assert (batch["x"] == index).all()
        assert (batch["y"][0] == index + 1).all()
    loader.close()
    assert asked.made == [(4 * SIZES[size],)] * 8
    assert asked.copied == []


@pytest.mark.parametrize("workers", ["processes", "threads", None])
def test_tensors_that_no_slot_carries_are_pinned_once(workers, monkeypatch):
    asked = Pinning(monkeypatch)
    options = {"workers": workers, "num_workers": 2} if workers else {}
    loader = Floats(100, "of torch's way").loader(pin_memory=True, **options)
    assert [float(batch.to_dense()[3]) for batch in loader] == [0, 1, 2, 3]
    loader.close()
    assert (asked.made, asked.copied) == ([], [(100,)] * 4)


@pytest.mark.parametrize("size", SIZES)
def test_an_object_with_a_pin_memory_of_its_own_pins_itself_once(size, monkeypatch):
    Pinning(monkeypatch)
    loader = Floats(SIZES[size], "object").loader(num_workers=1, pin_memory=True, multiprocessing_context="fork")
    assert [(own.pinned, float(own.rows[0]), float(other[0])) for own, other in loader] == [
        (1, index, index + 1) for index in range(4)
    ]
    loader.close()
