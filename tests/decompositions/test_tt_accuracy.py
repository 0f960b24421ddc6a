"""How TT-SVD keeps and states errors that a Gram matrix cannot tell."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tests.strategies import random_array, seeds
from tnet.arrays import to_numpy
from tnet.decompositions.projection import measured_projection

tt_module = importlib.import_module("tnet.decompositions.tt")  # the package holds the function under this name


def graded(shape: tuple[int, ...], dtype: str = "float64", rate: float = 0.1) -> np.ndarray:
    """A tensor with unfoldings whose singular values fall evenly over all magnitudes to 1e-16."""
    rng = np.random.default_rng(1)
    x = np.zeros(shape, dtype)
    for k in range(17):
        term = np.ones((), dtype)
        for n in shape:
            vector = random_array(rng, (n,), dtype)
            term = np.multiply.outer(term, vector / np.linalg.norm(vector))
        x += rate**k * term
    return x


def error(x: np.ndarray, y: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(y)) / np.linalg.norm(x))


@pytest.mark.parametrize("shape", [(17, 4, 5, 18), (18, 5, 4, 17)])
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-6, 3e-7, 1e-7, 1e-9, 1e-12])
def test_every_tolerance_is_kept_and_used(shape: tuple[int, ...], dtype: str, rtol: float) -> None:
    x = graded(shape, dtype)
    result = tnet.tt(x, rtol=rtol)
    true = error(x, result.tensor)
    assert true <= rtol
    assert true >= rtol / 100
    assert result.error == pytest.approx(true, rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("shape", [(17, 4, 5, 18), (18, 5, 4, 17)])
@pytest.mark.parametrize("rank", [3, 6, 9, 12])
@pytest.mark.parametrize("method", ["auto", "gram", "tsqr", "svd"])
def test_the_stated_error_is_right_below_the_gram_resolution(shape: tuple[int, ...], rank: int, method: Any) -> None:
    x = graded(shape)
    result = tnet.tt(x, rank, method=method)
    assert result.error == pytest.approx(error(x, result.tensor), rel=1e-3, abs=1e-15)


@pytest.mark.parametrize("shape", [(17, 4, 5, 18), (18, 5, 4, 17)])
def test_a_basis_that_leaves_out_too_much_is_found_again(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    honest = tt_module.leading_basis

    def forgetful(Y: Any, truncation: Any, method: str, G: Any = None) -> Any:
        asked.append(method)
        U, discarded = honest(Y, truncation, method, G)
        return (U[:, :1], 0.0) if method == "auto" and Y.shape[0] <= Y.shape[1] else (U, discarded)

    monkeypatch.setattr(tt_module, "leading_basis", forgetful)
    x = graded(shape)
    assert error(x, tnet.tt(x, rtol=1e-6).tensor) <= 1e-6
    assert "tsqr" in asked


@given(seed=seeds, m=st.integers(1, 90), rank=st.integers(1, 8), complex_=st.booleans(), transposed=st.booleans())
def test_the_projection_measures_what_it_leaves_out(
    convert: Callable[[np.ndarray], Any], seed: int, m: int, rank: int, complex_: bool, transposed: bool
) -> None:
    rng = np.random.default_rng(seed)
    dtype = "complex128" if complex_ else "float64"
    Y = random_array(rng, (m, 700), dtype)
    U = np.linalg.qr(random_array(rng, (m, min(rank, m)), dtype))[0]
    Y = U @ (U.conj().T @ Y) + 1e-9 * Y
    Z, left_out = measured_projection(convert(Y), convert(U), transposed=transposed)
    assert np.allclose(to_numpy(Z), U.conj().T @ Y, rtol=0, atol=1e-12)
    wanted = float(np.linalg.norm(Y - U @ (U.conj().T @ Y)))
    assert left_out**0.5 == pytest.approx(wanted, rel=1e-5, abs=1e-13)
