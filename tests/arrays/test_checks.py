from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import DTYPES, random_array, seeds
from tnet.arrays import balanced_scale, check_finite, scale_by_power_of_two, squared_norm, to_numpy
from tnet.errors import InputError


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (3, 4, 2), (70_000,), (3, 40_000), (2, 2, 70_000)])
def test_squared_norm(convert, shape, dtype):
    a = random_array(np.random.default_rng(0), shape, dtype)
    wide = a.astype(complex)
    assert squared_norm(convert(a)) == pytest.approx(np.vdot(wide, wide).real, rel=1e-12)


@given(seed=seeds, order=st.permutations(range(3)), step=st.sampled_from([1, -1, 2, -3]))
def test_squared_norm_of_views(seed, order, step):
    a = random_array(np.random.default_rng(seed), (90, 60, 70))
    piece = a.transpose(order)[::step, ::-1]
    view = np.broadcast_to(piece, (2, *piece.shape))
    assert squared_norm(view) == pytest.approx(float(np.sum(view**2)), rel=1e-12)


def test_squared_norm_of_a_strided_torch_tensor():
    x = torch.arange(3_000_000.0, dtype=torch.float64).reshape(1000, 3000).T
    assert squared_norm(x) == pytest.approx(float((x**2).sum()), rel=1e-12)
    assert squared_norm(x.requires_grad_()) > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_non_finite_is_refused_with_its_place(convert, bad, dtype):
    a = np.ones((2, 3, 2), dtype)
    a[1, 2, 0] = bad
    with pytest.raises(InputError, match=r"field has 1 non-finite value, first at \(1, 2, 0\)"):
        squared_norm(convert(a), "field")
    a[0, 0, 1] = bad
    with pytest.raises(InputError, match=r"2 non-finite values, first at \(0, 0, 1\)"):
        balanced_scale(convert(a), "field")
    check_finite(convert(np.ones((2, 2), dtype)))


@pytest.mark.parametrize("function", [squared_norm, check_finite])
def test_meta_tensors_have_no_values(function):
    with pytest.raises(InputError, match="meta"):
        function(torch.ones(3, device="meta"))


def test_overflow_is_not_taken_for_infinity(convert):
    assert squared_norm(convert(np.array([1e200, 1e200]))) == math.inf


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_copied_in_the_safe_range(convert, dtype):
    x = convert(np.ones((2, 3), dtype))
    scaled = balanced_scale(x)
    assert scaled.array is x
    assert scaled.exponent == 0
    assert scaled.squared_norm == 6.0
    zero = convert(np.zeros((2, 3), dtype))
    assert balanced_scale(zero)[0] is zero
    assert balanced_scale(zero)[1:] == (0, 0.0)


@pytest.mark.parametrize(
    ("dtype", "power"),
    [
        ("float64", 1000),
        ("float64", -1000),
        ("float64", -1060),
        ("complex128", 1000),
        ("float32", 100),
        ("float32", -120),
        ("complex64", 100),
    ],
)
def test_scaling_is_exact(convert, dtype, power):
    a = np.array([1.0, -1.5, 0.25, 0.0]).astype(dtype)
    extreme = np.asarray(scale_by_power_of_two(a, power))
    scaled = balanced_scale(convert(extreme))
    assert 0.1 < scaled.squared_norm < 10
    np.testing.assert_array_equal(to_numpy(scaled.array) * 2.0 ** (scaled.exponent - power), a)
    np.testing.assert_array_equal(to_numpy(scale_by_power_of_two(scaled.array, scaled.exponent)), extreme)


def test_complex_entry_whose_modulus_overflows():
    scaled = balanced_scale(np.array([1.5e308 + 1.5e308j, 1.0]))
    assert np.isfinite(scaled.squared_norm)
    assert scaled.array[0] == (1.5e308 + 1.5e308j) * 2.0**-1023 / 2


@given(
    exponent=st.integers(-900, 900),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
    value=st.sampled_from([1.0, -0.75]),
)
def test_powers_of_two_in_steps(exponent, dtype, value):
    with np.errstate(over="ignore", under="ignore"):
        result = scale_by_power_of_two(np.array([value], dtype), exponent)
        expected = np.array([math.ldexp(value, exponent)]).astype(dtype)
    assert result.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(result, expected)
