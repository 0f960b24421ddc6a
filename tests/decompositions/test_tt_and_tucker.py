"""Direct decompositions: optimality, orthogonality, known ranks, accuracy of the paths."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tnet
from tnet.decompositions.sthosvd import mode_gram
from tnet.errors import InputError, RankError
from tnet.results import Status

shapes = st.lists(st.integers(1, 5), min_size=2, max_size=5).map(tuple)


def tail(matrix: np.ndarray, rank: int) -> float:
    return float(np.linalg.norm(np.linalg.svd(matrix, compute_uv=False)[rank:]))


@given(shapes, st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_tt_is_quasi_optimal(shape: tuple[int, ...], rank: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape)
    limits = [min(math.prod(shape[:k]), math.prod(shape[k:])) for k in range(1, len(shape))]
    ranks = [min(rank, limit) for limit in limits]
    result = tnet.tt(x, ranks)
    tails = [tail(x.reshape(math.prod(shape[: k + 1]), -1), r) for k, r in enumerate(ranks)]
    distance = np.linalg.norm(x - np.asarray(result.tensor))
    # No train of these ranks beats the largest tail; TT-SVD is within the root of the sum of squares.
    assert max(tails) - 1e-12 <= distance <= math.sqrt(sum(t * t for t in tails)) + 1e-12
    assert abs(distance - result.error * np.linalg.norm(x)) < 1e-10


@given(shapes, st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_tucker_is_quasi_optimal(shape: tuple[int, ...], rank: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape)
    ranks = [min(rank, n, x.size // n) for n in shape]
    result = tnet.tucker(x, ranks)
    tails = [tail(np.moveaxis(x, k, 0).reshape(n, -1), r) for k, (n, r) in enumerate(zip(shape, ranks, strict=True))]
    distance = np.linalg.norm(x - np.asarray(result.tensor))
    assert max(tails) - 1e-12 <= distance <= math.sqrt(sum(t * t for t in tails)) + 1e-12
    assert abs(distance - result.error * np.linalg.norm(x)) < 1e-10
    for factor in result.tensor.factors:
        assert np.allclose(factor.T @ factor, np.eye(factor.shape[1]), atol=1e-12)


@given(shapes, st.floats(0.0, 0.99), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_tolerance_is_kept(shape: tuple[int, ...], rtol: float, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=shape)
    for decompose in (tnet.tt, tnet.tucker):
        result = decompose(x, rtol=rtol)
        assert np.linalg.norm(x - np.asarray(result.tensor)) <= (rtol + 1e-13) * np.linalg.norm(x)
        assert result.status is Status.DIRECT


@pytest.mark.parametrize("shape", [(3, 4, 5, 6), (6, 5, 4, 3)])
@pytest.mark.parametrize("complex_", [False, True])
def test_tt_cores_are_orthogonal(shape: tuple[int, ...], complex_: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape) + (1j * rng.normal(size=shape) if complex_ else 0)
    cores = tnet.tt(x, 4).tensor.cores
    if shape[0] <= shape[-1]:
        for core in cores[:-1]:
            matrix = core.reshape(-1, core.shape[2])
            assert np.allclose(matrix.conj().T @ matrix, np.eye(core.shape[2]), atol=1e-12)
    else:
        for core in cores[1:]:
            matrix = core.reshape(core.shape[0], -1)
            assert np.allclose(matrix @ matrix.conj().T, np.eye(core.shape[0]), atol=1e-12)


@pytest.mark.parametrize("method", ["auto", "gram", "tsqr", "svd"])
def test_functions_with_known_ranks(method: Any) -> None:
    # f(i_1 + ... + i_d): a linear function has TT rank 2, sin has 2, a polynomial of degree p has p + 1.
    grid = sum(np.meshgrid(*[np.linspace(0, 1, 5)] * 4, indexing="ij"))
    assert tnet.tt(grid, rtol=1e-6, method=method).tensor.rank == (2, 2, 2)
    assert tnet.tt(np.sin(grid), rtol=1e-6, method=method).tensor.rank == (2, 2, 2)
    assert tnet.tt(grid**3, rtol=1e-6, method=method).tensor.rank == (4, 4, 4)
    assert tnet.tt(np.exp(grid), rtol=1e-6, method=method).tensor.rank == (1, 1, 1)


def test_tight_tolerances_leave_the_gram_matrix() -> None:
    # Singular values 1, 1e-5, 1e-10: a Gram matrix in double precision cannot see the last.
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (20, 400))
    x = ((U * [1.0, 1e-5, 1e-10]) @ V.T).reshape(20, 20, 20)
    for decompose in (tnet.tt, tnet.tucker):
        result = decompose(x, rtol=1e-12)
        found = result.tensor.rank[0]
        assert found == 3
        assert np.linalg.norm(x - np.asarray(result.tensor)) <= 1e-12
        assert tnet.tt(x, rtol=1e-8).tensor.rank[0] == 2
    exact = tnet.tt(x, (3, 20))  # auto turns to TSQR by itself when the kept values ask for it
    assert np.linalg.norm(x - np.asarray(exact.tensor)) < 1e-13
    rough = tnet.tt(x, (3, 20), method="gram")
    assert rough.error == pytest.approx(np.linalg.norm(x - np.asarray(rough.tensor)), rel=1e-3, abs=1e-14)


@pytest.mark.parametrize("shape", [(4, 5, 6), (7, 3), (2, 3, 4, 5), (5,)])
@pytest.mark.parametrize("dtype", ["float64", "float32", "complex128"])
def test_mode_gram_in_panels(shape: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["tnet.decompositions.sthosvd"], "_PANEL", 30)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=shape) + (1j * rng.normal(size=shape) if dtype == "complex128" else 0)).astype(dtype)
    for mode, n in enumerate(shape):
        unfolded = np.moveaxis(x, mode, 0).reshape(n, -1)
        assert np.allclose(mode_gram(x, mode), unfolded @ unfolded.conj().T, rtol=1e-5)


def test_many_modes() -> None:
    x = np.ones((2,) * 12)
    assert tnet.tt(x, rtol=1e-6).tensor.rank == (1,) * 11
    assert tnet.tucker(x, rtol=1e-6).tensor.rank == (1,) * 12


def test_blockwise_error_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tnet.decompositions.residual._BLOCK", 50)
    x = sum(np.meshgrid(*[np.linspace(0, 1, 7)] * 3, indexing="ij"))
    for result in (tnet.tt(x, 2), tnet.tucker(x, 2), tnet.cp(x, 2, stopping=tnet.Stopping(20, 0))):
        true = np.linalg.norm(x - np.asarray(result.tensor)) / np.linalg.norm(x)
        assert result.error == pytest.approx(true, rel=1e-3, abs=1e-15)


def test_float32_keeps_its_accuracy() -> None:
    rng = np.random.default_rng(0)
    U, V = (np.linalg.qr(rng.normal(size=(n, 3)))[0] for n in (20, 400))
    x = ((U * [1.0, 1e-2, 1e-4]) @ V.T).reshape(20, 20, 20).astype(np.float32)
    for convert in (np.asarray, torch.from_numpy):
        result = tnet.tt(convert(x), rtol=1e-5)
        assert result.tensor.rank[0] == 3
        assert np.linalg.norm(x - np.asarray(result.tensor)) < 1e-5


@pytest.mark.parametrize("decompose", [tnet.tt, tnet.tucker])
def test_bad_options_are_refused_by_name(decompose: Any) -> None:
    x = np.ones((3, 4, 5))
    with pytest.raises(InputError, match="method='fast'"):
        decompose(x, 2, method="fast")
    with pytest.raises(RankError, match="both"):
        decompose(x, 2, rtol=0.1)
    with pytest.raises(RankError, match="neither"):
        decompose(x)
