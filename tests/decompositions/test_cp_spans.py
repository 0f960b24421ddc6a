"""Sweeps within the spans of the factors: exact there, worth their price or left out."""

from __future__ import annotations

import itertools
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.arrays import to_numpy
from tnet.decompositions.cp_spans import Spans
from tnet.decompositions.momentum import Momentum
from tnet.decompositions.preparation import prepare
from tnet.errors import ConvergenceWarning
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status


@pytest.fixture
def rounds_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds pay for tensors as small as those of tests, which spend their time on calls."""
    monkeypatch.setattr("tnet.decompositions.cp_spans._CALLS", {"cpu": 0.0})


def spans_of(x: Any, R: int) -> Spans:
    return Spans(prepare(x), R, Momentum(ceiling_growth=1.02))


def collinear(n: int, R: int, cosine: float, rng: np.random.Generator) -> np.ndarray:
    """Return columns of norm 1 with a given cosine between any two."""
    L = np.linalg.cholesky((1 - cosine) * np.eye(R) + cosine).T
    return np.linalg.qr(rng.normal(size=(n, R)))[0] @ L


def hard(noise: float, shape: tuple[int, ...] = (30, 24, 20), R: int = 4) -> np.ndarray:
    """Return a tensor with components of congruence 0.9, and noise of the given part of its norm."""
    rng = np.random.default_rng(0)
    x = CPTensor(np.ones(R), tuple(collinear(n, R, 0.9, rng) for n in shape)).to_dense()
    E = rng.normal(size=shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


@given(
    st.lists(st.integers(2, 12), min_size=1, max_size=4),
    st.integers(1, 5),
    st.booleans(),
    st.booleans(),
    st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_the_core_tells_the_error_of_every_model_in_the_spans(
    shape: list[int], R: int, both: bool, complex_: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    draw = lambda *n: rng.normal(size=n) + (1j * rng.normal(size=n) if complex_ else 0)  # noqa: E731
    x = draw(*shape)
    new, before = ([draw(n, R) for n in shape] for _ in range(2))
    spans = spans_of(x, R)
    spans._both = both
    within = spans.project(prepare(x), new, before)
    # A point between the last factors and those before, or any mixture of the last.
    mixture = draw(R, R)
    inside = [A + 0.3 * (A - B) if both else A @ mixture for A, B in zip(new, before, strict=True)]
    inside = [A / np.linalg.norm(A, axis=0) for A in inside]
    weights = draw(R)
    model = CPTensor(weights, tuple(inside)).to_dense()
    small = CPTensor(weights, tuple(within.coordinates(inside))).to_dense()
    left_out = np.linalg.norm(x) ** 2 - within.core.squared_norm
    assert np.linalg.norm(x - model) ** 2 == pytest.approx(
        left_out + np.linalg.norm(within.core.array - small) ** 2, rel=1e-9, abs=1e-9
    )
    back = CPTensor(weights, tuple(within.factors(within.coordinates(inside)))).to_dense()
    assert np.allclose(back, model)


def test_other_libraries(convert: Any) -> None:
    x = hard(0.1)
    factors = [np.linalg.qr(np.random.default_rng(1).normal(size=(n, 4)))[0] for n in x.shape]
    host = spans_of(x, 4).project(prepare(x), factors, factors)
    given_ = [convert(A) for A in factors]
    there = spans_of(convert(x), 4).project(prepare(convert(x)), given_, given_)
    assert there.core.squared_norm == pytest.approx(host.core.squared_norm)
    for A, B in zip(there.factors(there.coordinates(given_)), factors, strict=True):
        assert np.allclose(to_numpy(A), B)


@pytest.mark.usefixtures("rounds_pay")
@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("order", [3, 4])
def test_rounds_replace_many_sweeps(noise: float, order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = hard(noise, (30, 24, 20, 9)[:order])
    stopping = Stopping(max_iter=2000, change=1e-10)
    found = tnet.cp(x, 4, init="random", rng=0, stopping=stopping)
    monkeypatch.setattr(Spans, "due", lambda self: False)
    wanted = tnet.cp(x, 4, init="random", rng=0, stopping=stopping)
    assert found.status is Status.CONVERGED
    assert found.error <= wanted.error + 1e-6
    assert found.error == pytest.approx(np.linalg.norm(x - found.tensor.to_dense()) / np.linalg.norm(x), rel=1e-6)
    assert len(found.history.error) < len(wanted.history.error) / 2


@pytest.mark.usefixtures("rounds_pay")
@pytest.mark.parametrize("ridge", [0.0, 1e-3])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex128"])
def test_the_objective_never_rises(ridge: float, dtype: str) -> None:
    rng = np.random.default_rng(0)
    for x in (hard(0.3).astype(dtype), rng.normal(size=(20, 18, 16)).astype(dtype)):
        objective: list[float] = []

        def record(info: Any, x: np.ndarray = x, objective: list[float] = objective) -> None:
            penalty = ridge * float(np.sum(np.abs(info.tensor.weights) ** 2)) / np.linalg.norm(x) ** 2
            objective.append(float(np.hypot(info.error, penalty**0.5)))

        tnet.cp(x, 4, init="random", rng=0, ridge=ridge, stopping=Stopping(max_iter=40, change=0), callback=record)
        slack = 1e-5 if dtype == "float32" else 1e-12
        assert all(b <= a + slack for a, b in itertools.pairwise(objective))


def test_rounds_are_left_out_where_a_core_is_no_smaller() -> None:
    rng = np.random.default_rng(0)
    large = rng.normal(size=(100, 100, 100))
    assert spans_of(large, 5).due()
    assert not spans_of(large, 80).due()
    assert not spans_of(large[:8, :8, :8], 2).due()  # small anyway
    assert not spans_of(large[0, 0, :], 2).due()


def test_rounds_that_gain_little_wait_longer_each_time() -> None:
    spans = spans_of(np.random.default_rng(0).normal(size=(100, 100, 100)), 5)
    first = spans.sweeps
    for pause in (4, 8, 16):
        assert spans.due()
        spans.judge(1e-3, 1e-3)
        assert [spans.due() for _ in range(pause)] == [False] * (pause - 1) + [True]
    assert spans.sweeps == first
    for _ in range(10):
        spans.judge(1e-3, 1e-6)
        assert spans.due()
    assert spans.sweeps == 4 * first


@pytest.mark.usefixtures("rounds_pay")
def test_ctrl_c_within_a_round_returns_the_last_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["tnet.decompositions.cp_als"]
    monkeypatch.setattr(module, "_PLAIN_SWEEPS", 3)
    solve, calls = module.cholesky_solve_gram, itertools.count()

    def interrupted(G: Any, M: Any) -> Any:
        if next(calls) == 13:  # in the second sweep of the first round
            raise KeyboardInterrupt
        return solve(G, M)

    monkeypatch.setattr(module, "cholesky_solve_gram", interrupted)
    x = hard(0.1)
    result = tnet.cp(x, 4, init="random", rng=0)
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) == 3
    assert result.error == pytest.approx(np.linalg.norm(x - result.tensor.to_dense()) / np.linalg.norm(x), rel=1e-9)


@pytest.mark.usefixtures("rounds_pay")
def test_extinct_components_have_spans() -> None:
    x = hard(0.1)
    start = CPTensor(np.ones(4), tuple(np.random.default_rng(0).normal(size=(n, 4)) for n in x.shape))
    start.factors[1][:, 2:] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = tnet.cp(x, 4, init=start, stopping=Stopping(max_iter=40, change=0))
        gone = tnet.cp(0.0 * x, 4, init=start, stopping=Stopping(max_iter=40, change=0))
    assert np.all(np.isfinite(result.tensor.to_dense()))
    assert list(result.tensor.weights[2:]) == [0.0, 0.0]
    assert gone.error == 0.0
