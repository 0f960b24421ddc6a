"""Sampled CP: unbiased normal equations, certain rows, exact last error, one seed one result."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tnet
from tnet.arrays import khatri_rao
from tnet.decompositions import IterationInfo
from tnet.decompositions.preparation import prepare
from tnet.decompositions.sampled_cp import _draw, _probable_rows, _row_probabilities, _SampledProblem
from tnet.errors import ConvergenceWarning, InputError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status


@pytest.fixture
def few_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small tensors be sampled."""
    monkeypatch.setattr("tnet.decompositions.sampled_cp._LEAST_SAMPLES", 60)
    monkeypatch.setattr("tnet.decompositions.sampled_cp._SAMPLES_PER_PRODUCT", 1)
    monkeypatch.setattr("tnet.decompositions.sampled_cp._CHECKED", 500)


def planted(shape: tuple[int, ...], rank: int, noise: float = 0.0, complex_: bool = False) -> np.ndarray:
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, rank)) + (1j * rng.normal(size=(n, rank)) if complex_ else 0) for n in shape]
    x = CPTensor(np.ones(rank).astype(factors[0].dtype), tuple(factors)).to_dense()
    E = rng.normal(size=shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


def true_error(x: Any, result: Any) -> float:
    x, y = np.asarray(x), np.asarray(result.tensor)
    return float(np.linalg.norm(x - y) / np.linalg.norm(x))


def uneven(n: int, R: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, R)) * np.exp(2 * rng.normal(size=(n, 1)))


def test_row_probabilities_are_leverage_scores() -> None:
    A = uneven(12, 3, 0)
    Q, _ = np.linalg.qr(A)
    assert np.allclose(_row_probabilities(A, A.T @ A), np.sum(Q**2, axis=1) / 3)
    assert np.allclose(_row_probabilities(0 * A, 0 * A.T @ A), 1 / 12)


@pytest.mark.parametrize("samples", [5, 40, 200])
def test_the_draws_estimate_without_bias(samples: int) -> None:
    factors = [uneven(n, 2, n) for n in (5, 6, 7)]
    p = [_row_probabilities(A, A.T @ A) for A in factors]
    Z = khatri_rao(factors)
    wanted = Z.T @ Z
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(400):
        rows, weights = _draw(rng, p, samples)
        part = np.prod([A[index] for A, index in zip(factors, rows, strict=True)], axis=0)
        estimates.append(part.T @ (part * weights[:, None]))
        flat = np.ravel_multi_index(rows, (5, 6, 7))
        assert len(np.unique(flat)) == len(flat) <= samples
    spread = np.std(estimates, axis=0) / math.sqrt(400)
    assert np.all(np.abs(np.mean(estimates, axis=0) - wanted) < 5 * spread + 1e-12 * np.abs(wanted))


def test_certain_rows_are_those_more_probable_than_the_bound() -> None:
    p = [_row_probabilities(A, A.T @ A) for A in (uneven(5, 2, 1), uneven(6, 2, 2), uneven(7, 2, 3))]
    joint = np.einsum("i,j,k->ijk", *p).reshape(-1)
    for least in (0.5, 0.05, 0.002):
        flat, probability = _probable_rows(p, least)
        assert np.array_equal(np.sort(flat), np.flatnonzero(joint >= least))
        assert np.allclose(probability, joint[flat])


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize("shape", [(9, 10, 11), (6, 7, 5, 6)])
@pytest.mark.parametrize("complex_", [False, True])
def test_normal_equations_are_those_of_the_fibres(shape: tuple[int, ...], complex_: bool) -> None:
    x = planted(shape, 2, complex_=complex_)
    problem = _SampledProblem(prepare(x), 2, "random", 0.0, np.random.default_rng(0))
    factors = problem.factors
    for mode in range(len(shape)):
        others = [k for k in range(len(shape)) if k != mode]
        rng = np.random.default_rng(1)
        rows = [rng.integers(shape[k], size=20) for k in others]
        fibres = problem._fibres(mode, others, rows)
        unfolded = np.moveaxis(x, mode, 0).reshape(shape[mode], -1)
        flat = np.ravel_multi_index(rows, [shape[k] for k in others])
        assert np.array_equal(fibres, unfolded[:, flat])
        Z = khatri_rao([factors[k] for k in others])
        assert np.allclose(problem._rows([factors[k] for k in others], rows), Z[flat])
        # On exact data the sampled problem has the solution of the whole one, whatever was drawn.
        M, H = problem._normal_equations(mode)
        assert M.shape == (shape[mode], 2)
        assert np.allclose(H, H.conj().T)
        assert np.linalg.norm(H - Z.T @ Z.conj()) < 0.9 * np.linalg.norm(H)
        assert not np.allclose(H, Z.T @ Z.conj())  # it was sampled


@pytest.mark.usefixtures("few_samples")
@pytest.mark.parametrize("init", ["svd", "random"])
@pytest.mark.parametrize("complex_", [False, True])
def test_planted_factors_are_found(init: Any, complex_: bool) -> None:
    x = planted((18, 19, 20), 3, complex_=complex_)
    result = tnet.cp(x, 3, method="randomized", init=init, rng=0, stopping=Stopping(300, 1e-9))
    assert result.error < 1e-4
    assert result.error == pytest.approx(true_error(x, result), rel=1e-3, abs=1e-9)
    assert result.rng_seed == 0


@pytest.mark.usefixtures("few_samples")
def test_the_last_error_is_exact_and_the_others_are_near() -> None:
    x = planted((18, 19, 20), 3, noise=0.1)
    seen: list[tuple[float, float]] = []

    def record(info: IterationInfo[CPTensor]) -> None:
        seen.append((info.error, true_error(x, info)))

    stopping = Stopping(30, 0)
    result = tnet.cp(x, 3, method="randomized", rng=1, stopping=stopping, callback=record)
    assert len(seen) == len(result.history.error) == 30
    assert result.status is Status.MAX_ITER
    assert all(estimate == pytest.approx(true, rel=0.25) for estimate, true in seen)
    assert any(estimate != pytest.approx(true, rel=1e-4) for estimate, true in seen[:-1])
    assert result.error == pytest.approx(true_error(x, result), rel=1e-10)
    exact = tnet.cp(x, 3, rng=1, stopping=Stopping(200, 1e-10))
    assert result.error < 1.02 * exact.error


@pytest.mark.usefixtures("few_samples")
def test_whatever_ends_it_the_error_is_exact() -> None:
    x = planted((18, 19, 20), 3, noise=0.1)

    def stop(info: IterationInfo[CPTensor]) -> bool:
        return info.iteration == 3

    def interrupt(info: IterationInfo[CPTensor]) -> None:
        if info.iteration == 3:
            raise KeyboardInterrupt

    for callback, status in ((stop, Status.CALLBACK), (interrupt, Status.INTERRUPTED)):
        result = tnet.cp(x, 3, method="randomized", rng=0, callback=callback)
        assert result.status is status
        assert result.error_kind == "exact"
        assert len(result.history.error) == 3
        assert result.error == result.history.error[-1] == pytest.approx(true_error(x, result), rel=1e-10)
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.cp(x, 3, method="randomized", rng=0, stopping=Stopping(max_seconds=1e-9))
    assert result.error == pytest.approx(true_error(x, result), rel=1e-10)
    last = tnet.cp(x, 3, method="randomized", rng=0, stopping=Stopping(3, 0), callback=stop)
    assert last.status is Status.CALLBACK
    assert last.error == pytest.approx(true_error(x, last), rel=1e-10)


@pytest.mark.usefixtures("few_samples")
def test_it_converges_when_the_estimates_stop_falling() -> None:
    x = planted((18, 19, 20), 3, noise=0.2)
    result = tnet.cp(x, 3, method="randomized", rng=0, stopping=Stopping(200, 1e-3))
    assert result.status is Status.CONVERGED
    assert 6 < len(result.history.error) < 60


@pytest.mark.usefixtures("few_samples")
def test_one_seed_gives_one_result_in_every_library(convert: Callable[[np.ndarray], Any]) -> None:
    x = planted((12, 13, 14), 2, noise=0.05)
    stopping = Stopping(6, 0)
    wanted = tnet.cp(x, 2, method="randomized", rng=5, stopping=stopping)
    found = tnet.cp(convert(x), 2, method="randomized", rng=5, stopping=stopping)
    assert np.allclose(found.history.error, wanted.history.error, rtol=1e-8)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-7)
    assert tnet.cp(x, 2, method="randomized", rng=6, stopping=stopping).error != wanted.error


@pytest.mark.usefixtures("few_samples")
def test_layouts_scales_ridge_and_zeros() -> None:
    x = planted((12, 13, 14), 2, noise=0.05)
    stopping = Stopping(8, 0)
    wanted = tnet.cp(x, 2, method="randomized", rng=5, stopping=stopping)
    for same in (np.asfortranarray(x), torch.from_numpy(x).permute(2, 0, 1).contiguous().permute(1, 2, 0)):
        found = tnet.cp(same, 2, method="randomized", rng=5, stopping=stopping)
        assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-8)
    tiny = tnet.cp(x * 2.0**-600, 2, method="randomized", rng=5, stopping=stopping)
    assert tiny.error == pytest.approx(wanted.error, rel=1e-10)
    held = tnet.cp(x, 2, method="randomized", rng=5, ridge=0.1, stopping=stopping)
    assert np.sum(held.tensor.weights) < np.sum(wanted.tensor.weights)
    zero = tnet.cp(0 * x, 2, method="randomized", rng=5)
    assert zero.error == 0.0
    assert zero.converged
    assert not np.any(np.asarray(zero.tensor))


@pytest.mark.usefixtures("few_samples")
def test_rank_above_a_mode_and_few_sweeps() -> None:
    x = planted((3, 19, 31), 2, noise=0.05)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for sweeps in (1, 2, 40):
            result = tnet.cp(x, 5, method="randomized", rng=0, stopping=Stopping(sweeps))
            assert result.tensor.rank == 5
            assert result.error == pytest.approx(true_error(x, result), rel=1e-8)


def test_a_large_tensor_is_sampled_and_a_small_one_is_not() -> None:
    x = planted((60, 60, 60), 3, noise=0.1)
    large = tnet.cp(x, 3, method="randomized", rng=0, stopping=Stopping(100, 1e-4))
    assert large.error < 0.1003
    small = tnet.cp(x[:9, :9, :9], 3, method="randomized", init="random", rng=0, stopping=Stopping(20, 0))
    exact = tnet.cp(x[:9, :9, :9], 3, init="random", rng=small.rng_seed, stopping=Stopping(20, 0))
    assert small.error < 1.05 * exact.error


def test_bad_options_are_refused_by_name() -> None:
    x = np.ones((4, 5, 6))
    with pytest.raises(InputError, match="nonnegative"):
        tnet.cp(x, 2, method="randomized", nonnegative=True)
    with pytest.raises(InputError, match="init"):
        tnet.cp(x, 2, method="randomized", init="best")  # type: ignore[arg-type]
