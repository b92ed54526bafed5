"""Batches that are equal have one fingerprint, batches that differ in anything have two."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from torchkutils.parallel.fingerprints import fingerprint


def of(value):
    return fingerprint([("batch", value)])


BATCH = torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_it_does_not_depend_on_where_the_values_lie():
    shifted = torch.cat([torch.zeros(1), BATCH.view(-1)])[1:].view(BATCH.shape)
    assert shifted.storage_offset() == 1
    for same in (BATCH.clone(), shifted, BATCH.to(memory_format=torch.channels_last), BATCH.requires_grad_()):
        assert of(same) == of(BATCH)
    assert of(torch.tensor([1 + 1j]).conj()) == of(torch.tensor([1 - 1j]))
    assert of({"x": BATCH, "flags": {"a", "b"}}) == of({"x": BATCH, "flags": {"b", "a"}})


@pytest.mark.parametrize(
    "other",
    [
        BATCH.detach().flip(0),
        BATCH.detach().flip(3),
        BATCH.detach().roll(1, 0),
        BATCH.detach().double(),
        BATCH.detach().view(80, -1),
        BATCH.detach()[:-1],
        BATCH.detach().view(torch.int32),
        [BATCH.detach()],
    ],
)
def test_other_batches_have_another(other):
    assert of(other) != of(BATCH)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(1, 70_000),
    place=st.integers(0),
    bit=st.integers(0, 7),
    other=st.integers(0),
)
def test_one_changed_bit_and_two_exchanged_bytes_are_seen(length, place, bit, other):
    values = torch.randint(0, 256, (length,), dtype=torch.uint8, generator=torch.Generator().manual_seed(length))
    changed = values.clone()
    changed[place % length] ^= 1 << bit
    assert of(changed) != of(values)
    exchanged = values.clone()
    exchanged[place % length], exchanged[other % length] = values[other % length], values[place % length]
    assert (of(exchanged) == of(values)) is torch.equal(exchanged, values)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int16, torch.bfloat16, torch.float8_e4m3fn, torch.complex128])
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (70_001,)])
def test_every_dtype_and_shape_has_one(dtype, shape):
    assert of(torch.ones(shape).to(dtype)) == of(torch.ones(shape).to(dtype))
    assert of(torch.ones(shape).to(dtype)) != of(torch.ones(shape))
