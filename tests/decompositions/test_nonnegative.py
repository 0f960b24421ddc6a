"""Nonnegative CP: planted factors, monotone errors, extinct components, starts and refusals."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.decompositions import IterationInfo
from tnet.errors import BackendError, ConvergenceWarning, InputError, ShapeError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status


def planted(shape: tuple[int, ...], rank: int, seed: int = 0) -> CPTensor:
    rng = np.random.default_rng(seed)
    factors = [rng.random((n, rank)) * (rng.random((n, rank)) < 0.7) for n in shape]
    factors = [factor / np.linalg.norm(factor, axis=0) for factor in factors]
    return CPTensor(np.linspace(2.0, 1.0, rank), tuple(factors))


def true_error(x: np.ndarray, result: Any) -> float:
    return float(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x))


@pytest.mark.parametrize("shape", [(12, 13, 14), (8, 9, 8, 9), (6, 5, 6, 5, 6)])
def test_planted_factors_are_found(shape: tuple[int, ...]) -> None:
    truth = planted(shape, 3)
    results = [
        tnet.cp(truth.to_dense(), 3, init="random", nonnegative=True, rng=seed, stopping=Stopping(2000, 1e-11))
        for seed in range(3)
    ]
    best = min(results, key=lambda result: result.error)
    assert best.error < 1e-6
    assert np.allclose(best.tensor.weights, truth.weights, rtol=1e-4)
    for found, wanted in zip(best.tensor.factors, truth.factors, strict=True):
        assert np.allclose(np.sum(found * wanted, axis=0), 1.0, atol=1e-6)


@given(st.integers(0, 10_000), st.sampled_from(["svd", "random"]), st.sampled_from([0.0, 1e-2]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_the_objective_never_rises_and_nothing_is_negative(seed: int, init: Any, ridge: float, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 3, 5)) if signed else rng.random((4, 3, 5))
    objective: list[float] = []

    def record(info: IterationInfo[CPTensor]) -> None:
        assert all(np.all(part >= 0) for part in info.tensor.arrays)
        assert info.error == pytest.approx(true_error(x, info), rel=1e-8)
        penalty = ridge * float(np.sum(info.tensor.weights**2)) / np.linalg.norm(x) ** 2
        objective.append(float(info.error**2 + penalty))

    stopping = Stopping(max_iter=40, change=0)
    tnet.cp(x, 3, init=init, nonnegative=True, ridge=ridge, rng=seed, stopping=stopping, callback=record)
    assert len(objective) == 40
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(objective))


def test_at_convergence_the_gradient_is_complementary() -> None:
    x = np.random.default_rng(0).random((6, 7, 8))
    weights, factors = tnet.cp(x, 3, nonnegative=True, rng=0, stopping=Stopping(3000, 1e-15)).tensor
    first = factors[0] * weights
    rest = np.einsum("jr,kr->jkr", *factors[1:]).reshape(-1, 3)
    gradient = (first @ rest.T - x.reshape(6, -1)) @ rest
    assert np.all(gradient > -1e-4)
    assert np.max(np.abs(first * gradient)) < 1e-4


def test_extrapolation_needs_far_fewer_sweeps(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    sparse = [rng.random((20, 5)) * (rng.random((20, 5)) < 0.5) for _ in range(3)]
    x = CPTensor(np.ones(5), tuple(0.5 * rng.random((20, 1)) + 0.5 * part for part in sparse)).to_dense()
    x += 1e-3 * np.linalg.norm(x) * rng.normal(size=x.shape) / x.size**0.5
    stopping = Stopping(max_iter=100, change=0)
    fast = tnet.cp(x, 5, nonnegative=True, init="random", rng=2, stopping=stopping)
    monkeypatch.setattr("tnet.decompositions.momentum._FIRST", 0.0)
    plain = tnet.cp(x, 5, nonnegative=True, init="random", rng=2, stopping=stopping)
    reached = next(n for n, error in enumerate(fast.history.error) if error <= plain.error)
    assert reached < 50


def test_a_tensor_without_positive_entries_gives_the_zero_model() -> None:
    result = tnet.cp(-np.random.default_rng(0).random((4, 5, 6)), 2, nonnegative=True, rng=0)
    assert result.error == 1.0
    assert not np.any(np.asarray(result.tensor))
    assert result.status is Status.CONVERGED


@pytest.mark.parametrize("seed", range(4))
def test_a_positive_entry_is_always_found(seed: int) -> None:
    x = -np.random.default_rng(seed).random((4, 5, 6))
    x[1, 2, 3] = 0.5
    for init in ("svd", "random"):
        result = tnet.cp(x, 2, init=init, nonnegative=True, rng=seed)  # type: ignore[arg-type]
        assert result.error**2 <= 1 - 0.25 / np.sum(x**2) + 1e-12


def test_extinct_components_come_back() -> None:
    # The start has no overlap with x: its component dies in the first update, and would stay dead.
    x = np.zeros((4, 4, 4))
    x[:2, :2, :2] = 1.0
    far = np.array([[0.0], [0.0], [1.0], [1.0]])
    result = tnet.cp(x, 1, init=CPTensor(np.ones(1), (far, far, far)), nonnegative=True)
    assert result.error < 1e-6


def test_a_given_start_is_taken() -> None:
    truth = planted((5, 6, 7), 2)
    first, second, third = truth.factors
    moved = CPTensor(truth.weights, (first * 3.0, second * 7.0, third))
    spread = CPTensor(truth.weights / [4.0, 0.5], (first * [2.0, 0.5], second * [2.0, 1.0], third))
    for start in (truth, moved, spread):
        result = tnet.cp(truth.to_dense(), 2, init=start, nonnegative=True, stopping=Stopping(2, 0))
        assert result.error < 1e-14
        assert result.rng_seed is None


def test_a_start_may_be_single_or_record_gradients() -> None:
    x = np.random.default_rng(0).random((4, 5, 6))
    start = planted((4, 5, 6), 2)
    stopping = Stopping(5, 0)
    wanted = tnet.cp(x, 2, init=start, nonnegative=True, stopping=stopping)
    single = tnet.cp(x, 2, init=start.astype("float32"), nonnegative=True, stopping=stopping)
    assert np.allclose(np.asarray(single.tensor), np.asarray(wanted.tensor), atol=1e-4)
    leaves = start.map_arrays(lambda part: torch.from_numpy(part).requires_grad_())
    traced = tnet.cp(torch.from_numpy(x), 2, init=leaves, nonnegative=True, stopping=stopping)
    assert np.allclose(np.asarray(traced.tensor), np.asarray(wanted.tensor), atol=1e-10)


@pytest.mark.parametrize("power", [-500, 400])
def test_the_scale_of_a_start_does_not_matter(power: int) -> None:
    x = np.random.default_rng(0).random((4, 5, 6))
    start = planted((4, 5, 6), 2)
    huge = CPTensor(start.weights, tuple(np.ldexp(factor, power) for factor in start.factors))
    stopping = Stopping(5, 0)
    a, b = (tnet.cp(x, 2, init=init, nonnegative=True, stopping=stopping) for init in (start, huge))
    assert np.allclose(np.asarray(a.tensor), np.asarray(b.tensor), rtol=1e-12)


def test_every_library_gives_the_same(convert: Callable[[np.ndarray], Any]) -> None:
    x = planted((5, 6, 7), 3).to_dense() + 0.01 * np.random.default_rng(1).random((5, 6, 7))
    stopping = Stopping(10, 0)
    wanted = tnet.cp(x, 3, nonnegative=True, init="random", rng=3, stopping=stopping)
    found = tnet.cp(convert(x), 3, nonnegative=True, init="random", rng=3, stopping=stopping)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-9)
    assert found.rng_seed == 3


def test_ctrl_c_returns_the_last_complete_sweep() -> None:
    x = np.random.default_rng(0).random((4, 5, 6))

    def interrupt(info: IterationInfo[CPTensor]) -> None:
        if info.iteration == 4:
            raise KeyboardInterrupt

    result = tnet.cp(x, 2, nonnegative=True, callback=interrupt)
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) == 4
    assert result.error == pytest.approx(true_error(x, result), rel=1e-9)


def test_float32_reports_small_errors_exactly() -> None:
    x = planted((6, 7, 8), 2).to_dense().astype(np.float32)
    result = tnet.cp(x, 2, nonnegative=True, rng=0, stopping=Stopping(300, 1e-7))
    assert result.tensor.dtype == np.float32
    assert result.error < 1e-3
    assert result.error_kind == "exact"
    assert result.error == pytest.approx(true_error(x.astype(float), result), rel=1e-2)


def test_rank_may_exceed_every_mode_and_the_zero_tensor() -> None:
    x = np.random.default_rng(0).random((2, 3, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        assert tnet.cp(x, 7, nonnegative=True, rng=0, stopping=Stopping(500)).error < 1e-2
    assert tnet.cp(0 * x, 7, nonnegative=True, rng=0).error == 0.0


NEGATIVE = CPTensor(np.ones(2), (np.ones((4, 2)), -np.ones((5, 2)), np.ones((6, 2))))


@pytest.mark.parametrize(
    ("x", "options", "error", "word"),
    [
        (np.ones((4, 5, 6)), {"init": NEGATIVE}, InputError, "negative"),
        (np.ones((4, 5, 6)), {"init": planted((4, 5, 7), 2)}, ShapeError, "init"),
        (np.ones((4, 5, 6)), {"init": "nndsvd"}, InputError, "init"),
        (np.ones((4, 5, 6)), {"method": "nls"}, InputError, "nonnegative"),
        (np.ones((4, 5, 6)), {"ridge": -1.0}, InputError, "ridge"),
        (np.ones((4, 5, 6), dtype=complex), {}, BackendError, "complex128"),
        (torch.ones((4, 5, 6), dtype=torch.complex64), {}, BackendError, "complex64"),
    ],
)
def test_bad_input_is_refused_by_name(x: Any, options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        tnet.cp(x, 2, nonnegative=True, **options)


def test_a_ridge_converges_although_the_error_rises() -> None:
    x = np.random.default_rng(0).random((4, 5, 6))
    best = tnet.cp(x, 3, nonnegative=True, rng=0, stopping=Stopping(3000, 1e-12)).tensor
    result = tnet.cp(x, 3, init=best, nonnegative=True, ridge=0.1)
    assert any(b > a for a, b in itertools.pairwise(result.history.error))

    def objective(tensor: CPTensor) -> float:
        return float(np.linalg.norm(x - tensor.to_dense()) ** 2 + 0.1 * np.sum(tensor.weights**2))

    longer = tnet.cp(x, 3, init=result.tensor, nonnegative=True, ridge=0.1, stopping=Stopping(500, 0))
    assert objective(result.tensor) < objective(longer.tensor) * (1 + 1e-6)
