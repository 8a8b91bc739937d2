"""The count-sketch against a slow loop, and what its docstring promises of angles."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yarbus.models.sketch import count_sketch, hashes, key_of

NUMBERS = 2**64


def splitmix64(number: int) -> int:
    """Steele, Lea and Flood (2014), in Python's whole numbers."""
    number = ((number ^ (number >> 30)) * 0xBF58476D1CE4E5B9) % NUMBERS
    number = ((number ^ (number >> 27)) * 0x94D049BB133111EB) % NUMBERS
    return number ^ (number >> 31)


def slow_sketch(values: torch.Tensor, key: int, dim: int) -> torch.Tensor:
    sketch = torch.zeros(dim, dtype=torch.float64)
    for index, value in enumerate(values.flatten().tolist()):
        mixed = splitmix64((index * 0x9E3779B97F4A7C15 + key) % NUMBERS)
        sketch[((mixed % 2**32) * dim) >> 32] += -value if mixed >> 63 else value
    return sketch.float()


@given(
    key=st.integers(-(2**63), 2**63 - 1), dim=st.integers(1, 70), count=st.integers(0, 100), chunk=st.integers(1, 64)
)
def test_the_sketch_equals_a_loop_over_elements_whatever_the_chunks(key, dim, count, chunk):
    values = torch.randn(count, generator=torch.Generator().manual_seed(count))
    torch.testing.assert_close(count_sketch(values, key, dim, chunk), slow_sketch(values, key, dim), atol=1e-5, rtol=0)


def test_hashes_do_not_depend_on_where_a_chunk_starts():
    assert torch.equal(hashes(5, 3, 90), hashes(5, 0, 100)[3:90])


def test_hashes_are_fixed_for_ever():
    """Sketches of different versions must be comparable: these numbers must never change."""
    assert hashes(0, 1, 3).tolist() == [splitmix64(0x9E3779B97F4A7C15) - NUMBERS, splitmix64(0x3C6EF372FE94F82A)]
    assert splitmix64(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # SplitMix64's first number from seed 0, as published
    assert key_of("a", "b") == key_of("a", "b") != key_of("ab", "")


def test_buckets_are_filled_evenly_and_signs_are_fair():
    count, dim = 100_000, 100
    filled = count_sketch(torch.ones(count), key_of("x"), dim)
    mixed = hashes(key_of("x"), 0, count)
    share = torch.bincount(((mixed & (2**32 - 1)) * dim) >> 32, minlength=dim) / (count / dim)
    assert share.min() > 0.85 and share.max() < 1.15  # 1000 in each on average: five standard deviations are 0.16
    assert abs((mixed < 0).double().mean() - 0.5) < 0.01
    assert filled.abs().max() < 6 * math.sqrt(count / dim)


def test_the_sketch_is_linear():
    one, two = torch.randn(2, 3000, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
    sketched = [count_sketch(values, 7, 64) for values in (one, two, 2 * one - 3 * two)]
    torch.testing.assert_close(sketched[2], 2 * sketched[0] - 3 * sketched[1], atol=1e-3, rtol=1e-4)


def test_inner_products_are_unbiased_with_the_stated_variance():
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(2000, generator=generator)
    two = 0.5 * one + torch.randn(2000, generator=generator)
    exact, dim, draws = float(one @ two), 256, 400
    found = torch.tensor(
        [
            float(count_sketch(one, key, dim) @ count_sketch(two, key, dim))
            for key in map(key_of, map(str, range(draws)))
        ]
    )
    bound = math.sqrt((float(one @ one) * float(two @ two) + exact**2) / dim)
    assert found.std() < 1.1 * bound
    assert found.std() > 0.8 * bound  # the bound is tight: elements are spread out
    assert abs(found.mean() - exact) < 4 * bound / math.sqrt(draws)


@pytest.mark.parametrize("cosine", [0.0, 0.1, 0.9])
def test_a_cosine_moves_by_no_more_than_the_stated_bound(cosine):
    dim = 4096
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        one, other = torch.randn(2, 50_000, generator=generator)
        two = cosine * one + math.sqrt(1 - cosine**2) * other
        exact = torch.cosine_similarity(one, two, dim=0)
        found = torch.cosine_similarity(count_sketch(one, seed, dim), count_sketch(two, seed, dim), dim=0)
        assert abs(found - exact) < 3 * math.sqrt(2 / dim)


def test_bfloat16_gradients_are_summed_in_fp32():
    sketch = count_sketch(torch.ones(10_000, dtype=torch.bfloat16), 3, 1)
    assert sketch.dtype == torch.float32
    assert float(sketch) == count_sketch(torch.ones(10_000), 3, 1)
