"""Rounding of sums and products of trains by a sketch."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tests.strategies import dense, random_array, random_format, seeds
from tnet.algebra import add, hadamard, norm, round, round_hadamard, round_sum, scale
from tnet.errors import BackendError, InputError, RankError, ShapeError
from tnet.formats import TensorTrain
from tnet.results import Status

module = importlib.import_module("tnet.algebra.randomized_rounding")

SHAPE = (5, 4, 6, 5)
Convert = Callable[[np.ndarray], Any]


def some_terms(seed: int, count: int, convert: Convert = np.asarray, dtype: str = "float64", kind="tensor_train"):
    rng = np.random.default_rng(seed)
    return [scale(random_format(kind, rng, convert, SHAPE, 2, dtype), 10.0**-j) for j in range(count)]


def smooth(seed: int, convert: Convert = np.asarray, rate: float = 0.2) -> TensorTrain:
    """A train whose singular values fall fast, so that its square can be cut."""
    rng = np.random.default_rng(seed)
    bonds = [1, 6, 6, 6, 1]
    weight = rate ** np.arange(6.0)
    cores = []
    for k, n in enumerate(SHAPE):
        core = random_array(rng, (bonds[k], n, bonds[k + 1]))
        cores.append(convert(core * (weight if k < 3 else 1.0)))
    return TensorTrain(tuple(cores))


def error(y: Any, x: np.ndarray) -> float:
    return float(np.linalg.norm(dense(y) - x) / np.linalg.norm(x))


@settings(max_examples=12)
@given(seed=seeds, power=st.floats(-12, -0.5), complex_=st.booleans(), count=st.integers(1, 5))
def test_a_sum_within_the_tolerance(convert: Convert, seed: int, power: float, complex_: bool, count: int) -> None:
    dtype = "complex128" if complex_ else "float64"
    terms = some_terms(seed, count, convert, dtype)
    factors = np.random.default_rng(seed).standard_normal(count).tolist()
    x = sum(c * dense(term) for c, term in zip(factors, terms, strict=True))
    rtol = 10.0**power
    result = round_sum(terms, rtol=rtol, coefficients=factors, rng=0)
    true = error(result.tensor, x)
    assert true <= rtol * (1 + 1e-9) + 1e-14
    assert result.tensor.dtype == terms[0].dtype
    if result.error_kind == "exact":
        assert result.error == pytest.approx(true, rel=1e-2, abs=1e-14)
    else:
        assert result.error_kind == "bound"
        assert true <= result.error


@given(seed=seeds, rank=st.integers(1, 5))
def test_a_sum_at_a_rank(seed: int, rank: int) -> None:
    terms = some_terms(seed, 4)
    x = sum(map(dense, terms))
    result = round_sum(terms, rank, rng=0)
    assert max(result.tensor.rank) <= rank
    true = error(result.tensor, x)
    if result.error_kind == "exact":
        assert result.error == pytest.approx(true, rel=1e-2)
    whole = terms[0]
    for term in terms[1:]:
        whole = add(whole, term)
    assert true <= 3 * error(round(whole, rank, method="qr"), x) + 1e-7


@settings(max_examples=12)
@given(seed=seeds, power=st.floats(-6, -1))
def test_a_product_within_the_tolerance(convert: Convert, seed: int, power: float) -> None:
    a, b = smooth(seed, convert), smooth(seed + 1, convert)
    rtol = 10.0**power
    result = round_hadamard(a, b, rtol=rtol, rng=0)
    true = error(result.tensor, dense(a) * dense(b))
    assert true <= rtol
    assert result.error == pytest.approx(true, rel=1.0, abs=1e-9)
    assert max(result.tensor.rank) <= max(hadamard(a, b).rank)


@given(seed=seeds, rank=st.integers(1, 8))
def test_a_product_at_a_rank(seed: int, rank: int) -> None:
    a, b = smooth(seed), smooth(seed + 1)
    x = dense(a) * dense(b)
    result = round_hadamard(a, b, rank, rng=0)
    assert max(result.tensor.rank) <= rank
    assert error(result.tensor, x) <= 3 * error(round(hadamard(a, b), rank, method="qr"), x) + 1e-9


def test_operators() -> None:
    terms = some_terms(0, 3, kind="matrix_product_operator")
    result = round_sum(terms, rtol=1e-6, rng=0)
    assert type(result.tensor) is type(terms[0])
    assert error(result.tensor, sum(map(dense, terms))) <= 1e-6
    product = round_hadamard(terms[0], terms[1], rtol=1e-6, rng=0)
    assert error(product.tensor, dense(terms[0]) * dense(terms[1])) <= 1e-6


def test_redundant_ranks_vanish() -> None:
    terms = some_terms(0, 1) * 7
    result = round_sum(terms, rtol=1e-6, rng=0)
    assert result.tensor.rank == terms[0].rank
    assert result.status is Status.DIRECT
    assert result.rng_seed == 0


def test_cancelling_terms_are_formed_after_all() -> None:
    a, b = some_terms(0, 1)[0], some_terms(5, 1)[0]
    result = round_sum([a, scale(b, 1e-7), scale(a, -1.0)], rtol=1e-4, rng=0)
    close = add(result.tensor, scale(b, -1e-7))
    assert float(norm(close)) <= 1e-4 * 1e-7 * float(norm(b))


def test_zero_and_single_mode() -> None:
    zero = scale(some_terms(0, 1)[0], 0.0)
    for result in (round_sum([zero, zero], rtol=0.1, rng=0), round_sum([zero], 2, rng=0)):
        assert result.error == 0.0
        assert not np.any(dense(result.tensor))
    vector = TensorTrain((np.arange(4.0).reshape(1, 4, 1),))
    assert np.allclose(dense(round_sum([vector, vector], rtol=0.1, rng=0).tensor), 2 * np.arange(4.0))
    assert np.allclose(dense(round_hadamard(vector, vector, rtol=0.1, rng=0).tensor), np.arange(4.0) ** 2)


def test_extreme_scales() -> None:
    a, b = some_terms(0, 1)[0], some_terms(5, 1)[0]
    wanted = round_sum([a, b], rtol=1e-5, rng=0)
    for power in (-900, 900):
        found = round_sum([scale(a, 2.0**power), scale(b, 2.0**power)], rtol=1e-5, rng=0)
        assert np.allclose(np.ldexp(dense(found.tensor), -power), dense(wanted.tensor))


def test_half_and_single_precision() -> None:
    for dtype, rtol in (("float32", 1e-4), ("float16", 1e-2)):
        terms = [term.astype(dtype) for term in some_terms(0, 2)]
        result = round_sum(terms, rtol=rtol, rng=0)
        assert result.tensor.dtype == np.dtype(dtype)
        assert error(result.tensor.astype("float64"), sum(dense(t.astype("float64")) for t in terms)) <= 2 * rtol


def test_one_seed_gives_one_result() -> None:
    terms = some_terms(0, 4)
    one, two, other = (round_sum(terms, 2, rng=seed).tensor for seed in (3, 3, 4))
    assert np.array_equal(dense(one), dense(two))
    assert not np.array_equal(dense(one), dense(other))


def test_round_by_a_sketch() -> None:
    terms = some_terms(0, 4)
    whole = add(add(terms[0], terms[1]), add(terms[2], terms[3]))
    y = tnet.round(whole, rtol=1e-2, method="randomized", rng=0)
    assert error(y, dense(whole)) <= 1e-2
    assert tnet.round(whole, 2, method="randomized", rng=0).rank == (2, 2, 2)


def test_the_estimate_is_unbiased() -> None:
    """Over many sketches the mean of the squared estimates is the mean of the squared errors of the projections."""
    terms = some_terms(0, 1, kind="tensor_train")
    flat = random_format("tensor_train", np.random.default_rng(1), shape=SHAPE, rank=12)
    whole = add(terms[0], flat)
    x = dense(whole)
    cores = [np.asarray(core) for core in whole.cores]
    task = module._Task(whole, [module._Plain(cores)], list(SHAPE), 0, lambda: whole, np.float64)
    seen, true = [], []
    for seed in range(60):
        found = module._projected(task.parts, task.modes, [4, 8, 4], np.random.default_rng(seed))
        seen.append(found.estimate**2)
        true.append(error(scale(TensorTrain(tuple(found.cores)), 2.0**found.exponent), x) ** 2)
    assert np.mean(seen) == pytest.approx(np.mean(true), rel=0.1)


@pytest.mark.parametrize(
    ("call", "fault", "words"),
    [
        (lambda t: round_sum([], 2), InputError, "terms: none"),
        (lambda t: round_sum([t], 2, coefficients=[1, 2]), InputError, "2 given for 1 terms"),
        (lambda t: round_sum([t], 2, coefficients=[1j]), InputError, "complex"),
        (lambda t: round_sum([t]), RankError, "neither given"),
        (lambda t: round_sum([t], 2, rtol=0.1), RankError, "both given"),
        (lambda t: round_sum([t], 2.5), RankError, "rank=2.5"),
        (lambda t: round_sum([t], rtol=2.0), InputError, "rtol=2.0"),
        (lambda t: round_sum([t], 2, rng="x"), InputError, "rng='x'"),
        (lambda t: round_sum([dense(t)], 2), BackendError, "dense array"),
        (lambda t: round_hadamard(t, dense(t), 2), BackendError, "dense array"),
        (lambda t: round_sum([t, TensorTrain((np.ones((1, 4, 1)),))], 2), ShapeError, "shapes"),
        (lambda t: round_sum([scale(t, 1.0), t.map_arrays(lambda a: a * np.nan)], 1), InputError, "of term 1"),
        (lambda t: round_sum([t.map_arrays(lambda a: a.astype(int))], 1), BackendError, "int64"),
    ],
)
def test_bad_input(call: Callable[[Any], Any], fault: type[Exception], words: str) -> None:
    with pytest.raises(fault, match=words):
        call(some_terms(0, 1)[0])
