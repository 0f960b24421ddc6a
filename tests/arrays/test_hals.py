"""Nonnegative least squares from normal equations: every kernel does the same, and what theory says."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st

from tnet.arrays import hals, to_numpy
from tnet.arrays.hals import _compiled, _hals_by_columns, _hals_cuda, _passes


def problem(n: int, R: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a start, the normal equations (M, H), and the design matrix W of ``||W A^T - Y||``."""
    rng = np.random.default_rng(seed)
    W, Y = rng.normal(size=(2 * R + 3, R)), rng.normal(size=(2 * R + 3, n))
    return rng.random((n, R)), Y.T @ W, W.T @ W, W


def objective(A: np.ndarray, M: np.ndarray, H: np.ndarray) -> float:
    return float(0.5 * np.sum(A * (A @ H)) - np.sum(A * M))


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 40))
def test_passes_never_raise_the_objective(seed: int, R: int, n: int) -> None:
    A, M, H, _ = problem(n, R, seed)
    kept = A.copy()
    values = [objective(A, M, H)]
    for passes in (1, 2, 5, 20):
        new = hals(A, M, H, passes, change=0.0)
        assert np.all(new >= 0)
        values.append(objective(new, M, H))
    assert all(b <= a + 1e-12 * abs(a) for a, b in itertools.pairwise(values))
    assert np.array_equal(A, kept)


def test_many_passes_solve_nonnegative_least_squares() -> None:
    rng = np.random.default_rng(1)
    W, Y = rng.normal(size=(12, 5)), rng.normal(size=(12, 7))
    wanted = np.stack([scipy.optimize.nnls(W, y)[0] for y in Y.T])
    found = hals(np.ones((7, 5)), Y.T @ W, W.T @ W, 2000, change=0.0)
    assert np.allclose(found, wanted, atol=1e-10)
    assert np.any(found == 0)


@pytest.mark.parametrize(("n", "R"), [(3, 1), (10, 4), (700, 6)])  # 700 rows: several blocks
def test_kernels_agree(n: int, R: int, convert: Callable[[np.ndarray], Any]) -> None:
    A, M, H, _ = problem(n, R)
    H[:, 0] = H[0, :] = 0.0  # one column on which nothing depends
    M[:, 0] = 0.0
    wanted = to_numpy(_hals_by_columns(A, M, H, 6, 0.05))
    assert np.array_equal(wanted[:, 0], A[:, 0])
    found = hals(*(convert(part) for part in (A, M, H)), 6, 0.05)
    assert type(found) is type(convert(A))
    assert np.allclose(to_numpy(found), wanted, rtol=1e-10)
    rows = np.array(A.T, order="C")
    _passes(rows, np.ascontiguousarray(M.T), H, 6, 0.05)  # the loop as Python runs it
    assert np.allclose(rows.T, wanted, rtol=1e-10)


@pytest.mark.parametrize("limit", [0, 1 << 18])
def test_a_gpu_takes_either_way(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tnet.arrays.hals"], "_HOST_ENTRIES", limit)
    A, M, H, _ = problem(50, 4)
    found = _hals_cuda(torch.from_numpy(A), torch.from_numpy(M), torch.from_numpy(H), 6, 0.05)
    assert isinstance(found, torch.Tensor)
    assert np.allclose(found.numpy(), hals(A, M, H, 6, 0.05))


def test_single_precision_stays_single() -> None:
    A, M, H, _ = problem(30, 3)
    wanted = hals(A, M, H, 5)
    for convert in (np.asarray, torch.from_numpy):
        parts = [convert(part.astype(np.float32)) for part in (A, M, H)]
        found = hals(*parts, 5)
        assert found.dtype == parts[0].dtype
        assert np.allclose(np.asarray(found), wanted, atol=1e-5)


def test_the_rule_ends_the_passes() -> None:
    A, M, H, _ = problem(20, 4)
    early = hals(A, M, H, 1000, change=0.5)
    assert any(np.array_equal(early, hals(A, M, H, passes, change=0.0)) for passes in range(1, 30))
    assert not np.array_equal(early, hals(A, M, H, 1000, change=0.0))


def test_no_folder_to_cache_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    calls: list[dict[str, Any]] = []

    def njit(**options: Any) -> Callable[..., Any]:
        calls.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(numba, "njit", njit)
    _compiled.cache_clear()
    try:
        assert _compiled() is _passes
        assert [options.get("cache", False) for options in calls] == [True, False]
    finally:
        _compiled.cache_clear()


def test_numba_is_imported_at_the_first_use() -> None:
    code = "import sys, tnet.decompositions, tnet.arrays; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
