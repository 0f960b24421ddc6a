"""Canonical polyadic decomposition: planted factors, the account of the iteration, degeneracy."""

from __future__ import annotations

import itertools
import sys
import warnings
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

LONG = Stopping(max_iter=1000, change=1e-12)


def planted(shape: tuple[int, ...], rank: int, seed: int = 0, complex_: bool = False) -> CPTensor:
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(n, rank)) + (1j * rng.normal(size=(n, rank)) if complex_ else 0) for n in shape]
    factors = [factor / np.linalg.norm(factor, axis=0) for factor in factors]
    return CPTensor(np.linspace(2.0, 1.0, rank).astype(factors[0].dtype), tuple(factors))


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.parametrize("shape", [(6, 7, 8), (4, 5, 4, 5), (3, 4, 3, 3, 4)])
def test_planted_factors_are_found(shape: tuple[int, ...], complex_: bool) -> None:
    truth = planted(shape, 3, complex_=complex_)
    result = tnet.cp(truth.to_dense(), 3, rng=0, stopping=LONG)
    assert result.error < 1e-9
    assert result.error_kind == "exact"
    assert result.status is Status.CONVERGED
    assert np.allclose(result.tensor.weights, truth.weights, rtol=1e-6)
    for found, wanted in zip(result.tensor.factors, truth.factors, strict=True):
        overlap = np.abs(np.sum(found.conj() * wanted, axis=0))
        assert np.allclose(overlap, 1.0, atol=1e-6)


def test_rank_may_exceed_every_mode() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = tnet.cp(x, 4, rng=1, stopping=Stopping(max_iter=300))
    assert result.tensor.rank == 4
    assert result.error < 1e-3
    assert result.rng_seed == 1


@given(st.integers(0, 10_000), st.sampled_from(["svd", "random"]), st.sampled_from([0.0, 1e-3]))
@settings(max_examples=25, deadline=None)
def test_the_objective_never_rises(seed: int, init: Any, ridge: float) -> None:
    x = np.random.default_rng(seed).normal(size=(4, 3, 5))
    objective: list[float] = []

    def record(info: IterationInfo[CPTensor]) -> None:
        penalty = ridge * float(np.sum(info.tensor.weights**2)) / np.linalg.norm(x) ** 2
        objective.append(float(info.error**2 + penalty))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        tnet.cp(x, 3, init=init, ridge=ridge, rng=seed, stopping=Stopping(max_iter=25, change=0), callback=record)
    assert len(objective) == 25
    assert all(b <= a + 1e-10 for a, b in itertools.pairwise(objective))


def test_an_extrapolated_sweep_that_goes_too_far_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["tnet.decompositions.cp_als"]
    monkeypatch.setattr(module, "_ahead", lambda new, old, beta: [A[::-1] for A in new])  # nonsense
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    stopping = Stopping(max_iter=16, change=0)
    far = tnet.cp(x, 3, stopping=stopping)
    monkeypatch.setattr(module, "_PLAIN_SWEEPS", 100)
    plain = tnet.cp(x, 3, stopping=Stopping(max_iter=13, change=0))
    # Sweeps 11, 13 and 15 start too far away: their errors repeat, and the plain ones between go on.
    errors = far.history.error
    assert np.allclose(errors[:10], plain.history.error[:10], rtol=1e-12)
    assert errors[10] == errors[9]
    assert np.allclose(errors[11::2], plain.history.error[10:], rtol=1e-9)


def test_weights_descend_and_columns_have_norm_one() -> None:
    x = np.random.default_rng(0).normal(size=(5, 6, 7))
    result = tnet.cp(x, 3, rng=0, stopping=Stopping(max_iter=50, change=1e-4))
    weights, factors = result.tensor
    assert np.all(weights > 0)
    assert np.all(np.diff(weights) <= 0)
    for factor in factors:
        assert np.allclose(np.linalg.norm(factor, axis=0), 1.0)


def test_one_seed_gives_one_result_everywhere() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    stop = Stopping(max_iter=5, change=0)
    a, b = (tnet.cp(x, 3, init="random", rng=3, stopping=stop) for _ in range(2))
    assert np.array_equal(np.asarray(a.tensor), np.asarray(b.tensor))
    t = tnet.cp(torch.from_numpy(x), 3, init="random", rng=3, stopping=stop)
    assert np.allclose(np.asarray(t.tensor), np.asarray(a.tensor), atol=1e-8)
    fresh = tnet.cp(x, 3, init="random", stopping=stop)
    again = tnet.cp(x, 3, init="random", rng=fresh.rng_seed, stopping=stop)
    assert np.array_equal(np.asarray(fresh.tensor), np.asarray(again.tensor))
    assert tnet.cp(x, 3, stopping=stop).rng_seed is None  # nothing random: all columns from the SVDs


def test_a_given_start_is_taken() -> None:
    truth = planted((5, 6, 7), 2)
    result = tnet.cp(truth.to_dense(), 2, init=truth, stopping=Stopping(max_iter=2))
    assert result.error < 1e-14
    assert result.rng_seed is None


def test_the_gram_error_is_the_residual_above_its_floor() -> None:
    x = np.random.default_rng(0).normal(size=(6, 7, 8))
    result = tnet.cp(x, 2, stopping=Stopping(max_iter=30, change=1e-3))
    assert result.error_kind == "gram"
    assert result.error == pytest.approx(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x), rel=1e-10)
    assert len(result.history.error) == len(result.history.seconds)
    assert result.history.error[-1] == result.error


def test_float32_reports_small_errors_exactly() -> None:
    x = planted((6, 7, 8), 2).to_dense().astype(np.float32)
    result = tnet.cp(x, 2, stopping=Stopping(max_iter=100, change=1e-7))
    assert result.error_kind == "exact"
    assert result.error < 1e-5


def test_max_iter_warns() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tnet.cp(x, 2, stopping=Stopping(max_iter=2, change=1e-12))
    assert result.status is Status.MAX_ITER
    assert not result.converged


def test_max_seconds_warns() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.cp(x, 2, stopping=Stopping(max_seconds=1e-9, change=0))
    assert result.status is Status.MAX_SECONDS
    assert len(result.history.error) == 1


def test_the_callback_sees_and_stops() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6)) * 1e30
    seen: list[IterationInfo[CPTensor]] = []

    def stop_at_three(info: IterationInfo[CPTensor]) -> bool:
        seen.append(info)
        return info.iteration == 3

    result = tnet.cp(x, 2, callback=stop_at_three)
    assert result.status is Status.CALLBACK
    assert [info.iteration for info in seen] == [1, 2, 3]
    assert np.array_equal(np.asarray(seen[-1].tensor), np.asarray(result.tensor))
    assert seen[-1].error == result.error


def test_ctrl_c_returns_the_last_complete_sweep() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))

    def interrupt(info: IterationInfo[CPTensor]) -> None:
        if info.iteration == 4:
            raise KeyboardInterrupt

    result = tnet.cp(x, 2, callback=interrupt)
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) == 4
    assert result.error == pytest.approx(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x), rel=1e-9)


def test_ctrl_c_within_a_sweep_does_not_tear_it(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    module = sys.modules["tnet.decompositions.cp_als"]
    solve, calls = module.cholesky_solve_gram, itertools.count()

    def interrupted(G: Any, M: Any) -> Any:
        if next(calls) == 7:  # the second mode of the third sweep
            raise KeyboardInterrupt
        return solve(G, M)

    monkeypatch.setattr(module, "cholesky_solve_gram", interrupted)
    result = tnet.cp(x, 2)
    assert result.status is Status.INTERRUPTED
    assert len(result.history.error) == 2
    assert result.error == pytest.approx(np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x), rel=1e-9)
    monkeypatch.setattr(module, "cholesky_solve_gram", lambda G, M: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        tnet.cp(x, 2)


def test_degenerate_components_are_told() -> None:
    # De Silva and Lim (2008): a x a x b + a x b x a + b x a x a has rank 3 and border rank 2, so that no
    # best approximation of rank 2 exists: the terms grow and cancel.
    a, b = np.eye(2)
    x = sum(np.einsum("i,j,k->ijk", *terms) for terms in ((a, a, b), (a, b, a), (b, a, a)))
    with pytest.warns(ConvergenceWarning, match="cancel"):
        result = tnet.cp(x, 2, init="random", rng=0, stopping=Stopping(max_iter=200, change=0))
    assert result.status is Status.DEGENERATE
    assert all(np.all(np.isfinite(part)) for part in result.tensor.arrays)
    assert max(result.tensor.weights) > 1.5 * np.linalg.norm(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        held = tnet.cp(x, 2, init="random", rng=0, ridge=1e-2, stopping=Stopping(max_iter=1000, change=1e-6))
    assert max(held.tensor.weights) < max(result.tensor.weights)


@pytest.mark.parametrize("decompose", [tnet.cp, lambda x, R, **options: tnet.batch.cp(x[None], R, **options)])
def test_a_callback_that_ends_a_degenerate_fit_is_what_the_status_tells(decompose: Any) -> None:
    a, b = np.eye(2)
    x = sum(np.einsum("i,j,k->ijk", *term) for term in ((a, a, b), (a, b, a), (b, a, a)))
    options = {"init": "random", "rng": 0, "stopping": Stopping(max_iter=200, change=0)}
    with pytest.warns(ConvergenceWarning):
        degenerate = decompose(x, 2, **options)
    stopped = decompose(x, 2, callback=lambda info: info.iteration == 199, **options)
    for result, status in ((degenerate, Status.DEGENERATE), (stopped, Status.CALLBACK)):
        assert status in (result.status if isinstance(result.status, tuple) else (result.status,))


def test_dependent_components_are_solved_by_the_pseudo_inverse() -> None:
    x = np.einsum("i,j,k->ijk", np.arange(1.0, 4.0), np.ones(4), np.arange(5.0))  # rank 1, asked for 3
    result = tnet.cp(x, 3, rng=0, stopping=Stopping(max_iter=50))
    assert result.error < 1e-6
    assert all(np.all(np.isfinite(part)) for part in result.tensor.arrays)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"init": "best"}, InputError, "init"),
        ({"init": 3}, InputError, "init"),
        ({"init": planted((4, 5, 7), 2)}, ShapeError, "init"),
        ({"init": planted((4, 5, 6), 3)}, ShapeError, "init"),
        ({"init": planted((4, 5, 6), 2).astype("float32").map_arrays(torch.from_numpy)}, BackendError, "librar"),
        ({"method": "newton"}, InputError, "method"),
        ({"ridge": -1.0}, InputError, "ridge"),
        ({"ridge": float("nan")}, InputError, "ridge"),
        ({"ridge": "small"}, InputError, "ridge"),
        ({"ridge": True}, InputError, "ridge"),
        ({"ridge": 1e13}, InputError, "ridge"),
        ({"rng": "seed"}, InputError, "rng"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        tnet.cp(np.ones((4, 5, 6)), 2, **options)


def test_a_start_with_holes_is_refused() -> None:
    start = planted((4, 5, 6), 2)
    start.factors[1][0, 0] = np.nan
    with pytest.raises(InputError, match="init"):
        tnet.cp(np.ones((4, 5, 6)), 2, init=start)


@pytest.mark.parametrize("method", ["als", "nls"])
@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
def test_a_ridge_converges_although_the_error_rises(method: Any) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    best = tnet.cp(x, 3, stopping=LONG).tensor  # the penalty draws away from it: the error rises at first
    ridge = 0.1
    result = tnet.cp(x, 3, init=best, ridge=ridge, method=method, stopping=Stopping(max_iter=500))
    assert any(b > a for a, b in itertools.pairwise(result.history.error))

    def objective(tensor: CPTensor) -> float:
        return float(np.linalg.norm(x - tensor.to_dense()) ** 2 + ridge * np.sum(tensor.weights**2))

    longer = tnet.cp(x, 3, init=result.tensor, ridge=ridge, stopping=Stopping(max_iter=300, change=0))
    assert objective(result.tensor) < objective(longer.tensor) * (1 + 1e-5)


def near_border(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return a tensor of border rank 2: near it, components of 10^7 times its norm cancel."""
    rng = np.random.default_rng(seed)
    a, b = ([rng.normal(size=n) for n in shape] for _ in range(2))
    return np.asarray(sum(np.einsum("i,j,k->ijk", *a[:k], b[k], *a[k + 1 :]) for k in range(3)))


@pytest.mark.parametrize("method", ["als", "nls"])
@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
def test_the_error_is_true_and_never_rises_where_components_cancel(method: Any) -> None:
    for seed in range(20):
        x = near_border((3, 6, 7), seed)
        result = tnet.cp(x, 3, init="gevd", method=method, stopping=Stopping(max_iter=30, change=0))
        true = np.linalg.norm(x - result.tensor.to_dense()) / np.linalg.norm(x)
        assert result.error == pytest.approx(true, rel=1e-3, abs=1e-7)
        assert all(b <= a * (1 + 1e-12) for a, b in itertools.pairwise(result.history.error))


def test_a_long_mode_takes_no_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["tnet.decompositions.cp_start"]
    grams: list[int] = []
    whole = module.mode_gram
    monkeypatch.setattr(module, "mode_gram", lambda x, mode: grams.append(x.shape[mode]) or whole(x, mode))
    for shape in ((40, 2, 3), (2, 40, 3), (2, 3, 40)):
        x = planted(shape, 2).to_dense()
        assert tnet.cp(x, 2, stopping=LONG).error < 1e-9
    assert max(grams) == 3
    # Six left singular vectors are all that there are.
    assert tnet.cp(x, 8, rng=5, stopping=Stopping(max_iter=2, change=0)).rng_seed == 5


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_a_given_start_may_have_any_scale(scale: float) -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    start = planted((4, 5, 6), 2)
    far = CPTensor(start.weights, tuple(scale * factor for factor in start.factors))
    for tensor in (x, x.astype(np.float32)):
        wanted = tnet.cp(tensor, 2, init=start, stopping=Stopping(max_iter=5, change=0))
        found = tnet.cp(tensor, 2, init=far, stopping=Stopping(max_iter=5, change=0))
        assert found.error == pytest.approx(wanted.error, rel=1e-6)


@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
def test_starts_of_other_kinds() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    with pytest.raises(InputError, match="complex"):
        tnet.cp(x, 2, init=planted((4, 5, 6), 2, complex_=True))
    whole = CPTensor(np.ones(2), tuple(np.eye(n, 2, dtype=int) for n in x.shape))
    assert tnet.cp(x, 2, init=whole, stopping=Stopping(max_iter=3, change=0)).error < 1
    recording = planted((4, 5, 6), 2).map_arrays(lambda part: torch.from_numpy(part).requires_grad_())
    result = tnet.cp(torch.from_numpy(x), 2, init=recording)
    assert not any(part.requires_grad for part in result.tensor.arrays)


def test_extinct_components_stay_and_nothing_fails() -> None:
    x = np.random.default_rng(0).normal(size=(4, 5, 6))
    start = planted((4, 5, 6), 2)
    for columns, error in ((slice(1, 2), 1.0), (slice(None), 1.0)):
        start.factors[1][:, columns] = 0.0
        for method in ("als", "nls"):
            result = tnet.cp(x, 2, init=start, method=method, stopping=Stopping(max_iter=30, change=0))
            assert result.tensor.weights[1] == 0.0
            assert result.error <= error


def test_strided_input_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = sys.modules["tnet.decompositions.cp_als"]
    given: list[bool] = []
    cycle = module.mttkrp_cycle
    monkeypatch.setattr(
        module, "mttkrp_cycle", lambda x, factors: given.append(x.flags.c_contiguous) or cycle(x, factors)
    )
    x = np.asfortranarray(np.random.default_rng(0).normal(size=(4, 5, 6)))
    tnet.cp(x, 2, stopping=Stopping(max_iter=20, change=0))
    assert len(given) > 5  # every extrapolation begins a cycle
    assert all(given)
