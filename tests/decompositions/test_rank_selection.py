"""Rank selection: planted ranks are found by every method, and each score is what its definition says."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import silhouette_samples

import tnet
from tnet.decompositions import RankSelection, select_cp_rank
from tnet.decompositions.component_clusters import matched_components
from tnet.decompositions.cp_fit import CPFit
from tnet.decompositions.rank_selection import _consistency, _silhouettes
from tnet.errors import BackendError, InputError, RankError
from tnet.formats import CPTensor
from tnet.options import Stopping
from tnet.results import Status

METHODS = ["core_consistency", "held_out", "stability"]


def planted(
    rank: int, noise: float, nonnegative: bool, seed: int, shape: tuple[int, ...] = (11, 12, 13)
) -> np.ndarray:
    rng = np.random.default_rng(seed)
    draw = lambda n: rng.random((n, rank)) * (rng.random((n, rank)) < 0.6)  # noqa: E731
    factors = [draw(n) if nonnegative else rng.normal(size=(n, rank)) for n in shape]
    x = CPTensor(np.ones(rank), tuple(factors)).to_dense()
    E = rng.normal(size=shape)
    return x + noise * np.linalg.norm(x) / np.linalg.norm(E) * E


def fit_of(factors: list[np.ndarray], error: float = 0.1) -> CPFit:
    unit = tuple(factor / np.linalg.norm(factor, axis=0) for factor in factors)
    return CPFit(np.ones(factors[0].shape[1]), unit, Status.CONVERGED, "gram", (error,), (0.0,))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("noise", [0.02, 0.25])
def test_planted_ranks_are_found(method: Any, nonnegative: bool, noise: float) -> None:
    found = select_cp_rank(planted(3, noise, nonnegative, 3), 5, method=method, nonnegative=nonnegative, rng=0)
    assert found.rank == 3, found
    assert found.ranks == (1, 2, 3, 4, 5)
    assert len(found.scores) == len(found.errors) == 5
    assert found.method == method


@pytest.mark.parametrize("method", ["core_consistency", "held_out"])
def test_noise_has_rank_one(method: Any) -> None:
    x = np.random.default_rng(0).normal(size=(9, 10, 11))
    assert select_cp_rank(x, 4, method=method, rng=0).rank == 1


def test_exact_data_and_complex_data() -> None:
    assert select_cp_rank(planted(2, 0.0, False, 0), 4, rng=0).rank == 2
    rng = np.random.default_rng(0)
    factors = [rng.normal(size=(n, 2)) + 1j * rng.normal(size=(n, 2)) for n in (8, 9, 10)]
    x = CPTensor(np.ones(2, dtype=complex), tuple(factors)).to_dense()
    x += 0.5 * (rng.normal(size=x.shape) + 1j * rng.normal(size=x.shape))
    for method in METHODS:
        assert select_cp_rank(x, 3, method=method, n_runs=3, rng=0).rank == 2  # type: ignore[arg-type]


def test_core_consistency_is_its_definition() -> None:
    x = planted(2, 0.1, False, 0, (4, 5, 6))
    rng = np.random.default_rng(1)
    fit = fit_of([rng.normal(size=(n, 3)) for n in x.shape])
    fit = fit._replace(weights=np.array([3.0, 2.0, 1.0]))
    A, B, C = fit.factors
    kronecker = np.kron(np.kron(A * fit.weights, B), C)
    core = np.linalg.lstsq(kronecker, x.reshape(-1))[0].reshape(3, 3, 3)
    ideal = np.zeros((3, 3, 3))
    ideal[np.arange(3), np.arange(3), np.arange(3)] = 1.0
    wanted = 100 * (1 - np.sum((core - ideal) ** 2) / 3)
    assert _consistency(x, fit) == pytest.approx(wanted, rel=1e-8)


def test_held_out_error_ends_at_the_noise() -> None:
    found = select_cp_rank(planted(2, 0.2, False, 0), 4, method="held_out", rng=0)
    noise = 0.2 / np.sqrt(1 + 0.2**2)
    assert found.scores[1] == pytest.approx(noise, rel=0.1)
    assert found.scores[1] > found.errors[1]  # what was seen is fitted better than what was not
    assert found.scores[0] > 2 * noise
    assert found.scores[3] > found.scores[1]


def test_a_matrix_is_held_out() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 25)) + 0.1 * rng.normal(size=(30, 25))
    assert select_cp_rank(x, 4, method="held_out", rng=0).rank == 2


def test_silhouettes_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    base = [rng.normal(size=(n, 3)) for n in (6, 7, 8)]
    orders = [rng.permutation(3) for _ in range(5)]
    fits = [
        fit_of([(f + 0.3 * rng.normal(size=f.shape))[:, order] for f in base], k) for k, order in enumerate(orders)
    ]
    stacked = [np.concatenate([fit.factors[k] for fit in fits], axis=1) for k in range(3)]
    cosines = np.prod([np.abs(A.T @ A) for A in stacked], axis=0)
    labels = matched_components(cosines.reshape(5, 3, 5, 3), start=0)
    truth = np.array([[int(np.flatnonzero(orders[0] == component)[0]) for component in order] for order in orders])
    assert np.array_equal(labels, truth)
    distances = np.maximum(1 - cosines, 0)
    np.fill_diagonal(distances, 0)
    samples = silhouette_samples(distances, labels.reshape(-1), metric="precomputed")
    wanted = [samples[labels.reshape(-1) == r].mean() for r in range(3)]
    assert np.allclose(_silhouettes(fits), wanted)


def test_signs_and_order_do_not_matter_to_silhouettes() -> None:
    rng = np.random.default_rng(0)
    A, B, C = (rng.normal(size=(n, 4)) for n in (6, 7, 8))
    order = [2, 0, 3, 1]
    assert np.allclose(_silhouettes([fit_of([A, B, C]), fit_of([-A[:, order], B[:, order], -C[:, order]])]), 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_library_draws_the_same_curve(method: Any, convert: Callable[[np.ndarray], Any]) -> None:
    x = planted(2, 0.1, True, 0, (6, 7, 8))
    options: dict[str, Any] = {
        "method": method,
        "nonnegative": True,
        "n_runs": 2,
        "rng": 5,
        "stopping": Stopping(20, 0.0),
    }
    wanted, found = select_cp_rank(x, 3, **options), select_cp_rank(convert(x), 3, **options)
    assert found.rank == wanted.rank
    assert np.allclose(found.scores, wanted.scores, rtol=1e-3)
    assert np.allclose(found.errors, wanted.errors, rtol=1e-3)


def test_the_seed_repeats_it() -> None:
    x = planted(2, 0.1, False, 0, (6, 7, 8))
    fresh = select_cp_rank(x, 2, n_runs=1)
    assert select_cp_rank(x, 2, n_runs=1, rng=fresh.rng_seed) == fresh
    with pytest.raises(dataclasses.FrozenInstanceError):
        fresh.rank = 3  # type: ignore[misc]


def test_the_report_shows_the_curve_around_the_choice() -> None:
    scores = tuple(float(k) for k in range(20))
    report = repr(RankSelection(15, tuple(range(1, 21)), scores, scores, "held_out", "because", 0))
    assert len(report.splitlines()) <= 12
    assert "rank 15 of 1 to 20: because" in report
    assert sum("<-" in line for line in report.splitlines()) == 1
    assert "  15 " in report
    assert "  20 " not in report


def test_zeros_and_the_default_range() -> None:
    found = select_cp_rank(np.zeros((3, 4, 5)))
    assert found.rank == 1
    assert found.ranks == (1, 2, 3, 4, 5)
    assert select_cp_rank(np.zeros((3, 4, 50))).ranks[-1] == 10


def test_cp_with_rank_auto() -> None:
    x = planted(2, 0.05, True, 1)
    for nonnegative in (False, True):
        result = tnet.cp(x, "auto", nonnegative=nonnegative, rng=7)
        assert result.tensor.rank == 2
        assert result.rng_seed == 7
        again = tnet.cp(x, "auto", nonnegative=nonnegative, rng=result.rng_seed)
        assert np.array_equal(np.asarray(again.tensor), np.asarray(result.tensor))
    start = CPTensor(np.ones(2), tuple(np.ones((n, 2)) for n in x.shape))
    with pytest.raises(InputError, match="auto"):
        tnet.cp(x, "auto", init=start)
    with pytest.raises(InputError, match="order 2"):
        tnet.cp(x[0], "auto")
    with pytest.raises(RankError, match="'automatic'"):
        tnet.cp(x, "automatic")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "options", "error", "word"),
    [
        (np.ones((3, 4, 5)), {"max_rank": 0}, RankError, "max_rank"),
        (np.ones((3, 4, 5)), {"max_rank": 2.5}, RankError, "max_rank"),
        (np.ones((3, 4, 5)), {"max_rank": True}, RankError, "max_rank"),
        (np.ones((3, 4, 5)), {"method": "elbow"}, InputError, "method"),
        (np.ones((3, 4, 5)), {"n_runs": 0}, InputError, "n_runs"),
        (np.ones((3, 4, 5)), {"n_runs": 1, "method": "held_out"}, InputError, "n_runs"),
        (np.ones((3, 4, 5)), {"n_runs": 1, "method": "stability"}, InputError, "n_runs"),
        (np.ones((3, 4)), {}, InputError, "order 2"),
        (np.ones(3), {"method": "held_out"}, InputError, "order 1"),
        (np.ones((3, 4, 5), dtype=complex), {"nonnegative": True}, BackendError, "complex"),
        (np.ones((3, 4, 5), dtype=int), {}, BackendError, "x"),
        (np.full((3, 4, 5), np.nan), {}, InputError, "non-finite"),
    ],
)
def test_bad_input_is_refused_by_name(x: Any, options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        select_cp_rank(x, **options)


def test_one_sweep_is_enough_to_return() -> None:
    x = planted(2, 0.1, False, 0, (4, 5, 6))
    for method in METHODS:
        found = select_cp_rank(x, 2, method=method, n_runs=2, stopping=Stopping(1), rng=0)  # type: ignore[arg-type]
        assert all(np.isfinite([*found.scores, *found.errors]))
