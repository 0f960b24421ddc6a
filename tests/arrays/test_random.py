from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.strategies import DTYPES
from tnet.arrays import resolve_rng, standard_normal, to_numpy
from tnet.errors import InputError


def test_seed_repeats_the_stream():
    for rng in (7, np.int64(7), np.random.default_rng(3), torch.Generator().manual_seed(3), None):
        generator, seed = resolve_rng(rng)
        again, same = resolve_rng(seed)
        assert type(seed) is int
        assert same == seed
        np.testing.assert_array_equal(generator.standard_normal(4), again.standard_normal(4))
    assert resolve_rng(7)[1] == 7


@pytest.mark.parametrize("make", [lambda: np.random.default_rng(3), lambda: torch.Generator().manual_seed(3)])
def test_generators_advance_and_repeat(make):
    rng = make()
    first, second = resolve_rng(rng)[1], resolve_rng(rng)[1]
    assert first != second
    assert resolve_rng(make())[1] == first


def test_none_is_fresh_entropy():
    assert resolve_rng(None)[1] != resolve_rng(None)[1]


@pytest.mark.parametrize("rng", [True, -1, 1.5, "0", np.random.RandomState(0), [1]])
def test_bad_rng(rng):
    with pytest.raises(InputError, match="rng="):
        resolve_rng(rng)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_seed_one_start_on_every_library(convert, dtype):
    like = convert(np.zeros(1, dtype))
    x = standard_normal(resolve_rng(5)[0], (3, 4), like)
    assert x.dtype == like.dtype
    expected = standard_normal(resolve_rng(5)[0], (3, 4), np.zeros(1, dtype))
    np.testing.assert_array_equal(to_numpy(x), expected)


@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_variance_is_one(dtype):
    x = standard_normal(resolve_rng(0)[0], (20_000,), np.zeros(1, dtype))
    # 20,000 draws: the sample variance strays by more than 0.06 with probability below 1e-8.
    assert np.mean(np.abs(x) ** 2) == pytest.approx(1.0, abs=0.06)
    assert abs(np.mean(x**2) - (dtype == "float64")) < 0.06


def test_half_precision_like():
    assert standard_normal(resolve_rng(0)[0], (2,), torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.bfloat16
