"""CP by damped Gauss-Newton: its matrix, its descent, and what it is for."""

from __future__ import annotations

import itertools
import sys
import warnings
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.decompositions import IterationInfo
from tnet.decompositions.cp_nls import _LEAST_DAMPING, _NormalOperator, _Point
from tnet.decompositions.preparation import prepare
from tnet.errors import ConvergenceWarning
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status


def draw_factors(shape: tuple[int, ...], R: int, seed: int = 0, complex_: bool = False) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(n, R)) + (1j * rng.normal(size=(n, R)) if complex_ else 0) for n in shape]


def collinear(n: int, R: int, congruence: float, seed: int = 0) -> CPTensor:
    """Return factors of which any two columns have the cosine ``congruence``."""
    rng = np.random.default_rng(seed)
    L = np.linalg.cholesky((1 - congruence) * np.eye(R) + congruence).T
    return CPTensor(np.ones(R), tuple(np.linalg.qr(rng.normal(size=(n, R)))[0] @ L for _ in range(3)))


def jacobian(factors: list[np.ndarray]) -> np.ndarray:
    """Return the matrix of the derivative of the model, column by column, in the order of the stacked factors."""
    columns = []
    R = factors[0].shape[1]
    for mode, factor in enumerate(factors):
        for i, r in itertools.product(range(factor.shape[0]), range(R)):
            moved = [other[:, r] for other in factors]
            moved[mode] = np.eye(factor.shape[0])[i]
            columns.append(CPTensor(np.ones(1), tuple(vector[:, None] for vector in moved)).to_dense().reshape(-1))
    return np.stack(columns, axis=1)


@pytest.fixture
def _plain_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnet.decompositions.cp_nls._unit", lambda prepared: 1.0)


@pytest.mark.usefixtures("_plain_units")
@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 2), (2, 3, 2, 2)])
def test_the_operator_is_that_of_the_jacobian(shape: tuple[int, ...], complex_: bool) -> None:
    factors = draw_factors(shape, 3, complex_=complex_)
    x = CPTensor(np.ones(3), tuple(draw_factors(shape, 3, 1, complex_))).to_dense()
    point = _Point(prepare(x), factors, 0.0)
    operator = _NormalOperator(point, 0.1)
    J = jacobian(factors)
    V = np.concatenate(draw_factors(shape, 3, 2, complex_))
    expected = (J.conj().T @ (J @ V.reshape(-1))).reshape(V.shape) + operator.mu * V
    assert np.allclose(operator(V), expected)
    residual = CPTensor(np.ones(3), tuple(factors)).to_dense() - x
    assert np.allclose(point.gradient(), (J.conj().T @ residual.reshape(-1)).reshape(V.shape))
    blocks = np.concatenate([np.full(factor.size, k) for k, factor in enumerate(factors)])
    block_diagonal = (J.conj().T @ J) * (blocks[:, None] == blocks[None, :]) + operator.mu * np.eye(len(blocks))
    assert np.allclose(block_diagonal @ operator.precondition(V).reshape(-1), V.reshape(-1))


@pytest.mark.usefixtures("_plain_units")
def test_the_ridge_enters_objective_and_gradient() -> None:
    factors = draw_factors((3, 4, 2), 2)
    x = np.random.default_rng(3).normal(size=(3, 4, 2))
    ridge, h = 0.3, 1e-6

    def objective(moved: list[np.ndarray]) -> float:
        norms = np.prod([np.linalg.norm(factor, axis=0) for factor in moved], axis=0)
        fit = np.linalg.norm(x - CPTensor(np.ones(2), tuple(moved)).to_dense()) ** 2
        return float(fit + ridge * np.sum(norms**2))

    point = _Point(prepare(x), factors, ridge)
    assert point.objective == pytest.approx(objective(factors), rel=1e-12)
    step = np.concatenate(draw_factors((3, 4, 2), 2, 5))
    slope = (objective(point.moved(h * step)) - objective(point.moved(-h * step))) / (2 * h)
    assert 2 * np.sum(point.gradient() * step) == pytest.approx(slope, rel=1e-6)


@pytest.mark.usefixtures("_plain_units")
def test_balancing_changes_no_product() -> None:
    factors = draw_factors((3, 4, 2), 2, complex_=True)
    factors[1][:, 0] = 0.0  # an extinct component stays
    x = np.random.default_rng(3).normal(size=(3, 4, 2)) + 0j
    point = _Point(prepare(x), factors, 0.0)
    before = CPTensor(np.ones(2), tuple(factors)).to_dense()
    point.balance()
    assert np.allclose(CPTensor(np.ones(2), tuple(point.factors)).to_dense(), before)
    again = _Point(prepare(x), list(point.factors), 0.0)
    assert np.allclose(point.gradient(), again.gradient())
    assert np.allclose(point.grams, again.grams)
    weights, unit = point.normalised()
    assert weights[0] == 0.0
    assert np.allclose(CPTensor(weights, tuple(unit)).to_dense(), before)


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("shape", [(6, 7, 8), (4, 5, 4, 5)])
def test_planted_factors_are_found(shape: tuple[int, ...], complex_: bool) -> None:
    x = CPTensor(np.array([3.0, 2.0, 1.0]), tuple(draw_factors(shape, 3, complex_=complex_))).to_dense()
    result = tnet.cp(x, 3, method="nls", rng=0)
    assert result.status is Status.CONVERGED
    assert result.error < 1e-7
    assert result.error_kind == "exact"
    assert result.error == pytest.approx(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x), rel=1e-3)
    assert np.all(np.diff(result.tensor.weights.real) <= 0)


def test_collinear_factors_need_few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = collinear(12, 4, 0.9)
    x = truth.to_dense()
    x += 1e-3 * np.linalg.norm(x) / np.sqrt(x.size) * np.random.default_rng(1).normal(size=x.shape)
    best = tnet.cp(x, 4, init=truth, stopping=Stopping(max_iter=2000, change=1e-12)).error

    def steps(method: Literal["als", "nls"]) -> int:
        stopping = Stopping(max_iter=5000, change=0)
        result = tnet.cp(x, 4, method=method, stopping=stopping, callback=lambda info: info.error < 1.001 * best)
        assert result.status is Status.CALLBACK
        return len(result.history.error)

    second_order, extrapolated = steps("nls"), steps("als")
    monkeypatch.setattr("tnet.decompositions.cp_als._PLAIN_SWEEPS", 10**9)
    plain = steps("als")
    assert second_order < extrapolated < plain / 4


@given(st.integers(0, 10_000), st.sampled_from([0.0, 1e-2]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_objective_never_rises(seed: int, ridge: float, complex_: bool) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4, 3, 5)) + (1j * rng.normal(size=(4, 3, 5)) if complex_ else 0)
    objective: list[float] = []

    def record(info: IterationInfo[CPTensor]) -> None:
        weights = np.abs(info.tensor.weights)
        objective.append(float(info.error**2 + ridge * np.sum(weights**2) / np.linalg.norm(x) ** 2))
        true = np.linalg.norm(x - info.tensor.to_dense()) / np.linalg.norm(x)
        assert info.error == pytest.approx(true, rel=1e-8)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tnet.cp(x, 3, method="nls", ridge=ridge, rng=seed, stopping=Stopping(max_iter=30, change=0), callback=record)
    assert len(objective) > 5
    assert all(b <= a + 1e-10 for a, b in itertools.pairwise(objective))


def test_a_stationary_point_ends_the_run() -> None:
    x = np.eye(3)[:, :, None] * np.ones(2)
    result = tnet.cp(x, 3, init="random", rng=0, method="nls", stopping=Stopping(max_iter=500, change=0))
    assert result.status is Status.CONVERGED
    assert result.error < 1e-7
    assert len(result.history.error) < 200


def test_the_least_damping_keeps_the_matrices_of_equal_components_regular() -> None:
    point = _Point(prepare(np.ones((3, 4, 5))), [np.ones((n, 6)) for n in (3, 4, 5)], 0.0)
    operator = _NormalOperator(point, _LEAST_DAMPING * 6 * np.finfo(float).eps)
    assert all(np.all(np.isfinite(part)) for part in operator._inverses)
    with pytest.raises(np.linalg.LinAlgError):
        _NormalOperator(point, 0.0)


def test_few_sweeps_stay_with_als() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    stopping = Stopping(max_iter=3, change=0)
    by_als, by_nls = (tnet.cp(x, 2, method=method, stopping=stopping) for method in ("als", "nls"))
    assert by_als.history.error == by_nls.history.error
    assert by_nls.status is Status.MAX_ITER


def test_limits_hold_and_the_callback_stops() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tnet.cp(x, 2, method="nls", stopping=Stopping(max_iter=8, change=1e-15))
    assert len(result.history.error) == 8
    result = tnet.cp(x, 2, method="nls", callback=lambda info: info.iteration == 7)
    assert result.status is Status.CALLBACK
    assert len(result.history.error) == 7


def test_ctrl_c_keeps_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    module = sys.modules["tnet.decompositions.cp_nls"]
    solve, calls = module._conjugate_gradients, itertools.count()

    def interrupted(*arguments: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return solve(*arguments)

    monkeypatch.setattr(module, "_conjugate_gradients", interrupted)
    result = tnet.cp(x, 2, method="nls", stopping=Stopping(change=0))
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) == 7  # five sweeps, two steps
    true = np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x)
    assert result.error == pytest.approx(true, rel=1e-9)


def test_degeneracy_is_told_and_parts_stay_finite() -> None:
    a, b = np.eye(2)
    x = sum(np.einsum("i,j,k->ijk", *terms) for terms in ((a, a, b), (a, b, a), (b, a, a)))
    with pytest.warns(ConvergenceWarning, match="cancel"):
        result = tnet.cp(x, 2, init="random", rng=0, method="nls", stopping=Stopping(max_iter=60, change=0))
    assert result.status is Status.DEGENERATE
    assert all(np.all(np.isfinite(part)) for part in result.tensor.arrays)


@pytest.mark.parametrize("complex_", [False, True])
def test_all_libraries_take_the_same_steps(convert: Any, complex_: bool) -> None:
    x = collinear(6, 3, 0.5).to_dense() + 0.01 * np.random.default_rng(0).normal(size=(6, 6, 6))
    x = x * np.exp(1j * np.arange(6.0)) if complex_ else x
    stopping = Stopping(max_iter=15, change=0)
    host = tnet.cp(x, 3, method="nls", init="random", rng=1, stopping=stopping)
    other = tnet.cp(convert(x), 3, method="nls", init="random", rng=1, stopping=stopping)
    assert type(other.tensor.weights) is type(convert(x))
    assert np.allclose(host.history.error, other.history.error, rtol=1e-6)
