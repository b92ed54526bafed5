"""Samples of values: what ranks compare, of tensors of every layout."""

import pytest
import torch

from torchkutils.parallel.value_samples import ValueSamples

LAYOUTS = {
    "contiguous": lambda values: values.clone(),
    "another order": lambda values: values.t().contiguous().t(),
    "every other column": lambda values: torch.stack([values, values], -1).reshape(4, 12)[:, ::2],
    "channels last": lambda values: values.reshape(1, 4, 2, 3).to(memory_format=torch.channels_last),
    "a number": lambda values: values[0, 0].clone(),
}


def sample(samples: ValueSamples) -> tuple[float, float]:
    samples.start()
    return samples.take()[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_sample_follows_what_is_written(name: str) -> None:
    tensor = LAYOUTS[name](torch.randn(4, 6, generator=torch.Generator().manual_seed(0)))
    samples = ValueSamples([tensor])
    before = sample(samples)
    assert sample(samples) == before
    for index in torch.cartesian_prod(*map(torch.arange, tensor.shape)) if tensor.ndim else [()]:
        tensor[tuple(index)] += 1
        after = sample(samples)
        assert after != before
        before = after


def test_neighbours_in_memory_are_no_part_of_a_sample() -> None:
    around = torch.ones(4, 12)
    samples = ValueSamples([around[:, ::2]])
    before = sample(samples)
    around[:, 1::2] = 9
    assert sample(samples) == before


def test_repeated_elements_are_sampled() -> None:
    one = torch.ones(1, 3)
    samples = ValueSamples([one.expand(5, 3)])
    before = sample(samples)
    one[0, 2] = 2
    assert sample(samples) != before
