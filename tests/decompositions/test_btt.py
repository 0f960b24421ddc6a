"""Block tensor trains: the best blocks in the plain norm, block descent in a weighted one."""

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
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.options import Stopping
from tnet.results import Status

digits = st.tuples(st.integers(1, 4), st.integers(1, 5))


def matrix(rng: np.random.Generator, m: int, n: int, complex_: bool = False) -> np.ndarray:
    return rng.normal(size=(m, n)) + (1j * rng.normal(size=(m, n)) if complex_ else 0)


def singular_values(W: np.ndarray, rows: Any, columns: Any) -> np.ndarray:
    return np.linalg.svd(W.reshape(*rows, *columns).transpose(0, 2, 1, 3), compute_uv=False)


@given(st.integers(0, 1000), digits, digits, st.integers(1, 4), st.booleans())
def test_every_block_is_the_best_of_its_rank(seed: int, rows: Any, columns: Any, rank: int, complex_: bool) -> None:
    W = matrix(np.random.default_rng(seed), rows[0] * rows[1], columns[0] * columns[1], complex_)
    rank = min(rank, rows[1], columns[1])
    result = tnet.btt(W, rows, columns, rank)
    tail = np.linalg.norm(singular_values(W, rows, columns)[..., rank:])
    assert np.linalg.norm(W - np.asarray(result.tensor)) == pytest.approx(tail, abs=1e-10)
    assert result.error == pytest.approx(tail / np.linalg.norm(W), abs=1e-10)
    assert (result.tensor.row_shape, result.tensor.column_shape, result.tensor.rank) == (rows, columns, rank)


@given(st.integers(0, 1000), digits, digits, st.floats(0, 0.99))
def test_the_least_common_rank_within_the_tolerance(seed: int, rows: Any, columns: Any, rtol: float) -> None:
    W = matrix(np.random.default_rng(seed), rows[0] * rows[1], columns[0] * columns[1])
    result = tnet.btt(W, rows, columns, rtol=rtol)
    assert np.linalg.norm(W - np.asarray(result.tensor)) <= (rtol + 1e-13) * np.linalg.norm(W)
    if result.tensor.rank > 1:
        tail = singular_values(W, rows, columns)[..., result.tensor.rank - 1 :]
        assert np.linalg.norm(tail) > rtol * np.linalg.norm(W)


@pytest.mark.parametrize("shapes", [((4, 5), (3, 6)), ((4, 6), (3, 5))])
def test_planted_ranks_are_found_to_roundoff(shapes: Any) -> None:
    rng = np.random.default_rng(0)
    (m1, m2), (n1, n2) = shapes
    blocks = rng.normal(size=(m1, n1, m2, 2)) @ (np.array([1.0, 1e-9])[:, None] * rng.normal(size=(m1, n1, 2, n2)))
    W = blocks.transpose(0, 2, 1, 3).reshape(m1 * m2, n1 * n2)
    # The second singular value of each block is below what a Gram matrix resolves.
    assert tnet.btt(W, *shapes, rtol=1e-7).tensor.rank == 1
    for result in (tnet.btt(W, *shapes, rtol=1e-12), tnet.btt(W, *shapes, 2)):
        assert result.tensor.rank == 2
        true = np.linalg.norm(W - np.asarray(result.tensor)) / np.linalg.norm(W)
        assert true < 1e-14
        assert result.error == pytest.approx(true, rel=1e-2)


def test_the_fourier_matrix_is_a_monarch() -> None:
    order = np.arange(24).reshape(4, 6).T.ravel()
    other = np.arange(24).reshape(6, 4).T.ravel()
    F = np.exp(2j * np.pi * np.outer(order, other) / 24)
    assert tnet.btt(F, (6, 4), (4, 6), rtol=1e-12).tensor.rank == 1


@given(
    seed=st.integers(0, 1000),
    rows=st.sampled_from([(2, 3), (3, 2), (1, 6), (6, 1)]),
    columns=st.sampled_from([(4, 3), (2, 6), (12, 1), (1, 12)]),
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
    rank = min(rank, rows[1], columns[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = tnet.btt(W, rows, columns, rank, weight=C, row_weight=F, stopping=Stopping(max_iter=8, change=0))
    error = weighted_norm(W - np.asarray(fit.tensor), F, C) / weighted_norm(W, F, C)
    assert fit.error == pytest.approx(error, abs=1e-6)
    assert fit.error == pytest.approx(fit.history.error[-1], abs=1e-5)
    assert all(b <= a for a, b in itertools.pairwise(fit.history.error))
    plain = tnet.btt(W, rows, columns, rank)
    assert error <= weighted_norm(W - np.asarray(plain.tensor), F, C) / weighted_norm(W, F, C) + 1e-6


@pytest.mark.parametrize("sides", ["both", "rows", "columns"])
def test_no_block_can_be_improved_alone(sides: str) -> None:
    """Against least squares over one block with the singular vectors of the others left as they are."""
    rng = np.random.default_rng(0)
    W = matrix(rng, 6, 12)
    F = moment(6, 1, 1.0) if sides != "columns" else np.eye(6)
    C = moment(12, 2, 1.0) if sides != "rows" else np.eye(12)
    weights: dict[str, Any] = {"weight": C} if sides != "rows" else {}
    weights |= {"row_weight": F} if sides != "columns" else {}
    stopping = Stopping(max_iter=3000, change=1e-14)
    fit = tnet.btt(W, (2, 3), (3, 4), 1, **weights, stopping=stopping)
    E = W - np.asarray(fit.tensor)
    slope = (F @ E @ C).reshape(2, 3, 3, 4).transpose(0, 2, 1, 3)
    # The gradient with respect to each factor of each block vanishes.
    left, right = fit.tensor.left.transpose(0, 2, 1, 3), fit.tensor.right.transpose(2, 0, 1, 3)
    assert np.allclose(slope @ right.swapaxes(-1, -2), 0, atol=1e-6)
    assert np.allclose(left.swapaxes(-1, -2) @ slope, 0, atol=1e-6)


def test_a_block_diagonal_metric_is_solved_at_once() -> None:
    rng = np.random.default_rng(0)
    W = matrix(rng, 8, 12)
    parts = [moment(4, k, 2.0) for k in range(3)]
    C = np.zeros((12, 12))
    for k, part in enumerate(parts):
        C[4 * k : 4 * k + 4, 4 * k : 4 * k + 4] = part
    whitened = W @ np.linalg.cholesky(C)
    s = singular_values(whitened, (2, 4), (3, 4))
    fit = tnet.btt(W, (2, 4), (3, 4), 2, weight=C)
    assert fit.error == pytest.approx(np.linalg.norm(s[..., 2:]) / np.linalg.norm(s), rel=1e-6)
    assert len(fit.history.error) <= 2


def test_the_fit_reaches_a_representable_matrix() -> None:
    rng = np.random.default_rng(0)
    W = np.asarray(tnet.btt(matrix(rng, 12, 18), (3, 4), (3, 6), 2).tensor)
    choices: list[dict[str, Any]] = [
        {"weight": moment(18, 1)},
        {"row_weight": moment(12, 2)},
        {"weight": moment(18, 1), "row_weight": moment(12, 2)},
    ]
    for weights in choices:
        fit = tnet.btt(W, (3, 4), (3, 6), 2, **weights)
        assert fit.error < 1e-6
        assert np.allclose(np.asarray(fit.tensor), W, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_metric_is_handled(dtype: str) -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(8, 12)).astype(dtype)
    X = rng.normal(size=(3, 12)).astype(dtype)
    C = X.T @ X
    fit = tnet.btt(W, (2, 4), (4, 3), 1, weight=C, stopping=Stopping(max_iter=30, change=1e-5))
    assert np.all(np.isfinite(np.asarray(fit.tensor)))
    true = weighted_norm(W - np.asarray(fit.tensor), None, C) / weighted_norm(W, None, C)
    assert fit.error == pytest.approx(true, rel=1e-2, abs=1e-3 if dtype == "float32" else 1e-6)
    for nothing in (
        tnet.btt(W, (2, 4), (4, 3), 3, weight=np.zeros_like(C)),
        tnet.btt(W, (2, 4), (4, 3), 3, weight=C, row_weight=np.zeros((8, 8), dtype)),
    ):
        assert nothing.error == 0.0
        assert np.all(np.isfinite(np.asarray(nothing.tensor)))


@pytest.mark.parametrize("sides", ["columns", "both"])
@pytest.mark.parametrize("complex_", [False, True])
def test_libraries_agree_on_the_weighted_fit(
    sides: str, complex_: bool, convert: Callable[[np.ndarray], Any]
) -> None:
    W = matrix(np.random.default_rng(0), 6, 12, complex_)
    weights = {"weight": moment(12, 1, 1.0, complex_)}
    if sides == "both":
        weights["row_weight"] = moment(6, 1, 1.0, complex_)
    wanted: Any = tnet.btt(W, (2, 3), (3, 4), 2, **weights)  # type: ignore[arg-type]
    converted: Any = {name: convert(weight) for name, weight in weights.items()}
    found = tnet.btt(convert(W), (2, 3), (3, 4), 2, **converted)
    assert found.error == pytest.approx(wanted.error, rel=1e-6)
    assert np.allclose(np.asarray(found.tensor), np.asarray(wanted.tensor), atol=1e-5)


def test_the_input_of_the_fit_stays() -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12), moment(12, 1)
    before = W.copy(), C.copy()
    tnet.btt(W, (2, 3), (3, 4), 1, weight=C)
    assert np.array_equal(W, before[0])
    assert np.array_equal(C, before[1])


def test_the_account_of_the_fit() -> None:
    W, C = matrix(np.random.default_rng(0), 6, 12), moment(12, 1)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tnet.btt(W, (2, 3), (3, 4), 2, weight=C, stopping=Stopping(max_iter=1, change=1e-12))
    assert result.status is Status.MAX_ITER
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.btt(W, (2, 3), (3, 4), 2, weight=C, stopping=Stopping(max_seconds=1e-9, change=0))
    assert result.status is Status.MAX_SECONDS
    done = tnet.btt(W, (2, 3), (3, 4), 2, weight=C, stopping=Stopping(max_iter=200, change=1e-3))
    assert done.status is Status.CONVERGED
    assert done.error_kind == "gram"


def test_a_product_makes_no_copy_of_the_parts() -> None:
    tensor = tnet.btt(matrix(np.random.default_rng(0), 12, 12), (3, 4), (4, 3), 2).tensor
    assert all(part.flags.c_contiguous for part in tensor.arrays)


W = np.ones((6, 12))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((W[0], (6, 1), (1, 1), 1), {}, ShapeError, "2 axes"),
        ((W, (2, 2), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (2, 3), (4, 4), 2), {}, ShapeError, "column_shape"),
        ((W, (2, 3, 1), (4, 3, 1), 2), {}, ShapeError, "3 digits: give 2"),
        ((W, (6,), (12,), 2), {}, ShapeError, "1 digits: give 2"),
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
        tnet.btt(*arguments, **options)
