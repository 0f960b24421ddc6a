"""Matrix product operators: known operators, and the fit in a weighted norm."""

from __future__ import annotations

import itertools
import time
import types
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.decompositions.kronecker_metric import digit_roots, roots_applied
from tnet.errors import BackendError, ConvergenceWarning, InputError, RankError, ShapeError
from tnet.options import Stopping
from tnet.results import Status

BITS = (2,) * 5


def moment(n: int, seed: int, decay: float = 3.0, complex_: bool = False) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3 * n, n)) + (1j * rng.normal(size=(3 * n, n)) if complex_ else 0)
    x = x * np.logspace(0, -decay / 2, n)
    x = x + 0.3 * x[:, ::-1]
    return x.conj().T @ x / len(x)


def weighted_norm(E: np.ndarray, F: np.ndarray | None, C: np.ndarray | None) -> float:
    left = E if F is None else F @ E
    right = left if C is None else left @ C
    return float(np.sqrt(max(np.real(np.sum(E.conj() * right)), 0.0)))


def test_operators_with_known_ranks() -> None:
    n = 2 ** len(BITS)
    assert tnet.mpo(np.eye(n), BITS, BITS, rtol=1e-10).tensor.rank == (1, 1, 1, 1)
    assert tnet.mpo(np.eye(n, k=1), BITS, BITS, rtol=1e-10).tensor.rank == (2, 2, 2, 2)
    # Kazeev and Khoromskij (2012): the Dirichlet Laplacian on 2^d points has bond dimension 3.
    laplacian = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    assert tnet.mpo(laplacian, BITS, BITS, rtol=1e-10).tensor.rank == (3, 3, 3, 3)


def test_a_kronecker_product_has_rank_one_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    A, B, C = rng.normal(size=(2, 3)), rng.normal(size=(4, 2)), rng.normal(size=(3, 5))
    result = tnet.mpo(np.kron(np.kron(A, B), C), (2, 4, 3), (3, 2, 5), rtol=1e-10)
    assert result.tensor.rank == (1, 1)
    assert result.tensor.row_shape == (2, 4, 3)
    assert result.tensor.column_shape == (3, 2, 5)
    x = rng.normal(size=30)
    assert np.allclose(result.tensor @ x, np.kron(np.kron(A, B), C) @ x)


@given(
    st.integers(0, 1000),
    st.sampled_from([((2, 3), (4, 3)), ((2, 3, 2), (2, 2, 3)), ((6,), (12,)), ((1, 6), (3, 4))]),
    st.sampled_from(["both", "rows", "columns"]),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_weighted_fit_is_monotone_true_and_better(
    seed: int, digits: tuple[tuple[int, ...], tuple[int, ...]], sides: str, complex_: bool
) -> None:
    rows, columns = digits
    m, n = int(np.prod(rows)), int(np.prod(columns))
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(m, n)) + (1j * rng.normal(size=(m, n)) if complex_ else 0)
    F = moment(m, seed + 1, complex_=complex_) if sides != "columns" else None
    C = moment(n, seed + 2, complex_=complex_) if sides != "rows" else None
    rank = [2] * (len(rows) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit = tnet.mpo(W, rows, columns, rank, weight=C, row_weight=F, stopping=Stopping(max_iter=8, change=0))
    error = weighted_norm(W - np.asarray(fit.tensor), F, C) / weighted_norm(W, F, C)
    assert fit.error == pytest.approx(error, abs=1e-7)
    assert all(b <= a for a, b in itertools.pairwise(fit.history.error))
    plain = tnet.mpo(W, rows, columns, rank)
    assert error <= weighted_norm(W - np.asarray(plain.tensor), F, C) / weighted_norm(W, F, C) + 1e-9
    assert fit.tensor.rank == plain.tensor.rank


def test_a_kronecker_metric_is_solved_at_once() -> None:
    # For two digits and a Kronecker metric the optimum is an SVD in whitened variables.
    rng = np.random.default_rng(0)
    W = rng.normal(size=(12, 12))
    C1, C2 = moment(3, 1, 2.0), moment(4, 2, 2.0)
    root = np.kron(*(np.linalg.cholesky(c).T for c in (C1, C2)))  # C = root^T root, digit by digit
    fit = tnet.mpo(W, (4, 3), (3, 4), 3, weight=np.kron(C1, C2))
    whitened = (W @ root.T).reshape(4, 3, 3, 4).transpose(0, 2, 1, 3).reshape(12, 12)
    s = np.linalg.svd(whitened, compute_uv=False)
    assert fit.error == pytest.approx(np.linalg.norm(s[3:]) / np.linalg.norm(s), rel=1e-5)


def test_the_fit_reaches_a_representable_matrix() -> None:
    rng = np.random.default_rng(0)
    W = np.asarray(tnet.mpo(rng.normal(size=(12, 18)), (3, 4), (3, 6), 2).tensor)
    fit = tnet.mpo(W, (3, 4), (3, 6), 2, weight=moment(18, 1), row_weight=moment(12, 2))
    assert fit.error < 1e-6
    assert np.allclose(np.asarray(fit.tensor), W, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_singular_metric_is_handled(dtype: str) -> None:
    rng = np.random.default_rng(0)
    W = rng.normal(size=(8, 12)).astype(dtype)
    X = rng.normal(size=(3, 12)).astype(dtype)  # three samples for twelve inputs
    C = X.T @ X
    fit = tnet.mpo(W, (2, 4), (4, 3), 3, weight=C, stopping=Stopping(max_iter=100, change=1e-5))
    assert np.all(np.isfinite(np.asarray(fit.tensor)))
    true = weighted_norm(W - np.asarray(fit.tensor), None, C) / weighted_norm(W, None, C)
    assert fit.error == pytest.approx(true, rel=1e-2, abs=1e-3 if dtype == "float32" else 1e-6)
    nothing = tnet.mpo(W, (2, 4), (4, 3), 3, weight=np.zeros_like(C))
    assert nothing.error == 0.0


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_the_scale_of_a_weight_does_not_matter(scale: float) -> None:
    W, C = np.random.default_rng(0).normal(size=(6, 12)), moment(12, 1, 1.0)
    one = tnet.mpo(W, (2, 3), (4, 3), 2, weight=C)
    assert tnet.mpo(W, (2, 3), (4, 3), 2, weight=C * scale).error == pytest.approx(one.error, rel=1e-6)


def test_torch_agrees() -> None:
    W, C, F = np.random.default_rng(0).normal(size=(6, 12)), moment(12, 1, 1.0), moment(6, 2, 1.0)
    wanted = tnet.mpo(W, (2, 3), (4, 3), 2, weight=C, row_weight=F)
    tensors = [torch.from_numpy(a) for a in (W, C, F)]
    tensors[1].requires_grad_()
    found = tnet.mpo(tensors[0], (2, 3), (4, 3), 2, weight=tensors[1], row_weight=tensors[2])
    assert found.error == pytest.approx(wanted.error, rel=1e-4)
    assert not found.tensor.cores[0].requires_grad


def test_the_account_of_the_fit() -> None:
    W, C = np.random.default_rng(0).normal(size=(6, 12)), moment(12, 1)
    with pytest.warns(ConvergenceWarning, match="max_iter"):
        result = tnet.mpo(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_iter=1, change=1e-12))
    assert result.status is Status.MAX_ITER
    with pytest.warns(ConvergenceWarning, match="max_seconds"):
        result = tnet.mpo(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_seconds=1e-9, change=0))
    assert result.status is Status.MAX_SECONDS
    done = tnet.mpo(W, (2, 3), (4, 3), 2, weight=C, stopping=Stopping(max_iter=200, change=1e-3))
    assert done.status is Status.CONVERGED
    assert len(done.history.seconds) == len(done.history.error)


def test_marginals_of_a_kronecker_product_are_its_factors() -> None:
    parts = [moment(2, 0), moment(3, 1), moment(2, 2)]
    found = digit_roots(np.kron(np.kron(parts[0], parts[1]), parts[2]), (2, 3, 2))
    for root, inverse, part in zip(found.roots, found.inverses, parts, strict=True):
        assert np.allclose(root @ root, part / np.trace(part) * len(part))
        assert np.allclose(root @ inverse, np.eye(len(part)))
    A = np.random.default_rng(0).normal(size=(12, 12))
    K = np.kron(np.kron(*found.roots[:2]), found.roots[2])
    assert np.allclose(roots_applied(A, (2, 3, 2), found.roots, axis=0), K @ A)
    assert np.allclose(roots_applied(A, (2, 3, 2), found.roots, axis=1), A @ K)


W = np.ones((6, 12))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((W[0], (6,), (1,), 1), {}, ShapeError, "2 axes"),
        ((W, (2, 2), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (2, 3), (4, 4), 2), {}, ShapeError, "column_shape"),
        ((W, (2, 3), (12,), 2), {}, ShapeError, "differ in length"),
        ((W, (), (12,), 2), {}, ShapeError, "row_shape"),
        ((W, 6, (12,), 2), {}, ShapeError, "row_shape"),
        ((W, (2.0, 3), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (-2, -3), (4, 3), 2), {}, ShapeError, "row_shape"),
        ((W, (2, 3), (4, 3)), {"rtol": 0.1, "weight": np.eye(12)}, RankError, "rank"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.eye(6)}, ShapeError, "weight"),
        ((W, (2, 3), (4, 3), 2), {"row_weight": np.eye(12)}, ShapeError, "row_weight"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.triu(np.ones((12, 12)))}, InputError, "Hermitian"),
        ((W, (2, 3), (4, 3), 2), {"weight": -np.eye(12)}, InputError, "negative"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.diag([np.nan] * 12)}, InputError, "weight"),
        ((W, (2, 3), (4, 3), 2), {"weight": np.eye(12, dtype=int)}, BackendError, "weight"),
        ((W, (2, 3), (4, 3), 2), {"weight": torch.eye(12)}, BackendError, "librar"),
    ],
)
def test_bad_arguments_are_refused_by_name(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        tnet.mpo(*arguments, **options)


def descents() -> list[Any]:
    W, C, F = np.random.default_rng(0).normal(size=(8, 12)), moment(12, 0), moment(8, 1)
    return [
        lambda: tnet.mpo(W, (2, 2, 2), (2, 3, 2), 2, weight=C, stopping=Stopping(max_iter=50, change=0)),
        lambda: tnet.kronecker_sum(W, (2, 4), (4, 3), 2, weight=C, stopping=Stopping(max_iter=50, change=0)),
        lambda: tnet.btt(W, (2, 4), (4, 3), 1, weight=C, row_weight=F, stopping=Stopping(max_iter=50, change=0)),
    ]


@pytest.mark.parametrize(
    "call",
    [
        *descents(),
        lambda: tnet.kronecker_sum(
            np.eye(12), (3, 4), (3, 4), 9, weight=np.eye(12), stopping=Stopping(max_iter=50, change=0)
        ),
    ],
)
def test_change_0_never_stops_early(call: Any) -> None:
    result = call()
    assert result.error == 0.0 or len(result.history.error) == 50
    assert all(b <= a for a, b in itertools.pairwise(result.history.error))


@pytest.mark.parametrize("call", descents())
def test_ctrl_c_keeps_the_best_sweep(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, ticks = time.perf_counter, itertools.count()

    def interrupted() -> float:
        if next(ticks) == at:
            raise KeyboardInterrupt
        return clock()

    at = -1
    monkeypatch.setattr("tnet.decompositions.descent.time", types.SimpleNamespace(perf_counter=interrupted))
    wanted = call().history.error
    at, ticks = 3, itertools.count()
    result = call()
    assert result.status is Status.INTERRUPTED
    assert result.history.error == wanted[:3]
    assert len(result.history.seconds) == 3
    assert result.error == pytest.approx(wanted[2], rel=1e-6)
    at, ticks = 0, itertools.count()
    with pytest.raises(KeyboardInterrupt):
        call()
