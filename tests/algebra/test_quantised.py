"""Digits of modes: split with a stated error, put together exactly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tests.strategies import DTYPES, close, random_format, seeds
from tnet.algebra import dequantise, quantise
from tnet.arrays import to_numpy
from tnet.errors import BackendError, InputError, ShapeError
from tnet.formats import MatrixProductOperator


def dense(t: Any) -> np.ndarray:
    return to_numpy(t.to_dense())


SHAPE = (8, 6, 5, 1, 4)
COUNTS = (3, 2, 1, 1, 2)
DIGITS = (2, 2, 2, 2, 3, 5, 1, 2, 2)


@given(seed=seeds, dtype=st.sampled_from(DTYPES))
def test_there_and_back(convert: Any, seed: int, dtype: str) -> None:
    t = random_format("tensor_train", np.random.default_rng(seed), convert, SHAPE, 3, dtype)
    q = quantise(t)
    assert q.shape == DIGITS
    assert q.dtype == t.dtype
    close(dense(q), dense(t).reshape(DIGITS), dtype)
    back = dequantise(q, COUNTS)
    assert back.shape == SHAPE
    close(dense(back), dense(t), dtype)
    assert all(a <= b for a, b in zip(back.rank, t.rank, strict=True))


@given(seed=seeds)
def test_operators(convert: Any, seed: int) -> None:
    t = random_format("matrix_product_operator", np.random.default_rng(seed), convert, (4, 6, 6, 4), 2)
    q = quantise(t)
    assert isinstance(q, MatrixProductOperator)
    assert q.row_shape == (2, 2, 2, 3, 2, 3, 2, 2)
    close(dense(q), dense(t))
    close(dense(dequantise(q, (2, 2, 2, 2))), dense(t))


@given(seed=seeds, rtol=st.floats(1e-6, 0.9), power=st.sampled_from([-800, 0, 800]))
def test_the_tolerance_is_kept(seed: int, rtol: float, power: int) -> None:
    t = random_format("tensor_train", np.random.default_rng(seed), shape=(8, 8, 8), rank=4)
    first, *others = t.cores
    t = type(t)((first * 2.0**power, *others))
    q = quantise(t, rtol=rtol)
    x = np.ldexp(dense(t), -power).reshape(-1)
    assert np.linalg.norm(np.ldexp(dense(q), -power).reshape(-1) - x) <= rtol * np.linalg.norm(x) * (1 + 1e-9)
    for core in map(to_numpy, q.cores[:-1]):
        matrix = core.reshape(-1, core.shape[2])
        assert np.allclose(matrix.T @ matrix, np.eye(matrix.shape[1]), atol=1e-12)


def test_known_ranks() -> None:
    x = np.linspace(0, 1, 2**10)
    for values, rank in ((np.exp(-3 * x), 1), (np.sin(20 * x), 2), (x**3, 4)):
        q = quantise(tnet.tt(values, ()).tensor)
        assert max(q.rank) == rank


def test_other_digits() -> None:
    t = random_format("tensor_train", np.random.default_rng(0), shape=(8, 6), rank=2)
    q = quantise(t, [(4, 2), (3, 2)])
    assert q.shape == (4, 2, 3, 2)
    close(dense(q), dense(t).reshape(4, 2, 3, 2))
    operator = random_format("matrix_product_operator", np.random.default_rng(0), shape=(6, 8), rank=2)
    q = quantise(operator, [[(2, 8), (3, 1)], [(4, 2), (2, 3)]])
    assert (q.row_shape, q.column_shape) == ((2, 3, 4, 2), (8, 1, 2, 3))
    close(dense(dequantise(q, (2, 2))), dense(operator))


def test_half_precision_and_zero() -> None:
    t = random_format("tensor_train", np.random.default_rng(0), shape=(4, 4)).astype("float16")
    assert quantise(t).dtype == np.float16
    assert dequantise(quantise(t), (2, 2)).dtype == np.float16
    assert not np.any(dense(quantise(t.map_arrays(lambda core: core * 0))))


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    [
        (lambda t, w: quantise(t, [(2, 2)]), ShapeError, "digits for 1 cores"),
        (lambda t, w: quantise(t, [(2, 2), (3, 3)]), ShapeError, r"digits\[1\]"),
        (lambda t, w: quantise(t, [(2, 2), (2.0, 3)]), ShapeError, "positive integers"),
        (lambda t, w: quantise(t, [(2, 2), (True, 6)]), ShapeError, "positive integers"),
        (lambda t, w: quantise(w, [(2, 2), (3, 2)]), ShapeError, r"digits\[0\]"),
        (lambda t, w: quantise(w), ShapeError, "prime factors: give digits="),
        (lambda t, w: quantise(t, rtol=1.0), InputError, "rtol=1.0"),
        (lambda t, w: quantise(t, rtol=True), InputError, "rtol=True"),
        (lambda t, w: quantise(t.to_dense()), BackendError, "dense array"),
        (lambda t, w: quantise(t.map_arrays(lambda c: c * np.nan)), InputError, "non-finite"),
        (lambda t, w: dequantise(t, (1,)), ShapeError, "add up to 1"),
        (lambda t, w: dequantise(t, (2, 0)), ShapeError, "at least 1"),
        (lambda t, w: dequantise(t, (2.0,)), ShapeError, "at least 1"),
        (lambda t, w: dequantise(t.to_dense(), (2,)), BackendError, "dense array"),
    ],
)
def test_bad_input(call: Any, fault: type[Exception], words: str) -> None:
    t = random_format("tensor_train", np.random.default_rng(0), shape=(4, 6))
    w = random_format("matrix_product_operator", np.random.default_rng(0), shape=(4, 5))
    with pytest.raises(fault, match=words):
        call(t, w)
