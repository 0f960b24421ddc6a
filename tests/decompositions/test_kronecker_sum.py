"""Sums of Kronecker products: optimal in the plain norm, alternating least squares in a weighted one."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import tnet
from tests.decompositions.test_mpo import moment, weighted_norm
from tnet.decompositions import kronecker_fit
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.formats import KroneckerSum
from tnet.options import Stopping
from tnet.results import Status

digits = st.tuples(st.integers(1, 4), st.integers(1, 4))


def matrix(rng: np.random.Generator, m: int, n: int, complex_: bool = False) -> np.ndarray:
    return rng.normal(size=(m, n)) + (1j * rng.normal(size=(m, n)) if complex_ else 0)


@given(st.integers(0, 1000), digits, digits, st.integers(1, 4), st.booleans())
def test_the_best_sum_of_products(seed: int, rows: Any, columns: Any, rank: int, complex_: bool) -> None:
    W = matrix(np.random.default_rng(seed), rows[0] * rows[1], columns[0] * columns[1], complex_)
    rank = min(rank, rows[0] * columns[0], rows[1] * columns[1])
    result = tnet.kronecker_sum(W, rows, columns, rank)
    blocks = W.reshape(*rows, *columns).transpose(0, 2, 1, 3).reshape(rows[0] * columns[0], -1)
    s = np.linalg.svd(blocks, compute_uv=False)
    assert np.linalg.norm(W - np.asarray(result.tensor)) == pytest.approx(np.linalg.norm(s[rank:]), abs=1e-10)
    assert result.error == pytest.approx(np.linalg.norm(s[rank:]) / np.linalg.norm(s), abs=1e-10)
    assert (result.tensor.row_shape, result.tensor.column_shape, result.tensor.rank) == (rows, columns, rank)


def test_a_planted_sum_is_found() -> None:
    rng = np.random.default_rng(0)
    W = sum(np.kron(rng.normal(size=(3, 4)), rng.normal(size=(5, 2))) for _ in range(3))
    assert tnet.kronecker_sum(W, (3, 5), (4, 2), rtol=1e-10).tensor.rank == 3


@given(
    seed=st.integers(0, 1000),
    rows=st.sampled_from([(2, 3), (3, 2), (1, 6)]),
    columns=st.sampled_from([(4, 3), (2, 6), (12, 1)]),
    sides=st.sampled_from(["both", "rows", "columns"]),
    complex_=st.booleans(),
    rank=st.integers(1, 3),
)
def test_the_weighted_fit_is_monotone_true_and_better(
    seed: int, rows: Any, columns: Any, sides: str, complex_: bool, rank: int
) -> None:
    W = matrix(np.random.default_rng(seed), 6, 12, complex_)
    F = moment(6, seed + 1, complex_=complex_) if sides != "columns" else None
    C = moment(12, seed + 2, complex_=complex_) if sides != "rows" else None
    rank = min(rank, rows[0] * columns[0], rows[1] * columns[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = tnet.kronecker_sum(
            W, rows, columns, rank, weight=C, row_weight=F, stopping=Stopping(max_iter=8, change=0)
        )
    error = weighted_norm(W - np.asarray(fit.tensor), F, C) / weighted_norm(W, F, C)
    assert fit.error == pytest.approx(error, abs=1e-6)
    assert fit.error == pytest.approx(fit.history.error[-1], abs=1e-5)
    assert all(b <= a for a, b in itertools.pairwise(fit.history.error))
    plain = tnet.kronecker_sum(W, rows, columns, rank)
    assert error <= weighted_norm(W - np.asarray(plain.tensor), F, C) / weighted_norm(W, F, C) + 1e-6


def test_each_factor_solves_its_least_squares_problem() -> None:
    """At a fixed point neither factor alone can be improved: compared with lstsq on the whole design matrix."""
    rng = np.random.default_rng(0)
    W, C = matrix(rng, 6, 12), moment(12, 1, 1.0)
    fit = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_iter=2000, change=1e-13))
    root = np.linalg.cholesky(C)
    for part in ("left", "right"):
        size = getattr(fit.tensor, part).size
        columns = []
        for unit in np.eye(size):
            parts = {"left": fit.tensor.left, "right": fit.tensor.right}
            parts[part] = unit.reshape(parts[part].shape)
            columns.append((np.asarray(KroneckerSum(**parts)) @ root).ravel())
        best = np.linalg.lstsq(np.array(columns).T, (W @ root).ravel(), rcond=None)[1]
        assert fit.error == pytest.approx(np.sqrt(best[0]) / np.linalg.norm(W @ root), rel=1e-6)


def test_a_kronecker_metric_is_solved_at_once() -> None:
    rng = np.random.default_rng(0)
    W = matrix(rng, 12, 12)
    C1, C2 = moment(3, 1, 2.0), moment(4, 2, 2.0)
    root = np.kron(*(np.linalg.cholesky(c).T for c in (C1, C2)))
    whitened = (W @ root.T).reshape(4, 3, 3, 4).transpose(0, 2, 1, 3).reshape(12, 12)
    s = np.linalg.svd(whitened, compute_uv=False)
    fit = tnet.kronecker_sum(W, (4, 3), (3, 4), 3, weight=np.kron(C1, C2))
    assert fit.error == pytest.approx(np.linalg.norm(s[3:]) / np.linalg.norm(s), rel=1e-5)
    assert len(fit.history.error) <= 2


def test_direct_and_conjugate_gradients_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    W, C = matrix(np.random.default_rng(3), 6, 12), moment(12, 1, 1.0)
    stopping = Stopping(max_iter=500, change=1e-10)
    direct = tnet.kronecker_sum(W, (2, 3), (4, 3), 3, weight=C, stopping=stopping)
    monkeypatch.setattr(kronecker_fit, "_direct_is_cheaper", lambda *_: False)
    slow = tnet.kronecker_sum(W, (2, 3), (4, 3), 3, weight=C, stopping=stopping)
    assert direct.error == pytest.approx(slow.error, rel=1e-4)
    assert len(direct.history.error) <= len(slow.history.error)


def test_the_fit_reaches_a_representable_matrix() -> None:
    rng = np.random.default_rng(0)
    W = np.asarray(tnet.kronecker_sum(matrix(rng, 12, 18), (3, 4), (3, 6), 2).tensor)
    choices: list[dict[str, Any]] = [{"weight": moment(18, 1)}, {"row_weight": moment(12, 2)}]
    for weights in choices:
        fit = tnet.kronecker_sum(W, (3, 4), (3, 6), 2, **weights)
        assert fit.error < 1e-6
        assert np.allclose(np.asarray(fit.tensor), W, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_metric_is_handled(dtype: str) -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(8, 12)).astype(dtype)
    X = rng.normal(size=(3, 12)).astype(dtype)
    C = X.T @ X
    fit = tnet.kronecker_sum(W, (2, 4), (4, 3), 3, weight=C, stopping=Stopping(max_iter=100, change=1e-5))
    assert np.all(np.isfinite(np.asarray(fit.tensor)))
    true = weighted_norm(W - np.asarray(fit.tensor), None, C) / weighted_norm(W, None, C)
    assert fit.error == pytest.approx(true, rel=1e-2, abs=1e-3 if dtype == "float32" else 1e-6)
    nothing = tnet.kronecker_sum(W, (2, 4), (4, 3), 3, weight=np.zeros_like(C))
    assert nothing.error == 0.0
    assert np.all(np.isfinite(np.asarray(nothing.tensor)))


@pytest.mark.parametrize("complex_", [False, True])
def test_libraries_agree_on_the_weighted_fit(complex_: bool, convert: Callable[[np.ndarray], Any]) -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12, complex_), moment(12, 1, 1.0, complex_)
    wanted = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C)
    found = tnet.kronecker_sum(convert(W), (2, 3), (4, 3), 2, weight=convert(C))
    assert found.error == pytest.approx(wanted.error, rel=1e-6)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-6)


def test_the_account_of_the_fit() -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12), moment(12, 1)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_iter=1, change=1e-12))
    assert result.status is Status.MAX_ITER
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_seconds=1e-9, change=0))
    assert result.status is Status.MAX_SECONDS
    done = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_iter=200, change=1e-3))
    assert done.status is Status.CONVERGED
    assert len(done.history.seconds) == len(done.history.error)
    assert done.error_kind == "gram"


W = np.ones((6, 12))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((W[0], (6, 1), (1, 1), 1), {}, ShapeError, "2 axes"),
        ((W, (2, 2), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (2, 3), (4, 4), 2), {}, ShapeError, "column_shape"),
        ((W, (2, 3, 1), (4, 3, 1), 2), {}, ShapeError, "3 digits: give 2"),
        ((W, (6,), (12,), 2), {}, ShapeError, "1 digits: give 2"),
        ((W, 6, (12, 1), 2), {}, ShapeError, "row_shape"),
        ((W, (2.0, 3), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (2, 3), (4, 3)), {}, RankError, "neither"),
        ((W, (2, 3), (4, 3), 2), {"rtol": 0.1}, RankError, "both"),
        ((W, (2, 3), (4, 3)), {"rtol": 0.1, "weight": np.eye(12)}, RankError, "rank"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.eye(6)}, ShapeError, "weight"),
        ((W, (2, 3), (4, 3), 2), {"row_weight": np.eye(12)}, ShapeError, "row_weight"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.triu(np.ones((12, 12)))}, InputError, "Hermitian"),
        ((W, (2, 3), (4, 3), 2), {"weight": -np.eye(12)}, InputError, "negative"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.diag([np.nan] * 12)}, InputError, "weight"),
        ((W, (2, 3), (4, 3), 2), {"weight": torch.eye(12)}, BackendError, "librar"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tnet.kronecker_sum(*arguments, **options)


@pytest.mark.filterwarnings("ignore::tnet.errors.ConvergenceWarning")
@pytest.mark.parametrize("method", [tnet.kronecker_sum, tnet.mpo])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_singular_weights_do_not_see_stays_near(method: Any, dtype: str) -> None:
    # Unheld, the model grows by orders of magnitude there, and its roundoff drowns the error.
    for seed in range(60):
        rng = np.random.default_rng(seed)
        rows, columns = ((int(n) for n in rng.integers(1, 6, size=2)) for _ in range(2))
        rows, columns = tuple(rows), tuple(columns)
        m, n = rows[0] * rows[1], columns[0] * columns[1]
        W = rng.normal(size=(m, n)).astype(dtype)
        F, C = (moment(size, seed, 1.0)[:, : max(1, size - 1)] for size in (m, n))
        F, C = (F @ F.T).astype(dtype), (C @ C.T).astype(dtype)
        for weights in ({"weight": C}, {"row_weight": F}, {"weight": C, "row_weight": F}):
            fit = method(W, rows, columns, 1, **weights)
            Y = np.asarray(fit.tensor).astype(float)
            given = weights.get("row_weight"), weights.get("weight")
            true = weighted_norm(W - Y, *given) / weighted_norm(W, *given)
            assert fit.error == pytest.approx(true, rel=1e-2, abs=2e-2 if dtype == "float32" else 1e-4)
            assert np.linalg.norm(Y) < 100 * np.linalg.norm(W)


def test_well_conditioned_weights_are_fitted_as_they_are() -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12), moment(12, 1, 1.0)
    fit = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C)
    assert fit.history.error[-1] == pytest.approx(fit.error, rel=1e-9)


@pytest.mark.parametrize("scale", [1e-60, 1e60])
def test_weights_beyond_the_range_of_the_matrix(scale: float) -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12).astype(np.float32), moment(12, 1, 1.0)
    wanted = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=C)
    found = tnet.kronecker_sum(W, (2, 3), (4, 3), 2, weight=scale * C)
    assert found.error == pytest.approx(wanted.error, rel=1e-4)


def test_a_complex_weight_of_a_real_matrix_is_refused() -> None:
    with pytest.raises(InputError, match="complex"):
        tnet.kronecker_sum(np.ones((6, 12)), (2, 3), (4, 3), 2, weight=np.eye(12) + 0j)
